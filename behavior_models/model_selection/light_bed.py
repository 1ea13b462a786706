"""Car following with traffic lights: logged transitions and a ladder of features whose right rung is known.

The bed is `offline.car_following_bed` with a light at every `spacing` meters and a neighbor on another lane. In a
family in which lights matter, crossing a stop line at a red light is penalized; otherwise lights and neighbors have no
effect.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.model_selection.linear_ladders import LinearLadder
from behavior_models.model_selection.modbe import LoggedSteps, ModBEParams, Selection, modbe
from behavior_models.offline.car_following_bed import (
    LOGGED_STARTS,
    CarFollowingBedParams,
    CarFollowingState,
    epsilon_idm,
    observe,
    reset,
    step,
)
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class LightBedParams:
    """Constants of the bed; all are choices.

    Attributes:
      lights_matter: Whether crossing at red is penalized.
      accelerations: Accelerations of the actions, m/s^2.
      spacing: Distance between stop lines, m.
      switch_probability: Probability that a light changes within a decision.
      red_penalty: Penalty of crossing at red.
      epsilon: Probability of a uniform action of the logging driver.
      discount: Discount per decision.
      horizon: Decisions of fitted Q iteration.
    """

    lights_matter: bool = True
    accelerations: tuple[float, ...] = (-3.0, 0.0, 2.0)
    spacing: float = 60.0
    switch_probability: float = 0.1
    red_penalty: float = 2.0
    epsilon: float = 0.5
    discount: float = 0.9
    horizon: int = 8

    @property
    def bed(self) -> CarFollowingBedParams:
        """Constants of the car following."""
        return dataclasses.replace(CarFollowingBedParams(), accelerations=self.accelerations)


@pytree
class LightState:
    """N vehicles.

    Attributes:
      following: Car following.
      distance: Distance to the next stop line, m.
      red: Whether its light is red.
      neighbor: A vehicle on another lane, which follows the same process and has no effect.
    """

    following: CarFollowingState
    distance: Float[Array, " N"]
    red: Bool[Array, " N"]
    neighbor: CarFollowingState


@static_record
class Knots:
    """Knots of the piecewise linear functions of each variable; speeds in m/s, distances in m.

    Attributes:
      speed: Of the speed.
      gap: Of the gap.
      approach: Of the speed minus that of the leading vehicle.
      line: Of the distance to the stop line.
    """

    speed: tuple[float, ...] = (0.0, 7.0, 13.0, 20.0)
    gap: tuple[float, ...] = (0.0, 6.0, 15.0, 30.0, 60.0)
    approach: tuple[float, ...] = (-8.0, 0.0, 4.0, 10.0)
    line: tuple[float, ...] = (0.0, 5.0, 12.0, 25.0, 60.0)


KNOTS = Knots()
# Rungs of the ladder.
RUNGS = ("speed", "gap", "approach", "lights", "neighbors")


def hat_functions(values: Float[Array, "*n"], knots: tuple[float, ...]) -> Float[Array, "*n k"]:
    """Piecewise linear functions that are 1 at one knot and 0 at the others; they sum to 1, constant outside."""
    points = np.asarray(knots, np.float32)
    clipped = jnp.clip(values, points[0], points[-1])[..., None]
    shape = (1,) * values.ndim + (-1,)
    left = np.concatenate([[np.inf], np.diff(points)]).astype(np.float32).reshape(shape)
    right = np.concatenate([np.diff(points), [np.inf]]).astype(np.float32).reshape(shape)
    offset = clipped - points.reshape(shape)
    return jnp.maximum(0.0, jnp.minimum(1.0 + offset / left, 1.0 - offset / right))


def _products(first: Array, second: Array) -> Array:
    """Products of all pairs of columns."""
    return (first[..., :, None] * second[..., None, :]).reshape(*first.shape[:-1], -1)


def state_features(state: LightState) -> tuple[Float[Array, "N F"], Int[np.ndarray, " F"]]:
    """Columns of a state, and the rung that adds each of them.

    The last function of each further variable is left out: all functions of a variable sum to one.
    """
    following = state.following
    speed = hat_functions(following.speed, KNOTS.speed)
    gap = hat_functions(following.gap, KNOTS.gap)[..., :-1]
    approach = hat_functions(following.speed - following.lead_speed, KNOTS.approach)[..., :-1]
    with_gap = _products(speed, gap)
    line = _products(speed, hat_functions(state.distance, KNOTS.line)[..., :-1])
    at_red = _products(speed, hat_functions(state.distance, KNOTS.line)) * state.red[..., None].astype(jnp.float32)
    neighbor = state.neighbor
    other = hat_functions(neighbor.gap, KNOTS.gap)[..., :-1], hat_functions(neighbor.lead_speed, KNOTS.speed)[..., :-1]
    triples = _products(jnp.concatenate([speed, with_gap], axis=-1), approach)
    parts = [speed, with_gap, triples, jnp.concatenate([line, at_red], axis=-1), jnp.concatenate(other, axis=-1)]
    rungs = np.concatenate([np.full(part.shape[-1], index) for index, part in enumerate(parts)])
    return jnp.concatenate(parts, axis=-1), rungs


def expand_actions(features: Float[Array, "*n F"], num_actions: int) -> Float[Array, "*n A D"]:
    """Columns of each action: those of the state in the block of the action, zeros in the others."""
    blocks = jnp.eye(num_actions).reshape(*(1,) * (features.ndim - 1), num_actions, num_actions, 1)
    expanded = blocks * features[..., None, None, :]
    return expanded.reshape(*features.shape[:-1], num_actions, num_actions * features.shape[-1])


def advance(
    state: LightState, action: Int[Array, " N"], key: Key[Array, ""], params: LightBedParams
) -> tuple[LightState, Float[Array, " N"], Bool[Array, " N"]]:
    """The next state, the reward, and whether the vehicle has crashed.

    Args:
      state: The state.
      action: Indices of accelerations.
      key: Random key.
      params: Constants.
    """
    keys = jax.random.split(key, 4)
    noise = jax.random.normal(keys[0], action.shape)
    following, reward, crashed = step(state.following, action, noise, params.bed)
    other_action = jax.random.randint(keys[1], action.shape, 0, len(params.accelerations))
    neighbor, _, _ = step(state.neighbor, other_action, jax.random.normal(keys[2], action.shape), params.bed)
    neighbor = dataclasses.replace(neighbor, gap=jnp.maximum(neighbor.gap, 0.0))
    distance = state.distance - (state.following.speed + following.speed) / 2 * params.bed.interval
    crossed = distance < 0.0
    red = state.red ^ jax.random.bernoulli(keys[3], params.switch_probability, action.shape)
    penalty = params.red_penalty if params.lights_matter else 0.0
    reward = reward - penalty * (crossed & state.red).astype(jnp.float32)
    return (
        LightState(following, jnp.where(crossed, distance + params.spacing, distance), red, neighbor),
        reward,
        crashed,
    )


def initial_states(key: Key[Array, ""], num_vehicles: int, params: LightBedParams) -> LightState:
    """Random starts.

    Args:
      key: Random key.
      num_vehicles: N.
      params: Constants.
    """
    keys = jax.random.split(key, 4)
    distance = jax.random.uniform(keys[2], (num_vehicles,), maxval=params.spacing)
    red = jax.random.bernoulli(keys[3], 0.5, (num_vehicles,))
    starts = (reset(own, num_vehicles, LOGGED_STARTS) for own in keys[:2])
    following, neighbor = starts
    return LightState(following, distance, red, neighbor)


def log_steps(
    key: Key[Array, ""], num_vehicles: int, num_decisions: int, params: LightBedParams
) -> tuple[LoggedSteps, Int[np.ndarray, " D"]]:
    """Transitions of a partly random IDM driver with H = 1, vehicle by vehicle, and the rung of each column.

    A vehicle that has crashed starts again.

    Args:
      key: Random key.
      num_vehicles: Vehicles.
      num_decisions: Decisions of each.
      params: Constants.
    """
    actor, count = epsilon_idm(params.epsilon, params.bed), len(params.accelerations)
    start_key, key = jax.random.split(key)

    def decide(state: LightState, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        action = actor(observe(state.following, params.bed), keys[0]).astype(jnp.int32)
        following, reward, crashed = advance(state, action, keys[1], params)
        again = initial_states(keys[2], num_vehicles, params)
        next_state = jax.tree.map(lambda new, old: jnp.where(crashed, new, old), again, following)
        return next_state, (state, action, reward, crashed, following)

    start = initial_states(start_key, num_vehicles, params)
    _, records = jax.lax.scan(decide, start, jax.random.split(key, num_decisions))
    # Vehicle by vehicle, so that a split by rows is one by vehicles.
    rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), records)
    state, action, reward, crashed, following = rows
    features, rungs = state_features(state)
    chosen = jnp.take_along_axis(expand_actions(features, count), action[:, None, None], axis=1)[:, 0]
    following_features = expand_actions(state_features(following)[0], count)
    discount = params.discount * (1.0 - crashed.astype(jnp.float32))
    steps = LoggedSteps(chosen[None], reward[None], discount[None], following_features[None])
    return steps, np.tile(rungs, count)


def rung_masks(rungs: Int[np.ndarray, " D"]) -> Bool[np.ndarray, "K D"]:
    """Columns of each class: those of its rung and of all lower ones."""
    return rungs[None] <= np.arange(rungs.max() + 1)[:, None]


def select_rung(
    key: Key[Array, ""],
    params: LightBedParams,
    num_vehicles: int = 6000,
    num_decisions: int = 2,
    constants: ModBEParams | None = None,
) -> Selection:
    """ModBE on logged transitions of one seed.

    Args:
      key: Random key of the data.
      params: The bed.
      num_vehicles: Vehicles; a fifth of them is held out.
      num_decisions: Decisions of each vehicle.
      constants: Constants of the tolerance.
    """
    steps, rungs = log_steps(key, num_vehicles, num_decisions, params)
    count = (4 * num_vehicles // 5) * num_decisions
    parts = (slice(0, count), slice(count, None))
    train, valid = (jax.tree.map(lambda leaf, part=part: leaf[:, part], steps) for part in parts)
    ladder = LinearLadder(rung_masks(rungs))
    return modbe(ladder, train, valid, constants or ModBEParams(), horizon=params.horizon)
