"""When two boxes meet that move on as they do, and on which side."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.overlap import MEETS
from waymax_sim.pytree import Array

# Agents slower than this stand (m/s), as in nuPlan.
STANDING = 0.05
# A contact is at the front or the rear where its normal is within 45 degrees of the direction of travel.
FRONT = 0.7071


class Movers(NamedTuple):
    """Upright boxes that move at constant velocity and keep their heading; halves in m, velocities in m/s."""

    x: Float[Array, "*n"]
    y: Float[Array, "*n"]
    z: Float[Array, "*n"]
    u: Float[Array, "*n"]
    v: Float[Array, "*n"]
    w: Float[Array, "*n"]
    cos: Float[Array, "*n"]
    sin: Float[Array, "*n"]
    long: Float[Array, "*n"]
    wide: Float[Array, "*n"]
    high: Float[Array, "*n"]
    present: Bool[Array, "*n"]

    @classmethod
    def of(
        cls, agents: AgentState, velocity: Float[Array, "N 2"], climb: Float[Array, " N"], size: Float[Array, "N 3"]
    ) -> "Movers":
        """Boxes of agents with velocities in the plane and upwards (m/s). Those without an area are not present."""
        half = jnp.abs(size) / 2
        present = agents.valid & (half[:, 0] > 0) & (half[:, 1] > 0)
        movers = cls(
            x=agents.xyz[:, 0],
            y=agents.xyz[:, 1],
            z=agents.xyz[:, 2],
            u=velocity[:, 0],
            v=velocity[:, 1],
            w=climb,
            cos=jnp.cos(agents.yaw),
            sin=jnp.sin(agents.yaw),
            long=half[:, 0],
            wide=half[:, 1],
            high=half[:, 2],
            present=present,
        )
        # Without the barrier XLA may repeat all this for every pair.
        return jax.lax.optimization_barrier(movers)

    @property
    def ahead(self) -> Float[Array, "*n"]:
        """Speed along the heading, m/s; negative for those that reverse."""
        return self.u * self.cos + self.v * self.sin

    @property
    def stands(self) -> Bool[Array, "*n"]:
        """Whether it stands."""
        return self.u * self.u + self.v * self.v < STANDING**2


class Meeting(NamedTuple):
    """How the outlines and heights of two boxes meet, seen from the first one.

    Attributes:
      begin: Time from which they share space, s; negative where they already do. Infinite where they never will.
      end: Time until which they share space, s. They meet where `begin < end`.
      ahead: Cosine between the direction in which the first one travels and the side on which it is met: 1 at its
        front, 0 at a side, -1 at its rear.
    """

    begin: Float[Array, "*n"]
    end: Float[Array, "*n"]
    ahead: Float[Array, "*n"]


def meeting(a: Movers, b: Movers) -> Meeting:
    """When each of `a` and `b` meet, in closed form: boxes broadcast against each other.

    Along each axis of a separating-axis test the distance of two boxes that keep their headings is linear in time. So
    there is one interval of times in which their shadows overlap, and they share space while all shadows do. The side
    is that of the axis whose shadows meet last; where two do so at once, the axes of the first box come first.
    """
    x, y, u, v = b.x - a.x, b.y - a.y, b.u - a.u, b.v - a.v
    cos, sin = a.cos * b.cos + a.sin * b.sin, a.cos * b.sin - a.sin * b.cos
    c, s = jnp.abs(cos), jnp.abs(sin)
    # Per axis: separation, its rate, sum of the half extents, and how far the axis points ahead of the first box.
    axes = (
        (a.cos * x + a.sin * y, a.cos * u + a.sin * v, a.long + c * b.long + s * b.wide, jnp.ones_like(cos)),
        (a.cos * y - a.sin * x, a.cos * v - a.sin * u, a.wide + s * b.long + c * b.wide, jnp.zeros_like(cos)),
        (b.cos * x + b.sin * y, b.cos * u + b.sin * v, b.long + c * a.long + s * a.wide, cos),
        (b.cos * y - b.sin * x, b.cos * v - b.sin * u, b.wide + s * a.long + c * a.wide, -sin),
    )
    begin, end, ahead = jnp.full_like(x, -jnp.inf), jnp.full_like(x, jnp.inf), jnp.zeros_like(x)
    for separation, rate, reach, forward in axes:
        first, last = _shadows(separation, rate, reach)
        side = jnp.where(rate == 0, jnp.sign(separation), -jnp.sign(rate))
        later = first > begin
        begin, end, ahead = (
            jnp.where(later, first, begin),
            jnp.minimum(end, last),
            jnp.where(later, side * forward, ahead),
        )
    # Flat boxes that lie on one level meet.
    first, last = _shadows(b.z - a.z, b.w - a.w, a.high + b.high + MEETS)
    begin, end = jnp.maximum(begin, first), jnp.minimum(end, last)
    ahead = jnp.where(a.ahead < -STANDING, -ahead, ahead)
    return Meeting(jnp.where(a.present & b.present, begin, jnp.inf), end, ahead)


def _shadows(
    separation: Float[Array, "*n"], rate: Float[Array, "*n"], reach: Float[Array, "*n"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The interval of times in which |separation + rate t| < reach; (inf, inf) for never."""
    fixed = rate == 0
    rate = jnp.where(fixed, 1.0, rate)
    one, other = (-reach - separation) / rate, (reach - separation) / rate
    always = jnp.abs(separation) < reach
    begin = jnp.where(fixed, jnp.where(always, -jnp.inf, jnp.inf), jnp.minimum(one, other))
    return begin, jnp.where(fixed, jnp.inf, jnp.maximum(one, other))
