"""Comfort: accelerations, jerks and turning rates that passengers are subject to."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.pytree import Array

# Window of the derivative filter, s. In a shorter one the noise of recorded tracks alone exceeds the limits.
COMFORT_WINDOW = 1.0


class ComfortParams(NamedTuple):
    """Limits of comfortable driving, taken from human driving (nuPlan, ego is comfortable).

    Attributes:
      max_acceleration: Along the heading, m/s^2.
      max_braking: Against the heading, m/s^2.
      max_lateral_acceleration: Across the heading, m/s^2.
      max_jerk: Magnitude, m/s^3.
      max_longitudinal_jerk: Along the heading, m/s^3.
      max_yaw_rate: rad/s.
      max_yaw_acceleration: rad/s^2.
    """

    max_acceleration: float = 2.40
    max_braking: float = 4.05
    max_lateral_acceleration: float = 4.89
    max_jerk: float = 8.37
    max_longitudinal_jerk: float = 4.13
    max_yaw_rate: float = 0.95
    max_yaw_acceleration: float = 1.93


COMFORT = ComfortParams()


class Kinematics(NamedTuple):
    """Derivatives of the motion of agents, in their own frames.

    Attributes:
      longitudinal: Acceleration along the heading, m/s^2.
      lateral: Acceleration to the left, m/s^2; in a bend this is the centripetal one.
      longitudinal_jerk: Rate of change of the longitudinal acceleration, m/s^3.
      lateral_jerk: Rate of change of the lateral acceleration, m/s^3.
      yaw_rate: rad/s.
      yaw_acceleration: rad/s^2.
    """

    longitudinal: Float[Array, "*n"]
    lateral: Float[Array, "*n"]
    longitudinal_jerk: Float[Array, "*n"]
    lateral_jerk: Float[Array, "*n"]
    yaw_rate: Float[Array, "*n"]
    yaw_acceleration: Float[Array, "*n"]


def comfort_violation(snapshot: Snapshot) -> MetricValue:
    """The largest ratio of a comfort-related quantity to its limit half a second ago; above 1 violates comfort.

    Limits (`ComfortParams`): acceleration 2.40 and braking 4.05 m/s^2, lateral acceleration 4.89 m/s^2, jerk 8.37 m/s^3
    (its longitudinal part 4.13), yaw rate 0.95 rad/s, yaw acceleration 1.93 rad/s^2. Derivatives are those of
    `savgol_derivatives` at the middle of the last second. Valid for vehicles and cyclists that were valid in all of
    its steps, once the first of these is the current step: logged motion before the simulation is not evaluated.

    Source: nuPlan, ego is comfortable. The state keeps one second of history for it.
    """
    num_steps = comfort_steps(snapshot.dt)
    past = snapshot.past(num_steps)
    if past.yaw.shape[0] < num_steps:
        return masked_value(jnp.zeros(past.yaw.shape[1]), jnp.zeros(past.yaw.shape[1], bool))
    is_simulated = snapshot.step - (num_steps - 1) >= snapshot.scenario.current_step
    valid = snapshot.is_wheeled & jnp.all(past.valid, axis=0) & is_simulated
    return masked_value(comfort_ratio(savgol_derivatives(past, snapshot.dt)), valid)


def comfort_steps(dt: float) -> int:
    """Length of the window of the derivative filter, steps: odd, and at least 3."""
    return 2 * max(1, int(COMFORT_WINDOW / dt / 2 + 1e-6)) + 1


def comfort_ratio(kinematics: Kinematics, params: ComfortParams = COMFORT) -> Float[Array, "*n"]:
    """The largest ratio of a quantity to its comfort limit; above 1 violates comfort."""
    ratios = (
        kinematics.longitudinal / params.max_acceleration,
        -kinematics.longitudinal / params.max_braking,
        jnp.abs(kinematics.lateral) / params.max_lateral_acceleration,
        geometry.norm(jnp.stack([kinematics.longitudinal_jerk, kinematics.lateral_jerk], axis=-1)) / params.max_jerk,
        jnp.abs(kinematics.longitudinal_jerk) / params.max_longitudinal_jerk,
        jnp.abs(kinematics.yaw_rate) / params.max_yaw_rate,
        jnp.abs(kinematics.yaw_acceleration) / params.max_yaw_acceleration,
    )
    return jnp.max(jnp.stack(ratios), axis=0)


def savgol_derivatives(agents: AgentState, dt: float) -> Kinematics:
    """Derivatives at the middle of an odd number H of steps: parabolas fitted to velocities and headings.

    This is the filter of Savitzky and Golay (1964). Acceleration is that of the velocity in the plane, split into its
    components along and across the heading: a steady bend has a constant lateral acceleration and no jerk.

    Args:
      agents: Agents over H steps, [H, N].
      dt: Step, s.
    """
    num_steps = agents.yaw.shape[0]
    first, second = parabola_weights(num_steps, dt)
    yaw_change = geometry.wrap_angle(agents.yaw[1:] - agents.yaw[:-1])
    unwrapped_yaw = jnp.concatenate([jnp.zeros_like(yaw_change[:1]), jnp.cumsum(yaw_change, axis=0)])
    rate, yaw_acceleration = (jnp.tensordot(weights, unwrapped_yaw, axes=1) for weights in (first, second))
    yaw = agents.yaw[num_steps // 2]
    acceleration, jerk = (jnp.tensordot(weights, agents.velocity, axes=1) for weights in (first, second))
    along, across = geometry.unit_vector(yaw), geometry.unit_vector(yaw + jnp.pi / 2)
    longitudinal, lateral = geometry.dot(acceleration, along), geometry.dot(acceleration, across)
    return Kinematics(
        longitudinal=longitudinal,
        lateral=lateral,
        # The frame of the agent rotates: the derivative of its components has a term of the yaw rate.
        longitudinal_jerk=geometry.dot(jerk, along) + rate * lateral,
        lateral_jerk=geometry.dot(jerk, across) - rate * longitudinal,
        yaw_rate=rate,
        yaw_acceleration=yaw_acceleration,
    )


def parabola_weights(num_steps: int, dt: float) -> tuple[Float[np.ndarray, " H"], Float[np.ndarray, " H"]]:
    """Weights of the steps in the first and second derivative of the least-squares parabola, at the middle."""
    half = num_steps // 2
    parabola = np.linalg.pinv(np.vander(np.arange(-half, half + 1.0), 3, increasing=True))
    return (parabola[1] / dt).astype(np.float32), (2 * parabola[2] / dt**2).astype(np.float32)
