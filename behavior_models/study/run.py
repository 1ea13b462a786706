"""Studies: arms of one or several trained policies, evaluated in the same scenes into a resumable directory."""

import dataclasses
import functools
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Key

import waymax_sim as ws
from behavior_models.study.episodes import (
    EPISODE_CONFIG,
    ROLLOUT_CONFIG,
    Episodes,
    Outcomes,
    make_driver,
    pad_groups,
    run_episodes,
)
from behavior_models.study.realism import RealismSettings, realism_driver, score_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, Policy
from waymax_sim.env.bank import ScenarioBank, build_bank, remove_absent_agents
from waymax_sim.evaluation.environment import environment_info
from waymax_sim.evaluation.realism.evaluate import check_scene
from waymax_sim.evaluation.realism.report import score_values
from waymax_sim.evaluation.sharding import scene_key
from waymax_sim.metrics.realism import MAX_EVALUATED
from waymax_sim.plugins import resolve_policy
from waymax_sim.results_dir import Json, ResultsDir

ROW_KEY = ("policy", "weights", "setting", "traffic", "seed", "scene", "agent")
# Episodes that are simulated together: with one driven vehicle, and with all of a scene.
GROUP_SIZES = {"alone": 64, "all": 20}
# Names of traffic: recorded poses, and the evaluated policy itself.
LOG_TRAFFIC = "log"
SELF_TRAFFIC = "self"
ARM_PATTERN = re.compile(r"(?P<name>[\w.-]+)=(?P<policies>.+)")


@dataclasses.dataclass(frozen=True)
class StudyArm:
    """Policies that differ in the seed of their training.

    Attributes:
      name: Name in tables.
      policies: Policies by their text on the command line.
    """

    name: str
    policies: Mapping[str, Policy]


def parse_arm(text: str) -> StudyArm:
    """An arm from NAME=POLICY,POLICY or from one policy.

    Raises:
      PluginError: A policy cannot be loaded.
    """
    form = ARM_PATTERN.fullmatch(text)
    if form is None:
        return StudyArm(Path(text).name, {text: resolve_policy(text)})
    names = form["policies"].split(",")
    return StudyArm(form["name"], {name: resolve_policy(name) for name in names})


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """The evaluated combinations.

    Attributes:
      arms: The arms.
      traffic: Policies of the other traveling vehicles where one is driven; the text "log" stands for the log, and
        "self" for the evaluated policy.
      seed: Seed of all random draws.
      max_vehicles: Largest number of vehicles of a scene that are driven alone, a random choice; None for all.
      max_steps: Steps of an episode; up to the end of the shortest record by default.
      alone: Whether to drive every vehicle alone.
      all_driven: Whether to drive all vehicles together.
      num_rollouts: Rollouts for the realism of a scene; 0 for no realism.
      realism_scenes: Largest number of scenes whose realism is scored.
      at_end: State of driven vehicles after their episode (`EnvConfig.at_end`).
    """

    arms: Sequence[StudyArm]
    traffic: Sequence[str] = (LOG_TRAFFIC,)
    seed: int = 0
    max_vehicles: int | None = None
    max_steps: int | None = None
    alone: bool = True
    all_driven: bool = True
    num_rollouts: int = 32
    realism_scenes: int = 60
    at_end: Literal["remove", "stop", "stay"] = "remove"


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The scenes of a study.

    Attributes:
      host: Scenarios in host memory; agents that are absent at the current step have no slot.
      bank: The same on the device.
      traveling: The vehicles that are evaluated, [B, N].
      problems: Records that could not be read.
    """

    host: Sequence[Scenario]
    bank: ScenarioBank
    traveling: Bool[np.ndarray, "B N"]
    problems: Sequence[DataError]

    @property
    def num_steps(self) -> int:
        """Steps that all records have."""
        return min(scenario.num_remaining_steps for scenario in self.host)


def load_scenes(path: str) -> Scenes:
    """Reads scenes.

    Raises:
      ValueError: No scene can be read, or no vehicle travels.
    """
    outcomes = [outcome for _, outcome in ws.load(path, pad_to_bucket=False).iter_results()]
    problems = [item for item in outcomes if isinstance(item, DataError)]
    scenarios = [item for item in outcomes if not isinstance(item, DataError) and item.num_remaining_steps]
    if not scenarios:
        raise ValueError(f"{path} has no scene with a future")
    return prepare_scenes(scenarios, problems)


def prepare_scenes(scenarios: Sequence[Scenario], problems: Sequence[DataError] = ()) -> Scenes:
    """The scenes of a study from unpadded scenarios in host memory.

    Args:
      scenarios: Scenarios with steps after the current one.
      problems: Records that could not be read.

    Raises:
      ValueError: No vehicle travels.
    """
    env = Env(config=EPISODE_CONFIG)
    host, _ = remove_absent_agents(env, scenarios)
    bank = build_bank(host, env)
    scenes = Scenes(host, bank, np.asarray(bank.controlled), problems)
    if not scenes.traveling.any():
        raise ValueError("no vehicle travels in any scene")
    return scenes


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows that are computed together.

    Attributes:
      arm: The arm.
      policy: Text of the policy.
      setting: "alone", "all" or "realism".
      traffic: Text of the traffic.
      cells: Scenes and agent slots; -1 for all vehicles.
      count: Cells that are not repeats.
    """

    arm: StudyArm
    policy: str
    setting: str
    traffic: str
    cells: Sequence[tuple[int, int]]
    count: int


