"""What planners that search for an action sequence share."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.planners.prediction import NUM_STEPS
from waymax_sim.pytree import Array, pytree

# Sequences are changed at every so many steps, and in between along straight lines.
KNOT = 5
NUM_KNOTS = NUM_STEPS // KNOT + 1
# Slower than this, curvatures are changed no more than at this speed (m/s).
SLOW = 3.0


@pytree
class Search:
    """What a planner that searches has in mind.

    Attributes:
      plan: Accelerations (m/s^2) and curvatures (1/m) of the next steps.
      served: The stop line that the ego has stopped at last, -1 for none.
    """

    plan: Float[Array, "T 2"]
    served: Int[Array, ""]


def no_plan() -> Search:
    """Neither accelerate nor steer."""
    return Search(plan=jnp.zeros((NUM_STEPS, 2)), served=jnp.asarray(-1, jnp.int32))


def shifted(plan: Float[Array, "T 2"]) -> Float[Array, "T 2"]:
    """The plan one step later; it goes on as it ends."""
    return jnp.concatenate([plan[1:], plan[-1:]])


def changes(
    knots: Float[Array, "Q *lead 2"], speed: Float[Array, ""], acceleration: float, lateral: float
) -> Float[Array, "T *lead 2"]:
    """Changes of a sequence from numbers at its knots.

    Args:
      knots: Numbers, 1 for a change by one unit.
      speed: Of the ego now, m/s.
      acceleration: Unit of accelerations, m/s^2.
      lateral: Unit of the accelerations to the side that curvatures cause at that speed, m/s^2.
    """
    place = jnp.arange(NUM_STEPS) / KNOT
    low = jnp.floor(place).astype(jnp.int32)
    part = (place - low.astype(jnp.float32)).reshape(-1, *(1 for _ in knots.shape[1:]))
    unit = jnp.stack([jnp.asarray(acceleration), lateral / jnp.maximum(speed, SLOW) ** 2])
    return ((1 - part) * knots[low] + part * knots[low + 1]) * unit.reshape(*(1 for _ in knots.shape[:-1]), 2)
