"""Swept paths: the space that agents will cover in the next seconds, and the leading vehicle in it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.traffic.car_following import FAR
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.lanes import LanePath
from waymax_sim.maps.paths import from_arc_length
from waymax_sim.ops import backend
from waymax_sim.ops.batched_lookup import map_masked
from waymax_sim.ops.bottom_k import first_argmin
from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class SweptPathParams:
    """Shape of swept paths and conditions for a leading vehicle. The values are choices of this package.

    Attributes:
      num_pieces: Straight pieces K of a swept path.
      growth_exponent: Exponent of the piece boundaries over the index; above 1, pieces grow with the distance.
      horizon: Driving time that a swept path covers, s.
      min_length: Lower bound of its length, m; stationary agents need a path to detect conflicts before they start.
      max_length: Upper bound of its length, m.
      return_time: Time within which an agent off its path is expected to be back on it, s.
      min_return_distance: Lower bound of the distance that it drives meanwhile, m.
      lateral_margin: Free space on either side of the agent, m.
      drift_time: Time for which the motion of other agents towards the swept path is extrapolated, s.
      max_drift: Upper bound of that motion, m; beyond it constant velocity is no prediction.
      max_height_difference: Height difference of agents on the same road surface, m; bridges are higher.
      max_slope: Additional height difference per meter of distance.
      batch_size: Agents per batch of `map_masked`.
    """

    num_pieces: int = 8
    growth_exponent: float = 1.3
    horizon: float = 6.0
    min_length: float = 24.0
    max_length: float = 130.0
    return_time: float = 2.0
    min_return_distance: float = 8.0
    lateral_margin: float = 0.2
    drift_time: float = 0.8
    max_drift: float = 1.2
    max_height_difference: float = 2.5
    max_slope: float = 0.06
    batch_size: int = 32


SWEPT_PATH = SweptPathParams()


@pytree
class SweptPath:
    """Paths of N agents from their present positions as K straight pieces.

    Attributes:
      x: Start of each piece, m.
      y: Start of each piece, m.
      cos: Direction of each piece.
      sin: Direction of each piece.
      length: Length of each piece, m.
      start: Arc length from the agent to the start of each piece, m.
    """

    x: Float[Array, "*lead K"]
    y: Float[Array, "*lead K"]
    cos: Float[Array, "*lead K"]
    sin: Float[Array, "*lead K"]
    length: Float[Array, "*lead K"]
    start: Float[Array, "*lead K"]


def swept_path(
    agents: AgentState,
    speed: Float[Array, " N"],
    path: LanePath,
    arc_length: Float[Array, " N"],
    has_lane: Bool[Array, " N"],
) -> SweptPath:
    """Expected motion along the lane path, or straight ahead for agents without a lane.

    An agent off its path approaches it linearly within `return_time`. A sudden return would sweep space that the
    agent will not cover, for example that of a vehicle it has just cut in front of.

    Args:
      agents: Present states, [N].
      speed: Speeds, m/s, not negative.
      path: Lane paths.
      arc_length: Positions of the agents on their paths, m.
      has_lane: Agents that follow a path.
    """
    params, xy = SWEPT_PATH, agents.xyz[:, None, :2]
    # The length depends on the speed: far conflicts matter to fast agents only.
    length = jnp.clip(params.horizon * speed, params.min_length, params.max_length)
    fraction = jnp.arange(1, params.num_pieces + 1, dtype=jnp.float32) / params.num_pieces
    # Pieces are short near the agent, where the geometry has to be exact.
    steps = (fraction**params.growth_exponent)[None] * length[:, None]
    on_path = jax.vmap(lambda step: from_arc_length(path, arc_length + step)[0][:, :2], in_axes=1, out_axes=1)(steps)
    # The offset from the path decays linearly with the distance.
    offset = xy - from_arc_length(path, arc_length)[0][:, None, :2]
    return_distance = jnp.maximum(params.return_time * speed, params.min_return_distance)
    on_path = on_path + jnp.maximum(1.0 - steps / return_distance[:, None], 0.0)[..., None] * offset
    # Pedestrians and vehicles off the lanes are expected to keep their heading.
    straight = xy + steps[..., None] * geometry.unit_vector(agents.yaw)[:, None]
    points = jnp.concatenate([xy, jnp.where(has_lane[:, None, None], on_path, straight)], axis=1)
    return _pieces(points)


def _pieces(points: Float[Array, "N K1 2"]) -> SweptPath:
    """Straight pieces between consecutive points. Pieces of length zero get the direction zero, not NaN."""
    step = points[:, 1:] - points[:, :-1]
    length = geometry.norm(step)
    cos, sin = jnp.moveaxis(step / jnp.where(length > 0, length, 1.0)[..., None], -1, 0)
    return SweptPath(points[:, :-1, 0], points[:, :-1, 1], cos, sin, length, jnp.cumsum(length, axis=1) - length)


class _Lead(NamedTuple):
    """The leading agent, the piece of the swept path that it overlaps, and whether there is one."""

    agent_index: Int[Array, "*n"]
    piece_index: Int[Array, "*n"]
    exists: Bool[Array, "*n"]


class _MovingBoxes(NamedTuple):
    """Boxes of agents, and half of the distance that they drift along their heading within `drift_time`, m."""

    box: geometry.Boxes
    half_drift: Float[Array, "*n"]


def _moving_boxes(agents: AgentState, size: Float[Array, "N 2"]) -> _MovingBoxes:
    cos, sin = jnp.cos(agents.yaw), jnp.sin(agents.yaw)
    speed = cos * agents.velocity[:, 0] + sin * agents.velocity[:, 1]
    # Crossing and merging agents are noticed before they are on the path, as drivers notice them.
    drift = jnp.clip(SWEPT_PATH.drift_time * speed, -SWEPT_PATH.max_drift, SWEPT_PATH.max_drift)
    box = geometry.Boxes(agents.xyz[:, 0], agents.xyz[:, 1], cos, sin, size[:, 0] / 2, size[:, 1] / 2)
    return _MovingBoxes(box, drift / 2)


def leading_gap(
    path: SweptPath, agents: AgentState, size: Float[Array, "N 2"], mask: Bool[Array, " N"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Gap (m) to the leading agent on the swept path, and the speed (m/s) of that agent along it.

    The leading agent is the nearest one whose box overlaps the swept path, or will within `drift_time` at its present
    velocity, on any lane or on none: vehicles that cut in, cross or block the lane lead as well. Gaps are
    bumper to bumper. The choice of the leading agent has no gradient, gap and speed have.

    Args:
      path: Swept paths of the agents.
      agents: Present states, [N].
      size: Length and width, m.
      mask: Agents whose leading agent is computed; the gap of others is `FAR`.
    """
    boxes = _moving_boxes(agents, size)
    constant = backend.materialize(jax.lax.stop_gradient((path, size[:, 1], boxes, agents)))
    lead = _nearest_leads(*constant, mask)
    piece = jax.tree.map(lambda values: jnp.take_along_axis(values, lead.piece_index[:, None], axis=-1)[:, 0], path)
    # The chosen pair is computed again, with gradients.
    _, rear = _overlap(piece, size[:, 1], tree_index(boxes, lead.agent_index), lead.piece_index > 0)
    # A long vehicle may overlap several pieces; its speed is measured along the piece that holds its rear.
    rear_piece = jnp.maximum(jnp.sum(path.start <= rear[:, None], axis=-1, dtype=jnp.int32) - 1, 0)[:, None]
    cos, sin = (jnp.take_along_axis(values, rear_piece, axis=-1)[:, 0] for values in (path.cos, path.sin))
    velocity = agents.velocity[lead.agent_index]
    return jnp.where(lead.exists, rear - size[:, 0] / 2, FAR), cos * velocity[:, 0] + sin * velocity[:, 1]


