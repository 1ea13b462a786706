"""The scenario of a packed scene."""

import math
import struct
import zlib

import numpy as np
from jaxtyping import Bool, Int, Num

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.store import integers
from waymax_sim.datasets.store.layout import (
    MAGIC,
    MAX_DEPTH,
    POSITION,
    SEGMENT_TYPES,
    VELOCITY,
    YAW,
    YAW_BITS,
    Counts,
    Shape,
    table,
)
from waymax_sim.datasets.store.unpack_map import elements_from, segments_from
from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.padding import bucket
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import ID_BYTES, Scenario
from waymax_sim.datatypes.signals import Signals

HEADER = struct.Struct(f"<4sI{len(Counts._fields) + 2 * len(Shape._fields)}i")
CHECKED = 8  # bytes before what the checksum is of
REMEDY = "the store is damaged; convert the scene again"


def unpack(data: bytes | memoryview, *, bucketed: bool = True) -> Scenario:
    """The scenario of a packed scene, on the host.

    Args:
      data: What `pack` made.
      bucketed: Pad every axis to a common size.

    Raises:
      DataError: The data are damaged.
    """
    try:
        return _unpack(memoryview(data), bucketed)
    except DataError as error:
        raise DataError(error.problem, field=error.field or "scene", remedy=REMEDY) from None
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise DataError(f"does not fit together: {error}", field="scene", remedy=REMEDY) from None


def _unpack(data: memoryview, bucketed: bool) -> Scenario:
    magic, checksum, *header = HEADER.unpack_from(data)
    if magic != MAGIC or zlib.crc32(data[CHECKED:]) != checksum:
        raise DataError("does not match its checksum, or is no packed scene")
    n, shapes = Counts(*header[:-8]), {"edges": Shape(*header[-8:-4]), "lanes": Shape(*header[-4:])}
    if min(header) < 0 or not n.current_step < n.num_steps or any(shape.depth > MAX_DEPTH for shape in shapes.values()):
        raise DataError("has an impossible header")

    # What is kept as it is.
    sizes = (3, n.num_steps, 3 * n.num_agents, n.num_features, 3, 3, 3, 3 * n.num_extra)
    floats = np.frombuffer(data, "<f4", sum(sizes), HEADER.size)
    origin, timestamps, size, speed_limit, grid, *corners, extra = np.split(floats, np.cumsum(sizes[:-1]))
    at = HEADER.size + floats.nbytes
    id_bytes = np.frombuffer(data, np.uint8, ID_BYTES, at).copy()
    at += ID_BYTES
    shape_of_flags = [(n.num_agents,)] * 3 + [(n.num_agents, n.num_steps), (n.num_signals, n.num_steps)]
    shape_of_flags += [(n.num_paths,), (n.num_paths, n.num_samples)]
    flags, at = _flags(data, at, shape_of_flags)
    is_sdc, to_predict, of_interest, seen, lit, on_route, sampled = flags
    places = np.frombuffer(data, np.uint8, n.rows * n.columns * n.listed, at).reshape(n.rows * n.columns, n.listed)
    row = integers.Row(integers.decode(data[at + places.size :]))

    agent_id, agent_type = row.take(2, n.num_agents)
    length, feature = row.take(n.num_runs), np.cumsum(row.take(n.num_runs))
    feature_id, feature_type = np.cumsum(row.take(n.num_features), dtype=np.int32), row.take(n.num_features)
    links = row.take(3, n.num_links)
    np.cumsum(links[0], out=links[0])
    links[1] += links[0]
    lane_id, state = row.take(n.num_signals), row.take(int(lit.sum()))
    _within("map features", length, 1, n.num_points)
    _within("map features", feature, 0, n.num_features - 1)
    _within("feature types", feature_type, -1, 20)
    _within("links", links[:2], 0, n.num_features - 1)
    if length.sum() != n.num_points:
        raise DataError("features have other numbers of points than the map")

    # Polylines: those of the map, of agents, of lights, and of routes twice (positions, and arc lengths as x).
    runs = [length, seen.sum(axis=1), lit.sum(axis=1)] + 2 * [sampled.sum(axis=1)]
    ends = np.cumsum([each.sum() for each in runs])
    runs = np.concatenate(runs)
    runs = runs[runs > 0]
    heads = np.cumsum(runs) - runs
    jumps, steps = row.take(3, len(runs)), row.take(3, int(ends[-1]))
    np.cumsum(steps, axis=1, out=steps)
    of_agents = slice(ends[0], ends[1])
    velocity = row.take(2, ends[1] - ends[0]) + (5 * steps[:2, of_agents] >> 2)
    yaw = np.cumsum(row.take(ends[1] - ends[0]), dtype=np.int32) << 32 - YAW_BITS >> 32 - YAW_BITS
    steps[:, heads] = jumps
    np.cumsum(steps, axis=1, out=steps)
    joints = np.empty((3, steps.shape[1] + n.num_extra), np.float32)
    np.multiply(steps, np.float32(POSITION), out=joints[:, : steps.shape[1]], casting="same_kind")
    joints[:, steps.shape[1] :] = extra.reshape(-1, 3).T
    irregular, segments, base = np.cumsum(row.take(n.num_irregular)), length - 1, heads[: n.num_runs].copy()
    segments[irregular] = row.take(n.num_irregular)
    need = np.where(segments[irregular] > 0, segments[irregular] + 1, 0)
    _within("irregular features", need, 0, n.num_extra)
    base[irregular] = steps.shape[1] + np.cumsum(need) - need
    run_type = feature_type[feature]
    tables = {name: table(member, run_type, segments, base) for name, member in SEGMENT_TYPES.items()}

    lengths = {"N": n.num_agents, "P": n.num_points, "F": n.num_features, "L": n.num_links, "S": n.num_signals}
    for name, shape in shapes.items():
        lengths |= {f"{name}.C": max(len(tables[name].first), 1), f"{name}.G": 2**shape.depth}
        lengths |= {f"{name}.Q": shape.nodes, f"{name}.L": shape.lists}
    lengths |= {"elements.G": n.num_groups, "elements.C": len(places)}
    lengths |= {"M": n.num_paths, "R": n.num_samples} if n.has_routes else {}
    room = bucket(lengths) if bucketed else lengths

    xy_z = np.zeros((room["P"], 3), np.float32)
    for axis in range(3):
        xy_z[: n.num_points, axis] = joints[axis, : n.num_points]
    exists = np.ones(n.num_agents, bool)
    agent, step = np.nonzero(seen)
    yaw, velocity = np.float32(YAW) * yaw.astype(np.float32)[None], np.float32(VELOCITY) * velocity.astype(np.float32)
    at = step * room["N"] + agent
    log = [_placed((n.num_steps, room["N"]), at, values) for values in (joints[:, of_agents], yaw, velocity)]
    light, step = np.nonzero(lit)
    at = step * room["S"] + light
    stop_point, signal_state = (
        _placed((n.num_steps, room["S"]), at, values) for values in (joints[:, ends[1] : ends[2]], state[None])
    )
    routes = None
    if n.has_routes:
        path, sample = np.nonzero(sampled)
        shape, at = (room["M"], room["R"]), path * room["R"] + sample
        routes = Routes(
            xyz=_placed(shape, at, joints[:, ends[2] : ends[3]]),
            arc_length=_placed(shape, at, joints[:1, ends[3] : ends[4]])[..., 0],
            valid=_placed(shape, at, np.ones((1, len(at)), bool))[..., 0],
            on_route=_padded(on_route, room["M"]),
        )
    parts = {
        name: segments_from(
            row,
            tables[name],
            joints,
            feature[tables[name].runs],
            corners[place],
            shape,
            {axis: room[f"{name}.{axis}"] for axis in "CGQL"},
        )
        for place, (name, shape) in enumerate(shapes.items())
    }
    return Scenario(
        id_bytes=id_bytes,
        origin=origin.copy(),
        timestamps=timestamps.copy(),
        current_step=np.asarray(n.current_step, np.int32),
        agents=AgentInfo(
            id=_padded(agent_id, room["N"], -1),
            type=_padded(agent_type, room["N"]),
            size=_padded(size.reshape(-1, 3), room["N"]),
            exists=_padded(exists, room["N"]),
            is_sdc=_padded(is_sdc, room["N"]),
            to_predict=_padded(to_predict, room["N"]),
            of_interest=_padded(of_interest, room["N"]),
        ),
        log=AgentState(xyz=log[0], yaw=log[1][..., 0], velocity=log[2], valid=_padded(seen, room["N"]).T.copy()),
        roadmap=RoadMap(
            xyz=xy_z,
            feature=_padded(feature.astype(np.int32).repeat(length), room["P"]),
            valid=_padded(np.ones(n.num_points, bool), room["P"]),
            feature_id=_padded(feature_id, room["F"], -1),
            feature_type=_padded(feature_type, room["F"], -1),
            speed_limit=_padded(speed_limit, room["F"]),
            links=_padded(links.T, room["L"], -1),
        ),
        edges=parts["edges"],
        lanes=parts["lanes"],
        elements=elements_from(
            row,
            length,
            joints,
            places,
            grid,
            (n.num_groups, n.rows, n.columns, n.block),
            {"G": room["elements.G"], "C": room["elements.C"]},
        ),
        signals=Signals(
            lane_id=_padded(lane_id, room["S"], -1),
            state=signal_state[..., 0],
            stop_point=stop_point,
            valid=_padded(lit, room["S"]).T.copy(),
        ),
        routes=routes,
    )


