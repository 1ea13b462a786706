"""Lateral control: the arc through a target point ahead.

Coulter 1992: Implementation of the pure pursuit path tracking algorithm.
"""

import jax.numpy as jnp
from jaxtyping import Float

from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.pytree import Array, static_record


@static_record
class PurePursuitParams:
    """Distance of the target point. The values are choices of this package.

    Attributes:
      lookahead_time: Driving time to the target point, s.
      min_lookahead: Lower bound of the distance to it, m; nearer points make the steering oscillate.
      max_lookahead: Upper bound, m; further points cut curves.
    """

    lookahead_time: float = 0.9
    min_lookahead: float = 4.0
    max_lookahead: float = 20.0


PURE_PURSUIT = PurePursuitParams()
# Lower bound of the squared distance to the target, m^2: the curvature has a pole at zero.
MIN_SQUARED_DISTANCE = 1.0
# Speed below which the bound on the lateral acceleration no longer rises, m/s.
MIN_CURVATURE_SPEED = 1.0


def lookahead_distance(speed: Float[Array, " n"]) -> Float[Array, " n"]:
    """Arc length (m) from the agent to its target point at a speed (m/s)."""
    params = PURE_PURSUIT
    return jnp.clip(params.lookahead_time * speed, params.min_lookahead, params.max_lookahead)


def pursuit_curvature(target: Float[Array, "n 2"], agents: AgentState, speed: Float[Array, " n"]) -> Float[Array, " n"]:
    """Curvature (1/m) of the arc that is tangent to the heading and passes through the target.

    Args:
      target: Target points, m.
      agents: Present poses, [n].
      speed: Speeds, m/s; the lateral acceleration that they cause is bounded.
    """
    local = geometry.to_frame(target, agents.xyz[:, :2], agents.yaw)
    squared_distance = jnp.maximum(geometry.dot(local, local), MIN_SQUARED_DISTANCE)
    max_lateral = VEHICLE_LIMITS.max_lateral_acceleration
    limit = jnp.minimum(VEHICLE_LIMITS.max_curvature, max_lateral / jnp.maximum(speed, MIN_CURVATURE_SPEED) ** 2)
    return jnp.clip(2.0 * local[:, 1] / squared_distance, -limit, limit)
