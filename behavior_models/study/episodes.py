"""Episodes of given vehicles of a bank, and their outcomes per vehicle, in one program for all sets of weights."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import PRESETS, Assignment, Env, EnvConfig, Policy, begin_episode, interact
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.env import StepOutput
from waymax_sim.env.interaction import EpisodeState
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.pytree import Array, pytree

TASK_METRICS = ("goal_reached", "overlap", "offroad", "at_fault_collision", "kinematic_infeasibility", "log_progress")
# Rules of the episodes: those of self-play. A vehicle leaves the scene at its goal, in a collision and off the road.
EPISODE_CONFIG = dataclasses.replace(PRESETS["goal"], metrics=TASK_METRICS, rewards=())
# The same vehicles without evaluation; all remain to the end of the record.
ROLLOUT_CONFIG = EnvConfig(
    controlled=EPISODE_CONFIG.controlled, spawn="never", goals="end_of_log", metrics=(), rewards=()
)


@pytree
class Outcomes:
    """Results of an episode for each of K driven vehicles.

    Attributes:
      slot: Agent slot, -1 for none.
      goal: Whether it reached its goal without a collision and on the road.
      collision: Whether it collided.
      offroad: Whether it left the road.
      at_fault: Whether it collided by its own fault (metric `at_fault_collision`).
      arrival: Time of arrival, s; 0 without an arrival.
      displacement: Mean distance to the log over its valid steps, m; the pose at the end of the episode is held.
      infeasible: Share of its steps that are kinematically infeasible.
      progress: Share of the logged path that it drove.
      invalid_action: Whether an action was not finite.
    """

    slot: Int[Array, "*E K"]
    goal: Bool[Array, "*E K"]
    collision: Bool[Array, "*E K"]
    offroad: Bool[Array, "*E K"]
    at_fault: Bool[Array, "*E K"]
    arrival: Float[Array, "*E K"]
    displacement: Float[Array, "*E K"]
    infeasible: Float[Array, "*E K"]
    progress: Float[Array, "*E K"]
    invalid_action: Bool[Array, "*E K"]


@pytree
class EpisodeRecord:
    """The record of T steps of N agents.

    Attributes:
      active: Whether time has advanced in each step.
      agents: Agents after each step, before those whose episode has ended are removed.
      ended: Agents whose episode has ended after each step.
      outputs: Results of each step; None without evaluation.
    """

    active: Bool[Array, "*T"]
    agents: AgentState
    ended: Bool[Array, "*T N"]
    outputs: StepOutput | None


@pytree
class Driver:
    """A policy and its traffic at their common interval of decisions.

    Attributes:
      policy: The policy of the driven vehicles.
      traffic: Policies of the others; the log moves the rest.
    """

    policy: Any
    traffic: Assignment


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Settings of episodes; equal settings share programs.

    Attributes:
      num_rows: Largest number K of driven vehicles.
      num_steps: Steps.
      interval: Steps per decision.
      config: Rules.
    """

    num_rows: int
    num_steps: int
    interval: int
    config: EnvConfig = EPISODE_CONFIG

    def env(self, driver: Driver) -> Env:
        """The environment for the actions of a policy, with the history that all policies observe."""
        config = dataclasses.replace(
            self.config,
            max_controlled=self.num_rows,
            steps_per_action=self.interval,
            num_history_steps=observed_history_steps([driver.policy, *driver.traffic.policies]),
        )
        return Env(driver.policy.dynamics or Bicycle(), config)

    def simulate(
        self, driver: Driver, scenario: Scenario, mask: Bool[Array, " N"], key: Key[Array, ""], *, evaluate: bool = True
    ) -> tuple[EpisodeState, EpisodeRecord]:
        """One episode: its first state and its record. Pure.

        Args:
          driver: The policies.
          scenario: A scenario with goals.
          mask: The driven vehicles, which no policy of the traffic controls.
          key: Random key.
          evaluate: Whether to compute metrics and ends of episodes.
        """
        env, policy = self.env(driver), driver.policy
        simulation_key, policy_key = jax.random.split(key)

        def observe(episode: EpisodeState):
            return env.observe(scenario, episode.state, privileged=policy.privileged, controller=CALLER)

        def decide(carry: tuple, number: Int[Array, ""]) -> tuple[tuple, EpisodeRecord]:
            episode, memory = carry
            own_key = jax.random.fold_in(policy_key, number)
            action, memory = policy.act(observe(episode), memory, own_key)
            episode, interaction = interact(env, scenario, episode, driver.traffic, action, evaluate=evaluate)
            done = EpisodeRecord(interaction.active, interaction.agents, interaction.ended, interaction.outputs)
            return (episode, memory), done

        first = begin_episode(env, scenario, driver.traffic, simulation_key, mask)
        num_decisions = self.num_steps // self.interval
        begin = first, policy.init(observe(first), policy_key)
        record = jax.lax.scan(decide, begin, jnp.arange(num_decisions, dtype=jnp.int32))[1]
        return first, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), record)

    def outcomes(self, driver: Driver, scenario: Scenario, mask: Bool[Array, " N"], key: Key[Array, ""]) -> Outcomes:
        """The results of one episode. Pure.

        Args:
          driver: See `simulate`, as for the other arguments.
          scenario: A scenario.
          mask: The driven vehicles.
          key: Random key.
        """
        first, record = self.simulate(driver, scenario, mask, key)
        rows = self.env(driver).controlled_rows(first.state, CALLER)
        return _outcomes(scenario, first, record, rows)


