"""Realism over whole data sets: rollouts and their scores in one graph, or rollouts from files."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Key

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.sim_agents_submission import RolloutFile
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, rollout
from waymax_sim.evaluation.sharding import scene_key
from waymax_sim.metrics.realism import (
    CONFIGS,
    MAX_EVALUATED,
    RealismConfig,
    Rollouts,
    Score,
    compare,
    score,
    simulated,
    to_evaluate,
)
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class RealismResult:
    """The score of one scene, on the host.

    Attributes:
      file: File of the scene.
      record: Index of its record in the file.
      scenario: The scene.
      num_evaluated: Agents that were scored.
      rollouts: What was scored.
      score: The score.
    """

    file: str
    record: int
    scenario: Scenario
    num_evaluated: int
    rollouts: Rollouts
    score: Score


def realism_env(policies: Policies) -> Env:
    """The rules of the challenge: all agents of the current step are driven, nobody comes or goes.

    Heights follow the map; with a privileged policy, the log.
    """
    is_privileged = any(policy.privileged for policy in Assignment.of(policies).policies)
    config = EnvConfig(
        controlled="all", spawn="never", height_source="log" if is_privileged else "map", metrics=(), rewards=()
    )
    return Env(config=config)


def simulate(
    env: Env, policies: Policies, scenario: Scenario, key: Key[Array, ""], num_rollouts: int, num_steps: int
) -> Rollouts:
    """K rollouts of a scenario from the current step on. Pure.

    Args:
      env: Rules, see `realism_env`.
      policies: A policy for all agents, or an assignment.
      scenario: One scenario.
      key: Random key.
      num_rollouts: K.
      num_steps: Steps of a rollout.
    """

    def run(key):
        agents = rollout(env, policies, scenario, key, num_steps, record=("agents",)).agents
        assert agents is not None  # they were asked for
        return Rollouts(agents.xyz, agents.yaw)

    return jax.vmap(run)(jax.random.split(key, num_rollouts))


def evaluate_realism(
    scenarios: Scenarios,
    config: RealismConfig = CONFIGS["2025"],
    *,
    policy: Policies = None,
    find: Callable[[str], RolloutFile] | None = None,
    num_rollouts: int = 32,
    seed: int = 0,
    parity: bool = True,
    indices: Iterable[int] | None = None,
) -> Iterator[RealismResult | DataError]:
    """Scores one scene after another; a scene that cannot be used gives its error instead.

    Args:
      scenarios: The scenes.
      config: What is scored and how.
      policy: A policy for all agents, or an assignment; or else
      find: Gives the rollouts of a scenario id; raises `DataError` where there are none.
      num_rollouts: How often the policy is rolled out.
      seed: Seed of all random draws.
      parity: As the official code does it, or with its defects corrected.
      indices: Which scenes, in this order; all by default.
    """
    if (policy is None) == (find is None):
        raise ValueError("give either a policy or what finds rollouts")

    assignment = Assignment.of(policy)
    for index in range(len(scenarios)) if indices is None else indices:
        file, record = scenarios.source(index)
        try:
            raw = scenarios.read(index)
            # Few shapes, each worth the minute that its program takes to compile.
            scenario = pad_to_class(to_scenario(raw, bucketed=False))
            count = check_scene(scenario)
            log, size = verbatim_log(raw, scenario), max(count, MAX_EVALUATED)
            if find is None:
                key = scene_key(seed, scenario.scenario_id)
                lengths = {"num_rollouts": num_rollouts, "num_steps": _num_future(scenario), "max_evaluated": size}
                rollouts, found = _simulated_score(
                    assignment, scenario, log, key, config=config, parity=parity, **lengths
                )
            else:
                rollouts = to_rollouts(find(scenario.scenario_id), scenario)
                found = _only_score(scenario, rollouts, log, config=config, parity=parity, max_evaluated=size)
            rollouts, found = jax.device_get((rollouts, found))
            yield RealismResult(file, record, scenario, count, rollouts, found)
        except DataError as error:
            yield error.at(file=file, record=record)


def _scored(scenario, rollouts, log, config, parity, max_evaluated) -> Score:
    features = compare(scenario, rollouts, parity=parity, log=log, max_evaluated=max_evaluated)
    return score(features, config, parity=parity)


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
) -> tuple[Rollouts, Score]:
    """Rollouts and their score. Policies are arguments: weights of one structure share the program."""
    rollouts = simulate(realism_env(assignment), assignment, scenario, key, num_rollouts, num_steps)
    return rollouts, _scored(scenario, rollouts, log, config, parity, max_evaluated)


_only_score = jax.jit(_scored, static_argnames=("config", "parity", "max_evaluated"))


def _num_future(scenario: Scenario) -> int:
    return scenario.num_steps - 1 - int(scenario.current_step)


def check_scene(scenario: Scenario) -> int:
    """Refuses scenes that cannot be scored, and says how many agents are.

    Raises:
      DataError: Nothing follows the current step, there are no road edges, or an agent to score is not there.
    """
    if _num_future(scenario) < 1:
        raise DataError("no step follows the current one", field="current_step")
    if not np.any(scenario.edges.valid):
        raise DataError("the map has no road edges, so nobody can be off the road", field="feature_type")
    agents = scenario.agents
    listed = np.asarray((agents.is_sdc | agents.to_predict) & agents.exists)
    scored = np.asarray(to_evaluate(scenario))
    absent = agents.id[listed & ~scored]
    if len(absent):
        problem = f"agents to score are not there at the current step: {', '.join(map(str, absent.tolist()))}"
        raise DataError(problem, field="to_predict")
    if not scored.any():
        raise DataError("there is no agent to score", field="to_predict", remedy="an sdc or agents to predict")
    return int(scored.sum())


def verbatim_log(raw: RawScene, scenario: Scenario) -> AgentState:
    """The log as recorded: headings not wrapped, and whatever is there where an agent was not seen."""
    count = raw.valid.shape[1]
    xyz = np.zeros(scenario.log.xyz.shape, np.float32)
    yaw = np.zeros(scenario.log.yaw.shape, np.float32)
    # Rounded in the world first, as in a submission; what is left is exact.
    seen = np.nan_to_num(raw.xyz).astype(np.float32).astype(np.float64) - np.asarray(scenario.origin, np.float64)
    xyz[:, :count], yaw[:, :count] = seen, np.nan_to_num(raw.yaw)
    return AgentState(xyz, yaw, scenario.log.velocity, scenario.log.valid)


def to_rollouts(file: RolloutFile, scenario: Scenario) -> Rollouts:
    """Rollouts of a file in the rows and the local frame of a scenario.

    Raises:
      DataError: They do not fit the scenario.
    """
    there = np.asarray(simulated(scenario))
    ids = np.asarray(scenario.agents.id)
    file.check(ids[there], _num_future(scenario))
    row_of = {int(ids[row]): row for row in np.flatnonzero(there)}
    rows = np.array([row_of[agent] for agent in file.object_id.tolist()])
    num_rollouts, _, num_steps = file.heading.shape
    xyz = np.zeros((num_rollouts, num_steps, scenario.num_agents, 3), np.float32)
    yaw = np.zeros(xyz.shape[:-1], np.float32)
    xyz[:, :, rows] = np.swapaxes(file.xyz.astype(np.float64) - np.asarray(scenario.origin, np.float64), 1, 2)
    yaw[:, :, rows] = np.swapaxes(file.heading, 1, 2)
    return Rollouts(xyz, yaw)


def to_file(rollouts: Rollouts, scenario: Scenario) -> RolloutFile:
    """The rollouts of all agents of the current step in the frame of the world, float32 as in submissions."""
    rows = np.flatnonzero(np.asarray(simulated(scenario)))
    xyz = np.asarray(rollouts.xyz)[:, :, rows] + np.asarray(scenario.origin)
    return RolloutFile(
        scenario_id=scenario.scenario_id,
        object_id=np.asarray(scenario.agents.id)[rows].astype(np.int64),
        xyz=np.swapaxes(xyz, 1, 2),
        heading=np.swapaxes(np.asarray(rollouts.yaw)[:, :, rows], 1, 2),
    )
