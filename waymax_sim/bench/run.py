"""Runs the benchmark: a plan of what is measured at which size, and one row of numbers for each."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from waymax_sim.bench.cases import Policies, compiled_cases
from waymax_sim.bench.cold import cold_starts, peak_rss_mb
from waymax_sim.bench.host import HOST, host_cases
from waymax_sim.bench.interact import ENVIRONMENTS, interact_row
from waymax_sim.bench.rows import Json, Sampling, Sized, cold_row, compiled_rows, conditions, host_row
from waymax_sim.bench.scenes import sized, source
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene

# Size of a made-up scene: that of a recorded one of the Waymo Open Motion Dataset.
MADE_UP_AGENTS, MADE_UP_POINTS = 128, 20000
COLD = ("cold_start", "cold_start_warm_cache", "first_batch")
# What a quick run measures unless told otherwise.
QUICK = (
    "transition",
    "judge",
    "rollout80_replay",
    "rollout80_idm",
    "observe_ego",
    "observe_all",
    "load_tf_example",
    "load_store",
    "index_build",
    *COLD,
)
# What is measured at each size of scene.
SCALED = ("judge", "metric_offroad", "rollout80_replay")
# Calls that would take longer than this (s), by what a smaller batch took, are left out.
LONGEST = 3.0
# What is there only if something else is.
NEEDS = {
    "rollout80_constant_velocity": "there is no policy called constant_velocity",
    "rollout80_idm": "there is no rule-based traffic: no policy called idm",
    "load_tf_example": "no tf.Example was given with --data",
    "load_scenario_proto": "no Scenario proto was given with --data",
    "read_scene": "no recorded scene was given with --data",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured, and for how long.

    Attributes:
      data: Path of recorded scenes, the first of which is measured; None for made-up ones.
      only: Names of what is measured; all when empty.
      agents: Agent slots; None for as many as recorded, or 128.
      points: Map points; None for as many as recorded, or 20,000.
      batches: Scenes at once. The second is that of the sweeps.
      agent_sweep: Agent slots of the sweep.
      point_sweep: Map points of the sweep.
      sampling: For how long each row is measured.
      plain_scenes: Scenes of a batch that brute force is given at most.
      starts: Cold starts of each kind.
    """

    data: str | None = None
    only: tuple[str, ...] = ()
    agents: int | None = None
    points: int | None = None
    batches: tuple[int, ...] = (1, 16, 64)
    agent_sweep: tuple[int, ...] = (8, 32, 64, 128, 256)
    point_sweep: tuple[int, ...] = (1000, 5000, 20000, 60000)
    sampling: Sampling = Sampling()
    plain_scenes: int = 4
    starts: int = 3


def settings(quick: bool, only: tuple[str, ...], bandwidth: float | None, **changes: Any) -> Settings:
    """The settings of a full or of a quick run; larger batches where there is an accelerator."""
    if quick:
        sampling = Sampling(repeats=2, seconds=0.2, bandwidth=bandwidth)
        sizes = {"batches": (1, 16), "agent_sweep": (), "point_sweep": (60000,)}
        return Settings(only=only or QUICK, **sizes, sampling=sampling, plain_scenes=1, starts=1, **changes)
    batches = Settings.batches if jax.default_backend() == "cpu" else (*Settings.batches, 256, 1024, 4096)
    return Settings(only=only, batches=batches, sampling=Sampling(bandwidth=bandwidth), **changes)


def names(policies: Policies) -> list[str]:
    """Names of all that can be measured, or that is left out for a reason."""
    return sorted({*compiled_cases(policies), *HOST, *NEEDS, *COLD, *ENVIRONMENTS})


@dataclasses.dataclass(frozen=True)
class Item:
    """One row to be: a name and a size."""

    name: str
    batch: int
    agents: int
    points: int

    def __str__(self) -> str:
        return f"{self.name} at batch {self.batch}, {self.agents} agents, {self.points} points"


