"""Map features as readers of one-scene files find them, to the map of a `RawScene`."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import INT32

# Comparisons of all with all are bounded, in all and at once: this is far beyond any scene.
MAX_PAIRS, AT_ONCE = 500_000_000, 1_000_000
# Steps times agents can outgrow a file, so they are bounded.
MAX_STATES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Feature:
    """One map feature.

    Attributes:
      id: Map id of the source.
      type: WOMD tf.Example code (see `datatypes.roadmap`).
      xyz: Points, m, world frame of the source.
      speed_limit: Of a lane, m/s; 0 where unknown.
    """

    id: int
    type: int
    xyz: Float[np.ndarray, "P 3"]
    speed_limit: float = 0.0


def map_fields(features: Sequence[Feature], links: Collection[tuple[int, int, int]]) -> dict[str, Any]:
    """The map fields of a `RawScene`.

    Args:
      features: Rows of the feature table.
      links: Ids (from, to, kind) of linked lanes. Each is kept once; links to what is not a feature are left out.

    Raises:
      DataError: An id does not fit 32 bits.
    """
    if any(not INT32.min <= feature.id <= INT32.max for feature in features):
        raise DataError("ids do not fit 32 bits", field="feature_id")
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


def no_lights(num_steps: int) -> dict[str, Any]:
    """The light fields of a `RawScene` without lights."""
    return {
        "signal_lane_id": np.zeros(0, np.int64),
        "signal_state": np.zeros((num_steps, 0), np.int64),
        "signal_stop_point": np.zeros((num_steps, 0, 3)),
        "signal_valid": np.zeros((num_steps, 0), bool),
    }


def shares(points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
    """How far along a polyline (m) each point lies, in the plane, as a share of the whole."""
    far = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=-1)))
    return far / far[-1] if far[-1] > 0 else far


def resampled(points: Float[np.ndarray, "P 3"], where: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Points (m) of a polyline at shares of its length."""
    return np.stack([np.interp(where, shares(points), points[:, axis]) for axis in range(3)], axis=-1)


def ground_height(points: Float[np.ndarray, "P 3"], xy: Float[np.ndarray, "Q 2"]) -> Float[np.ndarray, " Q"]:
    """Height (m) of the map point nearest in the plane to each place (m); 0 without any point.

    Raises:
      DataError: There are absurdly many points and places.
    """
    if not len(points):
        return np.zeros(len(xy))
    if len(points) * len(xy) > MAX_PAIRS:
        raise DataError(f"{len(points)} map points for {len(xy)} states are too many", field="point_xyz")
    # The point p with the least |p|^2 - 2 p.q is nearest to q. Far from the origin that would cancel.
    plane = points[:, :2] - points[0, :2]
    norm2 = (plane**2).sum(axis=-1)
    nearest = [
        np.argmin(norm2 - 2 * (some - points[0, :2]) @ plane.T, axis=-1)
        for some in np.array_split(xy, 1 + len(points) * len(xy) // AT_ONCE)
    ]
    return points[np.concatenate(nearest), 2]
