"""Runs the benchmark: the list of workloads and sizes, and one row of numbers for each."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from waymax_sim.bench.cases import Policies, SizedWorkload, compiled_cases, host_cases
from waymax_sim.bench.interact import ENVIRONMENTS, interact_row
from waymax_sim.bench.plugins import Workload, plugin_row
from waymax_sim.bench.rows import Json, Sampling, compiled_rows, host_row, run_conditions
from waymax_sim.bench.scenes import open_scenes, resize
from waymax_sim.datasets.scene import RawScene
from waymax_sim.ops.backend import on_cpu

DEFAULT_AGENTS = 128  # agent slots of a recorded scene of the Waymo Open Motion Dataset
DEFAULT_POINTS = 20000  # map points of such a scene
MAX_CALL_S = 3.0  # batches whose call is expected to take longer are skipped
# Rows of a quick run.
QUICK_ROWS = (
    "transition",
    "evaluate_state",
    "rollout80_replay",
    "rollout80_idm",
    "observe_ego",
    "observe_all",
    "load_tf_example",
    "load_store",
    "index_build",
)
# Rows that are measured at each size of the scene.
SCALED_ROWS = ("evaluate_state", "metric_offroad", "rollout80_replay")
# Rows that need an input which may be absent, and the reason for leaving them out.
REQUIREMENTS = {
    "rollout80_constant_velocity": "no policy named constant_velocity",
    "rollout80_idm": "no policy named idm",
    "load_tf_example": "no tf.Example given with --data",
    "load_scenario_proto": "no Scenario proto given with --data",
    "read_scene": "no recorded scene given with --data",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Rows, sizes and duration of a benchmark.

    Attributes:
      data: Path of recorded scenes, the first of which is measured; None for a synthetic one.
      only: Names of rows; all when empty.
      agents: Agent slots; None for the number of the recorded scene, or 128.
      points: Map points; None for the number of the recorded scene, or 20,000.
      batches: Batch sizes. The second is that of the sweeps.
      agent_sweep: Numbers of agent slots of the sweep.
      point_sweep: Numbers of map points of the sweep.
      sampling: Amount of measurement per row.
      baseline_scenes: Maximum number of scenes of a batch that brute force computes.
    """

    data: str | None = None
    only: tuple[str, ...] = ()
    agents: int | None = None
    points: int | None = None
    batches: tuple[int, ...] = (1, 16, 64)
    agent_sweep: tuple[int, ...] = (8, 32, 64, 128, 256)
    point_sweep: tuple[int, ...] = (1000, 5000, 20000, 60000)
    sampling: Sampling = Sampling()
    baseline_scenes: int = 4

    def includes(self, name: str) -> bool:
        """Whether a row is requested."""
        return not self.only or name in self.only


def default_settings(quick: bool, only: tuple[str, ...], data: str | None = None) -> Settings:
    """Settings of a full or quick run; larger batches on accelerators.

    Args:
      quick: About a minute: fewer rows, sizes and samples.
      only: Names of rows; all, or those of a quick run, when empty.
      data: Path of recorded scenes.
    """
    if quick:
        sizes: dict[str, Any] = {"batches": (1, 16), "agent_sweep": (), "point_sweep": (60000,)}
        sampling = Sampling(repeats=2, seconds=0.2)
        return Settings(data, only or QUICK_ROWS, **sizes, sampling=sampling, baseline_scenes=1)
    batches = Settings.batches if on_cpu() else (*Settings.batches, 256, 1024, 4096)
    return Settings(data, only, batches=batches)


def row_names(policies: Policies, plugins: Collection[str] = ()) -> list[str]:
    """Names of all rows, those of plug-ins and those that may be left out included."""
    return sorted({*compiled_cases(policies), "index_build", "load_store", *REQUIREMENTS, *ENVIRONMENTS, *plugins})


@dataclasses.dataclass(frozen=True)
class Item:
    """Name and size of one row."""

    name: str
    batch: int
    agents: int
    points: int

    def __str__(self) -> str:
        return f"{self.name} at batch {self.batch}, {self.agents} agents, {self.points} points"


