"""Policies in every scene of a source, among several kinds of traffic."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Key

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datatypes.agents import Selector
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, Policy, Trace, rollout, select_agents
from waymax_sim.evaluation.sharding import map_scenes, scene_key
from waymax_sim.evaluation.streaming import chunks
from waymax_sim.metrics import NUPLAN_METRICS, MetricValue, nuplan_score, resolve, summarize
from waymax_sim.metrics.nuplan import MULTIPLIERS, WEIGHTS
from waymax_sim.pytree import Array, on_device, stack, take

# Bytes for scenes under way unless told otherwise.
MEMORY_BUDGET = 2**31
# A scene under way takes so many times its size: read ahead, as part of a batch, on the device, and what comes of it.
COPIES = 8
# Scenes of a chunk on each device at most. A CPU simulates one after another: more only delay the results.
MOST_ON_CPU, MOST = 4, 256

# What is found where `NUPLAN_METRICS` are judged.
SCORE = "nuplan_score"

Run = tuple[str, str, int]  # policy, traffic and seed


class Column(NamedTuple):
    """A number that is found for each scene.

    Attributes:
      unit: Its unit.
      better: Whether lower or higher is better.
    """

    unit: str
    better: Literal["lower", "higher"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is evaluated: every policy among every traffic with every seed.

    Attributes:
      policies: Who drives `agents`, by name.
      traffic: Who drives the others, by name; None for the log.
      metrics: What is judged, names of `METRICS`; "nuplan_score" stands for all that it is made from. Wherever these
        are judged, the score and its parts are found too.
      agents: Who is driven by the policy and judged; all others by the traffic.
      seeds: Seeds of all random draws.
      max_steps: Steps to simulate at most; None for up to the end of each record.
    """

    policies: Mapping[str, Policy]
    traffic: Mapping[str, Policy | None]
    metrics: tuple[str, ...]
    agents: Selector = "sdc"
    seeds: tuple[int, ...] = (0,)
    max_steps: int | None = None

    def __post_init__(self):
        resolve(self._judged)
        for name in ("policies", "traffic", "metrics", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"there are no {name} to evaluate")
        if self.agents != "sdc" and any(self.traffic.values()):
            raise ValueError(f"only the log can drive the traffic where the policy drives {self.agents!r}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} is not a number of steps; give 1 or more")

    @property
    def columns(self) -> dict[str, Column]:
        """What is found for each scene, in the order of results."""
        return columns_of(self._judged)

    @property
    def runs(self) -> list[Run]:
        """All runs of a scene, in the order of results."""
        return [(p, t, seed) for p in self.policies for t in self.traffic for seed in self.seeds]

    def env(self, traffic: str) -> Env:
        """The rules among some traffic. Agents that the log knows later do not appear among those that react to others:
        they would appear where others are by now."""
        birth = "log" if self.traffic[traffic] is None else "never"
        evaluated = "sdc" if self.agents == "sdc" else "all"
        config = EnvConfig(controlled=self.agents, metrics=self._judged, evaluated=evaluated, spawn=birth, rewards=())
        return Env(config=config)

    @property
    def _judged(self) -> tuple[str, ...]:
        asked = (NUPLAN_METRICS if name == SCORE else (name,) for name in self.metrics)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(asked)))

    def assignment(self, policy: str, traffic: str) -> Assignment:
        """The policy and the traffic with the agents that they control."""
        others = self.traffic[traffic]
        return Assignment.of([(self.policies[policy], self.agents), *([] if others is None else [(others, "others")])])


