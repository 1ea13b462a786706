"""Kinematic bicycle: acceleration and curvature."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import Step, float_bounds
from waymax_sim.pytree import Array

# Below this speed the direction of a recorded velocity is noise (m/s).
DEAD_BAND = 0.6
# Time in which the inverse makes up for a missed place (s), and the most it turns for that (rad).
CATCH_UP = 0.5
MAX_CORRECTION = 0.2


@dataclasses.dataclass(frozen=True)
class Bicycle:
    """Acceleration (m/s^2) and path curvature (1/m), exact along the path, no slip.

    Speed is signed: it is the velocity along the heading. Braking ends at rest. Without `allow_reverse` an agent that
    stands or rolls backwards gains no speed backwards. The limits are those of the Waymax paper (Gulino et al. 2023).

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

    def apply(self, agents: AgentState, value: Float[Array, "N 2"], dt: Step) -> AgentState:
        """Moves along the old heading, then turns by curvature times the distance driven."""
        low, high = self.bounds
        scale = jnp.asarray(self._limits if self.normalized else (1.0, 1.0), jnp.float32)
        wanted = jnp.clip(value, low[None], high[None]) * scale[None]
        acceleration, curvature = wanted[:, 0], wanted[:, 1]
        forward = geometry.heading(agents.yaw)
        speed = geometry.dot(agents.velocity, forward)
        new_speed = speed + acceleration * dt
        distance = (speed + 0.5 * acceleration * dt) * dt
        if not self.allow_reverse:
            stops = ((speed > 0) & (new_speed < 0)) | ((speed < 0) & (new_speed > 0))
            braking = jnp.where(stops, acceleration, 1.0)
            distance = jnp.where(stops, -(speed**2) / (2 * braking), distance)
            # Recorded agents at rest have speeds of either sign near zero: those that brake must not drive off.
            holds = (speed <= 0) & (acceleration < 0)
            new_speed = jnp.where(stops, 0.0, jnp.where(holds, speed, new_speed))
            distance = jnp.where(holds, speed * dt, distance)
        yaw = geometry.wrap_angle(agents.yaw + curvature * distance)
        xy = agents.xyz[:, :2] + forward * distance[:, None]
        return dataclasses.replace(
            agents,
            xyz=jnp.concatenate([xy, agents.xyz[:, 2:]], axis=-1),
            yaw=yaw,
            velocity=geometry.heading(yaw) * new_speed[:, None],
        )

    def invert(self, before: AgentState, after: AgentState, dt: Step) -> Action:
        """One-step inverse from speeds and headings, corrected for the place that it would miss.

        One action cannot meet both the velocity and the place of `after`. The velocity is met, plus what makes up
        for the missed distance within `CATCH_UP` seconds. Where `apply` reaches `after` without coming to rest on the
        way, its action is found again.
        """
        valid = before.valid & after.valid
        limits = jnp.asarray(self._limits, jnp.float32)[None]
        value = jnp.clip(explain_motion(before, after, dt), -limits, limits)
        value = value + self._catch_up(before, after, value, dt)
        value = jnp.where(valid[:, None], jnp.clip(value, -limits, limits), 0.0)
        return Action(value=value / limits if self.normalized else value, valid=valid)

    def _catch_up(
        self, before: AgentState, after: AgentState, value: Float[Array, "N 2"], dt: Step
    ) -> Float[Array, "N 2"]:
        """Extra (acceleration, curvature) for the distance by which `value` misses the place of `after`."""
        reached = dataclasses.replace(self, normalized=False).apply(before, value, dt)
        missed = geometry.rotate(after.xyz[:, :2] - reached.xyz[:, :2], -before.yaw)
        speed = geometry.dot(after.velocity, geometry.heading(after.yaw))
        slow = jnp.abs(speed) < DEAD_BAND
        speed = jnp.where(slow, 1.0, speed)
        turn = jnp.clip(missed[:, 1] / (speed * CATCH_UP), -MAX_CORRECTION, MAX_CORRECTION)
        curvature = jnp.where(slow, 0.0, turn / (speed * dt))
        return jnp.stack([missed[:, 0] / (CATCH_UP * dt), curvature], axis=-1)


def explain_motion(before: AgentState, after: AgentState, dt: Step) -> Float[Array, "N 2"]:
    """Unclipped (acceleration, curvature) that explains two states `dt` seconds apart.

    Speeds are velocities along the heading. The new heading is taken from the velocity, which is less noisy
    in recorded data, turned by pi when the agent reverses; curvature is 0 when either speed is below 0.6 m/s.
    """
    speed = geometry.dot(before.velocity, geometry.heading(before.yaw))
    new_speed = geometry.dot(after.velocity, geometry.heading(after.yaw))
    acceleration = (new_speed - speed) / dt
    reverses = new_speed < 0
    course = geometry.direction(jnp.where(reverses[:, None], -after.velocity, after.velocity), after.yaw)
    distance = (speed + 0.5 * acceleration * dt) * dt
    slow = (jnp.abs(speed) < DEAD_BAND) | (jnp.abs(new_speed) < DEAD_BAND) | (distance == 0)
    turn = geometry.wrap_angle(course - before.yaw)
    curvature = jnp.where(slow, 0.0, turn / jnp.where(slow, 1.0, distance))
    return jnp.stack([acceleration, curvature], axis=-1)
