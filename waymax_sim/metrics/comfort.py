"""What passengers feel."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.pytree import Array

# Steps that one judgement is made from. Fewer, and the noise of recorded tracks alone exceeds the limits.
NUM_STEPS = 11
# Limits of nuPlan, from human driving.
MAX_ACCELERATION, MAX_BRAKING, MAX_LATERAL = 2.40, 4.05, 4.89
MAX_JERK, MAX_LONGITUDINAL_JERK = 8.37, 4.13
MAX_YAW_RATE, MAX_YAW_ACCELERATION = 0.95, 1.93


class Motion(NamedTuple):
    """How agents move, in their own frames.

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


def discomfort(snapshot: Snapshot) -> MetricValue:
    """The largest share of a comfort limit that a driver used up around half a second ago; above 1 is too much.

    Limits: acceleration 2.40 and braking 4.05 m/s^2, lateral acceleration 4.89 m/s^2, jerk 8.37 m/s^3 (of which
    longitudinal 4.13), yaw rate 0.95 rad/s, yaw acceleration 1.93 rad/s^2. Motion is that of `motion` over the last 11
    steps, at their middle. Valid where the agent was there in all of them.

    Source: nuPlan, ego is comfortable. Looks at 11 steps, which the state keeps for it.
    """
    past = snapshot.past(NUM_STEPS)
    if past.yaw.shape[0] < NUM_STEPS:
        return masked_value(jnp.zeros(past.yaw.shape[1]), jnp.zeros(past.yaw.shape[1], bool))
    return masked_value(used_up(motion(past, snapshot.dt)), snapshot.drives & jnp.all(past.valid, axis=0))


def used_up(felt: Motion) -> Float[Array, "*n"]:
    """The largest share of a limit of comfort that is used up; above 1 is too much."""
    used = (
        felt.longitudinal / MAX_ACCELERATION,
        -felt.longitudinal / MAX_BRAKING,
        jnp.abs(felt.lateral) / MAX_LATERAL,
        geometry.norm(jnp.stack([felt.longitudinal_jerk, felt.lateral_jerk], axis=-1)) / MAX_JERK,
        jnp.abs(felt.longitudinal_jerk) / MAX_LONGITUDINAL_JERK,
        jnp.abs(felt.yaw_rate) / MAX_YAW_RATE,
        jnp.abs(felt.yaw_acceleration) / MAX_YAW_ACCELERATION,
    )
    return jnp.max(jnp.stack(used), axis=0)


def motion(agents: AgentState, dt: float) -> Motion:
    """Motion at the middle of an odd number H of steps, from parabolas through velocities and headings.

    This is Savitzky and Golay's filter (1964). Acceleration is that of the velocity in the plane, seen along and across
    the heading: a steady bend has a steady lateral acceleration and no jerk.

    Args:
      agents: Agents over H steps, [H, N].
      dt: Step, s.
    """
    num_steps = agents.yaw.shape[0]
    first, second = derivatives(num_steps, dt)
    turns = geometry.wrap_angle(agents.yaw[1:] - agents.yaw[:-1])
    turned = jnp.concatenate([jnp.zeros_like(turns[:1]), jnp.cumsum(turns, axis=0)])
    rate, yaw_acceleration = (jnp.tensordot(weights, turned, axes=1) for weights in (first, second))
    yaw = agents.yaw[num_steps // 2]
    acceleration, jerk = (jnp.tensordot(weights, agents.velocity, axes=1) for weights in (first, second))
    along, across = geometry.heading(yaw), geometry.heading(yaw + jnp.pi / 2)
    longitudinal, lateral = geometry.dot(acceleration, along), geometry.dot(acceleration, across)
    return Motion(
        longitudinal=longitudinal,
        lateral=lateral,
        # The frame turns with the agent.
        longitudinal_jerk=geometry.dot(jerk, along) + rate * lateral,
        lateral_jerk=geometry.dot(jerk, across) - rate * longitudinal,
        yaw_rate=rate,
        yaw_acceleration=yaw_acceleration,
    )


def derivatives(num_steps: int, dt: float) -> tuple[Float[np.ndarray, " H"], Float[np.ndarray, " H"]]:
    """Weights of steps for the first and second derivative of the least-squares parabola, at the middle."""
    half = num_steps // 2
    parabola = np.linalg.pinv(np.vander(np.arange(-half, half + 1.0), 3, increasing=True))
    return (parabola[1] / dt).astype(np.float32), (2 * parabola[2] / dt**2).astype(np.float32)
