"""How hard drivers accelerate and brake: the Intelligent Driver Model, kept within what cars do.

Treiber, Hennecke, Helbing 2000: Congested traffic states in empirical observations and microscopic simulations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from waymax_sim.datatypes.agents import CYCLIST
from waymax_sim.pytree import Array, pytree

# No driver accelerates or brakes harder (m/s^2).
HARDEST_BRAKING, HARDEST_ACCELERATION = 8.0, 3.0
# Gaps count as no smaller (m), and nothing further away matters (m).
SMALLEST_GAP, FAR = 0.1, 1e4
# Exponent of the free road.
EXPONENT = 4


@pytree
class Drivers:
    """What agents are like as drivers. The leading axes are free.

    Attributes:
      acceleration: Comfortable acceleration, m/s^2.
      braking: Comfortable braking, m/s^2.
      headway: Time to the one in front, s.
      standstill: Gap to the one in front at rest, m.
      sideways: Comfortable acceleration to the side in bends, m/s^2.
      eagerness: Speed on a free road as a part of the speed limit.
      top_speed: m/s.
    """

    acceleration: Float[Array, "*lead"]
    braking: Float[Array, "*lead"]
    headway: Float[Array, "*lead"]
    standstill: Float[Array, "*lead"]
    sideways: Float[Array, "*lead"]
    eagerness: Float[Array, "*lead"]
    top_speed: Float[Array, "*lead"]


class Range(NamedTuple):
    """Lowest and highest value."""

    low: float
    high: float


# From which range each trait is drawn: traits of car drivers around the values of the paper, and those of cyclists.
CARS = {
    "acceleration": Range(1.2, 2.0),
    "braking": Range(1.6, 2.6),
    "headway": Range(1.0, 1.8),
    "standstill": Range(1.5, 2.5),
    "sideways": Range(1.8, 2.6),
    "eagerness": Range(0.85, 1.05),
    "top_speed": Range(40.0, 45.0),
}
CYCLES = CARS | {"acceleration": Range(0.7, 1.2), "standstill": Range(0.8, 1.5), "top_speed": Range(4.0, 7.0)}


def draw_drivers(agent_type: Int[Array, " N"], key: Key[Array, ""]) -> Drivers:
    """Traits of each agent by its type, from a stream of random numbers of its own: padding changes no draw."""

    def draw(index, agent_type):
        part = jax.random.uniform(jax.random.fold_in(key, index), (len(CARS),))
        cycles = agent_type == CYCLIST
        traits = {}
        for place, name in enumerate(CARS):
            car, cycle = CARS[name], CYCLES[name]
            low = jnp.where(cycles, cycle.low, car.low)
            traits[name] = low + part[place] * (jnp.where(cycles, cycle.high, car.high) - low)
        return Drivers(**traits)

    return jax.vmap(draw)(jnp.arange(agent_type.shape[0]), agent_type)


def free_road(speed: Float[Array, "*#b"], desired: Float[Array, "*#b"], drivers: Drivers) -> Float[Array, "*#b"]:
    """Acceleration (m/s^2) on a free road at a speed and a desired speed (m/s)."""
    return drivers.acceleration * (1.0 - (speed / desired) ** EXPONENT)


def interaction(
    speed: Float[Array, "*#b"], gap: Float[Array, "*#b"], closing: Float[Array, "*#b"], drivers: Drivers
) -> Float[Array, "*#b"]:
    """Braking (m/s^2, positive) for what is ahead at a gap (m) that shrinks by `closing` (m/s)."""
    wanted = speed * drivers.headway + speed * closing / (2.0 * jnp.sqrt(drivers.acceleration * drivers.braking))
    wanted = drivers.standstill + jnp.maximum(0.0, wanted)
    return drivers.acceleration * (wanted / jnp.maximum(gap, SMALLEST_GAP)) ** 2


def bounded_interaction(
    speed: Float[Array, "*#b"], gap: Float[Array, "*#b"], closing: Float[Array, "*#b"], drivers: Drivers
) -> Float[Array, "*#b"]:
    """The same, but brakes harder than is comfortable only where there is need.

    The model alone brakes at hundreds of m/s^2 for somebody who cuts in close. What is needed is to lose the
    difference in speed within most of the gap, and what would be gained on a free road.
    """
    approach = jnp.maximum(closing, 0.0)
    needed = approach**2 / (2.0 * jnp.maximum(0.8 * (gap - 0.5), SMALLEST_GAP))
    limit = drivers.acceleration + jnp.maximum(drivers.braking, 1.2 * needed)
    return jnp.minimum(interaction(speed, gap, closing, drivers), limit)