def run(
    settings: Settings,
    policies: Policies,
    track: Callable[..., Iterable] = lambda items, total: items,
    plugins: Mapping[str, Callable[[], Workload]] = MappingProxyType({}),
) -> Json:
    """Measures all requested rows.

    Args:
      settings: Rows, sizes and duration.
      policies: Constructors of policies by name; rollouts of absent ones are left out.
      track: Wraps the loop over rows, given their number as `total`, to show progress.
      plugins: Workloads of other packages (`plugin_workloads`).

    Returns:
      Strict JSON: `conditions`, `rows` of `ROW_COLUMNS`, and `left_out`: names and the reason for each.

    Raises:
      DataError: Unusable data.
    """
    scenarios, index = open_scenes(settings.data)
    raw = scenarios.read(index)
    cases, host = compiled_cases(policies), host_cases(scenarios, index, raw)
    file, record = scenarios.source(index)
    conditions = run_conditions() | dataclasses.asdict(settings.sampling)
    conditions |= {"data": file, "record": record, "scenario_id": raw.scenario_id}
    left_out = {
        name: reason for name, reason in REQUIREMENTS.items() if name not in {*cases, *host} and settings.includes(name)
    }
    base = _base_item(settings, raw)
    scene_of_size = functools.cache(functools.partial(resize, raw))

    def prepare(item: Item) -> SizedWorkload:
        scene = scene_of_size(item.agents, item.points)
        is_base = (item.agents, item.points) == (base.agents, base.points)
        work = cases[item.name](scene, item.batch, settings.baseline_scenes if is_base else 1)
        return SizedWorkload(item.name, item.batch, scene, work)

    def measure_on_host(name: str, _: list[Json]) -> list[Json]:
        return [host_row(name, host[name], raw, settings.sampling)]

    def measure_environment(name: str, _: list[Json]) -> list[Json]:
        return [interact_row(name, settings.sampling)]

    def measure_plugin(name: str, _: list[Json]) -> list[Json]:
        return [plugin_row(name, plugins[name], settings.sampling)]

    names = [name for name in cases if settings.includes(name)]
    tasks: list[Callable[[list[Json]], list[Json]]] = [
        functools.partial(_measure_sizes, items, prepare, settings.sampling, left_out)
        for items in interleave_sizes(list_items(settings, names, base))
    ]
    tasks += [functools.partial(measure_on_host, name) for name in host if settings.includes(name)]
    tasks += [functools.partial(measure_environment, name) for name in ENVIRONMENTS if settings.includes(name)]
    tasks += [functools.partial(measure_plugin, name) for name in plugins if settings.includes(name)]
    rows: list[Json] = []
    for task in track(tasks, total=len(tasks)):
        rows += task(rows)
    return {"conditions": conditions, "rows": rows, "left_out": left_out}


def _measure_sizes(
    items: tuple[Item, ...],
    prepare: Callable[[Item], SizedWorkload],
    sampling: Sampling,
    left_out: dict[str, str],
    rows: list[Json],
) -> list[Json]:
    """Rows of one workload at several sizes; none if a call would take too long or much memory."""
    # Sweeps are never skipped: they follow smaller batches of the same workload.
    if len(items) == 1 and (seconds := _expected_seconds(items[0], rows)) > MAX_CALL_S:
        left_out[str(items[0])] = f"one call would take about {seconds:.0f} s"
        return []
    try:
        return compiled_rows([prepare(item) for item in items], sampling)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        left_out.update({str(item): "not enough memory" for item in items})
        return []


def _base_item(settings: Settings, raw: RawScene) -> Item:
    """One scene of the usual size: as recorded, or enlarged to the size of a recorded one."""
    agents, points = settings.agents, settings.points
    if settings.data is None:
        agents, points = agents or DEFAULT_AGENTS, points or DEFAULT_POINTS
    return Item("", 1, agents or len(raw.agent_id), points or len(raw.point_xyz))


def list_items(settings: Settings, names: list[str], base: Item) -> list[Item]:
    """Rows to measure, without repetition.

    Metrics are measured at one batch size, other workloads at each, and `SCALED_ROWS` at each size of the scene too.

    Args:
      settings: Batch sizes and sweeps.
      names: Names of compiled workloads.
      base: Size of the scene.
    """
    middle = settings.batches[min(1, len(settings.batches) - 1)]
    not_metrics = [name for name in names if not name.startswith("metric_")]
    batches = [dataclasses.replace(base, batch=batch) for batch in settings.batches]
    sweep = [dataclasses.replace(base, batch=middle, agents=agents) for agents in settings.agent_sweep]
    sweep += [dataclasses.replace(base, batch=middle, points=points) for points in settings.point_sweep]
    items = [dataclasses.replace(size, name=name) for name in not_metrics for size in batches]
    items += [dataclasses.replace(base, name=name, batch=middle) for name in names]
    items += [dataclasses.replace(size, name=name) for size in sweep for name in SCALED_ROWS if name in names]
    return list(dict.fromkeys(items))


def interleave_sizes(items: list[Item]) -> list[tuple[Item, ...]]:
    """Groups the items that differ only in the size of the scene, which are measured alternately."""
    groups: dict[tuple[str, int], tuple[Item, ...]] = {}
    for item in items:
        key = item.name, item.batch
        groups[key] = (*groups.get(key, ()), item)
    return list(groups.values())


def _expected_seconds(item: Item, rows: list[Json]) -> float:
    """Expected duration of a call (s) from the last row of the same workload and scene size; 0 if unknown."""
    for row in reversed(rows):
        if (row["name"], row["agents"], row["map_points"]) == (item.name, item.agents, item.points):
            return row["wall_ms"] / 1e3 * item.batch / row["batch"]
    return 0.0
