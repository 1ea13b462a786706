"""Realism of sampled rollouts in which a policy drives all traveling vehicles."""

import dataclasses
import functools

import jax
from jaxtyping import Bool, Int, Key

from behavior_models.baselines.kinematic import ConstantSpeed
from behavior_models.study.episodes import Driver, Episodes, at_common_interval
from waymax_sim.env import Assignment, Policy
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.metrics.realism import CONFIGS, RealismConfig, RealismRollouts, Score, compare_rollouts, score
from waymax_sim.ops.bank import materialize_rows
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class RealismSettings:
    """Settings; equal settings share programs.

    Attributes:
      episodes: The episodes, without evaluation.
      num_rollouts: Rollouts of a scene.
      max_evaluated: Largest number of scored agents.
      config: Features and weights.
    """

    episodes: Episodes
    num_rollouts: int
    max_evaluated: int
    config: RealismConfig = CONFIGS["2025"]


def realism_driver(policy: Policy) -> tuple[Driver, int]:
    """The policy among others that keep their speed, and the interval of its decisions.

    The others do not follow the log, since the challenge simulates all agents.
    """
    (policy,), interval = at_common_interval(policy)
    return Driver(policy, Assignment([ConstantSpeed()], ["all"])), interval


@functools.partial(jax.jit, static_argnums=0)
def score_scene(
    settings: RealismSettings,
    driver: Driver,
    bank: ScenarioBank,
    scene: Int[Array, ""],
    mask: Bool[Array, " N"],
    key: Key[Array, ""],
) -> Score:
    """The score of a scene.

    Args:
      settings: Settings.
      driver: From `realism_driver`.
      bank: The scenarios, with goals.
      scene: Index of the scenario.
      mask: The traveling vehicles.
      key: Random key.
    """
    # One scene for all rollouts: its copy is small, and the score reads whole arrays.
    scenario = materialize_rows(bank.scenario(scene))

    def run(key: Key[Array, ""]) -> RealismRollouts:
        _, record = settings.episodes.simulate(driver, scenario, mask, key, evaluate=False)
        return RealismRollouts(record.agents.xyz, record.agents.yaw)

    rollouts = jax.vmap(run)(jax.random.split(key, settings.num_rollouts))
    return score(compare_rollouts(scenario, rollouts, max_evaluated=settings.max_evaluated), settings.config)