def make_driver(policy: Policy, traffic: Policy | None) -> tuple[Driver, int]:
    """A policy among traffic, and the interval of their decisions in steps.

    Traffic moves the traveling vehicles that are not driven; networks brake at their goals.

    Args:
      policy: The policy of the driven vehicles.
      traffic: The policy of the other traveling vehicles; None for the log.
    """
    if traffic is None:
        (policy,), interval = at_common_interval(policy)
        return Driver(policy, Assignment((), ())), interval
    (policy, others), interval = at_common_interval(policy, traffic)
    return Driver(policy, Assignment([others], ["traveling"])), interval


def at_common_interval(*policies: Any) -> tuple[list[Any], int]:
    """Policies that decide once per interval, and the interval in steps.

    Networks that hold their actions for several steps would otherwise decide at every step, with discarded results.
    """
    own = [getattr(policy, "interval", 1) for policy in policies]
    interval = math.gcd(*own)
    return [
        policy if steps == 1 else dataclasses.replace(policy, interval=steps // interval)
        for policy, steps in zip(policies, own, strict=True)
    ], interval


def run_episodes(
    episodes: Episodes,
    driver: Driver,
    bank: ScenarioBank,
    scenes: Int[Array, " E"],
    masks: Bool[Array, "E N"],
    keys: Key[Array, " E"],
) -> Outcomes:
    """The results of E episodes, compiled once for all weights of one structure.

    Args:
      episodes: Settings.
      driver: The policies.
      bank: The scenarios, with goals.
      scenes: Scenario of each episode.
      masks: Driven vehicles of each episode.
      keys: Random key of each episode.
    """
    return _run(episodes, driver, bank, scenes, masks, keys)


@functools.partial(jax.jit, static_argnums=0)
def _run(episodes: Episodes, driver: Driver, bank: ScenarioBank, scenes: Array, masks: Array, keys: Array) -> Outcomes:
    def run(scene: Array, mask: Array, key: Array) -> Outcomes:
        return episodes.outcomes(driver, bank.scenario(scene), mask, key)

    return jax.vmap(run)(scenes, masks, keys)


def _outcomes(scenario: Scenario, first: EpisodeState, record: EpisodeRecord, rows: Int[Array, " K"]) -> Outcomes:
    """Results of the vehicles of given rows.

    Args:
      scenario: The scenario.
      first: The first state.
      record: The record.
      rows: Slots of the vehicles, -1 for none.
    """
    slots, out = jnp.maximum(rows, 0), record.outputs
    assert out is not None, "the episode was evaluated"
    before = jnp.concatenate([first.state.ended[None], record.ended[:-1]])
    alive = (~before & record.active[:, None])[:, slots] & (rows >= 0)[None]

    def values(name: str) -> tuple[Array, Array]:
        metric = out.metrics[name]
        valid = metric.valid[:, slots] & alive
        return jnp.where(valid, metric.value[:, slots], 0.0), valid

    reached, overlap, offroad, fault = (
        values(name)[0] > 0 for name in ("goal_reached", "overlap", "offroad", "at_fault_collision")
    )
    collided, left = jnp.any(overlap, axis=0), jnp.any(offroad, axis=0)
    infeasible, is_step = values("kinematic_infeasibility")
    num_steps = jnp.maximum(jnp.sum(is_step, axis=0), 1).astype(jnp.float32)
    goal = jnp.any(reached, axis=0) & ~collided & ~left
    time = (jnp.argmax(reached, axis=0) + 1).astype(jnp.float32) * scenario.time_step
    return Outcomes(
        slot=rows,
        goal=goal,
        collision=collided,
        offroad=left,
        at_fault=jnp.any(fault, axis=0),
        arrival=jnp.where(goal, time, 0.0),
        displacement=_held_displacement(scenario, record.agents, alive, slots),
        infeasible=jnp.sum(infeasible, axis=0) / num_steps,
        progress=jnp.sum(values("log_progress")[0], axis=0),
        invalid_action=jnp.any(out.invalid_action[:, slots] & alive, axis=0),
    )


def _held_displacement(
    scenario: Scenario, agents: AgentState, alive: Bool[Array, "T K"], slots: Int[Array, " K"]
) -> Float[Array, " K"]:
    """Mean distance (m) to the valid steps of the log; after the end of an episode its last pose is held.

    Args:
      scenario: The scenario.
      agents: Simulated agents, [T, N].
      alive: Steps of the episode.
      slots: Slots of the vehicles.
    """
    step = jnp.arange(alive.shape[0], dtype=jnp.int32)
    last = jnp.maximum(jnp.sum(alive, axis=0, dtype=jnp.int32) - 1, 0)
    held = agents.xyz[jnp.minimum(step[:, None], last[None]), slots[None], :2]
    logged_step = scenario.current_step + 1 + step
    rows = jnp.minimum(logged_step, scenario.last_step)
    xyz, valid = (jnp.asarray(leaf)[rows][:, slots] for leaf in (scenario.log.xyz, scenario.log.valid))
    valid = valid & (logged_step <= scenario.last_step)[:, None]
    distance = jnp.where(valid, geometry.norm(jnp.where(valid[..., None], held - xyz[..., :2], 0.0)), 0.0)
    return jnp.sum(distance, axis=0) / jnp.maximum(jnp.sum(valid, axis=0), 1).astype(jnp.float32)


def pad_groups(count: int, size: int) -> Sequence[tuple[list[int], int]]:
    """Indices below a count in groups of equal size, the last one filled with repeats, and their true sizes.

    Args:
      count: Number of items.
      size: Size of a group.
    """
    begins = range(0, count, size)
    return [([min(i, count - 1) for i in range(begin, begin + size)], min(size, count - begin)) for begin in begins]