def run(settings: Settings, policies: Policies, track: Callable[..., Iterable] = lambda items, total: items) -> Json:
    """Measures everything.

    Args:
      settings: What and for how long.
      policies: What makes each policy, by name; some rollouts are left out without theirs.
      track: Wraps the loop over rows, given their number as `total`, to show progress.

    Returns:
      Strict JSON: `conditions`, `rows` of `COLUMNS`, and `left_out`: names and why there is no row.

    Raises:
      DataError: The data cannot be used.
    """
    scenarios, index = source(settings.data)
    raw = scenarios.read(index)
    cases, host = compiled_cases(policies), host_cases(scenarios, index, raw)
    left_out = {name: why for name, why in NEEDS.items() if name not in cases and name not in host}
    found = conditions() | dataclasses.asdict(settings.sampling) | _scene_of(scenarios, index)

    base = _base(settings, raw)
    workload = functools.cache(functools.partial(sized, raw))

    def ready(item: Item) -> Sized:
        scene = workload(item.agents, item.points)
        at_base = (item.agents, item.points) == (base.agents, base.points)
        work = cases[item.name](scene, item.batch, settings.plain_scenes if at_base else 1)
        return Sized(item.name, item.batch, scene, work)

    def compiled(items: tuple[Item, ...]) -> list[Json]:
        return compiled_rows([ready(item) for item in items], settings.sampling)

    def on_host(name: str) -> list[Json]:
        return [host_row(name, host[name], raw, settings.sampling)]

    def in_bank(name: str) -> list[Json]:
        return [interact_row(name, settings.sampling)]

    def cold(path: str) -> list[Json]:
        starts = cold_starts(path, index, settings.starts)
        return [cold_row(name, times) for name, times in starts.items() if _wanted(settings, name)]

    tasks: list[tuple[str, Callable[[Any], list[Json]], Any]]
    tasks = [(items[0].name, compiled, items) for items in in_turn(plan(settings, list(cases), base))]
    tasks += [(name, on_host, name) for name in host]
    tasks += [(name, in_bank, name) for name in ENVIRONMENTS]
    tasks = [task for task in tasks if _wanted(settings, task[0])]
    if any(_wanted(settings, name) for name in COLD):
        tasks.append(("cold_start", cold, scenarios.source(index)[0]))
    rows = []
    for _, measure, subject in track(tasks, total=len(tasks)):
        # Only what is one item can be expected to be long: sweeps come after smaller batches of the same name.
        if measure is compiled and len(subject) == 1 and (seconds := _expected(subject[0], rows)) > LONGEST:
            left_out[str(subject[0])] = f"one call would take about {seconds:.0f} s"
            continue
        try:
            rows += measure(subject)
        except jax.errors.JaxRuntimeError as error:
            # On small devices large batches do not fit. Anything else is a bug.
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            left_out |= {str(item): "not enough memory" for item in subject}
    left_out = {name: why for name, why in left_out.items() if name not in NEEDS or _wanted(settings, name)}
    return {"conditions": found | {"peak_rss_mb": peak_rss_mb()}, "rows": rows, "left_out": left_out}


def _base(settings: Settings, raw: RawScene) -> Item:
    """One scene of the usual size: as recorded, or grown to that of a recorded one."""
    agents, points = settings.agents, settings.points
    if settings.data is None:
        agents, points = agents or MADE_UP_AGENTS, points or MADE_UP_POINTS
    return Item("", 1, agents or len(raw.agent_id), points or len(raw.point_xyz))


def _scene_of(scenarios: Scenarios, index: int) -> Json:
    file, record = scenarios.source(index)
    return {"data": file, "record": record, "scenario_id": scenarios.read(index).scenario_id}


def plan(settings: Settings, names: list[str], base: Item) -> list[Item]:
    """What is measured at which size: nothing twice.

    Metrics are measured at one batch size, everything else at each, and what is `SCALED` at each size of scene as well.
    """
    middle = settings.batches[min(1, len(settings.batches) - 1)]
    everywhere = [name for name in names if not name.startswith("metric_")]
    scaled = [dataclasses.replace(base, batch=batch) for batch in settings.batches]
    sweep = [dataclasses.replace(base, batch=middle, agents=agents) for agents in settings.agent_sweep]
    sweep += [dataclasses.replace(base, batch=middle, points=points) for points in settings.point_sweep]
    items = [dataclasses.replace(size, name=name) for name in everywhere for size in scaled]
    items += [dataclasses.replace(base, name=name, batch=middle) for name in names]
    items += [dataclasses.replace(size, name=name) for size in sweep for name in SCALED]
    return list(dict.fromkeys(items))


def in_turn(items: list[Item]) -> list[tuple[Item, ...]]:
    """The same items: those that differ in the size of the scene alone are measured in turn."""
    groups: dict[tuple[str, int], tuple[Item, ...]] = {}
    for item in items:
        key = item.name, item.batch
        groups[key] = (*groups.get(key, ()), item)
    return list(groups.values())


def _expected(item: Item, rows: list[Json]) -> float:
    """Seconds that a call will take, by the last row of the same name and a scene of the same size; 0 if unknown."""
    for row in reversed(rows):
        if (row["name"], row["agents"], row["map_points"]) == (item.name, item.agents, item.points):
            return row["wall_ms"] / 1e3 * item.batch / row["batch"]
    return 0.0


def _wanted(settings: Settings, name: str) -> bool:
    return not settings.only or name in settings.only
