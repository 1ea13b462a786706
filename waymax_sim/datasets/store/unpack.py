"""The scenario of a packed scene.

Made to be quick: few calls, each over all there is of a kind. Numbers are not checked one by one, the checksum has
been; whatever they are, nothing is read or written outside of an array, and what does not fit together is an error.
"""

import struct

import numpy as np
from jaxtyping import Int, Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store.content import Content, content_of
from waymax_sim.datasets.store.layout import POSITION, VELOCITY, YAW, YAW_BITS, chunks_of
from waymax_sim.datasets.store.unpack_map import elements_from, indexes_from, segments_from
from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.padding import bucket
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import Signals
from waymax_sim.maps.lanes import build_lane_graph

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
    times_seen = seen.sum(axis=1)
    track = np.arange(len(seen)).repeat(times_seen)
    step = np.flatnonzero(seen) - track * n.num_steps
    num_seen = int(times_seen[: n.num_agents].sum())

    feature, feature_id, link_from = rising.take(n.num_runs), rising.take(n.num_features), rising.take(n.num_links)
    yaw = rising.take(num_seen) << 32 - YAW_BITS >> 32 - YAW_BITS
    irregular = rising.take(n.num_irregular)
    agent_id, agent_type, length = other.take(n.num_agents), other.take(n.num_agents), other.take(n.num_runs)
    feature_type, link_step, kind = other.take(n.num_features), other.take(n.num_links), other.take(n.num_links)
    lane_id, state, segments = other.take(n.num_signals), other.take(len(step) - num_seen), length - 1
    if length.min(initial=1) < 1 or length.sum() != n.num_points:
        raise DataError("features have other numbers of points than the map")
    segments[irregular] = other.take(n.num_irregular)

    # Polylines: those of the map, of agents and lights, and of routes twice (positions, then arc lengths as x).
    of_routes = content.sampled.sum(axis=1)
    lengths = np.concatenate([length, times_seen, of_routes, of_routes])
    lengths = lengths[lengths > 0]
    heads = lengths.cumsum() - lengths
    jumps = other.take(3, len(heads))
    points = other.take(3, n.num_points + len(step) + 2 * int(of_routes.sum()))
    points.cumsum(axis=1, out=points)
    velocity = other.take(2, num_seen)
    velocity += 5 * points[:2, n.num_points : n.num_points + num_seen] >> 2
    points[:, heads] = jumps
    points.cumsum(axis=1, out=points)
    num_points = points.shape[1]
    joints = np.empty((3, num_points + n.num_extra), np.float32)
    np.multiply(points, np.float32(POSITION), out=joints[:, :num_points], dtype=np.float32, casting="unsafe")
    joints[:, num_points:] = extra.T

    base, need = heads[: n.num_runs].copy(), np.maximum(segments[irregular], 0)
    need += need > 0
    base[irregular] = num_points + need.cumsum() - need
    if n.num_irregular and (need.max() > n.num_extra or need.sum() > n.num_extra):
        raise DataError("segments have more joints than announced")
    chunks = chunks_of(feature_type[feature], segments, base)

    lengths = {"N": n.num_agents, "P": n.num_points, "F": n.num_features, "L": n.num_links, "S": n.num_signals}
    lengths["graph.F"] = max(n.num_features, 1)
    for name, shape, used in (
        ("edges", content.edges, chunks.num_edges),
        ("lanes", content.lanes, len(chunks.run) - chunks.num_edges),
    ):
        lengths |= {f"{name}.C": max(used, 1), f"{name}.G": 2**shape.depth}
        lengths |= {f"{name}.Q": shape.nodes, f"{name}.L": shape.lists}
    lengths |= {"elements.G": n.num_groups, "elements.C": len(content.places)}
    lengths |= {"M": n.num_paths, "R": n.num_samples} if n.has_routes else {}
    room = bucket(lengths) if bucketed else lengths

    loops, extremes = other.take(len(chunks.runs)), other.take(2, len(chunks.run))
    edge_index, lane_index = indexes_from(content, chunks, extremes, joints[2], corners, room)
    edges, lanes = segments_from(chunks, loops, joints, feature, (edge_index, lane_index), room)
    elements = elements_from(content, length, points, grid, room)

    # Agents and lights share arrays.
    slots = room["N"] + room["S"]
    column = track + (track >= n.num_agents) * (room["N"] - n.num_agents)
    at = step * slots + column
    xyz = _placed((n.num_steps, slots), at, joints[:, n.num_points : n.num_points + len(at)])
    there = _placed((n.num_steps, slots), at, np.ones((1, len(at)), bool))[..., 0]
    of_agents = (n.num_steps, room["N"])
    at = step * room["N"] + track
    at, lit = at[:num_seen], step[num_seen:] * room["S"] + track[num_seen:] - n.num_agents
    yaw, velocity = yaw * np.float32(YAW), velocity * np.float32(VELOCITY)
    is_sdc, to_predict, of_interest = _padded(content.roles.T, room["N"]).T
    map_xyz = np.zeros((room["P"], 3), np.float32)
    for axis in range(3):
        map_xyz[: n.num_points, axis] = joints[axis, : n.num_points]
    links = np.full((room["L"], 3), -1, np.int32)
    for column, values in enumerate((link_from, link_from + link_step, kind)):
        links[: n.num_links, column] = values
    roadmap = RoadMap(
        xyz=map_xyz,
        feature=_padded(feature.repeat(length), room["P"]),
        valid=_true(n.num_points, room["P"]),
        feature_id=_padded(feature_id, room["F"], -1),
        feature_type=_padded(feature_type, room["F"], -1),
        speed_limit=_padded(speed_limit, room["F"]),
        links=links,
    )
    signals = Signals(
        lane_id=_padded(lane_id, room["S"], -1),
        state=_placed((n.num_steps, room["S"]), lit, state[None])[..., 0],
        stop_point=xyz[:, room["N"] :],
        valid=there[:, room["N"] :],
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
        log=AgentState(
            xyz=xyz[:, : room["N"]],
            yaw=_placed(of_agents, at, yaw[None].astype(np.float32))[..., 0],
            velocity=_placed(of_agents, at, velocity.astype(np.float32)),
            valid=there[:, : room["N"]],
        ),
        roadmap=roadmap,
        edges=edges,
        lanes=lanes,
        graph=build_lane_graph(roadmap, lanes, signals),
        elements=elements,
        signals=signals,
        routes=_routes(content, joints[:, n.num_points + len(step) : num_points], room) if n.has_routes else None,
    )


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


def _placed(
    shape: tuple[int, int], at: Int[np.ndarray, " n"], values: Shaped[np.ndarray, "k n"]
) -> Shaped[np.ndarray, "a b k"]:
    """Values put in their places in an array of zeros, with the k channels last."""
    out = np.zeros((shape[0] * shape[1], len(values)), values.dtype)
    for channel, column in enumerate(values):
        out[:, channel][at] = column
    return out.reshape(*shape, len(values))
