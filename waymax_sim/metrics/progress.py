"""Progress along the logged path."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.ops import polyline
from waymax_sim.pytree import Array, tree_index

# Length of the shortest logged path along which there is progress, m.
MIN_LOG_LENGTH = 0.5
# Length of the shortest logged step that has a direction, m.
MIN_LOG_STEP = 0.01
# Largest change of the arc length of an agent in a step, m.
MAX_ARC_LENGTH_CHANGE = 10.0


def log_progress(snapshot: Snapshot) -> MetricValue:
    """Share of its logged path that an agent drove in the last step; the sum over an episode is its total progress.

    The path is the polyline of the logged positions from the current step on. The agent is projected on it before and
    after the step: on the nearest segment within 90 degrees of its heading (on the nearest one if there is none), after
    the step within 10 m of arc length from its projection before. So reversing is negative, the projection cannot jump
    at a loop or at a crossing of the path with itself, and the total is at most 1. Where the log is not valid, the path
    has a gap. Valid where the logged path is at least 0.5 m long, for agents that are valid now and one step earlier.

    Source: nuPlan, ego progress along expert route, with the log as the route.
    """
    scenario, now, before = snapshot.scenario, snapshot.evaluated_agents, snapshot.select_evaluated(snapshot.previous)
    log = scenario.log
    if snapshot.rows is not None:
        log = tree_index(log, (slice(None), jnp.maximum(snapshot.rows, 0)))
    start, along, length = _log_segments(log, scenario.current_step)
    segment_begin = jnp.cumsum(length, axis=0) - length
    total = jnp.sum(length, axis=0)

    def project(xy: Float[Array, "O 2"], yaw: Float[Array, " O"], mask: Bool[Array, "K O"]):
        """Arc length (m) of the nearest point on the segments of the mask, preferably in the direction of the yaw."""
        is_forward = mask & (geometry.dot(along, geometry.unit_vector(yaw)[None]) >= 0)
        usable = jnp.where(jnp.any(is_forward, axis=0)[None], is_forward, mask)
        first, step = (polyline.components(vectors.swapaxes(0, 1)) for vectors in (start, along))
        nearest = polyline.project(first, step, (xy[:, 0, None], xy[:, 1, None]), usable.T, length.T**2)
        begin, size = (
            jnp.take_along_axis(values, nearest.index[None], axis=0)[0] for values in (segment_begin, length)
        )
        return begin + nearest.fraction * size

    is_segment = length > 0
    previous_s = project(before.xyz[:, :2], before.yaw, is_segment)
    is_near = segment_begin <= (previous_s + MAX_ARC_LENGTH_CHANGE)[None]
    is_near = is_near & (segment_begin + length >= (previous_s - MAX_ARC_LENGTH_CHANGE)[None])
    delta_s = project(now.xyz[:, :2], now.yaw, is_segment & is_near) - previous_s
    log_moves = total >= MIN_LOG_LENGTH
    share = delta_s / jnp.where(log_moves, total, 1.0)
    return masked_value(share, now.valid & before.valid & log_moves)


def log_arc_length(scenario: Scenario) -> Float[Array, "T N"]:
    """Arc length (m) of the logged path of each agent at each step, from the current step on."""
    _, _, length = _log_segments(scenario.log, scenario.current_step)
    return jnp.concatenate([jnp.zeros_like(length[:1]), jnp.cumsum(length, axis=0)])


def _log_segments(
    log: AgentState, current_step: Int[Array, ""]
) -> tuple[Float[Array, "K N 2"], Float[Array, "K N 2"], Float[Array, "K N"]]:
    """Segments of the logged paths between consecutive steps: start (m), vector to the end (m), and length (m).

    All are 0 where a segment is not part of the path.
    """
    valid = log.valid & (jnp.arange(log.valid.shape[0]) >= current_step)[:, None]
    is_segment = (valid[:-1] & valid[1:])[..., None]
    # Masked before the norm, so that the content of invalid states does not reach gradients.
    start = jnp.where(is_segment, log.xyz[:-1, :, :2], 0.0)
    along = jnp.where(is_segment, log.xyz[1:, :, :2] - log.xyz[:-1, :, :2], 0.0)
    length = geometry.norm(along)
    return start, along, jnp.where(length >= MIN_LOG_STEP, length, 0.0)
