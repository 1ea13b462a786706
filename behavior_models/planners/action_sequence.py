"""Action sequences of planners that optimize them: the plan between steps, and perturbations at knots."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.planners.prediction import PREDICTION
from waymax_sim.datatypes.scenario import interval_steps
from waymax_sim.pytree import Array, pytree

# Time between two knots of a perturbation, s; a vehicle hardly reacts within less.
KNOT_INTERVAL = 0.5
# Lower bound of the speed in the conversion from lateral acceleration to curvature, m/s.
MIN_KNOT_SPEED = 3.0


@pytree
class PlannerState:
    """State of a planner between two steps.

    Attributes:
      plan: Accelerations (m/s^2) and curvatures (1/m) of the next steps.
      cleared_stop_line: The last stop line at which the ego has stopped, -1 for none.
    """

    plan: Float[Array, "T 2"]
    cleared_stop_line: Int[Array, ""]


def initial_planner_state(dt: float) -> PlannerState:
    """A plan of zero acceleration and curvature, for a time step (s)."""
    return PlannerState(plan=jnp.zeros((PREDICTION.num_steps(dt), 2)), cleared_stop_line=jnp.asarray(-1, jnp.int32))


def num_knots(dt: float) -> int:
    """Number of knots Q of a perturbation, for a time step (s)."""
    return 1 - -PREDICTION.num_steps(dt) // interval_steps(KNOT_INTERVAL, dt)


def shift_plan(plan: Float[Array, "T 2"]) -> Float[Array, "T 2"]:
    """The plan one step later; the last action is repeated."""
    return jnp.concatenate([plan[1:], plan[-1:]])


def interpolate_knots(
    knots: Float[Array, "Q *lead 2"], dt: float, speed: Float[Array, ""], acceleration: float, lateral: float
) -> Float[Array, "T *lead 2"]:
    """Perturbations of a sequence, linear between their values at the knots.

    Args:
      knots: Values at the knots, in the units below.
      dt: Time step, s.
      speed: Present speed of the ego, m/s.
      acceleration: Unit of accelerations, m/s^2.
      lateral: Unit of curvatures, as the lateral acceleration that they cause at this speed, m/s^2.
    """
    position = jnp.arange(PREDICTION.num_steps(dt)) / interval_steps(KNOT_INTERVAL, dt)
    low = jnp.floor(position).astype(jnp.int32)
    fraction = (position - low.astype(jnp.float32)).reshape(-1, *(1 for _ in knots.shape[1:]))
    unit = jnp.stack([jnp.asarray(acceleration), lateral / jnp.maximum(speed, MIN_KNOT_SPEED) ** 2])
    values = (1 - fraction) * knots[low] + fraction * knots[low + 1]
    return values * unit.reshape(*(1 for _ in knots.shape[:-1]), 2)
