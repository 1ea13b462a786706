"""Evaluation of policies in every scene of a source, among several kinds of traffic."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Key

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datatypes.agents import Selector
from waymax_sim.datatypes.padding import crop_steps
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, Policy, Trace, rollout, select_agents
from waymax_sim.env.policy import observed_history_steps, observes_goals
from waymax_sim.evaluation.columns import NUPLAN_SCORE, MetricInfo, metric_columns
from waymax_sim.evaluation.confidence import optional_float
from waymax_sim.evaluation.difficulty import scene_features
from waymax_sim.evaluation.future import NO_FUTURE_NOTE, has_future, invalid_without_future
from waymax_sim.evaluation.sharding import map_scenes, scene_key
from waymax_sim.evaluation.streaming import iter_chunks, read_padded_to_class, repeat_cyclically, stack_chunk
from waymax_sim.metrics import NUPLAN_METRICS, MetricValue, nuplan_score, resolve, summarize
from waymax_sim.ops.backend import on_cpu
from waymax_sim.pytree import Array, to_device, tree_index

# Default memory budget for the scenes in progress, bytes.
MEMORY_BUDGET = 2**31
# Estimated copies of a scene in progress: prefetched, in a batch, on the device, and its results.
COPIES_PER_SCENE = 8
# Largest number of scenes per device in a chunk on CPUs, which simulate them sequentially.
MAX_CHUNK_CPU = 4
# Largest number of scenes per device in a chunk on accelerators.
MAX_CHUNK_ACCELERATOR = 256
# Number of agents that a message lists.
MAX_LISTED_AGENTS = 5

RunKey = tuple[str, str, int]  # policy, traffic and seed


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluated combinations: every policy among every traffic with every seed.

    Attributes:
      policies: Policies of `agents`, by name.
      traffic: Policies of the other agents, by name; None for the log.
      metrics: Names of `METRICS`; "nuplan_score" stands for all metrics that the score needs. Wherever these are
        evaluated, the score and its parts are computed too.
      agents: The agents that the policy controls and that are evaluated; the traffic controls all others.
      seeds: Seeds of all random draws.
      max_steps: Largest number of steps to simulate; None for up to the end of each record.
    """

    policies: Mapping[str, Policy]
    traffic: Mapping[str, Policy | None]
    metrics: tuple[str, ...]
    agents: Selector = "sdc"
    seeds: tuple[int, ...] = (0,)
    max_steps: int | None = None

    def __post_init__(self):
        resolve(self._metrics)
        for name in ("policies", "traffic", "metrics", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"there are no {name} to evaluate")
        if self.agents != "sdc" and any(self.traffic.values()):
            raise ValueError(f"only the log can be the traffic where the policy controls {self.agents!r}; give None")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} is not a number of steps; give 1 or more")

    @property
    def columns(self) -> dict[str, MetricInfo]:
        """The metrics of a scene, in the order of results."""
        return metric_columns(self._metrics)

    @property
    def runs(self) -> list[RunKey]:
        """All runs of a scene, in the order of results."""
        return [(p, t, seed) for p in self.policies for t in self.traffic for seed in self.seeds]

    def env(self, traffic: str) -> Env:
        """The environment among some traffic.

        Agents that are logged later do not spawn among reactive traffic: others may occupy their position by then.
        """
        members = [*self.policies.values(), self.traffic[traffic]]
        config = EnvConfig(
            controlled=self.agents,
            metrics=self._metrics,
            evaluated="sdc" if self.agents == "sdc" else "all",
            spawn="log" if self.traffic[traffic] is None else "never",
            goals=required_goals(members),
            rewards=(),
            num_history_steps=observed_history_steps(members),
        )
        return Env(config=config)

    @property
    def _metrics(self) -> tuple[str, ...]:
        names = (NUPLAN_METRICS if name == NUPLAN_SCORE else (name,) for name in self.metrics)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(names)))

    def assignment(self, policy: str, traffic: str) -> Assignment:
        """The policy and the traffic with the agents that they control."""
        others = self.traffic[traffic]
        return Assignment.from_policies(
            [(self.policies[policy], self.agents), *([] if others is None else [(others, "others")])]
        )


