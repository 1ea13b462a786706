"""Car following as a vectorized Markov decision process: a test bed for learning from logged transitions.

A vehicle follows a leading vehicle on a straight road, whose speed is an Ornstein-Uhlenbeck process. All functions are
pure and act on N vehicles together.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.traffic.car_following import IDMParams, free_acceleration, interaction_deceleration
from waymax_sim.pytree import Array, pytree

# From observations [N, 4] and a key to actions [N].
BedActor = Callable[[Array, Key[Array, ""]], Array]
OBSERVATION_SIZE = 4


@dataclasses.dataclass(frozen=True)
class CarFollowingBedParams:
    """Constants of the process; all are choices.

    Attributes:
      accelerations: Accelerations of the actions, m/s^2.
      interval: Time of a decision, s.
      max_speed: Largest speed of both vehicles, m/s.
      max_gap: Largest gap, m; larger ones are cut.
      lead_speed: Mean speed of the leading vehicle, m/s.
      lead_rate: Share of the difference to the mean by which the leading speed moves per decision.
      lead_noise: Standard deviation of the acceleration of the leading vehicle, m/s^2.
      comfort_weight: Penalty of the squared acceleration in units of `comfort_acceleration`.
      comfort_acceleration: Unit of the accelerations in the penalty, m/s^2.
      crash_penalty: Penalty of a crash, which ends the episode.
      gap_scale: Unit of the observed gap, m.
      speed_scale: Unit of the observed speeds, m/s.
    """

    accelerations: tuple[float, ...] = (-6.0, -3.0, -1.5, 0.0, 1.0, 2.0, 3.0)
    interval: float = 0.5
    max_speed: float = 20.0
    max_gap: float = 60.0
    lead_speed: float = 10.0
    lead_rate: float = 0.05
    lead_noise: float = 1.5
    comfort_weight: float = 0.02
    comfort_acceleration: float = 3.0
    crash_penalty: float = 5.0
    gap_scale: float = 30.0
    speed_scale: float = 10.0

    @property
    def num_actions(self) -> int:
        """Number of actions L."""
        return len(self.accelerations)


@dataclasses.dataclass(frozen=True)
class StartRange:
    """Range of uniform random starts.

    Attributes:
      gap: Gap, m.
      speed: Speed, m/s.
      lead_speed: Speed of the leading vehicle, m/s.
    """

    gap: tuple[float, float]
    speed: tuple[float, float]
    lead_speed: tuple[float, float]


# Starts of logged episodes, some of which cannot avoid a crash, and those of evaluations.
LOGGED_STARTS = StartRange((2.0, 50.0), (0.0, 18.0), (0.0, 18.0))
EVALUATED_STARTS = StartRange((10.0, 40.0), (0.0, 12.0), (4.0, 15.0))
BED = CarFollowingBedParams()
# Driver of the logged episodes; `max_speed` is the desired speed.
DRIVER = IDMParams(
    max_acceleration=np.array(2.0, np.float32),
    comfortable_deceleration=np.array(3.0, np.float32),
    time_headway=np.array(1.5, np.float32),
    min_gap=np.array(2.0, np.float32),
    max_lateral_acceleration=np.array(2.0, np.float32),
    speed_limit_factor=np.array(1.0, np.float32),
    max_speed=np.array(15.0, np.float32),
)


@pytree
class CarFollowingState:
    """N vehicles.

    Attributes:
      gap: Gap to the leading vehicle, m; negative after a crash.
      speed: Speed, m/s.
      lead_speed: Speed of the leading vehicle, m/s.
    """

    gap: Float[Array, "*n"]
    speed: Float[Array, "*n"]
    lead_speed: Float[Array, "*n"]


@pytree
class BedDecisions:
    """Decisions of N vehicles, [T, N]; a vehicle that has crashed is not active any more.

    Attributes:
      state: States at the decisions.
      observation: Their observations.
      action: Actions.
      reward: Rewards; 0 of inactive vehicles.
      ended: Decisions that led to a crash.
      active: Decisions of vehicles that had not crashed before.
    """

    state: CarFollowingState
    observation: Float[Array, "*lead 4"]
    action: Int[Array, "*lead"]
    reward: Float[Array, "*lead"]
    ended: Bool[Array, "*lead"]
    active: Bool[Array, "*lead"]


def reset(key: Key[Array, ""], num_vehicles: int, starts: StartRange = EVALUATED_STARTS) -> CarFollowingState:
    """Random starts.

    Args:
      key: Random key.
      num_vehicles: N.
      starts: Range of the starts.
    """
    ranges = starts.gap, starts.speed, starts.lead_speed
    keys = jax.random.split(key, len(ranges))
    values = [
        jax.random.uniform(own, (num_vehicles,), minval=low, maxval=high)
        for own, (low, high) in zip(keys, ranges, strict=True)
    ]
    return CarFollowingState(*values)


def step(
    state: CarFollowingState,
    action: Int[Array, "*n"],
    noise: Float[Array, "*n"],
    params: CarFollowingBedParams = BED,
) -> tuple[CarFollowingState, Float[Array, "*n"], Bool[Array, "*n"]]:
    """The next state, the reward, and whether the vehicle has crashed.

    Args:
      state: The state.
      action: Indices of accelerations.
      noise: Standard normal values of the leading vehicles.
      params: Constants.
    """
    acceleration = jnp.asarray(params.accelerations)[action]
    speed = jnp.clip(state.speed + acceleration * params.interval, 0.0, params.max_speed)
    drift = params.lead_rate * (params.lead_speed - state.lead_speed)
    lead_speed = state.lead_speed + params.lead_noise * noise * params.interval + drift
    lead_speed = jnp.clip(lead_speed, 0.0, params.max_speed)
    # Trapezoidal rule.
    opening = (state.lead_speed + lead_speed - state.speed - speed) / 2.0
    gap = state.gap + opening * params.interval
    crashed = gap < 0.0
    comfort_cost = params.comfort_weight * (acceleration / params.comfort_acceleration) ** 2
    reward = speed / params.max_speed - comfort_cost - jnp.where(crashed, params.crash_penalty, 0.0)
    return CarFollowingState(jnp.minimum(gap, params.max_gap), speed, lead_speed), reward, crashed


def observe(state: CarFollowingState, params: CarFollowingBedParams = BED) -> Float[Array, "*n 4"]:
    """Gap, speed, leading speed and their difference, scaled; the speed difference is positive while approaching."""
    approach = state.speed - state.lead_speed
    return jnp.stack(
        [
            state.gap / params.gap_scale - 1.0,
            state.speed / params.speed_scale - 1.0,
            state.lead_speed / params.speed_scale - 1.0,
            approach / params.speed_scale,
        ],
        axis=-1,
    )


def idm_action(observation: Float[Array, "*n 4"], params: CarFollowingBedParams = BED) -> Int[Array, "*n"]:
    """The action whose acceleration is next to that of the Intelligent Driver Model."""
    gap = (observation[..., 0] + 1.0) * params.gap_scale
    speed = (observation[..., 1] + 1.0) * params.speed_scale
    approach = observation[..., 3] * params.speed_scale
    driver = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, speed.shape), DRIVER)
    free = free_acceleration(speed, driver.max_speed, driver)
    desired = free - interaction_deceleration(speed, gap, approach, driver)
    levels = jnp.asarray(params.accelerations).reshape(*(1 for _ in desired.shape), -1)
    return jnp.argmin(jnp.abs(desired[..., None] - levels), axis=-1).astype(jnp.int32)


def epsilon_idm(epsilon: float, params: CarFollowingBedParams = BED) -> BedActor:
    """The Intelligent Driver Model with uniform random actions with the probability `epsilon`."""

    def act(observation: Array, key: Key[Array, ""]) -> Array:
        coin_key, action_key = jax.random.split(key)
        shape = observation.shape[:-1]
        random = jax.random.randint(action_key, shape, 0, params.num_actions)
        return jnp.where(jax.random.bernoulli(coin_key, epsilon, shape), random, idm_action(observation, params))

    return act


def drive(
    actor: BedActor,
    state: CarFollowingState,
    key: Key[Array, ""],
    num_decisions: int,
    params: CarFollowingBedParams = BED,
) -> BedDecisions:
    """T decisions of all vehicles.

    Args:
      actor: Chooses actions.
      state: The starts.
      key: Random key.
      num_decisions: T.
      params: Constants.
    """

    def decide(carry: tuple[CarFollowingState, Array], key: Key[Array, ""]):
        state, active = carry
        action_key, noise_key = jax.random.split(key)
        observation = observe(state, params)
        action = actor(observation, action_key).astype(jnp.int32)
        following, reward, crashed = step(state, action, jax.random.normal(noise_key, state.gap.shape), params)
        record = BedDecisions(state, observation, action, jnp.where(active, reward, 0.0), crashed & active, active)
        return (following, active & ~crashed), record

    first = state, jnp.ones(state.gap.shape, bool)
    return jax.lax.scan(decide, first, jax.random.split(key, num_decisions))[1]


def evaluate(
    actor: BedActor,
    key: Key[Array, ""],
    num_vehicles: int = 400,
    num_decisions: int = 100,
    params: CarFollowingBedParams = BED,
) -> tuple[Float[Array, " N"], Bool[Array, " N"]]:
    """Undiscounted returns of closed-loop episodes, and whether each crashed.

    Args:
      actor: Chooses actions.
      key: Random key; equal keys give equal starts and leading vehicles.
      num_vehicles: Episodes N.
      num_decisions: Decisions of an episode.
      params: Constants.
    """
    start_key, drive_key = jax.random.split(key)
    decisions = drive(actor, reset(start_key, num_vehicles), drive_key, num_decisions, params)
    return jnp.sum(decisions.reward, axis=0), jnp.any(decisions.ended, axis=0)
