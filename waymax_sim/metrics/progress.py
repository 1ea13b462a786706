"""Getting on along the logged way."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value
from waymax_sim.pytree import Array, take

# A log that makes less way than this has none to make (m), and steps of it shorter than this have no direction (m).
MIN_LENGTH, MIN_STEP = 0.5, 0.01
# The place of an agent on its way moves by no more than this in a step (m).
REACH = 10.0


def log_progress(snapshot: Snapshot) -> MetricValue:
    """Share of its logged way that an agent covered in the last step; the sum over an episode says how much in all.

    The way is the polyline of the logged positions from the current step on. The agent is projected on it before and
    after the step: on the nearest piece that runs within 90 degrees of its heading (on the nearest one, if none does),
    and after the step within 10 m of way from where it was before. So going back counts against it, neither a loop nor
    a crossing of its own way lets it jump, and it cannot cover more than all of it. Where the log was not seen, the way
    has a gap. Valid where the log makes at least 0.5 m of way, and the agent is and was one step before.

    Source: nuPlan, ego progress along expert route, with the log as the route.
    """
    scenario, now, before = snapshot.scenario, snapshot.subjects, snapshot.of_subjects(snapshot.previous)
    log = scenario.log
    if snapshot.rows is not None:
        log = take(log, (slice(None), jnp.maximum(snapshot.rows, 0)))
    start, along, length = _pieces(log, scenario.current_step)
    begins = jnp.cumsum(length, axis=0) - length
    total = jnp.sum(length, axis=0)

    def place(xy: Float[Array, "O 2"], yaw: Float[Array, " O"], allowed: Bool[Array, "K O"]):
        """Arc length (m) of the nearest point on the allowed pieces of the way."""
        part = jnp.clip(geometry.dot(xy[None] - start, along) / jnp.where(length > 0, length**2, 1.0), 0.0, 1.0)
        gap = xy[None] - start - part[..., None] * along
        arc = begins + part * length
        forward = allowed & (geometry.dot(along, geometry.heading(yaw)[None]) >= 0)
        usable = jnp.where(jnp.any(forward, axis=0)[None], forward, allowed)
        nearest = jnp.argmin(jnp.where(usable, geometry.dot(gap, gap), jnp.inf), axis=0)
        return jnp.take_along_axis(arc, nearest[None], axis=0)[0]

    there = length > 0
    was = place(before.xyz[:, :2], before.yaw, there)
    near = there & (begins <= (was + REACH)[None]) & (begins + length >= (was - REACH)[None])
    covered = place(now.xyz[:, :2], now.yaw, near) - was
    moves = total >= MIN_LENGTH
    share = covered / jnp.where(moves, total, 1.0)
    return masked_value(share, now.valid & before.valid & moves)


def logged_way(scenario: Scenario) -> Float[Array, "T N"]:
    """Way (m) that the log of each agent has made up to each step, from the current step on."""
    _, _, length = _pieces(scenario.log, scenario.current_step)
    return jnp.concatenate([jnp.zeros_like(length[:1]), jnp.cumsum(length, axis=0)])


def _pieces(
    log: AgentState, current_step: Int[Array, ""]
) -> tuple[Float[Array, "K N 2"], Float[Array, "K N 2"], Float[Array, "K N"]]:
    """The pieces of the logged ways, one between any two steps: where they start, where they lead, length (m).

    The length is 0 where a piece is no part of the way.
    """
    seen = log.valid & (jnp.arange(log.valid.shape[0]) >= current_step)[:, None]
    start, along = log.xyz[:-1, :, :2], log.xyz[1:, :, :2] - log.xyz[:-1, :, :2]
    length = jnp.where(seen[:-1] & seen[1:], geometry.norm(along), 0.0)
    return start, along, jnp.where(length >= MIN_STEP, length, 0.0)
