"""People on foot and on bicycles who keep their way and keep away from others.

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

# Those who are slower at first want to stand (m/s).
STANDS = 0.2
# Speeds that are wanted at most, on foot and on a bicycle; and the most that is walked, as a part of what is wanted.
FASTEST, FASTEST_CYCLIST, HURRY = 2.5, 8.0, 1.3
# The strongest acceleration (m/s^2), and that of cyclists to the side.
STRONGEST, SIDEWAYS = 4.0, 2.0
# Others further away are not minded (m), and nobody counts as nearer.
REACH, TOUCH = 15.0, 0.05
# How far corners are rounded (m).
ROUNDED = 0.3


@pytree
class Aims:
    """The velocity that each agent wants (m/s), and whether it has been seen."""

    velocity: Float[Array, "N 2"]
    known: Bool[Array, " N"]


@static_record
class SocialForce(Policy):
    """Driven by a wish to keep the velocity they were first seen with, and repelled by others.

    The acceleration is (wanted - velocity) / `relaxation`, and for each other agent the slope of the potential
    strength * exp(-b / range). b is the half minor axis of the ellipse through the agent whose foci are the other one
    and the place it will have reached a stride later, so that people step aside for where others go. What is not in
    sight counts half. Distances are to the rounded outline of the other one, so that cars are as long as they are.

    People on foot move in any direction; cyclists turn with at most 2 m/s^2 and do not move sideways. Walls, kerbs,
    crosswalks and lights are not looked at. Where that matters, leave these agents to the log, or to `LogPathIDM`.

    Attributes:
      relaxation: Time in which the wanted velocity is taken up, s.
      strength: Of the repulsion, m^2/s^2.
      range: Of the repulsion, m.
      stride: How far others are thought to go on, s.
      sight: Half of the angle that is in sight, rad.
    """

    relaxation: float = 0.5
    strength: float = 2.1
    range: float = 0.3
    stride: float = 2.0
    sight: float = 1.745
    dynamics = Teleport()

    def init(self, observation: Observation, key: Key[Array, ""]) -> Aims:
        """Nobody has been seen yet."""
        valid = observation.agents.valid
        return Aims(velocity=jnp.zeros((valid.shape[0], 2)), known=jnp.zeros_like(valid))

    def act(self, observation: Observation, carry: Aims, key: Key[Array, ""]) -> tuple[Action, Aims]:
        """The pose a step later."""
        now, info, dt = observation.agents, observation.info, observation.dt
        aims = _look(carry, now, info.type == CYCLIST)
        acceleration = (aims.velocity - now.velocity) / self.relaxation + self.repulsion(now, info.size[:, :2])
        acceleration = _at_most(acceleration, jnp.full(now.yaw.shape, STRONGEST))
        velocity = _at_most(now.velocity + acceleration * dt, HURRY * geometry.norm(aims.velocity) + STANDS)
        walks = geometry.norm(velocity) > STANDS
        yaw = jnp.where(walks, geometry.direction(velocity, now.yaw), now.yaw)

        # A cyclist rolls along its heading, which it turns.
        ahead = geometry.heading(now.yaw)
        speed = jnp.maximum(geometry.dot(now.velocity, ahead) + geometry.dot(acceleration, ahead) * dt, 0.0)
        aside = jnp.clip(geometry.cross(ahead, acceleration), -SIDEWAYS, SIDEWAYS)
        turned = now.yaw + jnp.where(speed > STANDS, aside / jnp.maximum(speed, 1.0) * dt, 0.0)
        cycles = info.type == CYCLIST
        yaw = geometry.wrap_angle(jnp.where(cycles, turned, yaw))
        velocity = jnp.where(cycles[:, None], geometry.heading(yaw) * speed[:, None], velocity)
        xy = now.xyz[:, :2] + velocity * dt
        return Action(value=jnp.concatenate([xy, yaw[:, None], velocity], axis=-1), valid=now.valid), aims

    def repulsion(self, agents: AgentState, size: Float[Array, "N 2"]) -> Float[Array, "N 2"]:
        """Acceleration (m/s^2) of each agent away from all others."""
        offset = _from_others(agents, size)
        # The place the other one will have reached, seen from the agent.
        steps = (agents.velocity * self.stride)[None]
        distance, later = geometry.norm(offset), geometry.norm(offset - steps)
        minor2 = (distance + later) ** 2 - jnp.sum(steps**2, axis=-1)
        minor = 0.5 * jnp.sqrt(jnp.maximum(minor2, 1e-4))
        # The slope of b along both distances.
        unit = offset / jnp.maximum(distance, 0.1)[..., None]
        unit_later = (offset - steps) / jnp.maximum(later, 0.1)[..., None]
        slope = (distance + later)[..., None] * (unit + unit_later) / (4.0 * minor)[..., None]
        push = self.strength / self.range * jnp.exp(-minor / self.range)
        forces = push[..., None] * slope
        course = geometry.heading(geometry.direction(agents.velocity, agents.yaw))
        sees = -jnp.sum(forces * course[:, None], axis=-1) >= geometry.norm(forces) * jnp.cos(self.sight)
        weight = jnp.where(sees, 1.0, 0.5)
        minded = agents.valid[:, None] & agents.valid[None] & ~jnp.eye(len(size), dtype=bool) & (distance < REACH)
        level = jnp.abs(agents.xyz[:, None, 2] - agents.xyz[None, :, 2]) < 3.0
        return jnp.sum(jnp.where((minded & level)[..., None], weight[..., None] * forces, 0.0), axis=1)


def _look(aims: Aims, now: AgentState, cycles: Bool[Array, " N"]) -> Aims:
    """Whoever appears wants to go on as it does now."""
    still = jax.lax.stop_gradient(now)
    fastest = jnp.where(cycles, FASTEST_CYCLIST, FASTEST)
    wanted = jnp.where((geometry.norm(still.velocity) > STANDS)[:, None], _at_most(still.velocity, fastest), 0.0)
    new = still.valid & ~aims.known
    return Aims(velocity=jnp.where(new[:, None], wanted, aims.velocity), known=aims.known | new)


def _at_most(vector: Float[Array, "N 2"], length: Float[Array, " N"]) -> Float[Array, "N 2"]:
    """Vectors made no longer than a length."""
    return vector * jnp.minimum(1.0, length / jnp.maximum(geometry.norm(vector), 1e-6))[:, None]


def _from_others(agents: AgentState, size: Float[Array, "N 2"]) -> Float[Array, "N N 2"]:
    """From each other agent to the centre of each (m), [agent, other]: from its rounded outline, outwards."""
    xy, yaw = agents.xyz[:, :2], agents.yaw[None]
    local = geometry.to_frame(xy[:, None], xy[None], yaw)
    # The outline is so far from a smaller box, which for walkers is a point.
    radius = jnp.minimum(jnp.min(size, axis=-1) / 2, ROUNDED)[None]
    half = (size / 2)[None] - radius[..., None]
    offset = local - jnp.clip(local, -half, half)
    distance = geometry.norm(offset)
    outside = jnp.maximum(distance - radius, TOUCH) / jnp.maximum(distance, TOUCH)
    return geometry.rotate(offset * outside[..., None], jnp.broadcast_to(yaw, distance.shape))
