"""A scenario as one compact piece of bytes."""

import dataclasses
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.store import integers
from waymax_sim.datasets.store.layout import MAGIC, POSITION, VELOCITY, YAW, YAW_BITS, Chunks, Counts
from waymax_sim.datasets.store.pack_graph import graph_numbers
from waymax_sim.datasets.store.pack_map import (
    element_numbers,
    index_numbers,
    indexes_numbers,
    joints_of,
    runs_of,
    segment_numbers,
)
from waymax_sim.datatypes.scenario import Scenario


def snapped(raw: RawScene) -> RawScene:
    """The scene with its map points on the grid that packed scenes have; none moves by more than 0.5 mm per axis.

    What is built from a map must be built from the points that are kept.
    """
    return dataclasses.replace(raw, point_xyz=np.round(raw.point_xyz / POSITION) * POSITION)


def pack(scenario: Scenario) -> bytes:
    """Packs a scenario that is not padded and whose map points are on the grid; `unpack` is the way back.

    The map, its indexes and all that is discrete stay exactly as they are. Positions of agents, lights and routes
    move by 0.5 mm per axis at most, velocities by 0.004 m/s, headings by 1e-4 rad, curvatures of lanes by 1.3e-4 / m.

    Raises:
      DataError: Positions are further than 2,000 km from the local origin, or the points of a map feature are not in
        one piece.
    """
    s, roadmap, routes = scenario, scenario.roadmap, scenario.routes
    runs = runs_of(roadmap)
    seen = np.concatenate([s.log.valid, s.signals.valid], axis=1).T
    track, step = np.nonzero(seen)
    track_xyz = np.concatenate([s.log.xyz, s.signals.stop_point], axis=1)[step, track]
    lengths, polylines = [runs.length, seen.sum(axis=1)], [roadmap.xyz, track_xyz]
    if routes is not None:
        arc_length = np.pad(routes.arc_length[routes.valid][:, None], ((0, 0), (0, 2)))
        lengths += 2 * [routes.valid.sum(axis=1)]
        polylines += [routes.xyz[routes.valid], arc_length]
    points = _whole(np.concatenate(polylines), POSITION, "xyz").T
    jumps, steps, turns = _differences(points, np.concatenate(lengths))

    agent, when = np.nonzero(s.log.valid.T)
    light, lit = np.nonzero(s.signals.valid.T)
    of_agents = slice(len(roadmap.xyz), len(roadmap.xyz) + len(agent))
    # Recorded velocities are as a rule the last step of the position (2**-10 m in 0.1 s).
    velocity = _whole(s.log.velocity[when, agent], VELOCITY, "velocity").T - (5 * steps[:2, of_agents] >> 2)
    turn, half = np.diff(_whole(s.log.yaw[when, agent], YAW, "yaw"), prepend=np.int32(0)), 2 ** (YAW_BITS - 1)
    joints = joints_of(s, runs, points.shape[1])
    edges, lanes = index_numbers(s.edges.index), index_numbers(s.lanes.index)
    rising_lists, other_lists, num_long = indexes_numbers(edges, lanes, joints.chunks.num_edges)
    elements = element_numbers(s.elements, runs.length, points, POSITION)
    links, graph = roadmap.links, graph_numbers(s.graph, s.lanes)

    # What is close to what comes before it is kept as one row of differences.
    rising = [
        runs.row,
        roadmap.feature_id,
        links[:, 0],
        np.cumsum((turn + half) % (2 * half) - half),
        joints.irregular,
        *rising_lists,
        *elements.rising,
    ]
    other = [
        s.agents.id,
        s.agents.type,
        runs.length,
        roadmap.feature_type,
        links[:, 1] - links[:, 0],
        links[:, 2],
        s.signals.lane_id,
        s.signals.state[lit, light],
        joints.segments,
        jumps,
        turns,
        velocity,
        _loops(s, joints.chunks),
        *np.concatenate([segment_numbers(part) for part in (s.edges, s.lanes)], axis=1),
        *other_lists,
        *elements.other,
        *graph.integers,
    ]
    floats = [s.origin, s.timestamps, s.agents.size, roadmap.speed_limit, s.elements.low, s.elements.side]
    floats += [each for part in (s.edges, s.lanes) for each in (part.index.corner, part.index.size)] + [joints.extra]
    floats += graph.floats
    flags = [s.agents.is_sdc, s.agents.to_predict, s.agents.of_interest, seen]
    flags += [] if routes is None else [routes.on_route, routes.valid]
    flags += graph.flags
    counts = Counts(
        num_steps=s.num_steps,
        num_agents=s.num_agents,
        current_step=int(s.current_step),
        num_points=len(roadmap.xyz),
        num_runs=len(runs.row),
        num_features=len(roadmap.feature_id),
        num_links=len(links),
        num_signals=len(s.signals.lane_id),
        has_routes=int(routes is not None),
        num_paths=0 if routes is None else routes.valid.shape[0],
        num_samples=0 if routes is None else routes.valid.shape[1],
        num_irregular=len(joints.irregular),
        num_extra=len(joints.extra),
        num_long=num_long,
        num_groups=len(s.elements.first),
        num_listed=len(elements.rising[1]),
        rows=int(s.elements.rows),
        columns=int(s.elements.columns),
        width=s.elements.cells.shape[1],
        block=elements.block,
        num_segments=graph.num_segments,
        num_successors=graph.num_successors,
        num_predecessors=graph.num_predecessors,
        num_left=graph.num_left,
        num_right=graph.num_right,
        num_stop_lines=len(s.graph.stop_lines.lane),
    )
    row = [np.diff(_row(rising), prepend=0), _row(other)]
    body = b"".join(
        [
            np.concatenate([counts, edges.shape, lanes.shape]).astype("<i4").tobytes(),
            *(np.asarray(part).astype("<f4").tobytes() for part in floats),
            np.asarray(s.id_bytes).tobytes(),
            np.packbits(_row(flags)).tobytes(),
            elements.places.tobytes(),
            integers.encode(np.concatenate(row)),
        ]
    )
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def _row(parts: Sequence[Shaped[np.ndarray, "..."]]) -> Shaped[np.ndarray, " n"]:
    return np.concatenate([np.asarray(part).reshape(-1) for part in parts])


def _loops(scenario: Scenario, chunks: Chunks) -> Bool[np.ndarray, " K"]:
    """Which runs of segments are closed: those whose first segment has one before it."""
    edges = scenario.edges.previous[: chunks.num_edges]
    lanes = scenario.lanes.previous[: len(chunks.run) - chunks.num_edges]
    return np.concatenate([edges, lanes]).reshape(-1)[chunks.head] >= 0


def _whole(values: Float[np.ndarray, "*n"], unit: float, field: str) -> Int32[np.ndarray, "*n"]:
    """Values in whole units."""
    whole = np.round(np.asarray(values, np.float64) / unit)
    if np.abs(whole).max(initial=0) >= 2**31:
        raise DataError("too far from the local origin", field=field, remedy="cut the scene")
    return whole.astype(np.int32)


def _differences(points: Int32[np.ndarray, "3 n"], lengths: Int[np.ndarray, " runs"]):
    """Of runs of points: the jumps to their first points, the steps from point to point, and how steps differ."""
    lengths = lengths[lengths > 0]
    steps = np.diff(points, axis=1, prepend=np.zeros((3, 1), np.int32))
    heads = np.cumsum(lengths) - lengths
    jumps = steps[:, heads]
    steps[:, heads] = 0
    return jumps, steps, np.diff(steps, axis=1, prepend=np.zeros((3, 1), np.int32))
