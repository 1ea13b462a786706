"""A policy in every scene of a source, one number per metric and scene."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jaxtyping import Key

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import Scenarios
from waymax_sim.datatypes.agents import select
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, Policy, rollout
from waymax_sim.metrics import MetricValue, summarize
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class SceneResult:
    """What a policy reached in one scene.

    Attributes:
      file: File of the scene.
      record: Index of its record in the file.
      scenario_id: Id of the source.
      values: One number per metric, in its unit; None where the metric is not valid.
    """

    file: str
    record: int
    scenario_id: str
    values: dict[str, float | None]


def evaluate(
    scenarios: Scenarios,
    env: Env,
    policy: Policy,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    indices: Iterable[int] | None = None,
) -> Iterator[SceneResult | DataError]:
    """Rolls the policy out in one scene after another; a scene that cannot be used gives its error instead.

    Scenes of equal shapes share one compiled program.

    Args:
      scenarios: The scenes.
      env: Rules and metrics. The policy drives the agents of `env.config.controlled`, and they are judged.
      policy: Who drives.
      seed: Seed of all random draws.
      max_steps: Steps to simulate at most; by default to the end of each record.
      indices: Which scenes, in this order; all by default.
    """
    run = jax.jit(functools.partial(evaluate_scene, env, policy), static_argnames="num_steps")
    for index in range(len(scenarios)) if indices is None else indices:
        file, record = scenarios.source(index)
        try:
            scenario = scenarios[index]
            num_steps = _steps_to_simulate(scenario, max_steps)
            values = run(scenario, scene_key(seed, scenario.scenario_id), num_steps=num_steps)
            yield SceneResult(file, record, scenario.scenario_id, numbers(values, env.metrics))
        except DataError as error:
            yield error.at(file=file, record=record)


def evaluate_scene(
    env: Env, policy: Policy, scenario: Scenario, key: Key[Array, ""], num_steps: int
) -> dict[str, MetricValue]:
    """Rolls the policy out in one scene and judges the agents it drives. Pure; one value per metric."""
    trace = rollout(env, policy, scenario, key, num_steps, record=("metrics",))
    assert trace.metrics is not None  # they were asked for
    judged = select(scenario.agents, env.config.controlled)
    return summarize(trace.metrics, env.metrics, trace.active, judged)


def scene_key(seed: int, scenario_id: str) -> Key[Array, ""]:
    """Random key of a scene. It depends on nothing but seed and id, so neither order nor company change a draw."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(zlib.crc32(scenario_id.encode("utf-8"))))


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


def _steps_to_simulate(scenario: Scenario, max_steps: int | None) -> int:
    left = scenario.num_steps - 1 - int(scenario.current_step)
    if left < 1:
        raise DataError("no step follows the current one", field="current_step")
    return left if max_steps is None else min(left, max_steps)
