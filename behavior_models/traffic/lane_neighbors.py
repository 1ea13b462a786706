"""The agents ahead of and behind each agent on a lane."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.traffic.car_following import FAR
from behavior_models.traffic.route_following import DriverState
from waymax_sim.datatypes.lanes import Frenet, LaneGraph
from waymax_sim.pytree import Array


class LaneNeighbors(NamedTuple):
    """The next agents on a lane; gaps (m) are bumper to bumper, `FAR` without an agent.

    Attributes:
      leader: Slot of the next agent ahead.
      leader_gap: Gap to it, or to the end of the lane if that is nearer, m.
      leader_speed_factor: 0 where the end of the lane is nearer, else 1.
      follower: Slot of the next agent behind.
      follower_gap: m.
    """

    leader: Int[Array, " N"]
    leader_gap: Float[Array, " N"]
    leader_speed_factor: Float[Array, " N"]
    follower: Int[Array, " N"]
    follower_gap: Float[Array, " N"]


def lane_positions(
    drivers: DriverState, position: Frenet, valid: Bool[Array, " N"]
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """The lane of each agent (-1 without one) and its arc length on that lane (m).

    Args:
      drivers: Paths of the drivers.
      position: Positions of the agents on their paths.
      valid: Agents that exist.
    """
    path = drivers.path
    # Lanes of a path are ordered; padding starts at infinity.
    slot = jnp.sum(path.lane_start <= position.arc_length[:, None], axis=-1).astype(jnp.int32) - 1
    slot = jnp.maximum(slot, 0)[:, None]
    lane, start = (jnp.take_along_axis(values, slot, axis=1)[:, 0] for values in (path.lanes, path.lane_start))
    is_on_lane = drivers.has_lane & valid & (lane >= 0)
    return jnp.where(is_on_lane, lane, -1), jnp.where(is_on_lane, position.arc_length - start, 0.0)


def lane_neighbors(
    graph: LaneGraph,
    on_lanes: tuple[Int[Array, " N"], Float[Array, " N"]],
    lane: Int[Array, " N"],
    arc_length: Float[Array, " N"],
    length: Float[Array, " N"],
) -> LaneNeighbors:
    """The agents next to each agent if it were on a lane at an arc length.

    The lane, its successors and its predecessors are searched; at the speeds of lane changes an agent further away is
    beyond the interaction distance of the model unless lanes are short.

    Args:
      graph: The lane graph.
      on_lanes: The lane of each agent (negative without one) and its arc length there, m.
      lane: The lane to search, per agent.
      arc_length: Position on it, m.
      length: Lengths of the agents, m.
    """
    offset = _lane_offsets(graph, on_lanes, lane, arc_length)
    # An agent at the same arc length counts as ahead.
    is_other = ~jnp.eye(lane.shape[0], dtype=bool) & ~jnp.isnan(offset)
    ahead = jnp.where(is_other & (offset >= 0), offset, FAR)
    behind = jnp.where(is_other & (offset < 0), -offset, FAR)
    # Offsets are between centers.
    mean_length = (length[:, None] + length[None]) / 2
    leader, follower = jnp.argmin(ahead, axis=1).astype(jnp.int32), jnp.argmin(behind, axis=1).astype(jnp.int32)

    def gap(distance, index):
        distance = jnp.take_along_axis(distance, index[:, None], axis=1)[:, 0]
        return jnp.where(distance < FAR, distance - jnp.take_along_axis(mean_length, index[:, None], axis=1)[:, 0], FAR)

    # The end of a lane without successors counts as a stationary vehicle, so drivers leave lanes that end.
    leader_gap = gap(ahead, leader)
    is_dead_end = ~jnp.any(graph.successors[lane] >= 0, axis=1)
    end_gap = jnp.where(is_dead_end, graph.length[lane] - arc_length - length / 2, FAR)
    speed_factor = jnp.where(leader_gap <= end_gap, 1.0, 0.0)
    return LaneNeighbors(leader, jnp.minimum(leader_gap, end_gap), speed_factor, follower, gap(behind, follower))


def _lane_offsets(
    graph: LaneGraph,
    on_lanes: tuple[Int[Array, " N"], Float[Array, " N"]],
    lane: Int[Array, " N"],
    arc_length: Float[Array, " N"],
) -> Float[Array, "N N"]:
    """[agent, other]: arc length (m) along a lane from the agent to the other one, NaN if the other is elsewhere."""
    other_lane, other_arc_length = on_lanes[0][None], on_lanes[1][None]
    other_lane_length = graph.length[jnp.maximum(on_lanes[0], 0)][None]
    offset = jnp.where(other_lane == lane[:, None], other_arc_length - arc_length[:, None], jnp.nan)
    # Links are ordered by turn: the second half leads off sharply.
    for slot in range(graph.successors.shape[-1] // 2):
        successor, predecessor = graph.successors[lane, slot][:, None], graph.predecessors[lane, slot][:, None]
        on_successor = (successor >= 0) & (other_lane == successor)
        to_successor = graph.length[lane][:, None] - arc_length[:, None] + other_arc_length
        offset = jnp.where(on_successor, to_successor, offset)
        on_predecessor = (predecessor >= 0) & (other_lane == predecessor)
        to_predecessor = other_arc_length - other_lane_length - arc_length[:, None]
        offset = jnp.where(on_predecessor, to_predecessor, offset)
    return offset
