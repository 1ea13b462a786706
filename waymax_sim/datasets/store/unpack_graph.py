"""The lane graph, from small integers and the map."""

import numpy as np
from jaxtyping import Float32, Int, Int32

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.content import Content
from waymax_sim.datasets.store.layout import CURVATURE, ramp
from waymax_sim.datatypes.lanes import LaneGraph, StopLines
from waymax_sim.datatypes.roadmap import LANE_BIKE, RoadMap, Segments
from waymax_sim.maps.lanes import NUM_LINKS, speed_limits


def graph_from(
    content: Content, places: Float32[np.ndarray, "5 Z"], roadmap: RoadMap, lanes: Segments, room: dict[str, int]
) -> LaneGraph:
    """The lane graph.

    Args:
      content: The packed scene; integers of the graph are next.
      places: Of stop lines: where on the lane (m), x, y, z (m) and direction (rad).
      roadmap: The map.
      lanes: The lane segments.
      room: Lengths of axes.

    Raises:
      DataError: There are other numbers of segments than announced.
    """
    n, other, length = content.counts, content.other, room["graph.F"]
    index = lanes.valid.reshape(-1).nonzero()[0]
    if len(index) != n.num_segments:
        raise DataError("has other numbers of lane segments than announced")
    first, count, reach, arc_length = _arc_lengths(lanes, index, length)
    degree = other.take(2, max(n.num_features, 1))
    successors = _table(degree[0], other.take(n.num_successors), length)
    predecessors = _table(degree[1], other.take(n.num_predecessors), length)
    lane, light_of, sign_of = other.take(3, n.num_stop_lines)
    stop, light, stop_sign = np.zeros(length, np.float32), np.full(length, -1, np.int32), np.zeros(length, bool)
    stop[lane], light[lane], stop_sign[lane] = places[0], light_of, sign_of
    curvature = np.zeros(lanes.valid.size, np.float32)
    curvature[index] = np.float32(CURVATURE) * other.take(n.num_segments).cumsum()
    left, right = (
        _across(index[has], other.take(count), lanes.valid.shape)
        for has, count in zip(content.beside, (n.num_left, n.num_right), strict=True)
    )
    kind, limit = np.full(length, -1, np.int32), np.zeros(length, np.float32)
    kind[: len(roadmap.feature_type)], limit[: len(roadmap.speed_limit)] = roadmap.feature_type, roadmap.speed_limit
    return LaneGraph(
        first=first,
        count=count,
        length=reach,
        speed_limit=speed_limits(kind, limit),
        is_bike=kind == LANE_BIKE,
        successors=successors,
        predecessors=predecessors,
        stop=stop,
        light=light,
        stop_sign=stop_sign,
        stop_lines=_stop_lines(lane, places, room["graph.Z"]),
        arc_length=arc_length,
        curvature=curvature.reshape(lanes.valid.shape),
        left=left,
        right=right,
        inferred=content.inferred,
    )


def _arc_lengths(lanes: Segments, index: Int[np.ndarray, " E"], length: int):
    """First segment, number of segments and length of each lane, and where each segment begins on its lane.

    Sums are those of `maps.centrelines`, to the bit. Padding has no length.
    """
    along = lanes.ends[:, 3:5].astype(np.float64)
    along -= lanes.ends[:, :2]
    finish = np.empty(lanes.valid.size + 1)
    finish[0] = 0.0
    np.hypot(along[:, 0], along[:, 1]).reshape(-1).cumsum(out=finish[1:])
    lane = lanes.feature.reshape(-1)[index]
    heads = np.diff(lane, prepend=np.int32(-1)).nonzero()[0]
    first, count = np.zeros((2, length), np.int32)
    first[lane[heads]] = index[heads]
    count[lane[heads]] = np.diff(heads, append=len(lane))
    begins = finish[first]
    reach = finish[first + count] - begins
    arc_length = finish[:-1].reshape(lanes.valid.shape) - begins[lanes.feature[:, :1]]
    arc_length *= lanes.valid
    return first, count, reach.astype(np.float32), arc_length.astype(np.float32)


def _table(degree: Int[np.ndarray, " F"], away: Int[np.ndarray, " K"], length: int) -> Int32[np.ndarray, "m D"]:
    """Lanes that each lane is linked to, given how many there are and how many rows away they are."""
    table = np.full((length, NUM_LINKS), -1, np.int32)
    row = np.arange(len(degree)).repeat(degree)
    table[row, ramp(degree)] = row + away
    return table


def _across(
    index: Int[np.ndarray, " K"], steps: Int[np.ndarray, " K"], shape: tuple[int, ...]
) -> Int32[np.ndarray, "C W"]:
    """The segment that lies beside each of some, by how many segments it is away."""
    beside = np.full(shape, -1, np.int32)
    beside.reshape(-1)[index] = index + steps.cumsum()
    return beside


def _stop_lines(lane: Int[np.ndarray, " Z"], places: Float32[np.ndarray, "5 Z"], length: int) -> StopLines:
    of, where = np.full(length, -1, np.int32), np.zeros((length, 4), np.float32)
    of[: len(lane)], where[: len(lane)] = lane, places[1:].T
    return StopLines(lane=of, xyz=where[:, :3], yaw=where[:, 3])
