"""A scenario as one compact piece of bytes."""

import dataclasses
import struct
import zlib

import numpy as np
from jaxtyping import Float, Int, Int32

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.store import integers
from waymax_sim.datasets.store.layout import MAGIC, POSITION, VELOCITY, YAW, YAW_BITS, Counts
from waymax_sim.datasets.store.pack_map import element_numbers, joints_of, runs_of, segment_numbers
from waymax_sim.datatypes.scenario import Scenario


def pack_scene(raw: RawScene) -> bytes:
    """Builds the indexes of a scene and packs all of it.

    Map points are put on the grid that packed scenes have before anything is built from them; none moves by more than
    0.5 mm per axis.

    Raises:
      DataError: The scene cannot be used, or lies too far from its origin.
    """
    points = np.round(raw.point_xyz / POSITION) * POSITION
    return pack(to_scenario(dataclasses.replace(raw, point_xyz=points), bucketed=False))


def pack(scenario: Scenario) -> bytes:
    """Packs a scenario that is not padded and whose map points are on the grid; `unpack` is the way back.

    The map, its indexes and all that is discrete stay exactly as they are. Positions of agents, lights and routes
    move by 0.5 mm per axis at most, velocities by 0.004 m/s, headings by 1e-4 rad.

    Raises:
      DataError: Positions are further than 2,000 km from the local origin, or what is built from the map is not what
        this function knows.
    """
    s, roadmap, routes = scenario, scenario.roadmap, scenario.routes
    runs = runs_of(roadmap)
    agent, step = np.nonzero(s.log.valid.T)
    light, lit = np.nonzero(s.signals.valid.T)
    polylines = [
        (roadmap.xyz, runs.length),
        (s.log.xyz[step, agent], s.log.valid.sum(axis=0)),
        (s.signals.stop_point[lit, light], s.signals.valid.sum(axis=0)),
    ]
    if routes is not None:
        arc_length = np.pad(routes.arc_length[routes.valid][:, None], ((0, 0), (0, 2)))
        polylines += [(xyz, routes.valid.sum(axis=1)) for xyz in (routes.xyz[routes.valid], arc_length)]
    lengths = np.concatenate([lengths for _, lengths in polylines])
    points = _whole(np.concatenate([xyz for xyz, _ in polylines]), POSITION, "xyz")
    jumps, steps, turns = _differences(points.T, lengths[lengths > 0])
    of_agents = slice(len(roadmap.xyz), len(roadmap.xyz) + len(agent))
    # Recorded velocities are as a rule the last step of the position (m / 1024 in 0.1 s).
    velocity = _whole(s.log.velocity[step, agent], VELOCITY, "velocity").T - (5 * steps[:2, of_agents] >> 2)
    yaw = np.diff(_whole(s.log.yaw[step, agent], YAW, "yaw"), prepend=np.int32(0))
    half = 2 ** (YAW_BITS - 1)

    parts = {"edges": s.edges, "lanes": s.lanes}
    joints = joints_of(roadmap, runs, parts, len(points))
    links = roadmap.links
    numbers = [
        s.agents.id,
        s.agents.type,
        runs.length,
        np.diff(runs.row, prepend=0),
        np.diff(roadmap.feature_id, prepend=0),
        roadmap.feature_type,
        np.diff(links[:, 0], prepend=0),
        links[:, 1] - links[:, 0],
        links[:, 2],
        s.signals.lane_id,
        s.signals.state[lit, light],
        jumps,
        turns,
        velocity,
        (yaw + half) % (2 * half) - half,
        np.diff(joints.irregular, prepend=0),
        joints.segments,
    ]
    shapes = []
    for name, part in parts.items():
        more, shape = segment_numbers(part, joints.tables[name])
        numbers += more
        shapes.append(shape)
    more, cells, block = element_numbers(s.elements, runs.length)
    numbers += more
    indexes = (s.edges.index, s.lanes.index)
    floats = [s.origin, s.timestamps, s.agents.size, roadmap.speed_limit, s.elements.low, s.elements.side]
    floats += [each for index in indexes for each in (index.corner, index.size)] + [joints.extra]
    flags = [s.agents.is_sdc, s.agents.to_predict, s.agents.of_interest, s.log.valid.T, s.signals.valid.T]
    flags += [] if routes is None else [routes.on_route, routes.valid]
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
        num_groups=len(s.elements.first),
        rows=int(s.elements.rows),
        columns=int(s.elements.columns),
        listed=s.elements.cells.shape[1],
        block=block,
    )
    body = b"".join(
        [
            np.concatenate([counts, *shapes]).astype("<i4").tobytes(),
            *(np.asarray(part).astype("<f4").tobytes() for part in floats),
            np.asarray(s.id_bytes).tobytes(),
            np.packbits(np.concatenate([part.reshape(-1) for part in flags])).tobytes(),
            cells.tobytes(),
            integers.encode(np.concatenate([np.asarray(part).reshape(-1).astype(np.int32) for part in numbers])),
        ]
    )
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def _whole(values: Float[np.ndarray, "*n"], unit: float, field: str) -> Int32[np.ndarray, "*n"]:
    """Values in whole units."""
    whole = np.round(np.asarray(values, np.float64) / unit)
    if np.abs(whole).max(initial=0) >= 2**31:
        raise DataError("too far from the local origin", field=field, remedy="cut the scene")
    return whole.astype(np.int32)


def _differences(points: Int32[np.ndarray, "3 n"], lengths: Int[np.ndarray, " runs"]):
    """Of runs of points: the jumps to their first points, the steps from point to point, and how steps differ."""
    steps = np.diff(points, axis=1, prepend=np.zeros((3, 1), np.int32))
    heads = np.cumsum(lengths) - lengths
    jumps = steps[:, heads]
    steps[:, heads] = 0
    return jumps, steps, np.diff(steps, axis=1, prepend=np.zeros((3, 1), np.int32))
