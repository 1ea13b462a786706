"""Quality measures of synthetic scenes, as a slow and simple oracle in NumPy."""

import functools

import numpy as np

from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datasets.synthetic.layouts import LAYOUTS
from waymax_sim.datatypes import roadmap
from waymax_sim.datatypes.agents import CYCLIST, VEHICLE

RED = (1, 4)
MOVES = 1.0  # m/s
scene = functools.cache(synthetic_scene)
EVERY_LAYOUT = range(len(LAYOUTS))


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def features(raw: RawScene, *types: int) -> list[np.ndarray]:
    """Points of every feature of some types."""
    rows = np.flatnonzero(np.isin(raw.feature_type, types))
    return [raw.point_xyz[raw.point_feature == row] for row in rows]


def speeds(raw: RawScene) -> np.ndarray:
    return np.where(raw.valid, np.linalg.norm(raw.velocity, axis=-1), 0.0)


def on_wheels(raw: RawScene) -> np.ndarray:
    """Vehicles and cyclists that move."""
    return np.isin(raw.agent_type, (VEHICLE, CYCLIST)) & (speeds(raw).max(axis=0) > MOVES)


def corners(raw: RawScene, step: int, agents: np.ndarray) -> np.ndarray:
    """Corners of boxes, [A, 4, 2]."""
    yaw, half = raw.yaw[step, agents], raw.size[step, agents, :2] / 2
    forward, left = np.stack([np.cos(yaw), np.sin(yaw)], -1), np.stack([-np.sin(yaw), np.cos(yaw)], -1)
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    centre = raw.xyz[step, agents, :2]
    return np.stack([centre + a * half[:, :1] * forward + b * half[:, 1:] * left for a, b in signs], axis=1)


def touching(raw: RawScene, step: int) -> set[tuple[int, int]]:
    """Pairs of agents whose boxes share space: no edge normal of either keeps them apart, and heights meet."""
    agents = np.flatnonzero(raw.valid[step])
    boxes = corners(raw, step, agents)
    apart = np.zeros((len(agents), len(agents)), bool)
    for side in (0, 1):
        axis = boxes[:, side] - boxes[:, side + 1]
        along = np.einsum("ikd,jd->jik", boxes, axis)  # of the corners of i on the axis of j
        own = np.einsum("jkd,jd->jk", boxes, axis)
        low, high = own.min(axis=1)[:, None], own.max(axis=1)[:, None]
        split = (along.min(axis=2) >= high) | (along.max(axis=2) <= low)
        apart |= split | split.T
    z, height = raw.xyz[step, agents, 2], raw.size[step, agents, 2]
    apart |= np.abs(z[:, None] - z) >= (height[:, None] + height) / 2
    return {(int(agents[i]), int(agents[j])) for i, j in np.argwhere(~apart) if i < j}


def edge_distance(raw: RawScene, points: np.ndarray) -> np.ndarray:
    """Signed distance of points to the nearest road edge, positive to its right: off the road."""
    is_edge = np.isin(raw.feature_type, roadmap.ROAD_EDGE_TYPES)[raw.point_feature]
    xyz, feature = raw.point_xyz[is_edge], raw.point_feature[is_edge]
    inside = feature[1:] == feature[:-1]
    start, end, feature = xyz[:-1][inside], xyz[1:][inside], feature[:-1][inside]
    previous, following = _adjacent_segments(start, end, feature)
    ahead = (end - start)[:, :2]
    found = np.empty(len(points))
    for index, point in enumerate(points):
        share = np.sum((point - start)[:, :2] * ahead, axis=-1) / np.sum(ahead**2, axis=-1)
        gap = point - start - np.clip(share, 0.0, 1.0)[:, None] * (end - start)
        i = int(np.argmin(gap[:, 0] ** 2 + gap[:, 1] ** 2 + (3 * gap[:, 2]) ** 2))
        side = -np.sign(cross(ahead[i], (point - start[i])[:2]))
        j = previous[i] if share[i] < 0 else following[i] if share[i] > 1 else -1
        if j >= 0:
            other = -np.sign(cross(ahead[j], (point - start[j])[:2]))
            first, second = (ahead[j], ahead[i]) if share[i] < 0 else (ahead[i], ahead[j])
            side = max(side, other) if cross(first, second) > 0 else min(side, other)
        found[index] = side * np.hypot(gap[i, 0], gap[i, 1])
    return found


def _adjacent_segments(start: np.ndarray, end: np.ndarray, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    number = np.arange(len(feature))
    joined = feature[1:] == feature[:-1]
    previous, following = np.full(len(feature), -1), np.full(len(feature), -1)
    previous[1:][joined], following[:-1][joined] = number[:-1][joined], number[1:][joined]
    for row in np.unique(feature):
        first, last = number[feature == row][[0, -1]]
        if np.allclose(start[first], end[last]):
            previous[first], following[last] = last, first
    return previous, following


def quality(raw: RawScene, every: int = 30) -> dict[str, int]:
    """Counts of agents and of violations; some at every `every`-th step only."""
    steps = range(0, len(raw.timestamps), every)
    pairs = {step: touching(raw, step) for step in steps}
    off = total = 0
    for step in steps:
        agents = np.flatnonzero(on_wheels(raw) & raw.valid[step])
        floor = raw.xyz[step, agents, 2] - raw.size[step, agents, 2] / 2
        boxes = corners(raw, step, agents)
        points = np.concatenate([boxes, np.broadcast_to(floor[:, None, None], (len(agents), 4, 1))], axis=-1)
        distance = edge_distance(raw, points.reshape(-1, 3)).reshape(-1, 4)
        off, total = off + int((distance.max(axis=1, initial=-1.0) > 0).sum()), total + len(agents)
    passed, at_red = passages(raw)
    return {
        "agents": len(raw.agent_id),
        "touch at the beginning": len(pairs[0]),
        "touch": len({agent for found in pairs.values() for pair in found for agent in pair}),
        "moving": total,
        "off the road": off,
        "pass a light": passed,
        "pass at red": at_red,
    }


def passages(raw: RawScene) -> tuple[int, int]:
    """How often a front bumper passes a stop point, and how often all lights known there were red."""
    passed = at_red = 0
    points = np.unique(raw.signal_stop_point[0].round(2), axis=0)
    for point in points:
        lights = np.flatnonzero(np.linalg.norm(raw.signal_stop_point[0] - point, axis=-1) < 0.1)
        lane = raw.point_xyz[raw.feature_id[raw.point_feature] == raw.signal_lane_id[lights[0]]]
        forward = (lane[1] - lane[0])[:2] / np.linalg.norm((lane[1] - lane[0])[:2])
        for agent in np.flatnonzero(raw.agent_type == VEHICLE):
            offset = raw.xyz[:, agent, :2] - point[:2]
            front = offset @ forward + raw.size[:, agent, 0] / 2
            facing = np.cos(raw.yaw[:, agent] - np.arctan2(forward[1], forward[0])) > 0.9
            over = (front[:-1] <= 0) & (front[1:] > 0) & (np.abs(cross(forward, offset))[1:] < 0.8) & facing[1:]
            over &= raw.valid[1:, agent] & raw.valid[:-1, agent]
            passed += int(over.sum())
            at_red += int((over & np.isin(raw.signal_state[1:][:, lights], RED).all(axis=1)).sum())
    return passed, at_red
