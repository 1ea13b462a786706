"""Conversion of map features to the map fields of a `RawScene`, and geometry of map readers."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import INT32, check_num_steps

# Limits for damaged files, far above those of recorded scenes.
MAX_PAIRS = 500_000_000  # pairs of points that are compared
PAIRS_PER_BATCH = 1_000_000  # pairs of points in memory
MAX_LEFT_OUT = 20  # types of map features that are left out and named
MAX_STATES = 500_000  # steps times agents, which can exceed the size of the file; recorded scenes have up to 40,000


@dataclasses.dataclass(frozen=True)
class MapFeature:
    """One map feature.

    Attributes:
      id: Map id of the source.
      type: WOMD tf.Example code (see `datatypes.roadmap`).
      xyz: Points, m, world frame of the source.
      speed_limit: Speed limit of a lane, m/s; 0 if unknown.
    """

    id: int
    type: int
    xyz: Float[np.ndarray, "P 3"]
    speed_limit: float = 0.0


def check_num_states(num_steps: int, num_agents: int, *, field: str, remedy: str) -> None:
    """Checks the size of a log before memory for it is allocated.

    Args:
      num_steps: Declared number of steps.
      num_agents: Number of agents.
      field: Name of the field with the number of steps, for errors.
      remedy: Suggested action.

    Raises:
      DataError: There are too many steps, or more than `MAX_STATES` states.
    """
    check_num_steps(num_steps)
    if num_steps * num_agents > MAX_STATES:
        problem = f"has too many states, {num_agents} agents over {num_steps} steps"
        raise DataError(problem, field=field, remedy=remedy)


def map_fields(features: Sequence[MapFeature], links: Collection[tuple[int, int, int]]) -> dict[str, Any]:
    """The map fields of a `RawScene`.

    Args:
      features: Rows of the feature table.
      links: Ids (from, to, kind) of linked lanes. Duplicates and links to absent features are dropped.

    Raises:
      DataError: An id does not fit into 32 bits.
    """
    if any(not INT32.min <= feature.id <= INT32.max for feature in features):
        raise DataError("has ids that do not fit into 32 bits", field="feature_id")
    row = {feature.id: index for index, feature in enumerate(features)}
    rows = {(row[a], row[b], kind) for a, b, kind in links if a in row and b in row}
    return {
        "point_xyz": np.concatenate([np.zeros((0, 3)), *(feature.xyz for feature in features)]),
        "point_feature": np.repeat(np.arange(len(features)), [len(feature.xyz) for feature in features]),
        "feature_id": np.array([feature.id for feature in features], np.int64),
        "feature_type": np.array([feature.type for feature in features], np.int64),
        "speed_limit": np.array([feature.speed_limit for feature in features], np.float64),
        "links": np.array(sorted(rows), np.int64).reshape(-1, 3),
    }


def left_out_features(types: Iterable[str]) -> list[str]:
    """Entries of `RawScene.missing_fields` for map features that a reader leaves out, one for each type."""
    counts = Counter(types)
    return [f"{count} map features of type {kind[:60]}" for kind, count in counts.items()][:MAX_LEFT_OUT]


def empty_light_fields(num_steps: int) -> dict[str, Any]:
    """The light fields of a `RawScene` without lights."""
    return {
        "signal_lane_id": np.zeros(0, np.int64),
        "signal_state": np.zeros((num_steps, 0), np.int64),
        "signal_stop_point": np.zeros((num_steps, 0, 3)),
        "signal_valid": np.zeros((num_steps, 0), bool),
    }


def relative_arc_length(points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """Arc length of each point of a polyline in the plane, as a fraction of the total length."""
    arc_length = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=-1)))
    return arc_length / arc_length[-1] if arc_length[-1] > 0 else arc_length


def resample(points: Float[np.ndarray, "P 3"], fractions: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Points of a polyline, m, at fractions of its length, by linear interpolation."""
    return np.stack([np.interp(fractions, relative_arc_length(points), points[:, axis]) for axis in range(3)], axis=-1)


def ground_height(points: Float[np.ndarray, "P 3"], xy: Float[np.ndarray, "Q 2"]) -> Float[np.ndarray, " Q"]:
    """Height of the map point that is nearest in the plane to each query point, m; 0 without map points.

    Raises:
      DataError: There are more than `MAX_PAIRS` pairs of map and query points.
    """
    if not len(points):
        return np.zeros(len(xy))
    if len(points) * len(xy) > MAX_PAIRS:
        raise DataError(f"has too many map points, {len(points)} for {len(xy)} states", field="point_xyz")
    # The nearest point p of a query point q minimizes |p|^2 - 2 p.q; shifted to the first point against cancellation.
    plane = points[:, :2] - points[0, :2]
    squared_norm = (plane**2).sum(axis=-1)
    nearest = [
        np.argmin(squared_norm - 2 * (batch - points[0, :2]) @ plane.T, axis=-1)
        for batch in np.array_split(xy, 1 + len(points) * len(xy) // PAIRS_PER_BATCH)
    ]
    return points[np.concatenate(nearest), 2]