@dataclasses.dataclass(frozen=True)
class SceneResult:
    """The metrics of a policy in one scene.

    Attributes:
      index: Index of the scene in the source.
      file: File of the scene.
      record: Index of its record in the file.
      scenario_id: Id in the source.
      digest: Hash of the scenario.
      run: Policy, traffic and seed.
      values: One number per metric, in its unit; None where the metric is not valid.
      notes: Limits of the evaluation of the scene.
      difficulty: Features of the difficulty of the scene; None where undefined.
    """

    index: int
    file: str
    record: int
    scenario_id: str
    digest: str
    run: RunKey
    values: dict[str, float | None]
    notes: tuple[str, ...] = ()
    difficulty: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A scene that could not be used, or a run of it.

    Attributes:
      index: Index of the scene in the source.
      error: The error, with its file and record.
      run: Policy, traffic and seed; None for a failure of all runs.
    """

    index: int
    error: DataError
    run: RunKey | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation of a configuration in scenes. Policies of equal structure share compiled programs.

    Attributes:
      scenarios: The scenes.
      config: The evaluated policies, traffic, seeds and metrics.
      memory_budget: Bytes for scenes in progress, and on an accelerator for temporaries; see `map_scenes`. Results
        do not depend on it.
    """

    scenarios: Scenarios
    config: EvaluationConfig
    memory_budget: int = MEMORY_BUDGET

    def results(
        self, indices: Iterable[int], skip: Callable[[int, RunKey], bool] = lambda index, run: False
    ) -> Iterator[list[SceneResult | Failure]]:
        """Evaluates scenes, in chunks of one shape; one list for each chunk and run.

        The results of a scene depend on the scene and the seed alone, not on other scenes or their order.

        Args:
          indices: Indices of the scenes.
          skip: Whether to skip a run of a scene.
        """
        for chunk in iter_chunks(self.scenarios, indices, self._length, self._check):
            if isinstance(chunk, tuple):
                yield [Failure(*chunk)]
                continue
            members = [scenario for _, scenario in chunk]
            length = self._length(members[0])
            batch = to_device(stack_chunk(members, length))
            facts = [(scenario_digest(scenario), self._difficulty(scenario)) for scenario in members]
            for run in self.config.runs:
                rows = [row for row, (index, _) in enumerate(chunk) if not skip(index, run)]
                if rows:
                    values, trace = self._simulate(run, batch, members)
                    host = jax.device_get((values, trace.invalid_action))
                    yield [self._result(*chunk[row], *facts[row], run, *tree_index(host, row)) for row in rows]

    def digest(self, index: int) -> str:
        """Hash of a scene, as in its results.

        Raises:
          DataError: The scene cannot be read.
        """
        return scenario_digest(read_padded_to_class(self.scenarios, index))

    def traces(self, index: int, runs: Iterable[RunKey]) -> tuple[Scenario, list[Trace]]:
        """A scene, and the rollouts that are evaluated in it."""
        (chunk,) = iter_chunks(self.scenarios, [index], self._length)
        if isinstance(chunk, tuple):
            raise chunk[1]
        scenario = chunk[0][1]
        batch = to_device(stack_chunk([scenario], self._length(scenario)))
        traces = [jax.device_get(self._simulate(run, batch, [scenario])[1]) for run in runs]
        num_steps = min(scenario.num_remaining_steps, self._num_steps(scenario))
        return crop_steps(scenario), [_first_steps(tree_index(trace, 0), num_steps) for trace in traces]

    def _simulate(self, run: RunKey, batch: Scenario, members: list[Scenario]):
        policy, traffic, seed = run
        steps = self._num_steps(members[0])
        assignment = self.config.assignment(policy, traffic)
        keys = [scene_key(seed, scenario.scenario_id) for scenario in members]
        keys = jnp.stack(repeat_cyclically(keys, len(batch.id_bytes)))
        budget = None if on_cpu() else self.memory_budget
        simulate = _SceneEvaluation(self.config.env(traffic), steps)
        return map_scenes(simulate, batch, keys, assignment, memory_budget=budget)

    def _result(
        self,
        index: int,
        scenario: Scenario,
        digest: str,
        difficulty: Mapping[str, float | None],
        run: RunKey,
        values: dict[str, MetricValue],
        invalid_action: Bool[np.ndarray, "T N"],
    ):
        file, record = self.scenarios.source(index)
        try:
            check_actions(scenario, np.any(invalid_action, axis=0))
            floats = to_floats(values, self.config.columns)
        except DataError as error:
            return Failure(index, self._with_source(index, error), run)
        notes = ()
        if not has_future(scenario):
            log_traffic = self.config.traffic[run[1]] is None
            invalid = invalid_without_future(self.config.agents, log_traffic=log_traffic)
            floats = {name: None if name in invalid else value for name, value in floats.items()}
            notes = (NO_FUTURE_NOTE,)
        return SceneResult(index, file, record, scenario.scenario_id, digest, run, floats, notes, difficulty)

    def _difficulty(self, scenario: Scenario) -> dict[str, float | None]:
        features = scene_features(scenario, self.config.agents)
        return {name: optional_float(value) for name, value in features.items()}

    def _check(self, scenario: Scenario) -> None:
        """Raises a `DataError` for a scene without further steps, or without an ego that the policy would control."""
        if scenario.num_remaining_steps < 1:
            raise DataError("no step follows the current one", field="current_step")
        agents = scenario.agents
        if self.config.agents == "sdc" and not np.any(np.asarray(agents.is_sdc) & np.asarray(agents.exists)):
            raise DataError(
                "has no ego, which the policy would control",
                field="sdc_index",
                remedy="evaluate other agents, such as all vehicles with --agents vehicle",
            )

    def _with_source(self, index: int, error: DataError) -> DataError:
        file, record = self.scenarios.source(index)
        return error.with_location(file=file, record=record)

    def _num_steps(self, scenario: Scenario) -> int:
        """Steps to simulate; those after the last step of a padded record are not active."""
        num_steps = scenario.num_steps - 1 - int(scenario.current_step)
        return num_steps if self.config.max_steps is None else min(num_steps, self.config.max_steps)

    def _length(self, scenario: Scenario) -> int:
        """Number of scenes in a chunk with scenes of this size."""
        size = COPIES_PER_SCENE * sum(leaf.nbytes for leaf in jax.tree.leaves(scenario))
        share = self.memory_budget // (size * jax.local_device_count())
        return jax.local_device_count() * int(np.clip(share, 1, MAX_CHUNK_CPU if on_cpu() else MAX_CHUNK_ACCELERATOR))


