"""Rewards as programs whose best action agrees with the logged motion.

In sampled situations of vehicles in traffic each discrete action is held for one second from the logged state, while
the other agents follow the log. A program maps features of the result to a reward. The fitness is the mean normalized
rank of the action whose motion is nearest to the logged one: 1 if no other action has a larger reward, 0.5 for a
constant reward.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.program_search.domain import Domain
from behavior_models.program_search.mutation import MutationParams
from behavior_models.program_search.operators import ABSOLUTE, ARITHMETIC, EXPONENTIAL, TANH
from behavior_models.program_search.program import Program, ProgramSpace, interpret
from behavior_models.training.presets import DISCRETE_BICYCLE
from waymax_sim import geometry
from waymax_sim.datatypes.agents import VEHICLE, AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.nearest import signed_distance
from waymax_sim.maps.paths import nearest_lane, segment_frenet, segment_lane
from waymax_sim.pytree import Array, pytree

# Decrease of the distance to the goal (m); smallest gap to another box (m); distance of the box inside of the road (m);
# |acceleration| (m/s^2); |lateral acceleration| (m/s^2); speed in units of the limit; |heading| (rad) and |offset| (m)
# relative to the nearest lane.
REWARD_INPUTS = ("progress", "clearance", "edge", "acceleration", "lateral", "speed", "heading", "offset")
REWARD_SPACE = ProgramSpace(
    REWARD_INPUTS, (*ARITHMETIC, ABSOLUTE, EXPONENTIAL, TANH), num_nodes=14, constants=(1.0, 0.5, 2.0, 0.1)
)
NUM_REWARD_PROBES = 42
NUM_ACTIONS = DISCRETE_BICYCLE.num_actions


@dataclasses.dataclass(frozen=True)
class SituationParams:
    """Choice of situations and range of features.

    Attributes:
      num_per_scenario: Largest number of situations of a scenario.
      num_steps: Steps for which an action is held.
      min_distance: Smallest distance to the goal, the end of the log, m.
      min_speed: Lowest speed, m/s.
      max_clearance: Largest clearance that counts, m.
      max_edge: Largest distance to the road edge that counts, on either side, m.
      seed: Seed of the choice.
    """

    num_per_scenario: int = 8
    num_steps: int = 10
    min_distance: float = 4.0
    min_speed: float = 1.0
    max_clearance: float = 10.0
    max_edge: float = 5.0
    seed: int = 0


REWARD_SITUATIONS = SituationParams()


@pytree
class Situations:
    """S situations with A candidate actions.

    Attributes:
      features: Features of the actions, in the order of `REWARD_INPUTS`.
      distance: Mean distance from the logged positions while the action is held, m.
      best: The action of the smallest distance.
    """

    features: Float[Array, "F S A"]
    distance: Float[Array, "S A"]
    best: Int[Array, " S"]

    def __len__(self) -> int:
        return len(self.best)


def find_situations(scenarios: Iterable[Scenario], params: SituationParams = REWARD_SITUATIONS) -> Situations:
    """Situations of vehicles in traffic, at random steps.

    Args:
      scenarios: Unbatched scenarios.
      params: Choice of situations.

    Raises:
      ValueError: There is no situation.
    """
    rng, rows = np.random.default_rng(params.seed), []
    for scenario in scenarios:
        pairs = _possible_pairs(scenario, params)
        if len(pairs) == 0:
            continue
        # A fixed number, so that scenarios share a compiled program; repeated ones are cut afterwards.
        chosen = rng.permutation(len(pairs))[: params.num_per_scenario]
        padded = pairs[np.resize(chosen, params.num_per_scenario)]
        features, distance = jax.device_get(evaluate_actions(scenario, padded[:, 0], padded[:, 1], params))
        rows.append((features[:, : len(chosen)], distance[: len(chosen)]))
    if not rows:
        raise ValueError("no vehicle travels in these scenarios")
    features = np.concatenate([row[0] for row in rows], axis=1)
    distance = np.concatenate([row[1] for row in rows])
    return Situations(features, distance, distance.argmin(axis=1).astype(np.int32))


def _possible_pairs(scenario: Scenario, params: SituationParams) -> np.ndarray:
    """Steps and vehicles [K, 2] that travel, with a log for as long as an action is held."""
    log = scenario.log
    valid = np.asarray(log.valid)[: int(scenario.last_step) + 1]
    count = len(valid) - params.num_steps
    if count <= 0:
        return np.zeros((0, 2), np.int32)
    xy, velocity = (np.asarray(item)[: len(valid), :, :2] for item in (log.xyz, log.velocity))
    lasting = np.all([valid[offset : offset + count] for offset in range(params.num_steps + 1)], axis=0)
    remaining = np.linalg.norm(_last_position(valid, xy)[None] - xy[:count], axis=-1)
    speed = np.linalg.norm(velocity[:count], axis=-1)
    is_vehicle = np.asarray(scenario.agents.type) == VEHICLE
    mask = lasting & is_vehicle[None] & (remaining > params.min_distance) & (speed > params.min_speed)
    return np.argwhere(mask).astype(np.int32)


def _last_position(valid: np.ndarray, xy: np.ndarray) -> np.ndarray:
    last = len(valid) - 1 - valid[::-1].argmax(axis=0)
    return xy[last, np.arange(xy.shape[1])]


@jax.jit(static_argnames="params")
def evaluate_actions(
    scenario: Scenario, step: Int[Array, " P"], vehicle: Int[Array, " P"], params: SituationParams = REWARD_SITUATIONS
) -> tuple[Float[Array, "F P A"], Float[Array, "P A"]]:
    """Features of all actions, and mean distances from the logged positions (m).

    Args:
      scenario: The scenario.
      step: Step of each situation.
      vehicle: Its vehicle.
      params: Ranges of features.
    """
    scenario = jax.tree.map(jnp.asarray, scenario)
    motion = _hold_actions(scenario, step, vehicle, params.num_steps)
    logged = scenario.log.xyz[step[None] + 1 + jnp.arange(params.num_steps)[:, None], vehicle[None], :2]
    distance = jnp.mean(geometry.norm(motion.xyz[..., :2] - logged[:, :, None]), axis=0)
    end = jax.tree.map(lambda leaf: leaf[-1], motion)
    steps = jnp.arange(scenario.num_steps)
    last = jnp.max(jnp.where(scenario.log.valid, steps[:, None], 0), axis=0)[vehicle]
    goal = scenario.log.xyz[last, vehicle, :2]
    before = geometry.norm(goal - scenario.log.xyz[step, vehicle, :2])
    progress = before[:, None] - geometry.norm(goal[:, None] - end.xyz[..., :2])
    clearance = _clearance(scenario, motion, step, vehicle)
    features = jnp.stack(
        [
            progress,
            jnp.minimum(clearance, params.max_clearance),
            jnp.clip(_edge_distance(scenario, end, vehicle), -params.max_edge, params.max_edge),
            *_acceleration(end),
            *_lane_features(scenario, end, vehicle),
        ]
    )
    return features, distance


def _controls() -> Float[Array, "A 2"]:
    """Acceleration (m/s^2) and curvature (1/m) of all actions."""
    return DISCRETE_BICYCLE.decode(jnp.arange(NUM_ACTIONS, dtype=jnp.int32)[:, None])


def _hold_actions(scenario: Scenario, step: Array, vehicle: Array, num_steps: int) -> AgentState:
    """States [T, P, A] while each action is held."""
    start = jax.tree.map(lambda leaf: jnp.repeat(leaf[step, vehicle], NUM_ACTIONS, axis=0), scenario.log)
    controls = jnp.tile(_controls(), (len(step), 1))

    def advance(state: AgentState, _: None) -> tuple[AgentState, AgentState]:
        state = DISCRETE_BICYCLE.dynamics.apply(state, controls, scenario.time_step)
        return state, state

    motion = jax.lax.scan(advance, start, length=num_steps)[1]
    return jax.tree.map(lambda leaf: leaf.reshape(num_steps, len(step), NUM_ACTIONS, *leaf.shape[2:]), motion)


def _clearance(scenario: Scenario, motion: AgentState, step: Array, vehicle: Array) -> Float[Array, "P A"]:
    """Smallest separation from the boxes of other agents in the middle and at the end, m."""
    size, num_steps = scenario.agents.size[:, :2], len(motion.valid)
    smallest = jnp.full(motion.valid.shape[1:], jnp.inf)
    for offset in (num_steps // 2, num_steps):
        own = jax.tree.map(lambda leaf, offset=offset: leaf[offset - 1], motion)
        others = jax.tree.map(lambda leaf, offset=offset: leaf[step + offset], scenario.log)
        boxes = geometry.Boxes.from_poses(
            own.xyz[..., :2], own.yaw, jnp.broadcast_to(size[vehicle][:, None], own.velocity.shape)
        )
        other = geometry.Boxes.from_poses(
            others.xyz[..., :2], others.yaw, jnp.broadcast_to(size[None], others.velocity.shape)
        )
        gap = geometry.box_separation(
            jax.tree.map(lambda leaf: leaf[:, :, None], boxes), jax.tree.map(lambda leaf: leaf[:, None], other)
        )
        is_other = others.valid & (jnp.arange(len(size))[None] != vehicle[:, None])
        smallest = jnp.minimum(smallest, jnp.min(jnp.where(is_other[:, None], gap, jnp.inf), axis=-1))
    return smallest


def _flatten(end: AgentState) -> AgentState:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), end)


def _edge_distance(scenario: Scenario, end: AgentState, vehicle: Array) -> Float[Array, "P A"]:
    """Distance of the box inside of the road edge, m; negative off the road, infinite without edges."""
    size = jnp.repeat(scenario.agents.size[vehicle], NUM_ACTIONS, axis=0)
    flat = _flatten(end)
    xy = geometry.box_corners(flat.xyz[:, :2], flat.yaw, size[:, :2])
    bottom = jnp.broadcast_to((flat.xyz[:, 2] - size[:, 2] / 2)[:, None, None], (*xy.shape[:2], 1))
    corners = jnp.concatenate([xy, bottom], axis=-1)
    distance, has_edge = signed_distance(scenario.edges, corners, jnp.ones(corners.shape[:2], bool))
    inside = jnp.where(jnp.all(has_edge, axis=-1), -jnp.max(distance, axis=-1), jnp.inf)
    return inside.reshape(end.yaw.shape)


def _acceleration(end: AgentState) -> tuple[Float[Array, "P A"], Float[Array, "P A"]]:
    """Magnitudes of the longitudinal and the lateral acceleration, m/s^2."""
    controls = jnp.abs(_controls())
    squared_speed = jnp.sum(jnp.square(end.velocity), axis=-1)
    return jnp.broadcast_to(controls[None, :, 0], squared_speed.shape), squared_speed * controls[None, :, 1]


def _lane_features(scenario: Scenario, end: AgentState, vehicle: Array) -> tuple[Array, Array, Array]:
    """Speed in units of the limit, |heading| (rad) and |offset| (m) of the nearest lane; 0 without a lane."""
    flat, shape = _flatten(end), end.yaw.shape
    height = jnp.repeat(scenario.agents.size[vehicle, 2], NUM_ACTIONS)
    ground = jnp.concatenate([flat.xyz[:, :2], (flat.xyz[:, 2] - height / 2)[:, None]], axis=-1)
    everywhere = jnp.ones(len(ground), bool)
    segment, has_lane = nearest_lane(scenario.lanes, scenario.graph, ground, flat.yaw, ~everywhere, everywhere)
    frame = segment_frenet(scenario.lanes, scenario.graph, segment, flat.xyz[:, :2], flat.yaw)
    limit = scenario.graph.speed_limit[segment_lane(scenario.lanes, segment)]
    speed = geometry.norm(flat.velocity) / jnp.maximum(limit, 1.0)
    values = speed, jnp.abs(frame.heading), jnp.abs(frame.lateral)
    first, second, third = (jnp.where(has_lane, value, 0.0).reshape(shape) for value in values)
    return first, second, third


def normalized_rank(rewards: Float[Array, "S A"], best: Int[Array, " S"]) -> Float[Array, " S"]:
    """Share of the other actions with a smaller reward than a given one; ties count half.

    Args:
      rewards: Rewards of all actions.
      best: The given actions.
    """
    own = jnp.take_along_axis(rewards, best[:, None], axis=1)
    smaller = jnp.sum(rewards < own, axis=1).astype(jnp.float32)
    ties = jnp.sum(rewards == own, axis=1).astype(jnp.float32) - 1.0
    return (smaller + 0.5 * ties) / (rewards.shape[1] - 1.0)


def chosen_distance(rewards: Float[Array, "S A"], distance: Float[Array, "S A"]) -> Float[Array, " S"]:
    """Mean distance (m) from the logged positions by the action of the largest reward; the mean over ties.

    Args:
      rewards: Rewards of all actions.
      distance: Distances of all actions, m.
    """
    is_best: Bool[Array, "S A"] = rewards == jnp.max(rewards, axis=1, keepdims=True)
    return jnp.sum(jnp.where(is_best, distance, 0.0), axis=1) / jnp.sum(is_best, axis=1).astype(jnp.float32)


def program_reward(program: Program) -> Callable[[Array], Array]:
    """The reward of a program, from features [F, S, A] to [S, A].

    Args:
      program: A program of `REWARD_SPACE`.
    """
    return lambda features: interpret(REWARD_SPACE, program, features)[0]


def written_reward(features: Float[Array, "F S A"]) -> Float[Array, "S A"]:
    """A reward written by hand: progress to the goal, with penalties of margins, comfort and speeding."""
    progress, clearance, edge, acceleration, lateral, speed, _, offset = features
    margins = jnp.maximum(1.0 - clearance, 0.0) + jnp.maximum(0.5 - edge, 0.0)
    comfort = 0.1 * jnp.square(acceleration) + 0.1 * jnp.square(lateral)
    return progress - 5.0 * margins - comfort - 10.0 * jnp.maximum(speed - 1.0, 0.0) - 0.5 * offset


def shuffle_situations(situations: Situations, seed: int) -> Situations:
    """A control: every situation has the logged action of another one.

    Args:
      situations: Situations.
      seed: Seed.
    """
    order = np.random.default_rng(seed).permutation(len(situations))
    return dataclasses.replace(situations, best=np.asarray(situations.best)[order])


def shuffle_actions(situations: Situations, seed: int) -> Situations:
    """A control: a random action of each situation counts as the logged one.

    Args:
      situations: Situations.
      seed: Seed.
    """
    random = np.random.default_rng(seed).integers(0, situations.distance.shape[1], len(situations))
    return dataclasses.replace(situations, best=random.astype(np.int32))


def reward_domain(situations: Situations, seed: int = 0) -> Domain:
    """The domain of given situations.

    Args:
      situations: The situations.
      seed: Seed of the probes.
    """
    features, best = jnp.asarray(situations.features), jnp.asarray(situations.best)

    def fitness(program: Program) -> Float[Array, ""]:
        return jnp.mean(normalized_rank(program_reward(program)(features), best))

    rng = np.random.default_rng(seed)
    low = np.array([-2.0, 0.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    high = np.array([20.0, 10.0, 5.0, 5.0, 5.0, 1.5, 1.0, 3.0])
    probes = rng.uniform(low[:, None], high[:, None], (len(low), NUM_REWARD_PROBES))
    return Domain("reward", REWARD_SPACE, fitness, probes, MutationParams(fresh=0.05, constant=0.3))