@dataclasses.dataclass(frozen=True)
class SceneResult:
    """What a policy reached in one scene.

    Attributes:
      index: Place of the scene in the source.
      file: File of the scene.
      record: Index of its record in the file.
      scenario_id: Id of the source.
      digest: Hash of all that is known of the scene.
      run: Policy, traffic and seed.
      values: One number per metric, in its unit; None where the metric is not valid.
    """

    index: int
    file: str
    record: int
    scenario_id: str
    digest: str
    run: Run
    values: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A scene that could not be used, or a run in it; then `run` says which.

    Attributes:
      index: Place of the scene in the source.
      error: What is wrong, with its file and record.
      run: Policy, traffic and seed; None where it is about all.
    """

    index: int
    error: DataError
    run: Run | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scenes and a plan for them. Policies of equal structure share compiled programs.

    Attributes:
      scenarios: The scenes.
      plan: What is evaluated.
      memory_budget: Bytes for scenes under way, and on an accelerator for temporaries; see `map_scenes`. Results
        do not depend on it.
    """

    scenarios: Scenarios
    plan: Plan
    memory_budget: int = MEMORY_BUDGET

    def results(
        self, indices: Iterable[int], skip: Callable[[int, Run], bool] = lambda index, run: False
    ) -> Iterator[list[SceneResult | Failure]]:
        """Evaluates scenes, in chunks of one shape; one list for each chunk and run.

        What is found for a scene depends on the scene and the seed alone, not on which other scenes there are, nor in
        which order.

        Args:
          indices: Which scenes.
          skip: Runs of scenes that need not be done.
        """
        for chunk in chunks(self.scenarios, indices, self._length):
            if isinstance(chunk, tuple):
                yield [Failure(*chunk)]
                continue
            members = [scenario for _, scenario in chunk]
            length, num_steps = self._length(members[0]), steps_left(members[0])
            if num_steps < 1:
                problem = DataError("no step follows the current one", field="current_step")
                yield [Failure(index, self._at(index, problem)) for index, _ in chunk]
                continue
            batch, digests = _filled(members, length), [digest(scenario) for scenario in members]
            for run in self.plan.runs:
                wanted = [place for place, (index, _) in enumerate(chunk) if not skip(index, run)]
                if wanted:
                    values, _ = self._simulate(run, batch, members, num_steps)
                    found = jax.device_get(values)
                    yield [self._result(*chunk[i], digests[i], run, take(found, i)) for i in wanted]

    def traces(self, index: int, runs: Iterable[Run]) -> tuple[Scenario, list[Trace]]:
        """A scene and rollouts of it, the same ones that are judged."""
        (chunk,) = chunks(self.scenarios, [index], self._length)
        if isinstance(chunk, tuple):
            raise chunk[1]
        scenario = chunk[0][1]
        batch = _filled([scenario], self._length(scenario))
        found = [self._simulate(run, batch, [scenario], steps_left(scenario))[1] for run in runs]
        return scenario, [jax.device_get(take(trace, 0)) for trace in found]

    def _simulate(self, run: Run, batch: Scenario, members: list[Scenario], num_steps: int):
        policy, traffic, seed = run
        steps = num_steps if self.plan.max_steps is None else min(num_steps, self.plan.max_steps)
        assignment = self.plan.assignment(policy, traffic)
        keys = [scene_key(seed, scenario.scenario_id) for scenario in members]
        keys = jnp.stack([keys[place % len(keys)] for place in range(len(batch.id_bytes))])
        budget = None if _is_cpu() else self.memory_budget
        simulate = _SceneEvaluation(self.plan.env(traffic), steps)
        return map_scenes(simulate, batch, keys, assignment, memory_budget=budget)

    def _result(self, index: int, scenario: Scenario, hashed: str, run: Run, values: dict[str, MetricValue]):
        file, record = self.scenarios.source(index)
        try:
            found = numbers(values, self.plan.columns)
        except DataError as error:
            return Failure(index, self._at(index, error), run)
        return SceneResult(index, file, record, scenario.scenario_id, hashed, run, found)

    def _at(self, index: int, error: DataError) -> DataError:
        file, record = self.scenarios.source(index)
        return error.at(file=file, record=record)

    def _length(self, scenario: Scenario) -> int:
        size = COPIES * sum(leaf.nbytes for leaf in jax.tree.leaves(scenario))
        share = self.memory_budget // (size * jax.local_device_count())
        return jax.local_device_count() * int(np.clip(share, 1, MOST_ON_CPU if _is_cpu() else MOST))


@dataclasses.dataclass(frozen=True)
class _SceneEvaluation:
    """`judge_scene` as a function of a scenario, its key and an assignment; equal ones share compiled programs."""

    env: Env
    num_steps: int

    def __call__(self, scenario: Scenario, key: Key[Array, ""], assignment: Assignment):
        return judge_scene(self.env, assignment, scenario, key, self.num_steps)


def columns_of(metrics: Iterable[str]) -> dict[str, Column]:
    """What is found for each scene where these metrics are judged."""
    found = {name: Column(metric.unit, metric.better) for name, metric in resolve(metrics).items()}
    scores = (SCORE, *MULTIPLIERS, *WEIGHTS) if found.keys() >= set(NUPLAN_METRICS) else ()
    return dict.fromkeys(scores, Column("1", "higher")) | found


def judge_scene(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_steps: int
) -> tuple[dict[str, MetricValue], Trace]:
    """Simulates one scene and judges the agents that `env.config.controlled` names. Pure.

    Args:
      env: Rules and metrics.
      policies: One policy for these agents, pairs of a policy and its agents, or an assignment; see `rollout`.
      scenario: One scene.
      key: Random key.
      num_steps: Steps to simulate.

    Returns:
      One value per metric, with the score of nuPlan and its parts if all that they are made from is there, and the
      rollout.
    """
    trace = rollout(env, policies, scenario, key, num_steps)
    assert trace.metrics is not None  # they are recorded by default
    judged = select_agents(scenario, env.config.controlled)
    found = summarize(trace.metrics, env.metrics, trace.active, judged)
    if found.keys() >= set(NUPLAN_METRICS):
        scores = nuplan_score(trace.metrics, scenario, trace.active, env.config.dt)
        found |= {name: _over_agents(value, judged) for name, value in scores.items()}
    return found, trace


def _over_agents(value: MetricValue, judged: Bool[Array, " N"]) -> MetricValue:
    counted = value.valid & judged
    count = jnp.sum(counted)
    total = jnp.sum(jnp.where(counted, value.value, 0.0))
    return MetricValue(total / jnp.maximum(count, 1).astype(jnp.float32), count > 0)


def evaluate_scene(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_steps: int
) -> dict[str, MetricValue]:
    """The values of `judge_scene` without the rollout, which then takes no memory."""
    return judge_scene(env, policies, scenario, key, num_steps)[0]


def numbers(values: Mapping[str, MetricValue], names: Iterable[str]) -> dict[str, float | None]:
    """Plain numbers of one scene in the order of `names`; None where a metric is not valid.

    Raises:
      DataError: A number is not finite.
    """
    host = jax.device_get({name: values[name] for name in names})
    for name, item in host.items():
        if item.valid and not math.isfinite(item.value):
            raise DataError(f"the metric is {item.value}", field=name)
    return {name: float(host[name].value) if host[name].valid else None for name in names}


def digest(scenario: Scenario) -> str:
    """Hash of all numbers of a scenario."""
    hashed = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(scenario):
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()


def steps_left(scenario: Scenario) -> int:
    """Steps of the record after the current one."""
    return scenario.num_steps - 1 - int(scenario.current_step)


def _filled(members: list[Scenario], length: int) -> Scenario:
    """A batch of so many scenes: repeats keep the shape, and with it the program, the same."""
    batch = stack([members[place % len(members)] for place in range(length)])
    return on_device(batch)


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"
