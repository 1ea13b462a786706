"""The ego on its route: arc length, lateral offset and speed, and the other agents as they are."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.datatypes.signals import STOP_STATES
from waymax_sim.env import Observation
from waymax_sim.pytree import Array, pytree, static, tree_index

# Lateral offset up to which a stop point is on the route, m.
MAX_STOP_OFFSET = 2.0


@pytree
class RouteFrame:
    """The ego and the first route of its scenario.

    Attributes:
      points: Points of the route, m; padding repeats the last one.
      points_arc_length: Their arc lengths, m, ascending; infinite for padding.
      x: Position of the ego, m.
      y: Position of the ego, m.
      yaw: Heading, rad.
      speed: Forward speed, m/s, not negative.
      size: Length and width, m.
      arc_length: Position on the route, m.
      lateral: Offset to the left of the route, m.
      red_line: Arc length of the first red light ahead, m; infinite without one.
      others: x, y, vx, vy (m, m/s), half extents along and across their heading (m), cos and sin of it, [N].
      is_other: Mask of the valid other agents.
      dt: Time step, s.
    """

    points: Float[Array, "R 2"]
    points_arc_length: Float[Array, " R"]
    x: Float[Array, ""]
    y: Float[Array, ""]
    yaw: Float[Array, ""]
    speed: Float[Array, ""]
    size: Float[Array, " 2"]
    arc_length: Float[Array, ""]
    lateral: Float[Array, ""]
    red_line: Float[Array, ""]
    others: Float[Array, "N 8"]
    is_other: Bool[Array, " N"]
    dt: float = static(default=0.1)


def route_frame(observation: Observation) -> RouteFrame:
    """The frame of an observation, whose scenario has a route."""
    routes, agents, info = observation.routes, observation.agents, observation.info
    assert routes is not None, "driving tasks need the route of the sdc"
    ego = tree_index(agents, jnp.argmax(info.is_sdc))
    valid = jnp.asarray(routes.valid)[0]
    last = jnp.maximum(jnp.sum(valid) - 1, 0)
    points = jnp.asarray(routes.xyz)[0, :, :2]
    points = jnp.where(valid[:, None], points, points[last][None])
    arc_length = jnp.where(valid, jnp.asarray(routes.arc_length)[0], jnp.inf)
    position, lateral = _project(points, arc_length, ego.xyz[:2])
    cos, sin = jnp.cos(ego.yaw), jnp.sin(ego.yaw)
    speed = jnp.maximum(ego.velocity[0] * cos + ego.velocity[1] * sin, 0.0)
    size = jnp.asarray(info.size)
    others = [agents.xyz[:, 0], agents.xyz[:, 1], agents.velocity[:, 0], agents.velocity[:, 1]]
    others += [size[:, 0] / 2, size[:, 1] / 2, jnp.cos(agents.yaw), jnp.sin(agents.yaw)]
    return RouteFrame(
        points=points,
        points_arc_length=arc_length,
        x=ego.xyz[0],
        y=ego.xyz[1],
        yaw=ego.yaw,
        speed=speed,
        size=size[jnp.argmax(info.is_sdc), :2],
        arc_length=position,
        lateral=lateral,
        red_line=_red_line(observation, points, arc_length, position),
        others=jnp.stack(others, axis=-1),
        is_other=agents.valid & ~jnp.asarray(info.is_sdc),
        dt=observation.dt,
    )


def route_point(
    frame: RouteFrame, arc_length: Float[Array, "*q"]
) -> tuple[Float[Array, "*q"], Float[Array, "*q"], Float[Array, "*q"], Float[Array, "*q"]]:
    """Position (m) and direction of the route at arc lengths (m); straight on beyond its ends."""
    count = jnp.sum(jnp.isfinite(frame.points_arc_length))
    index = jnp.searchsorted(frame.points_arc_length, arc_length, side="right") - 1
    index = jnp.clip(index, 0, jnp.maximum(count - 2, 0))
    start, end = frame.points[index], frame.points[index + 1]
    dx, dy = end[..., 0] - start[..., 0], end[..., 1] - start[..., 1]
    length = jnp.maximum(jnp.sqrt(dx * dx + dy * dy), 1e-6)
    cos, sin = dx / length, dy / length
    ahead = arc_length - frame.points_arc_length[index]
    return start[..., 0] + ahead * cos, start[..., 1] + ahead * sin, cos, sin


def _project(
    points: Float[Array, "R 2"], arc_length: Float[Array, " R"], xy: Float[Array, "*q 2"]
) -> tuple[Float[Array, "*q"], Float[Array, "*q"]]:
    """Arc length and lateral offset of the nearest point of a route.

    Args:
      points: Its points.
      arc_length: Their arc lengths.
      xy: Positions, m.
    """
    shape = (*(1 for _ in xy.shape[:-1]), -1, 2)
    start, step = points[:-1].reshape(shape), (points[1:] - points[:-1]).reshape(shape)
    is_segment = jnp.isfinite(arc_length[1:])
    length = jnp.maximum(jnp.sqrt(jnp.sum(step**2, axis=-1)), 1e-6)
    offset = xy[..., None, :] - start
    along = jnp.sum(offset * step, axis=-1) / length
    left = (step[..., 0] * offset[..., 1] - step[..., 1] * offset[..., 0]) / length
    outside = along - jnp.clip(along, 0.0, length)
    distance = jnp.where(is_segment.reshape(shape[:-1]), outside**2 + left**2, jnp.inf)
    nearest = jnp.argmin(distance, axis=-1)
    lead = tuple(jnp.indices(nearest.shape, sparse=True)) if nearest.ndim else ()
    return arc_length[nearest] + along[(*lead, nearest)], left[(*lead, nearest)]


def _red_line(
    observation: Observation, points: Float[Array, "R 2"], arc_length: Float[Array, " R"], position: Float[Array, ""]
) -> Float[Array, ""]:
    signals = observation.signals
    state = jnp.asarray(signals.state)
    is_red = jnp.zeros(state.shape, bool)
    for code in STOP_STATES:
        is_red = is_red | (state == code)
    at, lateral = _project(points, arc_length, jnp.asarray(signals.stop_point)[:, :2])
    is_ahead = is_red & jnp.asarray(signals.valid) & (jnp.abs(lateral) < MAX_STOP_OFFSET) & (at >= position)
    return jnp.min(jnp.where(is_ahead, at, jnp.inf), initial=jnp.inf)
