"""Simulation of driving tasks in the graph: E scenes of any tasks, one episode each."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.offline.actions import ROUTE_ACTIONS, ROUTE_DYNAMICS
from behavior_models.offline.behaviors import TaskActor, TaskObservation
from behavior_models.offline.route_frame import RouteFrame, route_frame
from behavior_models.offline.tasks import STEPS_PER_DECISION, TASK_DECISIONS, RewardParams, TaskScenes
from behavior_models.traffic.log_path import LogPathIDM
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER
from waymax_sim.env import Assignment, Env, EnvConfig, EpisodeState, begin_episode, interact
from waymax_sim.env.encoder import ObservationEncoder
from waymax_sim.env.flat_view import FlatView
from waymax_sim.env.observation import scatter_row_actions
from waymax_sim.pytree import Array, pytree

TASK_VIEW = FlatView("controlled", num_agents=8, num_polylines=12)


@pytree
class TaskEpisodes:
    """T decisions of E episodes, and the observation after the last one.

    Attributes:
      observation: Encoded, perhaps quantized observations; those of ended episodes are arbitrary.
      action: Actions.
      reward: Rewards; 0 without a decision.
      ended: Terminal decisions: at the goal or a failure.
      truncated: Last decisions of episodes that reach the end of the record.
      active: Decisions of episodes that had not ended.
      failed: Episodes that ended by a failure.
      steps: Simulated steps of all episodes up to their ends.
    """

    observation: Array
    action: Int[Array, "T E"]
    reward: Float[Array, "T E"]
    ended: Bool[Array, "T E"]
    truncated: Bool[Array, "T E"]
    active: Bool[Array, "T E"]
    failed: Bool[Array, " E"]
    steps: Int[Array, ""]

    @property
    def returns(self) -> Float[Array, " E"]:
        """Sums of rewards."""
        return jnp.sum(self.reward, axis=0)


@dataclasses.dataclass(frozen=True)
class TaskSimulator:
    """Plays scenes with an actor. Equal simulators share programs; actors are arguments.

    Attributes:
      encoder: Encoder of the observations.
      store: Conversion of encoded observations for storage, such as `Raster.quantize`; float16 by default.
      records_observation: Whether episodes have observations.
    """

    encoder: ObservationEncoder = TASK_VIEW
    store: Callable[[Array], Array] | None = None
    records_observation: bool = True

    @property
    def env(self) -> Env:
        """The environment of a simulated step."""
        history = getattr(self.encoder, "num_history_steps", 2)
        config = EnvConfig(
            metrics=("overlap",),
            rewards=(),
            evaluated="sdc",
            height_source="log",
            goals="end_of_log",
            num_history_steps=max(history, 2),
        )
        return Env(ROUTE_DYNAMICS, config)

    def run(self, actor: TaskActor, scenes: TaskScenes, key: Key[Array, ""]) -> TaskEpisodes:
        """Plays one episode in each scene; compiled once per structure of the actor.

        Args:
          actor: The policy of all egos.
          scenes: The scenes.
          key: Random key.
        """
        return _run(self, actor, scenes, key)

    def run_stepwise(self, actor: TaskActor, scenes: TaskScenes, key: Key[Array, ""]) -> TaskEpisodes:
        """The same episodes, with a program per decision: all actors share that of the simulation.

        Args:
          actor: The policy of all egos.
          scenes: The scenes.
          key: Random key.
        """
        scenario, progress, keys = _start_program(self, scenes, key)
        rows = []
        for decision_key in keys:
            observation = _observe_program(self, scenario, scenes, progress)
            action = _act_program(actor, observation, decision_key)
            progress, row = _decide_program(self, scenario, scenes, progress, observation.rows, action)
            rows.append(row)
        last = _observe_program(self, scenario, scenes, progress).rows
        return _to_episodes(self, progress, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), last)

    def encode(self, rows: Array) -> Array:
        """Observations as they are stored."""
        if not self.records_observation:
            return rows[:, :0]
        return rows.astype(jnp.float16) if self.store is None else self.store(rows)


@pytree
class TaskProgress:
    """State of E episodes at a decision.

    Attributes:
      episode: State of the simulation.
      ended: Episodes that have ended.
      failed: Episodes that ended by a failure.
      steps: Simulated steps of all episodes up to their ends.
    """

    episode: EpisodeState
    ended: Bool[Array, " E"]
    failed: Bool[Array, " E"]
    steps: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=0)
def _run(simulator: TaskSimulator, actor: TaskActor, scenes: TaskScenes, key: Key[Array, ""]) -> TaskEpisodes:
    scenario, progress, keys = _start(simulator, scenes, key)

    def decide(progress: TaskProgress, key: Key[Array, ""]) -> tuple[TaskProgress, tuple[Array, ...]]:
        observation = _observe(simulator, scenario, scenes, progress)
        return _decide(simulator, scenario, scenes, progress, observation.rows, actor(observation, key))

    progress, rows = jax.lax.scan(decide, progress, keys)
    return _to_episodes(simulator, progress, rows, _observe(simulator, scenario, scenes, progress).rows)


def _start(
    simulator: TaskSimulator, scenes: TaskScenes, key: Key[Array, ""]
) -> tuple[Scenario, TaskProgress, Key[Array, " T"]]:
    """Prepared scenarios, the state before the first decision, and the keys of all decisions.

    Args:
      simulator: The simulation.
      scenes: The scenes.
      key: Random key.
    """
    scenario = jax.vmap(simulator.env.prepare)(scenes.scenario)
    num_envs = scenes.task.shape[0]
    start_key, key = jax.random.split(key)
    episode = jax.vmap(functools.partial(_begin, simulator.env))(scenario, jax.random.split(start_key, num_envs))
    no_end = jnp.zeros(num_envs, bool)
    progress = TaskProgress(episode, no_end, no_end, jnp.zeros((), jnp.int32))
    return scenario, progress, jax.random.split(key, TASK_DECISIONS)


def _observe(
    simulator: TaskSimulator, scenario: Scenario, scenes: TaskScenes, progress: TaskProgress
) -> TaskObservation:
    """Observations of the egos.

    Args:
      simulator: The simulation.
      scenario: From `_start`.
      scenes: The scenes.
      progress: State of the episodes.
    """

    def single(scenario: Scenario, episode: EpisodeState) -> tuple[Array, RouteFrame]:
        observation = simulator.env.observe(scenario, episode.state, controller=CALLER)
        return simulator.encoder(observation)[0], route_frame(observation)

    rows, frame = jax.vmap(single)(scenario, progress.episode)
    return TaskObservation(rows, frame, scenes.task, scenes.mask, scenes.limit)


def _decide(
    simulator: TaskSimulator,
    scenario: Scenario,
    scenes: TaskScenes,
    progress: TaskProgress,
    rows: Float[Array, "E D"],
    action: Int[Array, " E"],
) -> tuple[TaskProgress, tuple[Array, ...]]:
    """The state after a decision, and its record.

    Args:
      simulator: The simulation.
      scenario: From `_start`.
      scenes: The scenes.
      progress: State of the episodes.
      rows: Encoded observations.
      action: The actions.
    """
    advance = functools.partial(_advance, simulator.env)
    values = scenario, progress.episode, action, scenes.reward, scenes.goal, scenes.limit
    episode, (reward, now_ended, now_failed, now_steps) = jax.vmap(advance)(*values)
    active = ~progress.ended
    record = simulator.encode(rows), action, jnp.where(active, reward, 0.0), now_ended & active, active
    steps = progress.steps + jnp.sum(jnp.where(active, now_steps, 0))
    return TaskProgress(episode, progress.ended | now_ended, progress.failed | (active & now_failed), steps), record


def _to_episodes(
    simulator: TaskSimulator, progress: TaskProgress, rows: tuple[Array, ...], last: Float[Array, "E D"]
) -> TaskEpisodes:
    """Episodes from the records of all decisions.

    Args:
      simulator: The simulation.
      progress: State after the last decision.
      rows: Records of `_decide`, stacked.
      last: Encoded observations after the last decision.
    """
    observation, action, reward, now_ended, active = rows
    is_last = (jnp.arange(TASK_DECISIONS) == TASK_DECISIONS - 1)[:, None]
    truncated = active & ~now_ended & jnp.broadcast_to(is_last, active.shape)
    observation = jnp.concatenate([observation, simulator.encode(last)[None]])
    return TaskEpisodes(observation, action, reward, now_ended, truncated, active, progress.failed, progress.steps)


_start_program = jax.jit(_start, static_argnums=0)
_observe_program = jax.jit(_observe, static_argnums=0)
_decide_program = jax.jit(_decide, static_argnums=0)


@jax.jit
def _act_program(actor: TaskActor, observation: TaskObservation, key: Key[Array, ""]) -> Int[Array, " E"]:
    return actor(observation, key)


def _assignment(scenario: Scenario) -> Assignment:
    return Assignment([LogPathIDM()], [scenario.agents.to_predict])


def _begin(env: Env, scenario: Scenario, key: Key[Array, ""]) -> EpisodeState:
    return begin_episode(env, scenario, _assignment(scenario), key, scenario.agents.is_sdc)


def _advance(
    env: Env,
    scenario: Scenario,
    episode: EpisodeState,
    action: Int[Array, ""],
    params: RewardParams,
    goal: Float[Array, ""],
    limit: Float[Array, ""],
) -> tuple[EpisodeState, tuple]:
    """The steps of one decision; reward, end, failure and the number of steps up to the end.

    Args:
      env: The environment.
      scenario: From `Env.prepare`.
      episode: The episode.
      action: The action of the ego.
      params: Terms of the reward.
      goal: Arc length of the goal, m.
      limit: Speed limit, m/s.
    """
    slot = jnp.argmax(scenario.agents.is_sdc)[None].astype(jnp.int32)
    num_agents = scenario.agents.id.shape[0]

    def ego_frame(episode: EpisodeState) -> RouteFrame:
        return route_frame(env.observe(scenario, episode.state, controller=CALLER))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        episode, frame, total, ended, failed, count = carry
        control = ROUTE_ACTIONS.control(frame, action)
        actions = scatter_row_actions(slot, control[None], num_agents)
        episode, interaction = interact(env, scenario, episode, _assignment(scenario), actions)
        outputs = interaction.outputs
        assert outputs is not None, "interactions of tasks are evaluated"
        overlap = outputs.metrics["overlap"]
        following = ego_frame(episode)
        is_collision = jnp.any(jnp.where(overlap.valid[0], overlap.value[0] > 0, False))
        reward, end, failure = step_reward(params, frame, following, control[0], is_collision, goal, limit)
        total = total + jnp.where(ended, 0.0, reward)
        failed = failed | (~ended & failure)
        count = count + (~ended).astype(jnp.int32)
        return (episode, following, total, ended | end, failed, count), None

    no, zero = jnp.zeros((), bool), jnp.zeros(())
    carry = episode, ego_frame(episode), zero, no, no, jnp.zeros((), jnp.int32)
    (episode, _, total, ended, failed, count), _ = jax.lax.scan(step, carry, None, STEPS_PER_DECISION)
    return episode, (total, ended, failed, count)


def step_reward(
    params: RewardParams,
    before: RouteFrame,
    after: RouteFrame,
    acceleration: Float[Array, ""],
    is_collision: Bool[Array, ""],
    goal: Float[Array, ""],
    limit: Float[Array, ""],
) -> tuple[Float[Array, ""], Bool[Array, ""], Bool[Array, ""]]:
    """Reward of a simulated step, whether the episode ends with it, and whether it ends by a failure.

    Args:
      params: Terms of the reward.
      before: The ego before the step.
      after: The ego after it.
      acceleration: Acceleration during the step, m/s^2.
      is_collision: Whether the ego touches another agent after the step.
      goal: Arc length of the goal, m.
      limit: Speed limit, m/s.
    """
    dt = before.dt
    progress = jnp.clip(after.arc_length, None, goal) - jnp.clip(before.arc_length, None, goal)
    lateral = jnp.abs(jnp.abs(after.lateral) - jnp.abs(before.lateral))
    deficit = jnp.clip(1.0 - headway(after) / params.min_headway, 0.0, 1.0)
    cost = params.time + params.acceleration * (acceleration / 3.0) ** 2 + params.headway * deficit
    cost = cost + params.speeding * jnp.maximum(after.speed - limit, 0.0)
    reward = progress / params.progress_distance - dt * cost - params.lateral_speed * lateral
    crosses_red = after.arc_length > before.red_line
    is_off = (after.lateral < params.min_lateral) | (after.lateral > params.max_lateral)
    # A state that is not finite is a failure.
    failed = is_collision | crosses_red | is_off | ~jnp.isfinite(reward)
    reward = jnp.where(jnp.isfinite(reward), reward, 0.0) - jnp.where(failed, params.failure, 0.0)
    return reward, failed | (after.arc_length >= goal), failed


def headway(frame: RouteFrame) -> Float[Array, ""]:
    """Time headway to the next agent in the lane of the ego, s; infinite without one within 40 m."""
    dx, dy = frame.others[:, 0] - frame.x, frame.others[:, 1] - frame.y
    cos, sin = jnp.cos(frame.yaw), jnp.sin(frame.yaw)
    ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
    same = jnp.cos(frame.others[:, 5] - frame.yaw) > 0.7
    is_leader = frame.is_other & same & (ahead > 0) & (ahead < 40.0) & (jnp.abs(left) < 1.5)
    gap = jnp.min(jnp.where(is_leader, ahead - frame.others[:, 3] - frame.size[0] / 2, jnp.inf), initial=jnp.inf)
    return jnp.maximum(gap, 0.0) / jnp.maximum(frame.speed, 1.0)