@dataclasses.dataclass(frozen=True)
class Study:
    """A study whose rows are collected in a directory. Further arms and traffic may be added to it later.

    Attributes:
      out: The directory.
      path: Source of the scenes.
      scenes: The scenes.
      config: The evaluated combinations.
    """

    out: Path
    path: str
    scenes: Scenes
    config: StudyConfig

    @property
    def directory(self) -> ResultsDir:
        """The directory of the rows."""
        return ResultsDir(self.out, ROW_KEY)

    def open(self) -> None:
        """Creates the directory, or resumes one of the same conditions.

        Raises:
          ValueError: It holds results of other conditions.
        """
        config = self.config
        conditions = {"path": self.path, "steps": config.max_steps, "rollouts": config.num_rollouts}
        conditions |= {"at_end": config.at_end}
        self.directory.open(conditions | environment_info())

    @property
    def tasks(self) -> list[Task]:
        """All tasks, in the order of evaluation: realism, which takes longest, comes last."""
        return [
            task
            for setting, traffic, cells in self._settings()
            for arm in self.config.arms
            for policy in arm.policies
            for task in _grouped(arm, policy, setting, traffic, cells)
        ]

    def run(self) -> Iterator[Task]:
        """Evaluates the tasks that are not complete, and yields every task when it is complete."""
        done = self.directory.rows()
        with self.directory.lock():
            for task in self.tasks:
                if not all(key in done for key in self._keys(task)):
                    self.directory.append(self._rows(task))
                yield task

    def rows(self) -> list[Json]:
        """The rows of all complete tasks."""
        done = self.directory.rows()
        return [{"arm": task.arm.name} | done[key] for task in self.tasks for key in self._keys(task) if key in done]

    def _settings(self) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
        config, scenes = self.config, range(len(self.scenes.host))
        has_vehicles = [scene for scene in scenes if self.scenes.traveling[scene].any()]
        if config.alone:
            cells = [(scene, slot) for scene in has_vehicles for slot in self._driven(scene)]
            yield from (("alone", traffic, cells) for traffic in config.traffic)
        if config.all_driven:
            yield "all", LOG_TRAFFIC, [(scene, -1) for scene in has_vehicles]
        if config.num_rollouts:
            scored = [scene for scene in has_vehicles if _can_be_scored(self.scenes.host[scene])]
            yield "realism", "constant_speed", [(scene, -1) for scene in scored[: config.realism_scenes]]

    def _driven(self, scene: int) -> list[int]:
        """Slots of the vehicles that are driven alone."""
        slots, limit = np.flatnonzero(self.scenes.traveling[scene]), self.config.max_vehicles
        if limit is None or len(slots) <= limit:
            return slots.tolist()
        seed = zlib.crc32(self.scenes.host[scene].scenario_id.encode("utf-8"))
        return sorted(np.random.default_rng(seed).permutation(slots)[:limit].tolist())

    def _keys(self, task: Task) -> list[tuple]:
        """Keys of the rows of a task."""
        weights = _fingerprint(task.arm.policies[task.policy])
        common = task.policy, weights, task.setting, task.traffic, self.config.seed
        cells = [
            cell for scene, slot in task.cells[: task.count] for cell in self._row_cells(task.setting, scene, slot)
        ]
        return [(*common, scene, self._agent(scene, slot)) for scene, slot in cells]

    def _row_cells(self, setting: str, scene: int, slot: int) -> list[tuple[int, int]]:
        if setting != "all":
            return [(scene, slot)]
        return [(scene, int(own)) for own in np.flatnonzero(self.scenes.traveling[scene])]

    def _agent(self, scene: int, slot: int) -> int | None:
        """Track id of a slot; None for the scene."""
        return None if slot < 0 else int(self.scenes.host[scene].agents.id[slot])

    def _rows(self, task: Task) -> list[Json]:
        if task.setting == "realism":
            return self._realism_rows(task)
        outcomes = self._outcomes(task)
        rows = []
        for index, (scene, _) in enumerate(task.cells[: task.count]):
            for position, slot in enumerate(outcomes.slot[index].tolist()):
                if slot >= 0:
                    values = jax.tree.map(lambda leaf, i=index, k=position: leaf[i, k].item(), outcomes)
                    rows.append(self._row(task, scene, slot) | _outcome_values(values))
        return rows

    def _row(self, task: Task, scene: int, slot: int) -> Json:
        return {
            "policy": task.policy,
            "weights": _fingerprint(task.arm.policies[task.policy]),
            "setting": task.setting,
            "traffic": task.traffic,
            "seed": self.config.seed,
            "scene": scene,
            "scenario_id": self.scenes.host[scene].scenario_id,
            "agent": self._agent(scene, slot),
        }

    def _outcomes(self, task: Task) -> Outcomes:
        traveling, num_agents = self.scenes.traveling, self.scenes.bank.num_agents
        policy = task.arm.policies[task.policy]
        driver, interval = make_driver(policy, _traffic_policy(task.traffic, policy))
        num_rows = 1 if task.setting == "alone" else int(traveling.sum(axis=1).max())
        rules = dataclasses.replace(EPISODE_CONFIG, at_end=self.config.at_end)
        episodes = Episodes(num_rows, self._num_steps(interval), interval, rules)
        masks = [traveling[scene] if slot < 0 else np.arange(num_agents) == slot for scene, slot in task.cells]
        keys = jnp.stack([self._key(scene, slot) for scene, slot in task.cells])
        indices = jax.device_put(np.array([scene for scene, _ in task.cells], np.int32))
        outcomes = run_episodes(episodes, driver, self.scenes.bank, indices, jax.device_put(np.stack(masks)), keys)
        return jax.device_get(outcomes)

    def _realism_rows(self, task: Task) -> list[Json]:
        driver, interval = realism_driver(task.arm.policies[task.policy])
        num_rows = int(self.scenes.traveling.sum(axis=1).max())
        max_evaluated = max(MAX_EVALUATED, *(_num_scored(scenario) for scenario in self.scenes.host))
        episodes = Episodes(num_rows, self._num_steps(interval), interval, ROLLOUT_CONFIG)
        settings = RealismSettings(episodes, self.config.num_rollouts, max_evaluated)
        rows = []
        for scene, slot in task.cells[: task.count]:
            mask, key = jax.device_put(self.scenes.traveling[scene]), self._key(scene, slot)
            result = score_scene(settings, driver, self.scenes.bank, jax.device_put(np.int32(scene)), mask, key)
            values = score_values(jax.device_get(result))
            rows.append(self._row(task, scene, slot) | realism_values(values))
        return rows

    def _num_steps(self, interval: int) -> int:
        num_steps = min(self.scenes.num_steps, self.config.max_steps or self.scenes.num_steps)
        return num_steps // interval * interval

    def _key(self, scene: int, slot: int) -> Key[jax.Array, ""]:
        """Random key of a scene and a vehicle, the same for all policies."""
        key = scene_key(self.config.seed, self.scenes.host[scene].scenario_id)
        return jax.random.fold_in(key, np.uint32(slot + 1))