def _flags(data: memoryview, at: int, shapes: list[tuple[int, ...]]) -> tuple[list[Bool[np.ndarray, "..."]], int]:
    """Arrays of bits, one after the other, and where they end."""
    sizes = [math.prod(shape) for shape in shapes]
    packed = np.frombuffer(data, np.uint8, -(-sum(sizes) // 8), at)
    bits = np.unpackbits(packed, count=sum(sizes)).view(bool)
    ends = np.cumsum(sizes)
    return [bits[e - s : e].reshape(shape) for e, s, shape in zip(ends, sizes, shapes, strict=True)], at + len(packed)


def _within(name: str, values: Int[np.ndarray, "..."], low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() > high):
        raise DataError(f"{name} outside {low}..{high}")


def _padded(values: Num[np.ndarray, "n *rest"], length: int, fill: int = 0) -> Num[np.ndarray, "m *rest"]:
    out = np.full((length, *values.shape[1:]), fill, values.dtype)
    out[: len(values)] = values
    return out


def _placed(shape: tuple[int, int], at: Int[np.ndarray, " n"], values: Num[np.ndarray, "k n"]) -> np.ndarray:
    """Values put in their places in an array of zeros, with the k channels last."""
    out = np.zeros((shape[0] * shape[1], len(values)), values.dtype)
    for channel, column in enumerate(values):
        out[at, channel] = column
    return out.reshape(*shape, len(values))
