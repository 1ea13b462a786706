"""Realism over whole data sets: simulated rollouts with their scores in one program, or rollouts from files."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key

from waymax_sim.datasets.errors import DataError, locate_errors
from waymax_sim.datasets.formats.sim_agents_submission import RolloutFile
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, rollout
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.evaluation.evaluate import check_actions, required_goals
from waymax_sim.evaluation.future import has_future
from waymax_sim.evaluation.sharding import scene_key
from waymax_sim.metrics.realism import (
    CONFIGS,
    MAX_EVALUATED,
    RealismConfig,
    RealismRollouts,
    Score,
    compare_rollouts,
    evaluated_mask,
    rollout_contributions,
    score,
    simulated_mask,
)
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class RealismResult:
    """The score of one scene, on the host.

    Attributes:
      file: File of the scene.
      record: Index of its record in the file.
      scenario: The scene.
      num_evaluated: Number of scored agents.
      rollouts: The scored rollouts.
      score: The score; None without a recorded future.
      contributions: Contribution of each rollout to the meta-metric (`rollout_contributions`); None without a score, or
        with one rollout.
    """

    file: str
    record: int
    scenario: Scenario
    num_evaluated: int
    rollouts: RealismRollouts
    score: Score | None
    contributions: Float[np.ndarray, " K"] | None = None


def realism_env(policies: Policies) -> Env:
    """The environment of the challenge: all agents of the current step are controlled, none is spawned or removed.

    Heights follow the map; with a privileged policy, the log.
    """
    members = Assignment.from_policies(policies).policies
    config = EnvConfig(
        controlled="all",
        spawn="never",
        height_source="log" if any(policy.privileged for policy in members) else "map",
        goals=required_goals(members),
        metrics=(),
        rewards=(),
        num_history_steps=observed_history_steps(members),
    )
    return Env(config=config)


def simulate_rollouts(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_rollouts: int, num_steps: int
) -> RealismRollouts:
    """K rollouts of a scenario from the current step on. Pure.

    Args:
      env: The environment, see `realism_env`.
      policies: A policy for all agents, or an assignment.
      scenario: One scenario.
      key: Random key.
      num_rollouts: Number K of rollouts.
      num_steps: Steps of a rollout.
    """
    return _simulate(env, policies, scenario, key, num_rollouts, num_steps)[0]


def _simulate(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_rollouts: int, num_steps: int
) -> tuple[RealismRollouts, Bool[Array, " N"]]:
    """The rollouts, and the agents with an action that was not finite."""

    def run(key):
        trace = rollout(env, policies, scenario, key, num_steps, record=("agents", "invalid_action"))
        agents, invalid = trace.agents, trace.invalid_action
        assert agents is not None and invalid is not None  # as `record` names them
        return RealismRollouts(agents.xyz, agents.yaw), jnp.any(invalid, axis=0)

    rollouts, invalid = jax.vmap(run)(jax.random.split(key, num_rollouts))
    return rollouts, jnp.any(invalid, axis=0)


def evaluate_realism(
    scenarios: Scenarios,
    config: RealismConfig = CONFIGS["2025"],
    *,
    policy: Policies = None,
    read_rollouts: Callable[[str], RolloutFile] | None = None,
    num_rollouts: int = 32,
    seed: int = 0,
    parity: bool = True,
    indices: Iterable[int] | None = None,
    allow_unscored: bool = False,
) -> Iterator[RealismResult | DataError]:
    """Scores one scene after another; yields an error for each scene that cannot be scored.

    Args:
      scenarios: The scenes.
      config: Features and weights.
      policy: A policy for all agents, or an assignment; None with `read_rollouts`.
      read_rollouts: Function from a scenario id to its rollouts, which raises `DataError` where there are none.
      num_rollouts: Number of rollouts of the policy.
      seed: Seed of all random draws.
      parity: Reproduce the official code, defects included.
      indices: Indices of the scenes to score, in order; all by default.
      allow_unscored: Simulate scenes without a recorded future too, whose score is None, as for a submission to a
        testing split.
    """
    if (policy is None) == (read_rollouts is None):
        raise ValueError("give either a policy or read_rollouts")

    assignment = Assignment.from_policies(policy)
    for index in range(len(scenarios)) if indices is None else indices:
        file, record = scenarios.source(index)
        try:
            raw = scenarios.read(index)
            # Few shapes: each one compiles a program.
            with locate_errors(file, record):
                scenario = pad_to_class(to_scenario(raw, pad_to_bucket=False))
            if allow_unscored and policy is not None and not has_future(scenario):
                rollouts = _unscored_rollouts(assignment, scenario, seed, num_rollouts)
                count = int(np.asarray(evaluated_mask(scenario)).sum())
                yield RealismResult(file, record, scenario, count, rollouts, None)
                continue
            count = check_scene(scenario)
            log, size = recorded_log(raw, scenario), max(count, MAX_EVALUATED)
            if read_rollouts is None:
                key = scene_key(seed, scenario.scenario_id)
                lengths = {
                    "num_rollouts": num_rollouts,
                    "num_steps": scenario.num_remaining_steps,
                    "max_evaluated": size,
                }
                rollouts, scored, invalid = _simulated_score(
                    assignment, scenario, log, key, config=config, parity=parity, **lengths
                )
                check_actions(scenario, np.asarray(invalid))
            else:
                rollouts = from_rollout_file(read_rollouts(scenario.scenario_id), scenario)
                scored = _only_score(scenario, rollouts, log, config=config, parity=parity, max_evaluated=size)
            rollouts, (scores, contributions) = jax.device_get((rollouts, scored))
            yield RealismResult(file, record, scenario, count, rollouts, scores, contributions)
        except DataError as error:
            yield error.with_location(file=file, record=record)


def _unscored_rollouts(assignment: Assignment, scenario: Scenario, seed: int, num_rollouts: int) -> RealismRollouts:
    """Rollouts of a scene without a recorded future.

    Raises:
      DataError: No step follows the current one, no agent is valid at it, or an action is not finite.
    """
    if scenario.num_remaining_steps < 1:
        raise DataError("no step follows the current one", field="current_step")
    if not np.asarray(simulated_mask(scenario)).any():
        raise DataError("no agent is valid at the current step", field="valid")
    key = scene_key(seed, scenario.scenario_id)
    lengths = {"num_rollouts": num_rollouts, "num_steps": scenario.num_remaining_steps}
    rollouts, invalid = jax.device_get(_only_simulated(assignment, scenario, key, **lengths))
    check_actions(scenario, invalid)
    return rollouts


@functools.partial(jax.jit, static_argnames=("num_rollouts", "num_steps"))
def _only_simulated(
    assignment: Assignment, scenario: Scenario, key: Key[Array, ""], *, num_rollouts: int, num_steps: int
) -> tuple[RealismRollouts, Bool[Array, " N"]]:
    return _simulate(realism_env(assignment), assignment, scenario, key, num_rollouts, num_steps)


def _scored(scenario, rollouts, log, config, parity, max_evaluated) -> tuple[Score, Float[Array, " K"] | None]:
    """The score, and the contributions of the rollouts."""
    features = compare_rollouts(scenario, rollouts, parity=parity, log=log, max_evaluated=max_evaluated)
    has_several = len(rollouts.xyz) > 1
    contributions = rollout_contributions(features, config, parity=parity) if has_several else None
    return score(features, config, parity=parity), contributions


@functools.partial(jax.jit, static_argnames=("config", "parity", "num_rollouts", "num_steps", "max_evaluated"))
def _simulated_score(
    assignment: Assignment,
    scenario: Scenario,
    log: AgentState,
    key: Key[Array, ""],
    *,
    config: RealismConfig,
    parity: bool,
    num_rollouts: int,
    num_steps: int,
    max_evaluated: int,
) -> tuple[RealismRollouts, tuple[Score, Float[Array, " K"] | None], Bool[Array, " N"]]:
    """Rollouts, their score and contributions, and the agents with an action that was not finite.

    Policies are arguments: weights of one structure share the program.
    """
    rollouts, invalid = _simulate(realism_env(assignment), assignment, scenario, key, num_rollouts, num_steps)
    return rollouts, _scored(scenario, rollouts, log, config, parity, max_evaluated), invalid


_only_score = jax.jit(_scored, static_argnames=("config", "parity", "max_evaluated"))


def check_scene(scenario: Scenario) -> int:
    """Validates that a scene can be scored, and returns the number of scored agents.

    Raises:
      DataError: No future is recorded, there are no road edges, or an agent to score is not valid.
    """
    if scenario.time_step != TIME_STEP:
        problem = f"realism is defined for time steps of {TIME_STEP} s, not {scenario.time_step} s"
        raise DataError(problem, field="timestamps", remedy="resample the record with --time-step 0.1")
    if scenario.num_remaining_steps < 1:
        raise DataError("no step follows the current one", field="current_step")
    if not has_future(scenario):
        remedy = "rollouts of a testing split can be written with --submission, but not scored"
        raise DataError("no future in the record to compare with", field="states", remedy=remedy)
    if not np.any(scenario.edges.valid):
        raise DataError("the map has no road edges, so no agent can be off the road", field="feature_type")
    agents = scenario.agents
    is_listed = np.asarray((agents.is_sdc | agents.to_predict) & agents.exists)
    scored = np.asarray(evaluated_mask(scenario))
    absent = agents.id[is_listed & ~scored]
    if len(absent):
        problem = f"agents to score are not valid at the current step: {', '.join(map(str, absent.tolist()))}"
        raise DataError(problem, field="to_predict")
    if not scored.any():
        raise DataError("there is no agent to score", field="to_predict", remedy="an sdc or agents to predict")
    return int(scored.sum())


def recorded_log(raw: RawScene, scenario: Scenario) -> AgentState:
    """The log as recorded: headings are not wrapped, and steps that are not valid keep their values."""
    count = raw.valid.shape[1]
    xyz = np.zeros(scenario.log.xyz.shape, np.float32)
    yaw = np.zeros(scenario.log.yaw.shape, np.float32)
    # Rounded in the world frame, as in a submission; the subtraction is then exact.
    local_xyz = np.nan_to_num(raw.xyz).astype(np.float32).astype(np.float64) - np.asarray(scenario.origin, np.float64)
    xyz[:, :count], yaw[:, :count] = local_xyz, np.nan_to_num(raw.yaw)
    return AgentState(xyz, yaw, scenario.log.velocity, scenario.log.valid)


def from_rollout_file(file: RolloutFile, scenario: Scenario) -> RealismRollouts:
    """Rollouts of a file in the rows and the local frame of a scenario.

    Raises:
      DataError: They do not fit the scenario.
    """
    is_simulated = np.asarray(simulated_mask(scenario))
    ids = np.asarray(scenario.agents.id)
    file.check(ids[is_simulated], scenario.num_remaining_steps)
    row_by_id = {int(ids[row]): row for row in np.flatnonzero(is_simulated)}
    rows = np.array([row_by_id[agent] for agent in file.object_id.tolist()])
    num_rollouts, _, num_steps = file.heading.shape
    xyz = np.zeros((num_rollouts, num_steps, scenario.num_agents, 3), np.float32)
    yaw = np.zeros(xyz.shape[:-1], np.float32)
    xyz[:, :, rows] = np.swapaxes(file.xyz.astype(np.float64) - np.asarray(scenario.origin, np.float64), 1, 2)
    yaw[:, :, rows] = np.swapaxes(file.heading, 1, 2)
    return RealismRollouts(xyz, yaw)


def to_rollout_file(rollouts: RealismRollouts, scenario: Scenario) -> RolloutFile:
    """The rollouts of all agents of the current step in the frame of the world, float32 as in submissions."""
    rows = np.flatnonzero(np.asarray(simulated_mask(scenario)))
    xyz = np.asarray(rollouts.xyz)[:, :, rows] + np.asarray(scenario.origin)
    return RolloutFile(
        scenario_id=scenario.scenario_id,
        object_id=np.asarray(scenario.agents.id)[rows].astype(np.int64),
        xyz=np.swapaxes(xyz, 1, 2),
        heading=np.swapaxes(np.asarray(rollouts.yaw)[:, :, rows], 1, 2),
    )
