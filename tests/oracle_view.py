"""Sequential float64 versions of agent-centric views, for one observer and one agent at a time."""

import itertools
import math

import numpy as np

from tests.oracle import wrap


def runs(feature: np.ndarray, length: int = 8) -> list[list[int]]:
    """Point indices of each polyline: up to 8 consecutive points of one feature."""
    polylines = []
    for _, points in itertools.groupby(range(len(feature)), key=lambda point: feature[point]):
        points = list(points)
        polylines += [points[start : start + length] for start in range(0, len(points), length)]
    return polylines


def nearest_distances(xy: np.ndarray, polylines: list[list[int]], at: np.ndarray, k: int) -> np.ndarray:
    """Ascending distances of the k nearest polylines, or of all if there are fewer."""
    distance = np.hypot(*(xy - at).T) if len(xy) else np.zeros(0)
    return np.sort([distance[points].min() for points in polylines])[:k]


def in_frame(xyz: np.ndarray, origin: np.ndarray, yaw: float) -> np.ndarray:
    """A point in the frame with the given origin and the x axis along `yaw`."""
    x, y, z = np.asarray(xyz, float) - origin
    return np.array([x * math.cos(yaw) + y * math.sin(yaw), y * math.cos(yaw) - x * math.sin(yaw), z])


def agents_in_view(xyz: np.ndarray, valid: np.ndarray, observer: int, k: int) -> list[int]:
    """The observer, then valid other agents by planar distance; empty for an invalid observer."""
    if not valid[observer]:
        return []
    others = [agent for agent in np.flatnonzero(valid) if agent != observer]
    others.sort(key=lambda agent: math.dist(xyz[agent, :2], xyz[observer, :2]))
    return [observer, *others][:k]


def history_in_frame(history, observer: int, agent: int) -> list[tuple]:
    """(position, yaw, velocity) of an agent at each step in the current frame of an observer; None where invalid."""
    origin, yaw = history.xyz[-1, observer], history.yaw[-1, observer]
    states = []
    for step in range(len(history.valid)):
        if not history.valid[step, agent]:
            states.append(None)
            continue
        velocity = in_frame([*history.velocity[step, agent], 0.0], np.zeros(3), yaw)[:2]
        states.append((in_frame(history.xyz[step, agent], origin, yaw), wrap(history.yaw[step, agent] - yaw), velocity))
    return states
