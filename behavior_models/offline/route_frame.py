"""The ego on its route: arc length, lateral offset and speed, and the other agents as they are."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
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
      others: x, y (m), forward speed (m/s), half length, half width (m), yaw (rad), yaw rate (rad/s) and
        acceleration (m/s^2) of all agents.
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
    before = tree_index(observation.history, -2)
    yaw_rate = geometry.wrap_angle(agents.yaw - before.yaw) / observation.dt
    forward = agents.velocity[:, 0] * jnp.cos(agents.yaw) + agents.velocity[:, 1] * jnp.sin(agents.yaw)
    others = [agents.xyz[:, 0], agents.xyz[:, 1], forward, size[:, 0] / 2, size[:, 1] / 2, agents.yaw]
    speed_change = forward - before.velocity[:, 0] * jnp.cos(before.yaw) - before.velocity[:, 1] * jnp.sin(before.yaw)
    others += [jnp.where(before.valid, rate, 0.0) for rate in (yaw_rate, speed_change / observation.dt)]
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


def route_index(frame: RouteFrame, arc_length: Float[Array, "*q"]) -> Int[Array, "*q"]:
    """Index of the segment of the route at arc lengths (m); the first and the last one beyond its ends."""
    count = jnp.sum(jnp.isfinite(frame.points_arc_length))
    index = jnp.searchsorted(frame.points_arc_length, arc_length, side="right") - 1
    return jnp.clip(index, 0, jnp.maximum(count - 2, 0)).astype(jnp.int32)


def route_point(
    frame: RouteFrame, arc_length: Float[Array, "*q"], index: Int[Array, "*q"]
) -> tuple[Float[Array, "*q"], Float[Array, "*q"], Float[Array, "*q"], Float[Array, "*q"]]:
    """Position (m) and direction of the route at arc lengths; straight on beyond its ends.

    Args:
      frame: The ego on its route.
      arc_length: Arc lengths, m.
      index: From `route_index`.
    """
    cos, sin = segment_directions(frame)
    ahead = arc_length - frame.points_arc_length[index]
    cos, sin = cos[index], sin[index]
    return frame.points[index, 0] + ahead * cos, frame.points[index, 1] + ahead * sin, cos, sin


def segment_directions(frame: RouteFrame) -> tuple[Float[Array, " R1"], Float[Array, " R1"]]:
    """Cosine and sine of the direction of each segment of the route."""
    step = frame.points[1:] - frame.points[:-1]
    length = jnp.maximum(jnp.sqrt(jnp.sum(step**2, axis=-1)), 1e-6)
    return step[:, 0] / length, step[:, 1] / length


def _project(
    points: Float[Array, "R 2"], arc_length: Float[Array, " R"], xy: Float[Array, "*q 2"]
) -> tuple[Float[Array, "*q"], Float[Array, "*q"]]:
    """Arc length and lateral offset of the nearest point of a route.

    Args:
      points: Its points.
      arc_length: Their arc lengths.
      xy: Positions, m.
    """
    # [q, R - 1]; a single position is one of a list.
    position = xy.reshape(-1, 1, 2)
    start, step = points[None, :-1], (points[1:] - points[:-1])[None]
    length = jnp.maximum(jnp.sqrt(jnp.sum(step**2, axis=-1)), 1e-6)
    offset = position - start
    along = jnp.sum(offset * step, axis=-1) / length
    left = (step[..., 0] * offset[..., 1] - step[..., 1] * offset[..., 0]) / length
    outside = along - jnp.clip(along, 0.0, length)
    distance = jnp.where(jnp.isfinite(arc_length[None, 1:]), outside**2 + left**2, jnp.inf)
    nearest = jnp.argmin(distance, axis=-1)[:, None]
    along, left = (jnp.take_along_axis(values, nearest, axis=-1)[:, 0] for values in (along, left))
    lead = xy.shape[:-1]
    return (arc_length[nearest[:, 0]] + along).reshape(lead), left.reshape(lead)


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