@dataclasses.dataclass(frozen=True)
class _SceneEvaluation:
    """`simulate_and_evaluate` with fixed environment and length; equal instances share compiled programs."""

    env: Env
    num_steps: int

    def __call__(self, scenario: Scenario, key: Key[Array, ""], assignment: Assignment):
        return simulate_and_evaluate(self.env, assignment, scenario, key, self.num_steps)


def required_goals(policies: Iterable[Policy | None]) -> Literal["scenario", "end_of_log"]:
    """The option `goals` of an environment: the end of the log for scenarios without goals if a policy needs them."""
    return "end_of_log" if any(map(observes_goals, policies)) else "scenario"


def _first_steps(trace: Trace, num_steps: int) -> Trace:
    def first(field: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[:num_steps], field)

    fields = {field.name: getattr(trace, field.name) for field in dataclasses.fields(trace)}
    return Trace(**{name: value if name == "final" else first(value) for name, value in fields.items()})


def simulate_and_evaluate(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_steps: int
) -> tuple[dict[str, MetricValue], Trace]:
    """Simulates one scene and evaluates the agents of `env.config.controlled`. Pure.

    Args:
      env: Environment with metrics.
      policies: One policy for these agents, pairs of a policy and its agents, or an assignment; see `rollout`.
      scenario: One scene.
      key: Random key.
      num_steps: Steps to simulate.

    Returns:
      One value per metric, with the nuPlan score and its parts if all of `NUPLAN_METRICS` are evaluated, and the
      rollout.
    """
    trace = rollout(env, policies, scenario, key, num_steps, record=("agents", "metrics", "invalid_action"))
    assert trace.metrics is not None  # they are recorded by default
    evaluated = select_agents(scenario, env.config.controlled)
    values = summarize(trace.metrics, env.metrics, trace.active, evaluated)
    if values.keys() >= set(NUPLAN_METRICS):
        scores = nuplan_score(trace.metrics, scenario, trace.active)
        values |= {name: _over_agents(value, evaluated) for name, value in scores.items()}
    return values, trace


def _over_agents(value: MetricValue, evaluated: Bool[Array, " N"]) -> MetricValue:
    mask = value.valid & evaluated
    count = jnp.sum(mask)
    total = jnp.sum(jnp.where(mask, value.value, 0.0))
    return MetricValue(total / jnp.maximum(count, 1).astype(jnp.float32), count > 0)


def evaluate_scene(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_steps: int
) -> dict[str, MetricValue]:
    """The values of `simulate_and_evaluate` without the rollout, which then takes no memory.

    Args:
      env: Environment with metrics.
      policies: See `simulate_and_evaluate`.
      scenario: One scene.
      key: Random key.
      num_steps: Steps to simulate.
    """
    return simulate_and_evaluate(env, policies, scenario, key, num_steps)[0]


def check_actions(scenario: Scenario, invalid: Bool[np.ndarray, " N"]) -> None:
    """Raises a `DataError` that names the agents with an action that was not finite.

    Args:
      scenario: The scene.
      invalid: Agents with such an action, or next pose, at any step.
    """
    ids = np.asarray(scenario.agents.id)[invalid].tolist()
    if ids:
        shown = ", ".join(map(str, ids[:MAX_LISTED_AGENTS])) + (", ..." if len(ids) > MAX_LISTED_AGENTS else "")
        problem = f"actions of {len(ids)} agents were not finite (ids {shown})"
        raise DataError(problem, field="actions", remedy="check the outputs of the policies")


def to_floats(values: Mapping[str, MetricValue], names: Iterable[str]) -> dict[str, float | None]:
    """The values of one scene as floats, in the order of `names`; None where a metric is not valid.

    Raises:
      DataError: A value is not finite.
    """
    host = jax.device_get({name: values[name] for name in names})
    for name, item in host.items():
        if item.valid and not math.isfinite(item.value):
            raise DataError(f"the metric is {item.value}", field=name)
    return {name: float(host[name].value) if host[name].valid else None for name in names}


def scenario_digest(scenario: Scenario) -> str:
    """Hash of all arrays of a scenario."""
    hashed = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(scenario):
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()
