"""Slow and obvious float64 versions of what agents see, one observer and one thing at a time."""

import itertools
import math

import numpy as np

from tests.oracle import wrap


def runs(feature: np.ndarray, length: int = 8) -> list[list[int]]:
    """Points of each map element: up to 8 in a row of the same feature."""
    found = []
    for _, points in itertools.groupby(range(len(feature)), key=lambda point: feature[point]):
        points = list(points)
        found += [points[start : start + length] for start in range(0, len(points), length)]
    return found


def nearest_distances(xy: np.ndarray, elements: list[list[int]], at: np.ndarray, k: int) -> np.ndarray:
    """Distances of the k nearest elements in order, fewer where there are fewer."""
    distance = np.hypot(*(xy - at).T) if len(xy) else np.zeros(0)
    return np.sort([distance[points].min() for points in elements])[:k]


def in_frame(xyz: np.ndarray, origin: np.ndarray, yaw: float) -> np.ndarray:
    """One point seen from `origin`, the x axis turned to `yaw`."""
    x, y, z = np.asarray(xyz, float) - origin
    return np.array([x * math.cos(yaw) + y * math.sin(yaw), y * math.cos(yaw) - x * math.sin(yaw), z])


def agents_seen(xyz: np.ndarray, valid: np.ndarray, observer: int, k: int) -> list[int]:
    """The observer, then the valid others by distance in the plane; nobody for an observer that is not there."""
    if not valid[observer]:
        return []
    others = [agent for agent in np.flatnonzero(valid) if agent != observer]
    others.sort(key=lambda agent: math.dist(xyz[agent, :2], xyz[observer, :2]))
    return [observer, *others][:k]


def history_seen(history, observer: int, agent: int) -> list[tuple]:
    """(place, yaw, velocity) of an agent at each step in the frame of an observer now; None where it was not there."""
    origin, yaw = history.xyz[-1, observer], history.yaw[-1, observer]
    seen = []
    for step in range(len(history.valid)):
        if not history.valid[step, agent]:
            seen.append(None)
            continue
        velocity = in_frame([*history.velocity[step, agent], 0.0], np.zeros(3), yaw)[:2]
        seen.append((in_frame(history.xyz[step, agent], origin, yaw), wrap(history.yaw[step, agent] - yaw), velocity))
    return seen
