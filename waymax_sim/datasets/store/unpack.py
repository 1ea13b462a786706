"""The scenario of a packed scene.

Made to be quick: few calls, each over all there is of a kind. Numbers are not checked one by one, the checksum has
been; whatever they are, nothing is read or written outside of an array, and what does not fit together is an error.
"""

import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32, Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.content import Content, Row, content_of
from waymax_sim.datasets.store.layout import POSITION, VELOCITY, YAW, YAW_BITS, Chunks, chunks_of
from waymax_sim.datasets.store.unpack_graph import graph_from
from waymax_sim.datasets.store.unpack_map import elements_from, indexes_from, segments_from
from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.padding import bucket
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import Signals

REMEDY = "the store is damaged; convert the scene again"

# The allocator of Linux gives memory back to the system at once, and fetching it again, page by page, takes half as
# long as all of the rest, until something larger has been freed. So something larger is freed; nothing touches it.
np.empty(2**25 - 2**16, np.uint8)


def unpack(data: bytes | memoryview, *, bucketed: bool = True) -> Scenario:
    """The scenario of a packed scene, on the host.

    Args:
      data: What `pack` made.
      bucketed: Pad every axis to a common size.

    Raises:
      DataError: The data are damaged.
    """
    try:
        return _scenario(content_of(memoryview(data)), bucketed)
    except DataError as error:
        raise DataError(error.problem, field=error.field or "scene", remedy=REMEDY) from None
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise DataError(f"does not fit together: {error}", field="scene", remedy=REMEDY) from None


def _scenario(content: Content, bucketed: bool) -> Scenario:
    n, floats, rising, other, seen = content.counts, content.floats, content.rising, content.other, content.seen
    origin, timestamps, size = floats.take(3), floats.take(n.num_steps), floats.take(n.num_agents, 3)
    speed_limit, grid, corners = floats.take(n.num_features), floats.take(3), floats.take(2, 3)
    extra = floats.take(n.num_extra, 3)
    stop, line_xyz, line_yaw = (
        floats.take(1, n.num_stop_lines),
        floats.take(n.num_stop_lines, 3),
        floats.take(1, n.num_stop_lines),
    )
    times_seen = seen.sum(axis=1)
    num_seen, num_lit = int(times_seen[: n.num_agents].sum()), int(times_seen[n.num_agents :].sum())

    feature, feature_id, link_from = rising.take(n.num_runs), rising.take(n.num_features), rising.take(n.num_links)
    yaw, irregular = rising.take(num_seen), rising.take(n.num_irregular)
    agent_id, agent_type, length = other.take(n.num_agents), other.take(n.num_agents), other.take(n.num_runs)
    feature_type, link_step, kind = other.take(n.num_features), other.take(n.num_links), other.take(n.num_links)
    lane_id, state, segments = other.take(n.num_signals), other.take(num_lit), length - 1
    segments[irregular] = other.take(n.num_irregular)
    if length.min(initial=1) < 1 or length.sum() != n.num_points:
        raise DataError("features have other numbers of points than the map")

    # Polylines: those of the map, of agents and lights, and of routes twice (positions, then arc lengths as x).
    of_routes = content.sampled.sum(axis=1)
    tracks = slice(n.num_points, n.num_points + num_seen + num_lit)
    lengths = np.concatenate([length, times_seen, of_routes, of_routes])
    points, heads, velocity = _points(other, lengths, tracks, num_seen)
    num_points = points.shape[1]
    joints = np.empty((3, num_points + n.num_extra), np.float32)
    np.multiply(points, np.float32(POSITION), out=joints[:, :num_points], dtype=np.float32, casting="unsafe")
    joints[:, num_points:] = extra.T
    base, need = heads[: n.num_runs].copy(), np.maximum(segments[irregular], 0)
    need += need > 0
    if need.sum() > n.num_extra:
        raise DataError("segments have more joints than announced")
    base[irregular] = num_points + need.cumsum() - need
    chunks = chunks_of(feature_type[feature], segments, base)

    room = _lengths(content, chunks)
    room = bucket(room) if bucketed else room
    loops, extremes = other.take(len(chunks.runs)), other.take(2, len(chunks.run))
    indexes = indexes_from(content, chunks, extremes, joints[2], corners, room)
    edges, lanes = segments_from(chunks, loops, joints, feature, indexes, room)
    elements = elements_from(content, length, points, joints[:2], grid, room)
    log, signals = _tracks(content, times_seen, joints[:, tracks], yaw, velocity, state, lane_id, room)
    is_sdc, to_predict, of_interest = _padded(content.roles.T, room["N"]).T
    roadmap = RoadMap(
        xyz=_columns([*joints[:, : n.num_points]], room["P"]),
        feature=_padded(feature.repeat(length), room["P"]),
        valid=_true(n.num_points, room["P"]),
        feature_id=_padded(feature_id, room["F"], -1),
        feature_type=_padded(feature_type, room["F"], -1),
        speed_limit=_padded(speed_limit, room["F"]),
        links=_columns((link_from, link_from + link_step, kind), room["L"], -1),
    )
    return Scenario(
        id_bytes=content.id_bytes,
        origin=origin,
        timestamps=timestamps,
        current_step=np.asarray(n.current_step, np.int32),
        agents=AgentInfo(
            id=_padded(agent_id, room["N"], -1),
            type=_padded(agent_type, room["N"]),
            size=_padded(size, room["N"]),
            exists=_true(n.num_agents, room["N"]),
            is_sdc=is_sdc,
            to_predict=to_predict,
            of_interest=of_interest,
        ),
        log=log,
        roadmap=roadmap,
        edges=edges,
        lanes=lanes,
        graph=graph_from(content, np.concatenate([stop, line_xyz.T, line_yaw]), roadmap, lanes, room),
        elements=elements,
        signals=signals,
        routes=_routes(content, joints[:, tracks.stop : num_points], room) if n.has_routes else None,
    )


