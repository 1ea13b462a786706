"""Contact intervals of boxes that move at constant velocity, and the side of the contact."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.overlap import HEIGHT_TOLERANCE, Boxes3D
from waymax_sim.ops.backend import materialize
from waymax_sim.pytree import Array

# Speed below which an agent is stationary, m/s (nuPlan).
STATIONARY_SPEED = 0.05
# Cosine of the largest angle between the contact normal and the direction of travel for a contact at the front or rear.
FRONT_CONTACT_COSINE = 0.7071


class MovingBoxes(NamedTuple):
    """Upright boxes that move at constant velocity and keep their heading.

    Attributes:
      boxes: The boxes at time 0.
      velocity_x: m/s.
      velocity_y: m/s.
      velocity_z: m/s.
    """

    boxes: Boxes3D
    velocity_x: Float[Array, "*n"]
    velocity_y: Float[Array, "*n"]
    velocity_z: Float[Array, "*n"]

    @classmethod
    def from_agents(
        cls, agents: AgentState, velocity: Float[Array, "N 2"], climb: Float[Array, " N"], size: Float[Array, "N 3"]
    ) -> "MovingBoxes":
        """Boxes of agents.

        Args:
          agents: The agents, [N].
          velocity: Velocity in the plane, m/s.
          climb: Vertical velocity, m/s.
          size: Length, width and height, m.
        """
        moving = cls(Boxes3D.from_agents(agents, size), velocity[:, 0], velocity[:, 1], climb)
        # One evaluation per agent: without the barrier XLA may fuse it into the comparison of all pairs.
        return materialize(moving)

    @property
    def forward_speed(self) -> Float[Array, "*n"]:
        """Speed along the heading, m/s; negative for reversing agents."""
        return self.velocity_x * self.boxes.outline.cos + self.velocity_y * self.boxes.outline.sin

    @property
    def is_stationary(self) -> Bool[Array, "*n"]:
        """Whether the speed in the plane is below `STATIONARY_SPEED`."""
        return self.velocity_x * self.velocity_x + self.velocity_y * self.velocity_y < STATIONARY_SPEED**2


class ContactInterval(NamedTuple):
    """The time interval in which two boxes share space, and the side of the first one on which contact is made.

    Attributes:
      begin: Time from which they share space, s; negative where they already do. Infinite without a contact.
      end: Time until which they share space, s. There is a contact where `begin < end`.
      contact_cosine: Cosine of the angle between the direction of travel of the first box and the contact normal: 1 at
        its front, 0 at a side, -1 at its rear.
    """

    begin: Float[Array, "*n"]
    end: Float[Array, "*n"]
    contact_cosine: Float[Array, "*n"]


def contact_interval(a: MovingBoxes, b: MovingBoxes) -> ContactInterval:
    """The contact interval of boxes `a` and `b` in closed form: a separating-axis test over time. Boxes broadcast.

    Along each axis the distance of two boxes that keep their headings is linear in time, so their projections overlap
    in one interval of times, and the boxes share space in the intersection of these intervals. The contact normal is
    the axis whose projections overlap last; of several, the axes of the first box take precedence.
    """
    box_a, box_b = a.boxes.outline, b.boxes.outline
    x, y = box_b.x - box_a.x, box_b.y - box_a.y
    cos, sin = box_a.cos * box_b.cos + box_a.sin * box_b.sin, box_a.cos * box_b.sin - box_a.sin * box_b.cos
    offsets = geometry.box_axis_components(box_a, box_b, x, y)
    rates = geometry.box_axis_components(box_a, box_b, b.velocity_x - a.velocity_x, b.velocity_y - a.velocity_y)
    extents = geometry.box_axis_extents(box_a, box_b, jnp.abs(cos), jnp.abs(sin))
    # Components of the four axes along the heading of the first box.
    forward_components = jnp.ones_like(cos), jnp.zeros_like(cos), cos, -sin
    begin, end, contact_cosine = jnp.full_like(x, -jnp.inf), jnp.full_like(x, jnp.inf), jnp.zeros_like(x)
    for offset, rate, extent, forward in zip(offsets, rates, extents, forward_components, strict=True):
        first, last = _overlap_times(offset, rate, extent)
        side = jnp.where(rate == 0, jnp.sign(offset), -jnp.sign(rate))
        is_later = first > begin
        begin, end, contact_cosine = (
            jnp.where(is_later, first, begin),
            jnp.minimum(end, last),
            jnp.where(is_later, side * forward, contact_cosine),
        )
    # Boxes without height on one level overlap.
    height = a.boxes.half_height + b.boxes.half_height + HEIGHT_TOLERANCE
    first, last = _overlap_times(b.boxes.z - a.boxes.z, b.velocity_z - a.velocity_z, height)
    begin, end = jnp.maximum(begin, first), jnp.minimum(end, last)
    contact_cosine = jnp.where(a.forward_speed < -STATIONARY_SPEED, -contact_cosine, contact_cosine)
    valid = a.boxes.absence + b.boxes.absence == 0
    return ContactInterval(jnp.where(valid, begin, jnp.inf), end, contact_cosine)


def _overlap_times(
    offset: Float[Array, "*n"], rate: Float[Array, "*n"], extent: Float[Array, "*n"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The interval of times t with |offset + rate t| < extent; (inf, inf) if there is none."""
    is_constant = rate == 0
    rate = jnp.where(is_constant, 1.0, rate)
    one, other = (-extent - offset) / rate, (extent - offset) / rate
    is_overlapping = jnp.abs(offset) < extent
    begin = jnp.where(is_constant, jnp.where(is_overlapping, -jnp.inf, jnp.inf), jnp.minimum(one, other))
    return begin, jnp.where(is_constant, jnp.inf, jnp.maximum(one, other))
