"""Kinematic bicycle model: acceleration and curvature."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import TimeStep, float_bounds
from waymax_sim.pytree import Array

# Speed below which the direction of a recorded velocity is noise, m/s.
MIN_HEADING_SPEED = 0.6
# Time constant with which the inverse corrects position errors, s, and the maximal turn of a correction, rad. Chosen.
CORRECTION_TIME = 0.5
MAX_CORRECTION = 0.2


@dataclasses.dataclass(frozen=True)
class Bicycle:
    """Kinematic bicycle model without slip: acceleration (m/s^2) and path curvature (1/m).

    Speed is signed, the velocity along the heading. Braking ends at standstill. Without `allow_reverse`, an agent at
    rest or in reverse does not accelerate backwards. The limits are those of the Waymax paper (Gulino et al. 2023).

    Attributes:
      max_acceleration: Limit of |acceleration|, m/s^2.
      max_curvature: Limit of |curvature|, 1/m.
      normalized: Actions are in [-1, 1] and scaled by the limits.
      allow_reverse: Speed may pass through zero.
    """

    max_acceleration: float = 6.0
    max_curvature: float = 0.3
    normalized: bool = False
    allow_reverse: bool = False

    preserves_finite = True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of (acceleration, curvature)."""
        return float_bounds((1.0, 1.0) if self.normalized else self._limits)

    @property
    def _limits(self) -> tuple[float, float]:
        return self.max_acceleration, self.max_curvature

    def apply(self, agents: AgentState, value: Float[Array, "N 2"], dt: TimeStep) -> AgentState:
        """Moves along the old heading, then turns by curvature times distance.

        Args:
          agents: N agents.
          value: (acceleration, curvature).
          dt: Duration, s.
        """
        low, high = self.bounds
        scale = jnp.asarray(self._limits if self.normalized else (1.0, 1.0), jnp.float32)
        controls = jnp.clip(value, low[None], high[None]) * scale[None]
        acceleration, curvature = controls[:, 0], controls[:, 1]
        forward = geometry.unit_vector(agents.yaw)
        speed = geometry.dot(agents.velocity, forward)
        new_speed = speed + acceleration * dt
        distance = (speed + 0.5 * acceleration * dt) * dt
        if not self.allow_reverse:
            stops = ((speed > 0) & (new_speed < 0)) | ((speed < 0) & (new_speed > 0))
            braking = jnp.where(stops, acceleration, 1.0)
            distance = jnp.where(stops, -(speed**2) / (2 * braking), distance)
            # Recorded agents at rest have small speeds of either sign: braking must not accelerate them backwards.
            holds = (speed <= 0) & (acceleration < 0)
            new_speed = jnp.where(stops, 0.0, jnp.where(holds, speed, new_speed))
            distance = jnp.where(holds, speed * dt, distance)
        yaw = geometry.wrap_angle(agents.yaw + curvature * distance)
        xy = agents.xyz[:, :2] + forward * distance[:, None]
        return dataclasses.replace(
            agents,
            xyz=jnp.concatenate([xy, agents.xyz[:, 2:]], axis=-1),
            yaw=yaw,
            velocity=geometry.unit_vector(yaw) * new_speed[:, None],
        )

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The action that reproduces the change of speed and heading, with a correction of the position error.

        One action cannot reproduce both the velocity and the position of `after`. It reproduces the velocity and
        corrects the position within `CORRECTION_TIME`. It inverts `apply` exactly unless the agent stops in between.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        valid = before.valid & after.valid
        limits = jnp.asarray(self._limits, jnp.float32)[None]
        value = jnp.clip(estimate_controls(before, after, dt), -limits, limits)
        value = value + self._position_correction(before, after, value, dt)
        value = jnp.where(valid[:, None], jnp.clip(value, -limits, limits), 0.0)
        return Action(value=value / limits if self.normalized else value, valid=valid)

    def _position_correction(
        self, before: AgentState, after: AgentState, value: Float[Array, "N 2"], dt: TimeStep
    ) -> Float[Array, "N 2"]:
        """Correction of (acceleration, curvature) for the position error of `value`.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          value: Uncorrected (acceleration, curvature).
          dt: Duration, s.
        """
        reached = dataclasses.replace(self, normalized=False).apply(before, value, dt)
        error = geometry.rotate(after.xyz[:, :2] - reached.xyz[:, :2], -before.yaw)
        speed = forward_speed(after)
        slow = jnp.abs(speed) < MIN_HEADING_SPEED
        speed = jnp.where(slow, 1.0, speed)
        turn = jnp.clip(error[:, 1] / (speed * CORRECTION_TIME), -MAX_CORRECTION, MAX_CORRECTION)
        curvature = jnp.where(slow, 0.0, turn / (speed * dt))
        return jnp.stack([error[:, 0] / (CORRECTION_TIME * dt), curvature], axis=-1)


def estimate_controls(before: AgentState, after: AgentState, dt: TimeStep) -> Float[Array, "N 2"]:
    """Unclipped (acceleration, curvature) between two states.

    Speeds are velocities along the heading. The new heading is that of the velocity, which is less noisy in recorded
    data, turned by pi if the agent reverses. The curvature is 0 if either speed is below `MIN_HEADING_SPEED`.

    Args:
      before: N agents.
      after: The same agents `dt` later.
      dt: Duration, s.
    """
    speed = forward_speed(before)
    new_speed = forward_speed(after)
    acceleration = (new_speed - speed) / dt
    reverses = new_speed < 0
    course = geometry.heading_angle(jnp.where(reverses[:, None], -after.velocity, after.velocity), after.yaw)
    distance = (speed + 0.5 * acceleration * dt) * dt
    slow = (jnp.abs(speed) < MIN_HEADING_SPEED) | (jnp.abs(new_speed) < MIN_HEADING_SPEED) | (distance == 0)
    turn = geometry.wrap_angle(course - before.yaw)
    curvature = jnp.where(slow, 0.0, turn / jnp.where(slow, 1.0, distance))
    return jnp.stack([acceleration, curvature], axis=-1)