def _points(
    other: Row, lengths: Int[np.ndarray, " runs"], tracks: slice, num_seen: int
) -> tuple[Int32[np.ndarray, "3 n"], Int[np.ndarray, " some"], Int32[np.ndarray, "2 k"]]:
    """Points of polylines in whole units, where each that has any begins, and velocities of agents in whole units."""
    lengths = lengths[lengths > 0]
    heads = lengths.cumsum() - lengths
    jumps, points = other.take(3, len(heads)), other.take(3, int(lengths.sum()))
    points.cumsum(axis=1, out=points)
    velocity = other.take(2, num_seen)
    velocity += 5 * points[:2, tracks][:, :num_seen] >> 2
    points[:, heads] = jumps
    points.cumsum(axis=1, out=points)
    return points, heads, velocity


def _lengths(content: Content, chunks: Chunks) -> dict[str, int]:
    """Lengths of the axes without padding, as `sizes` has them."""
    n, places = content.counts, content.places
    found = {"N": n.num_agents, "P": n.num_points, "F": n.num_features, "L": n.num_links, "S": n.num_signals}
    found |= {"graph.F": max(n.num_features, 1), "graph.Z": n.num_stop_lines}
    used = {"edges": chunks.num_edges, "lanes": len(chunks.run) - chunks.num_edges}
    for name, shape in (("edges", content.edges), ("lanes", content.lanes)):
        found |= {f"{name}.C": max(used[name], 1), f"{name}.G": 2**shape.depth}
        found |= {f"{name}.Q": shape.nodes, f"{name}.L": shape.lists}
    found |= {"elements.G": n.num_groups, "elements.C": len(places)}
    return found | ({"M": n.num_paths, "R": n.num_samples} if n.has_routes else {})


def _tracks(content: Content, times_seen, points, yaw, velocity, state, lane_id, room) -> tuple[AgentState, Signals]:
    """The log and the lights, whose positions share an array."""
    n, steps = content.counts, content.counts.num_steps
    track = np.arange(len(times_seen)).repeat(times_seen)
    step = np.flatnonzero(content.seen) - track * steps
    is_light = track >= n.num_agents
    slots = room["N"] + room["S"]
    at = step * slots + track + is_light * (room["N"] - n.num_agents)
    xyz, valid = _placed((steps, slots), at, points), _placed((steps, slots), at, np.ones((1, len(at)), bool))[..., 0]
    cut = len(yaw)
    of_agents, of_lights = step[:cut] * room["N"] + track[:cut], step[cut:] * room["S"] + track[cut:] - n.num_agents
    yaw = (yaw << 32 - YAW_BITS >> 32 - YAW_BITS) * np.float32(YAW)
    velocity = (velocity * np.float32(VELOCITY)).astype(np.float32)
    log = AgentState(
        xyz=xyz[:, : room["N"]],
        yaw=_placed((steps, room["N"]), of_agents, yaw[None].astype(np.float32))[..., 0],
        velocity=_placed((steps, room["N"]), of_agents, velocity),
        valid=valid[:, : room["N"]],
    )
    signals = Signals(
        lane_id=_padded(lane_id, room["S"], -1),
        state=_placed((steps, room["S"]), of_lights, state[None])[..., 0],
        stop_point=xyz[:, room["N"] :],
        valid=valid[:, room["N"] :],
    )
    return log, signals


def _routes(content: Content, points: Shaped[np.ndarray, "3 n"], room: dict[str, int]) -> Routes:
    path, sample = content.sampled.nonzero()
    shape, at = (room["M"], room["R"]), path * room["R"] + sample
    return Routes(
        xyz=_placed(shape, at, points[:, : len(at)]),
        arc_length=_placed(shape, at, points[:1, len(at) :])[..., 0],
        valid=_placed(shape, at, np.ones((1, len(at)), bool))[..., 0],
        on_route=_padded(content.on_route, room["M"]),
    )


def _true(count: int, length: int) -> Shaped[np.ndarray, " m"]:
    out = np.zeros(length, bool)
    out[:count] = True
    return out


def _padded(values: Shaped[np.ndarray, "n *rest"], length: int, fill: int = 0) -> Shaped[np.ndarray, "m *rest"]:
    out = (
        np.full((length, *values.shape[1:]), fill, values.dtype)
        if fill
        else np.zeros((length, *values.shape[1:]), values.dtype)
    )
    out[: len(values)] = values
    return out


def _columns(values: Sequence[Shaped[np.ndarray, " n"]], length: int, fill: int = 0) -> Shaped[np.ndarray, "m k"]:
    """Columns side by side, padded."""
    out = np.full((length, len(values)), fill, values[0].dtype)
    for column, each in enumerate(values):
        out[: len(each), column] = each
    return out


def _placed(
    shape: tuple[int, int], at: Int[np.ndarray, " n"], values: Shaped[np.ndarray, "k n"]
) -> Shaped[np.ndarray, "a b k"]:
    """Values put in their places in an array of zeros, with the k channels last."""
    out = np.zeros((shape[0] * shape[1], len(values)), values.dtype)
    for channel, column in enumerate(values):
        out[:, channel][at] = column
    return out.reshape(*shape, len(values))