def _nearest_leads(
    path: SweptPath, width: Float[Array, " N"], boxes: _MovingBoxes, agents: AgentState, mask: Bool[Array, " N"]
) -> _Lead:
    """The leading agents by a minimum over all pieces and all other agents."""
    agent_index, boxes = jnp.arange(agents.yaw.shape[0], dtype=jnp.int32)[None], tree_index(boxes, None)

    def find_leads(index: Int[Array, " b"]) -> _Lead:
        own_path, own_width = tree_index((path, width), index)
        rear, piece_index = jnp.full((index.shape[0], agents.yaw.shape[0]), FAR), jnp.int32(0)
        for piece in range(SWEPT_PATH.num_pieces):
            # [b, 1]: one piece of each path against all boxes.
            column = tree_index(own_path, (slice(None), piece, None))
            overlaps, piece_rear = _overlap(column, own_width[:, None], boxes, piece > 0)
            is_nearer = overlaps & (piece_rear < rear)
            rear, piece_index = jnp.where(is_nearer, piece_rear, rear), jnp.where(is_nearer, piece, piece_index)
        # A box on a bridge above overlaps in the plane, but does not lead.
        is_other = agents.valid[None] & (agent_index != index[:, None])
        rear = jnp.where(is_other & on_same_level(tree_index(agents, index), agents, rear), rear, FAR)
        lead = first_argmin(rear)
        return _Lead(lead, jnp.take_along_axis(piece_index, lead[:, None], axis=-1)[:, 0], jnp.min(rear, axis=-1) < FAR)

    zero = jnp.zeros(mask.shape, jnp.int32)
    return map_masked(_Lead(zero, zero, mask & False), mask, SWEPT_PATH.batch_size, find_leads)


