"""Trajectories as actions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.bicycle import Bicycle
from waymax_sim.dynamics.protocol import TimeStep, float_bounds
from waymax_sim.dynamics.rear_axle import RearAxleBicycle
from waymax_sim.dynamics.tracking import Reference, TrackingParams, track
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Future poses (x, y, yaw), m and rad, in the frame of the agent now; a linear-quadratic tracker executes one step.

    Poses between the given ones are interpolated. The trajectory begins at the present pose: a policy that keeps a
    trajectory for several steps is `behavior_models.FollowPlan`.

    Attributes:
      num_poses: Number of poses.
      pose_interval: Time between them, s.
      vehicle: Vehicle model that executes the inputs of the tracker.
      tracking: Weights of the tracker.
    """

    num_poses: int = 8
    pose_interval: float = 0.5
    vehicle: Bicycle | RearAxleBicycle = Bicycle()
    tracking: TrackingParams = TrackingParams()

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Unbounded components, three per pose."""
        return float_bounds((np.inf,) * (3 * self.num_poses))

    def apply(self, agents: AgentState, value: Float[Array, "N A"], dt: TimeStep) -> AgentState:
        """Tracks the trajectories for one step.

        Args:
          agents: N agents.
          value: Poses, the first one first, [N, 3 * num_poses].
          dt: Duration, s.
        """
        controls = self.controls(agents, self.plan(planar_poses(agents), value), jnp.zeros_like(agents.yaw), dt)
        return self.vehicle.apply(agents, controls, dt)

    def plan(self, start: Float[Array, "N 3"], value: Float[Array, "N A"]) -> Float[Array, "N P 3"]:
        """Poses of trajectories in the local frame, the start first; headings are continuous.

        Args:
          start: Poses (x, y, yaw) at which the trajectories begin.
          value: Actions.
        """
        poses = value.reshape(len(start), self.num_poses, 3)
        xy = start[:, None, :2] + geometry.rotate(poses[..., :2], start[:, None, 2])
        poses = jnp.concatenate([xy, start[:, None, 2:] + poses[..., 2:]], axis=-1)
        poses = jnp.concatenate([start[:, None], poses], axis=1)
        turns = geometry.wrap_angle(poses[:, 1:, 2] - poses[:, :-1, 2])
        yaw = jnp.concatenate([poses[:, :1, 2], poses[:, :1, 2] + jnp.cumsum(turns, axis=1)], axis=1)
        return jnp.concatenate([poses[..., :2], yaw[..., None]], axis=-1)

    def controls(
        self, agents: AgentState, plan: Float[Array, "N P 3"], age: Float[Array, " N"], dt: TimeStep
    ) -> Float[Array, "N 2"]:
        """Inputs of the vehicle model that track plans: acceleration (m/s^2) and curvature (1/m).

        Args:
          agents: N agents.
          plan: From `plan`.
          age: Time since the start of each plan, s.
          dt: Duration, s.
        """
        knots = self.pose_interval * np.arange(self.num_poses + 1, dtype=np.float32)
        times = age[:, None] + dt * jnp.arange(self.tracking.horizon + 1, dtype=jnp.float32)[None]
        interpolate = jax.vmap(jax.vmap(jnp.interp, (None, None, 1), 1), (0, None, 0))
        poses = interpolate(times, jnp.asarray(knots), plan)
        given = (times <= knots[-1] + 0.5 * dt).astype(jnp.float32)
        if isinstance(self.vehicle, RearAxleBicycle):
            axle = poses[..., :2] - self.vehicle.axle_distance * geometry.unit_vector(poses[..., 2])
            poses = jnp.concatenate([axle, poses[..., 2:]], axis=-1)
            agents = self.vehicle.rear_axle(agents)
        return track(agents, Reference(poses[..., :2], poses[..., 2], given), self.tracking, dt)

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The trajectory of constant velocity and turn rate in the body frame that joins both states.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        valid = before.valid & after.valid
        step = geometry.rotate(after.xyz[:, :2] - before.xyz[:, :2], -before.yaw)
        turn = geometry.wrap_angle(after.yaw - before.yaw)
        times = (self.pose_interval / dt) * jnp.arange(1, self.num_poses + 1, dtype=jnp.float32)[None]
        yaw = turn[:, None] * times
        # A step along the chord of an arc: n steps have a chord of sin(n a / 2) / sin(a / 2), turned by (n - 1) a / 2.
        half = jnp.where(jnp.abs(turn) < MIN_TURN, MIN_TURN, turn)[:, None] / 2
        ratio = jnp.where(jnp.abs(turn)[:, None] < MIN_TURN, times, jnp.sin(half * times) / jnp.sin(half))
        xy = geometry.rotate(step[:, None], half * (times - 1)) * ratio[..., None]
        value = jnp.concatenate([xy, yaw[..., None]], axis=-1).reshape(len(turn), -1)
        return Action(value=jnp.where(valid[:, None], value, 0.0), valid=valid)


def planar_poses(agents: AgentState) -> Float[Array, "N 3"]:
    """Poses (x, y, yaw) of agents, m and rad."""
    return jnp.concatenate([agents.xyz[:, :2], agents.yaw[:, None]], axis=-1)


# Turn of a step below which a motion is straight, rad.
MIN_TURN = 1e-5