def _grouped(arm: StudyArm, policy: str, setting: str, traffic: str, cells: list) -> Iterator[Task]:
    """Tasks of equal numbers of cells."""
    size = min(GROUP_SIZES.get(setting, 1), max(len(cells), 1))
    for indices, count in pad_groups(len(cells), size):
        yield Task(arm, policy, setting, traffic, [cells[index] for index in indices], count)


def _traffic_policy(text: str, policy: Policy) -> Policy | None:
    if text == LOG_TRAFFIC:
        return None
    return policy if text == SELF_TRAFFIC else _resolve_once(text)


@functools.cache
def _resolve_once(text: str) -> Policy:
    return resolve_policy(text)


def _outcome_values(outcome: Any) -> Json:
    """Columns of a vehicle.

    Raises:
      DataError: An action was not finite.
    """
    if outcome.invalid_action:
        problem = "an action was not finite"
        raise DataError(problem, field="actions", remedy="check the outputs of the policy")
    values = {
        field.name: getattr(outcome, field.name)
        for field in dataclasses.fields(Outcomes)
        if field.name not in ("slot", "invalid_action")
    }
    return values | {"arrival": values["arrival"] or None}


def realism_values(values: Json) -> Json:
    """Columns of the realism of a scene, from `score_values`; None where the meta-metric is undefined."""
    buckets = {name.removesuffix("_metrics"): value for name, value in values["buckets"].items()}
    return {"realism": values["meta_metric"], **buckets, "ade": values["ade"], "min_ade": values["min_ade"]}


def _can_be_scored(scenario: Scenario) -> bool:
    try:
        check_scene(scenario)
    except DataError:
        return False
    return True


def _num_scored(scenario: Scenario) -> int:
    info, now = scenario.agents, np.asarray(scenario.log.valid)[int(scenario.current_step)]
    return int(np.sum((np.asarray(info.is_sdc) | np.asarray(info.to_predict)) & now))


@functools.cache
def _fingerprint(policy: Policy) -> str:
    """Hash of the options and the weights of a policy, the same in every process."""
    fields = dataclasses.fields(policy) if dataclasses.is_dataclass(policy) else ()
    plain = {field.name: getattr(policy, field.name) for field in fields}
    plain = {name: value for name, value in plain.items() if isinstance(value, str | int | float | tuple)}
    hashed = hashlib.blake2b(f"{type(policy).__qualname__} {plain}".encode(), digest_size=8)
    for leaf in jax.tree.leaves(policy):
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()