def _overlap(
    piece: SweptPath, width: Float[Array, "*#n"], moving: _MovingBoxes, is_later_piece: bool | Bool[Array, "*#n"]
) -> tuple[Bool[Array, "*n"], Float[Array, "*n"]]:
    """Whether boxes overlap the piece swept by an agent of a width (m), and the arc length (m) of their rear.

    On the first piece the rear may lie behind the center of the agent, since the boxes may already overlap. A box whose
    center is behind that of the agent does not lead: its driver is the one to keep the distance.
    """
    box = moving.box
    dx, dy = box.x - piece.x, box.y - piece.y
    longitudinal, lateral = piece.cos * dx + piece.sin * dy, piece.cos * dy - piece.sin * dx
    cos, sin = piece.cos * box.cos + piece.sin * box.sin, piece.cos * box.sin - piece.sin * box.cos
    # The box is widened by its lateral drift, from its present to its expected position.
    lateral_drift = sin * moving.half_drift
    cos, sin = jnp.abs(cos), jnp.abs(sin)
    # Extents of the rotated box along the piece and across it.
    half_length = cos * box.half_length + sin * box.half_width
    half_width = sin * box.half_length + cos * box.half_width
    reach = width / 2 + SWEPT_PATH.lateral_margin + half_width + jnp.abs(lateral_drift)
    is_inside = jnp.abs(lateral + lateral_drift) < reach
    is_ahead = longitudinal + jnp.where(is_later_piece, half_length, 0.0) > 0.0
    is_inside = is_inside & ((longitudinal - half_length < piece.length) & is_ahead)
    return is_inside, piece.start + jnp.maximum(longitudinal - half_length, jnp.where(is_later_piece, 0.0, -FAR))


def on_same_level(agents: AgentState, others: AgentState, distance: Float[Array, "b N"]) -> Bool[Array, "b N"]:
    """Whether others can be on the same road surface, and not on or under a bridge.

    Args:
      agents: b agents.
      others: N agents.
      distance: Distance between them, m.
    """
    return is_level(agents.xyz[:, None, 2] - others.xyz[None, :, 2], distance)


def is_level(height_difference: Float[Array, "*n"], distance: Float[Array, "*n"]) -> Bool[Array, "*n"]:
    """Whether two agents at a distance (m) and with a height difference (m) can be on the same road surface."""
    return jnp.abs(height_difference) < SWEPT_PATH.max_height_difference + SWEPT_PATH.max_slope * distance
