"""Pedestrians and cyclists by the social force model.

Helbing, Molnar 1995: Social force model for pedestrian dynamics.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class SocialForceParams:
    """Parameters that are no options of the policy; the values are choices of this package but where it is said.

    Attributes:
      standing_speed: Agents first observed below this speed want to stand, m/s.
      max_pedestrian_speed: Upper bound of the desired speed of pedestrians, m/s.
      max_cyclist_speed: That of cyclists, m/s.
      max_speed_factor: Upper bound of the speed relative to the desired one, 1.3 in the paper.
      max_acceleration: Upper bound of the acceleration, m/s^2.
      max_cyclist_lateral_acceleration: Upper bound of the lateral acceleration of cyclists, m/s^2.
      max_distance: Agents further away exert no force, m.
      min_distance: Lower bound of distances to outlines, m; forces are finite inside them.
      max_height_difference: Agents further above or below exert no force, m.
      out_of_sight_weight: Weight of forces from outside the field of view, 0.5 in the paper.
      max_corner_radius: Radius of the corners of outlines, m.
      min_direction_distance: Lower bound of distances in the denominator of directions, m.
      min_squared_axis: Lower bound of the squared minor axis of the ellipse, m^2; its root has a gradient above zero.
    """

    standing_speed: float = 0.2
    max_pedestrian_speed: float = 2.5
    max_cyclist_speed: float = 8.0
    max_speed_factor: float = 1.3
    max_acceleration: float = 4.0
    max_cyclist_lateral_acceleration: float = 2.0
    max_distance: float = 15.0
    min_distance: float = 0.05
    max_height_difference: float = 3.0
    out_of_sight_weight: float = 0.5
    max_corner_radius: float = 0.3
    min_direction_distance: float = 0.1
    min_squared_axis: float = 1e-4


SOCIAL_FORCE = SocialForceParams()


@pytree
class DesiredVelocity:
    """The desired velocity of each agent (m/s), and whether it has been set."""

    velocity: Float[Array, "N 2"]
    is_set: Bool[Array, " N"]


@static_record
class SocialForce(Policy):
    """Relaxation to the velocity at first observation, and repulsion by other agents (Helbing, Molnar 1995).

    The acceleration is (desired velocity - velocity) / `relaxation`, minus, for each other agent, the gradient of the
    potential strength * exp(-b / range). b is the semi-minor axis of the ellipse through the agent whose foci are the
    position of the other agent and its position one stride later, so agents avoid the space that others are about to
    enter. Forces from outside the field of view count half. Distances are those to the rounded outline of the other
    agent, so the length of vehicles counts.

    Pedestrians move in any direction; cyclists turn with at most 2 m/s^2 and do not move sideways. Walls, curbs,
    crosswalks and lights are ignored. Where they matter, leave these agents to the log, or to `LogPathIDM`.

    Attributes:
      relaxation: Relaxation time to the desired velocity (tau), s; 0.5 in the paper.
      strength: Of the repulsive potential (V0), m^2/s^2; 2.1 in the paper.
      range: Of the repulsive potential (sigma), m; 0.3 in the paper.
      stride: Time of a stride (delta t), s; 2 in the paper.
      sight: Half of the field of view (phi), rad; 100 degrees in the paper.
    """

    relaxation: float = 0.5
    strength: float = 2.1
    range: float = 0.3
    stride: float = 2.0
    sight: float = 1.745
    dynamics = Teleport()

    def init(self, observation: Observation, key: Key[Array, ""]) -> DesiredVelocity:
        """No desired velocities yet: agents may appear later."""
        valid = observation.agents.valid
        return DesiredVelocity(velocity=jnp.zeros((valid.shape[0], 2)), is_set=jnp.zeros_like(valid))

    def act(
        self, observation: Observation, carry: DesiredVelocity, key: Key[Array, ""]
    ) -> tuple[Action, DesiredVelocity]:
        """The pose and velocity one step later."""
        params, now, info, dt = SOCIAL_FORCE, observation.agents, observation.info, observation.dt
        is_cyclist = info.type == CYCLIST
        desired = _update_desired_velocity(carry, now, is_cyclist)
        # Driving force of the paper, and the sum of the repulsive ones.
        driving = (desired.velocity - now.velocity) / self.relaxation
        acceleration = driving + self.repulsion(now, info.size[:, :2])
        # Forces inside an outline are arbitrarily large.
        acceleration = _clip_norm(acceleration, jnp.full(now.yaw.shape, params.max_acceleration))
        max_speed = params.max_speed_factor * geometry.norm(desired.velocity) + params.standing_speed
        velocity = _clip_norm(now.velocity + acceleration * dt, max_speed)
        # The heading of standing agents would follow the noise of their velocity.
        is_walking = geometry.norm(velocity) > params.standing_speed
        yaw = jnp.where(is_walking, geometry.heading_angle(velocity, now.yaw), now.yaw)

        # A cyclist rolls along its heading and steers by the lateral part of the force.
        ahead = geometry.unit_vector(now.yaw)
        speed = jnp.maximum(geometry.dot(now.velocity, ahead) + geometry.dot(acceleration, ahead) * dt, 0.0)
        max_lateral = params.max_cyclist_lateral_acceleration
        lateral = jnp.clip(geometry.cross(ahead, acceleration), -max_lateral, max_lateral)
        is_rolling = speed > params.standing_speed
        cyclist_yaw = now.yaw + jnp.where(is_rolling, lateral / jnp.maximum(speed, 1.0) * dt, 0.0)
        yaw = geometry.wrap_angle(jnp.where(is_cyclist, cyclist_yaw, yaw))
        velocity = jnp.where(is_cyclist[:, None], geometry.unit_vector(yaw) * speed[:, None], velocity)
        xy = now.xyz[:, :2] + velocity * dt
        return Action(value=jnp.concatenate([xy, yaw[:, None], velocity], axis=-1), valid=now.valid), desired

    def repulsion(self, agents: AgentState, size: Float[Array, "N 2"]) -> Float[Array, "N 2"]:
        """Sum of the repulsive accelerations (m/s^2) of each agent; sizes are length and width, m."""
        params, offset = SOCIAL_FORCE, _outline_offsets(agents, size)
        # [agent, other]: the position of the other agent one stride later, relative to its present one.
        stride = (agents.velocity * self.stride)[None]
        distance, later_distance = geometry.norm(offset), geometry.norm(offset - stride)
        squared_axis = (distance + later_distance) ** 2 - jnp.sum(stride**2, axis=-1)
        axis = 0.5 * jnp.sqrt(jnp.maximum(squared_axis, params.min_squared_axis))
        # Gradient of b = 0.5 sqrt((d + d')^2 - stride^2), by the chain rule over both distances.
        unit = offset / jnp.maximum(distance, params.min_direction_distance)[..., None]
        later_unit = (offset - stride) / jnp.maximum(later_distance, params.min_direction_distance)[..., None]
        gradient = (distance + later_distance)[..., None] * (unit + later_unit) / (4.0 * axis)[..., None]
        magnitude = self.strength / self.range * jnp.exp(-axis / self.range)
        forces = magnitude[..., None] * gradient
        direction = geometry.unit_vector(geometry.heading_angle(agents.velocity, agents.yaw))
        # The direction to the source of a force is opposite to it.
        in_sight = -jnp.sum(forces * direction[:, None], axis=-1) >= geometry.norm(forces) * jnp.cos(self.sight)
        weight = jnp.where(in_sight, 1.0, params.out_of_sight_weight)
        is_other = agents.valid[:, None] & agents.valid[None] & ~jnp.eye(len(size), dtype=bool)
        height_difference = jnp.abs(agents.xyz[:, None, 2] - agents.xyz[None, :, 2])
        mask = is_other & (distance < params.max_distance) & (height_difference < params.max_height_difference)
        return jnp.sum(jnp.where(mask[..., None], weight[..., None] * forces, 0.0), axis=1)


def _update_desired_velocity(
    desired: DesiredVelocity, now: AgentState, is_cyclist: Bool[Array, " N"]
) -> DesiredVelocity:
    """Sets the desired velocity of agents that appear to their present one."""
    params, constant = SOCIAL_FORCE, jax.lax.stop_gradient(now)
    max_speed = jnp.where(is_cyclist, params.max_cyclist_speed, params.max_pedestrian_speed)
    is_walking = geometry.norm(constant.velocity) > params.standing_speed
    velocity = jnp.where(is_walking[:, None], _clip_norm(constant.velocity, max_speed), 0.0)
    # The desired velocity is set once: later velocities are results of the forces.
    is_new = constant.valid & ~desired.is_set
    return DesiredVelocity(
        velocity=jnp.where(is_new[:, None], velocity, desired.velocity), is_set=desired.is_set | is_new
    )


def _clip_norm(vector: Float[Array, "N 2"], max_norm: Float[Array, " N"]) -> Float[Array, "N 2"]:
    """Vectors scaled down to a maximum length."""
    return vector * jnp.minimum(1.0, max_norm / jnp.maximum(geometry.norm(vector), 1e-6))[:, None]


def _outline_offsets(agents: AgentState, size: Float[Array, "N 2"]) -> Float[Array, "N N 2"]:
    """[agent, other]: shortest vector from the rounded outline of the other agent to the center of the agent, m."""
    xy, yaw = agents.xyz[:, :2], agents.yaw[None]
    local = geometry.to_frame(xy[:, None], xy[None], yaw)
    # The outline has a constant distance from a smaller box, which is a point for pedestrians.
    radius = jnp.minimum(jnp.min(size, axis=-1) / 2, SOCIAL_FORCE.max_corner_radius)[None]
    half = (size / 2)[None] - radius[..., None]
    offset = local - jnp.clip(local, -half, half)
    distance = geometry.norm(offset)
    min_distance = SOCIAL_FORCE.min_distance
    scale = jnp.maximum(distance - radius, min_distance) / jnp.maximum(distance, min_distance)
    return geometry.rotate(offset * scale[..., None], jnp.broadcast_to(yaw, distance.shape))
