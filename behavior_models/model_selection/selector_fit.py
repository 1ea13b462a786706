"""Fitting of selectors: logged outcomes of behavior models that drive random agents, and held-out comparisons."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.model_selection.batch_policy import BanditParams, FittedClasses, fit_classes
from behavior_models.model_selection.linear import Ridge
from behavior_models.model_selection.selector import (
    NUM_COLUMNS,
    AssignedSelector,
    Selector,
    make_selector,
    member_columns,
    rung_masks,
    state_columns,
)
from behavior_models.study.run import Scenes
from waymax_sim import geometry
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Assignment, Env, EnvConfig, Observation, Policy, rollout
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.observation import scatter_row_actions
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class OutcomeParams:
    """The outcome of an agent over a window: progress to its goal minus failures. The values are choices.

    Attributes:
      window: Steps of 0.1 s.
      progress_scale: Progress of the outcome 1, m.
      failure: Penalty of a collision and of leaving the road.
    """

    window: int = 40
    progress_scale: float = 30.0
    failure: float = 1.0


OUTCOME = OutcomeParams()
# Members of agents that the selector drives, and of those of the log.
BY_SELECTOR = -1
NOT_DRIVEN = -2
# Largest number of agents that are driven in a scene.
MAX_CONTROLLED = 16


@pytree
class LoggedOutcomes:
    """Decisions of B scenes with N agents.

    Attributes:
      columns: State columns of the agents at the decision.
      member: Member that drove each agent.
      outcome: Outcomes.
      valid: Agents with a decision.
    """

    columns: Float[Array, "*B N 11"]
    member: Int[Array, "*B N"]
    outcome: Float[Array, "*B N"]
    valid: Bool[Array, "*B N"]


def outcome_env(policies: Sequence[Policy]) -> Env:
    """The environment of outcomes: agents keep acting after a failure."""
    steps = observed_history_steps(policies)
    metrics = "overlap", "offroad"
    config = EnvConfig(
        controlled="all",
        max_controlled=MAX_CONTROLLED,
        goals="end_of_log",
        metrics=metrics,
        rewards=(),
        num_history_steps=steps,
    )
    return Env(dynamics=Bicycle(), config=config)


@functools.partial(jax.jit, static_argnums=(0, 4))
def simulate_outcomes(
    env: Env,
    selector: AssignedSelector,
    bank: ScenarioBank,
    scene: tuple[Int[Array, ""], Key[Array, ""]],
    params: OutcomeParams,
) -> LoggedOutcomes:
    """Outcomes of the agents of one scene, by one program for logs, members and selectors.

    Args:
      env: From `outcome_env`.
      selector: The policy; agents with -2 follow the log.
      bank: The scenes.
      scene: Index of the scene, and random key.
      params: The outcome.
    """
    index, key = scene
    member = selector.assigned
    scenario = env.prepare(bank.scenario(index))
    assignment = Assignment([selector], [member > NOT_DRIVEN])
    record = {"agents": True, "metrics": True, "columns": _all_columns}
    trace = rollout(env, assignment, scenario, key, params.window, record=record)
    assert trace.agents is not None and trace.metrics is not None and trace.observations is not None
    assert scenario.goals is not None
    now = tree_index(scenario.log, scenario.current_step)
    distance = geometry.norm(scenario.goals.xy - now.xyz[:, :2])
    left = geometry.norm(scenario.goals.xy - trace.agents.xyz[-1, :, :2])
    failed = [jnp.any(metric.valid & (metric.value > 0), axis=0) for metric in trace.metrics.values()]
    outcome = (distance - left) / params.progress_scale - params.failure * sum(
        one.astype(jnp.float32) for one in failed
    )
    valid = (member > NOT_DRIVEN) & now.valid & scenario.goals.valid & jnp.isfinite(outcome)
    return LoggedOutcomes(trace.observations["columns"][0], member, jnp.where(valid, outcome, 0.0), valid)


def _all_columns(observation: Observation) -> Float[Array, "N 11"]:
    """State columns in the slots of the agents; zeros elsewhere."""
    return scatter_row_actions(observation.controlled, state_columns(observation), observation.info.id.shape[0]).value


def unfitted_selector(names: tuple[str, ...], interval: int = 20) -> Selector:
    """A selector without regressions, for logs: its certificates are all zero.

    Args:
      names: Names or checkpoint folders of the members.
      interval: Steps between choices.
    """
    masks = jnp.asarray(rung_masks(len(names)))
    size = masks.shape[-1]
    ridge = Ridge(jnp.zeros((size, size)), masks)
    fits = FittedClasses(ridge, jnp.zeros(masks.shape), jnp.zeros(len(masks)), jnp.int32(0))
    return make_selector(names, fits, interval)


def run_outcomes(
    selector: Selector,
    scenes: Scenes,
    assigned: Int[np.ndarray, "B N"],
    seed: int,
    params: OutcomeParams = OUTCOME,
    indices: Sequence[int] | None = None,
) -> LoggedOutcomes:
    """Outcomes of scenes, [B, N] in host memory.

    Args:
      selector: The selector.
      scenes: The scenes.
      assigned: Member of each agent, `BY_SELECTOR`, or `NOT_DRIVEN`.
      seed: Seed of the policies.
      params: The outcome.
      indices: Scenes to run, all by default; the result has these alone.
    """
    env, key, rows = outcome_env(selector.members), jax.random.key(seed), []
    for index in range(len(assigned)) if indices is None else indices:
        policy = AssignedSelector(selector, jnp.asarray(assigned[index], jnp.int32))
        scene = jnp.int32(index), jax.random.fold_in(key, index)
        rows.append(jax.device_get(simulate_outcomes(env, policy, scenes.bank, scene, params)))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def assign_members(scenes: Scenes, member: Int[np.ndarray, "B N"] | int) -> Int[np.ndarray, "B N"]:
    """Members of the traveling vehicles, at most `MAX_CONTROLLED` in a scene; `NOT_DRIVEN` for all others."""
    driven = scenes.traveling & (np.cumsum(scenes.traveling, axis=1) <= MAX_CONTROLLED)
    return np.where(driven, member, NOT_DRIVEN)


def random_members(scenes: Scenes, shares: Sequence[float], seed: int) -> Int[np.ndarray, "B N"]:
    """Random members of the traveling vehicles.

    Args:
      scenes: The scenes.
      shares: Relative frequency of each member.
      seed: Seed of the draws.
    """
    probability = np.asarray(shares) / np.sum(shares)
    drawn = np.random.default_rng(seed).choice(len(shares), size=scenes.traveling.shape, p=probability)
    return assign_members(scenes, drawn)


def scene_means(logged: LoggedOutcomes) -> Float[np.ndarray, " B"]:
    """Mean outcome of the vehicles of each scene; NaN without a vehicle."""
    count = np.sum(logged.valid, axis=1)
    total = np.sum(np.where(logged.valid, logged.outcome, 0.0), axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fit_selector(
    names: tuple[str, ...], logged: LoggedOutcomes, constants: BanditParams, interval: int = 20
) -> Selector:
    """The selector of logged outcomes.

    Args:
      names: Names of the members, in the order of `LoggedOutcomes.member`.
      logged: The outcomes.
      constants: Constants of the certificates.
      interval: Steps between choices.

    Raises:
      ValueError: There are fewer decisions than columns.
    """
    columns, member, outcome = logged_rows(logged)
    if len(outcome) < NUM_COLUMNS * len(names):
        raise ValueError(f"{len(outcome)} decisions are too few for {len(names)} members; use more scenes")
    features = np.asarray(member_columns(jnp.asarray(columns), len(names)))[np.arange(len(member)), member]
    fits = fit_classes(jnp.asarray(features), jnp.asarray(outcome), rung_masks(len(names)), constants)
    return make_selector(names, fits, interval)


def logged_rows(logged: LoggedOutcomes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, members and outcomes of the valid decisions."""
    parts = logged.columns, logged.member, logged.outcome
    return tuple(np.asarray(part)[np.asarray(logged.valid)] for part in parts)  # type: ignore[return-value]


def estimate_noise(logged: LoggedOutcomes, num_members: int) -> float:
    """Standard deviation of the residuals of the largest class."""
    columns, member, outcome = logged_rows(logged)
    features = np.asarray(member_columns(jnp.asarray(columns), num_members))[np.arange(len(member)), member]
    fits = fit_classes(jnp.asarray(features), jnp.asarray(outcome), rung_masks(num_members), BanditParams())
    return float(np.std(outcome - features @ np.asarray(fits.weights[-1])))
