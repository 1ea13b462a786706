"""Reference planner of the driving tasks: one decision, and its best continuation.

Every action is simulated along the route for one decision, and then continued by braking, by keeping the speed and by
accelerating, among others that keep their
speed and yaw rate. The action with the best continuation is taken (one-step lookahead with
rollout policies, Bertsekas 1997), so the planner always keeps a continuation without contact if there is one.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.route_frame import RouteFrame, route_index, route_point, segment_directions
from waymax_sim.pytree import Array, pytree


@pytree
class LookaheadParams:
    """Objective of the planner. The values are choices of this package.

    Attributes:
      speed_factor: Desired speed as a share of the speed limit.
      margin: Free distance around boxes, m.
      headway: Desired additional free distance ahead, s of driving.
      intrusion_cost: Speed (m/s) that 1 m less than it is worth.
      acceleration_cost: Distance (m) that an acceleration of 1 m/s^2 must gain, in proportion to the square.
      offset_cost: Distance (m) that an offset of 1 m from the route must gain.
      contact_cost: Distance (m) that a contact is worth; earlier contacts cost more.
    """

    speed_factor: Float[Array, "*E"] | float = 1.0
    margin: Float[Array, "*E"] | float = 0.4
    headway: Float[Array, "*E"] | float = 1.2
    intrusion_cost: Float[Array, "*E"] | float = 0.5
    acceleration_cost: Float[Array, "*E"] | float = 0.15
    offset_cost: Float[Array, "*E"] | float = 0.3
    contact_cost: Float[Array, "*E"] | float = 1000.0


# Time of a decision, s; spacing and number of the simulated times; accelerations (m/s^2) that continue an action.
DECISION_TIME = 0.5
SPACING = 0.25
NUM_TIMES = 18
CONTINUATIONS = (-4.0, -1.5, 0.0, 1.5)
# Time constant of the approach to a lateral offset, s.
OFFSET_TIME = 0.8
# Share of the cost of a contact for a space within the margin of a box.
MARGIN_SHARE = 0.3
# Share of the cost of a contact that a delay by `SPACING` saves.
DELAY_VALUE = 0.02
# Distance between the front of the vehicle and a red line, m.
LINE_MARGIN = 1.0
# Comfortable lateral acceleration, m/s^2, and number of segments over which the curvature of the route is measured.
MAX_LATERAL = 2.5
CURVE_SEGMENTS = 3


def action_values(
    frame: RouteFrame, params: LookaheadParams, limit: Float[Array, ""], mask: Bool[Array, " L"]
) -> Float[Array, " L"]:
    """Value of each action in meters; -inf outside of the mask.

    Args:
      frame: The ego on its route.
      params: Objective.
      limit: Speed limit, m/s.
      mask: Permitted actions.
    """
    acceleration, offset = (level[:, None, None] for level in ROUTE_ACTIONS.levels())
    times = SPACING * jnp.arange(1, NUM_TIMES + 1, dtype=jnp.float32)[None, None]
    continuation = jnp.asarray(CONTINUATIONS, jnp.float32)[None, :, None]
    desired = jnp.maximum(params.speed_factor * limit, 0.5)
    first = jnp.clip(frame.speed + acceleration * jnp.minimum(times, DECISION_TIME), 0.0, None)
    later = jnp.maximum(times - DECISION_TIME, 0.0) * continuation
    speed = jnp.clip(first + later, 0.0, jnp.maximum(first, desired))
    arc_length = frame.arc_length + SPACING * jnp.cumsum(speed, axis=-1)
    lateral = offset + (frame.lateral - offset) * jnp.exp(-times / OFFSET_TIME)
    index = route_index(frame, arc_length)
    contact, intrusion = _contacts(frame, params, times, arc_length, index, speed, lateral)
    front = arc_length + frame.size[0] / 2 + LINE_MARGIN
    # Behind the line, the center decides.
    is_over, is_beyond = front > frame.red_line, arc_length > frame.red_line
    violations = contact + is_over.astype(jnp.float32) + is_beyond.astype(jnp.float32)
    # An early contact costs more, so that an unavoidable one is delayed.
    penalty = jnp.max(violations * (1.0 - DELAY_VALUE * times / SPACING), axis=-1)
    excess = jnp.maximum(speed - desired, 0.0) + 3.0 * jnp.maximum(speed - _curve_speeds(frame)[index], 0.0)
    progress = SPACING * jnp.sum(speed - 3.0 * excess - params.intrusion_cost * intrusion, axis=-1)
    effort = 0.3 * params.acceleration_cost * continuation[..., 0] ** 2
    best = jnp.max(progress - params.contact_cost * penalty - effort, axis=-1)
    own_effort = params.acceleration_cost * acceleration**2 + params.offset_cost * jnp.abs(offset)
    best = best - own_effort[:, 0, 0]
    return jnp.where(mask, best, -jnp.inf)


def _curve_speeds(frame: RouteFrame) -> Float[Array, " R1"]:
    """Speed (m/s) at which the lateral acceleration at each segment of the route is comfortable"""
    cos, sin = segment_directions(frame)
    last = jnp.maximum(jnp.sum(jnp.isfinite(frame.points_arc_length)) - 2, 0)
    following = jnp.minimum(jnp.arange(len(cos)) + CURVE_SEGMENTS, last)
    turn = jnp.abs(
        jnp.arctan2(cos * sin[following] - sin * cos[following], cos * cos[following] + sin * sin[following])
    )
    length = jnp.where(jnp.isfinite(frame.points_arc_length[following]), frame.points_arc_length[following], 0.0)
    length = jnp.maximum(length - frame.points_arc_length[:-1], 1.0)
    return jnp.sqrt(MAX_LATERAL * length / jnp.maximum(turn, 1e-3))


def _contacts(
    frame: RouteFrame,
    params: LookaheadParams,
    times: Float[Array, "1 1 T"],
    arc_length: Float[Array, "L C T"],
    index: Int[Array, "L C T"],
    speed: Float[Array, "L C T"],
    lateral: Float[Array, "L 1 T"],
) -> tuple[Float[Array, "L C T"], Float[Array, "L C T"]]:
    """Contacts with boxes of other agents (1, less for their margins); by how much the gap ahead is too small, m.

    Other agents keep their speed, or their deceleration to a standstill, and their yaw rate.

    Args:
      frame: The ego on its route.
      params: Margins.
      times: Times, s.
      arc_length: Positions of the ego on the route, m.
      index: Segments of the route at these positions.
      speed: Its speeds, m/s.
      lateral: Its lateral offsets, m.
    """
    x, y, cos, sin = route_point(frame, arc_length, index)
    x, y = x - lateral * sin, y + lateral * cos
    contact, intrusion = jnp.zeros(arc_length.shape), jnp.zeros(arc_length.shape)
    for slot in range(frame.others.shape[0]):
        other_x, other_y, forward, half_length, half_width, yaw, yaw_rate, acceleration = frame.others[slot]
        # Braking continues to a standstill.
        braking = jnp.maximum(-acceleration, 0.0)
        moving = jnp.minimum(times, jnp.maximum(forward, 0.0) / jnp.maximum(braking, 1e-3))
        distance = jnp.where(braking > 0.5, forward * moving - braking * moving**2 / 2, forward * times)
        turn = yaw_rate * times
        chord = distance * jnp.sinc(turn / (2 * jnp.pi))
        dx = other_x + chord * jnp.cos(yaw + turn / 2) - x
        dy = other_y + chord * jnp.sin(yaw + turn / 2) - y
        other_cos, other_sin = jnp.cos(yaw + turn), jnp.sin(yaw + turn)
        ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
        cosine = cos * other_cos + sin * other_sin
        along, across = jnp.abs(cosine), jnp.abs(cos * other_sin - sin * other_cos)
        reach = frame.size[0] / 2 + along * half_length + across * half_width + params.margin
        side = frame.size[1] / 2 + across * half_length + along * half_width + 0.5 * params.margin
        is_in_path = (ahead > -reach) & (jnp.abs(left) < side) & frame.is_other[slot]
        # A space within the margin is better than a contact.
        is_close = is_in_path & (ahead < reach)
        is_inside = (jnp.abs(ahead) < reach - params.margin) & (jnp.abs(left) < side - 0.5 * params.margin)
        own = jnp.where(is_close & is_inside, 1.0, jnp.where(is_close, MARGIN_SHARE, 0.0))
        contact = jnp.maximum(contact, own)
        # The desired gap is that to vehicles ahead that drive in the same direction.
        missing = jnp.clip(reach + params.headway * speed - ahead, 0.0, params.headway * speed)
        intrusion = jnp.maximum(intrusion, jnp.where(is_in_path & (cosine > 0.5), missing, 0.0))
    return contact, intrusion
