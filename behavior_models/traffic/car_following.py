"""Longitudinal control: the Intelligent Driver Model (IDM) with a bounded deceleration.

Treiber, Hennecke, Helbing 2000: Congested traffic states in empirical observations and microscopic simulations.
Symbols in parentheses are those of the paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from waymax_sim.datatypes.agents import CYCLIST
from waymax_sim.pytree import Array, pytree, static, static_record

# Acceleration (m/s^2) of a speed (m/s), an approach rate (m/s), a gap (m) and a desired speed (m/s).
FollowingLaw = Callable[[Array, Array, Array, Array], Array]
# Distance that stands for an absent leading vehicle or stop line, m. It is finite, so gradients stay finite.
FAR = 1e4
# Lower bound of gaps in a denominator, m: the gap between overlapping boxes is negative.
GAP_FLOOR = 0.1


@pytree
class IDMParams:
    """Parameters of the Intelligent Driver Model and of its desired speed. The leading axes are free.

    Attributes:
      max_acceleration: Acceleration from standstill on a free road (a), m/s^2.
      comfortable_deceleration: Deceleration of a normal approach (b), m/s^2, positive.
      time_headway: Desired time gap to the leading vehicle (T), s.
      min_gap: Gap from bumper to bumper at standstill (s0), m.
      max_lateral_acceleration: Bound of the lateral acceleration in curves, m/s^2; it lowers the desired speed there.
      speed_limit_factor: Desired speed (v0) on a straight free road, as a fraction of the speed limit.
      max_speed: Upper bound of the desired speed (v0), m/s.
      acceleration_exponent: Exponent of the free-road term (delta), 4 in the paper.
    """

    max_acceleration: Float[Array, "*lead"]
    comfortable_deceleration: Float[Array, "*lead"]
    time_headway: Float[Array, "*lead"]
    min_gap: Float[Array, "*lead"]
    max_lateral_acceleration: Float[Array, "*lead"]
    speed_limit_factor: Float[Array, "*lead"]
    max_speed: Float[Array, "*lead"]
    acceleration_exponent: int = static(default=4)


@static_record
class CarFollowingParams:
    """Extensions of the model in this package; the values are its choices.

    Attributes:
      anticipation_time: Driving time to the point ahead whose desired speed applies now, s.
      stop_line_offset: Added to the gap to a stop line, m: a front at the line has stopped, so less than `min_gap` is
        left to it.
      reserved_gap: Part of the gap that is not used for braking, m.
      usable_gap_fraction: Fraction of the remaining gap that is used for braking.
      deceleration_margin: Factor on the kinematically necessary deceleration.
      max_law_gap: Gap up to which a given law of car following applies, m; beyond it the road is free.
    """

    anticipation_time: float = 0.5
    stop_line_offset: float = 1.0
    reserved_gap: float = 0.5
    usable_gap_fraction: float = 0.8
    deceleration_margin: float = 1.2
    max_law_gap: float = 80.0


CAR_FOLLOWING = CarFollowingParams()


class Range(NamedTuple):
    """Lowest and highest value."""

    low: float
    high: float


# Ranges from which the parameters of each agent are drawn uniformly, in the units of `IDMParams`. Those of cars enclose
# the values of the paper for T and s0; those of cyclists differ where their drive and size matter.
CAR_RANGES = {
    "max_acceleration": Range(1.2, 2.0),
    "comfortable_deceleration": Range(1.6, 2.6),
    "time_headway": Range(1.0, 1.8),
    "min_gap": Range(1.5, 2.5),
    "max_lateral_acceleration": Range(1.8, 2.6),
    "speed_limit_factor": Range(0.85, 1.05),
    "max_speed": Range(40.0, 45.0),
}
CYCLIST_RANGES = CAR_RANGES | {
    "max_acceleration": Range(0.7, 1.2),
    "min_gap": Range(0.8, 1.5),
    "max_speed": Range(4.0, 7.0),
}


def sample_idm_params(agent_type: Int[Array, " N"], key: Key[Array, ""]) -> IDMParams:
    """Parameters of each agent by its type. Each slot has its own random stream, so padding changes no draw."""

    def sample(index, agent_type):
        fraction = jax.random.uniform(jax.random.fold_in(key, index), (len(CAR_RANGES),))
        # Other types share the ranges of cars: pedestrians follow no lanes, and static objects do not move.
        is_cyclist = agent_type == CYCLIST
        values = {}
        for column, name in enumerate(CAR_RANGES):
            car, cyclist = CAR_RANGES[name], CYCLIST_RANGES[name]
            low = jnp.where(is_cyclist, cyclist.low, car.low)
            values[name] = low + fraction[column] * (jnp.where(is_cyclist, cyclist.high, car.high) - low)
        return IDMParams(**values)

    return jax.vmap(sample)(jnp.arange(agent_type.shape[0]), agent_type)


def free_acceleration(
    speed: Float[Array, "*#b"], desired_speed: Float[Array, "*#b"], params: IDMParams
) -> Float[Array, "*#b"]:
    """Free-road term a (1 - (v / v0)^delta), m/s^2.

    Args:
      speed: Speed v, m/s.
      desired_speed: Desired speed v0, m/s.
      params: Parameters of the drivers.
    """
    return params.max_acceleration * (1.0 - (speed / desired_speed) ** params.acceleration_exponent)


def interaction_deceleration(
    speed: Float[Array, "*#b"], gap: Float[Array, "*#b"], approach_rate: Float[Array, "*#b"], params: IDMParams
) -> Float[Array, "*#b"]:
    """Interaction term a (s* / s)^2, m/s^2, positive; desired gap s* = s0 + max(0, v T + v dv / (2 sqrt(a b))).

    Args:
      speed: Speed v, m/s.
      gap: Gap s to the leading vehicle from bumper to bumper, m.
      approach_rate: Speed difference dv to the leading vehicle, m/s, positive while the gap shrinks.
      params: Parameters of the drivers.
    """
    braking_term = speed * approach_rate / (2.0 * jnp.sqrt(params.max_acceleration * params.comfortable_deceleration))
    # The bound keeps s* from falling below s0 behind a leading vehicle that drives away.
    desired_gap = params.min_gap + jnp.maximum(0.0, speed * params.time_headway + braking_term)
    return params.max_acceleration * (desired_gap / jnp.maximum(gap, GAP_FLOOR)) ** 2


def bounded_interaction_deceleration(
    speed: Float[Array, "*#b"], gap: Float[Array, "*#b"], approach_rate: Float[Array, "*#b"], params: IDMParams
) -> Float[Array, "*#b"]:
    """The interaction term, bounded by the comfortable deceleration unless kinematics requires more, m/s^2.

    The model alone brakes at hundreds of m/s^2 for a vehicle of equal speed that cuts in at a short distance. Necessary
    is the deceleration that removes the speed difference within the usable gap, plus the free-road acceleration that it
    has to cancel.

    Args:
      speed: Speed, m/s.
      gap: Gap to the leading vehicle from bumper to bumper, m.
      approach_rate: Speed difference to the leading vehicle, m/s, positive while the gap shrinks.
      params: Parameters of the drivers.
    """
    # The reserved gap and the fraction leave room for the reaction of the next step.
    usable_gap = CAR_FOLLOWING.usable_gap_fraction * (gap - CAR_FOLLOWING.reserved_gap)
    # A leading vehicle that drives away requires no deceleration.
    necessary = jnp.maximum(approach_rate, 0.0) ** 2 / (2.0 * jnp.maximum(usable_gap, GAP_FLOOR))
    bound = jnp.maximum(params.comfortable_deceleration, CAR_FOLLOWING.deceleration_margin * necessary)
    deceleration = interaction_deceleration(speed, gap, approach_rate, params)
    return jnp.minimum(deceleration, params.max_acceleration + bound)
