"""The lanes that stop signs control, inferred from geometry for sources that do not state them. Runs on the host."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.roadmap import CONTROLS
from waymax_sim.maps.centerlines import Centerlines, pairs_within_radius
from waymax_sim.maps.lane_topology import Links, angle_between, in_frame


class StopSignParams(NamedTuple):
    """Position of a stop sign relative to the starts of the lanes that it controls.

    Chosen on recorded Scenario protos, which state these lanes; see `docs/lanes.md`.

    Attributes:
      max_lateral: Distance to the nearest lane of the approach, to the left of the sign, m.
      max_longitudinal: Distance of the sign before or behind the start of that lane, m.
      max_longitudinal_straight: The same for a lane that is on no junction, m.
      max_height: Height of a sign above the lane, m: signs are mounted on posts.
      max_angle: Between the directions of the lanes of one approach, rad.
      max_stagger: Longitudinal distance between the starts of the lanes of one approach, m.
      max_gap: Lateral distance between adjacent lanes of one approach, m.
      approach_radius: Distance from the sign to the starts of all lanes of the approach, m.
    """

    max_lateral: float = 9.0
    max_longitudinal: float = 7.0
    max_longitudinal_straight: float = 1.0
    max_height: float = 4.0
    max_angle: float = np.pi / 12
    max_stagger: float = 4.0
    max_gap: float = 7.0
    approach_radius: float = 20.0


STOP_SIGN_PARAMS = StopSignParams()


class _Entries(NamedTuple):
    """Starts of the lanes that a sign may control, in the frame of the sign.

    Attributes:
      lane: Rows of the feature table.
      start: Start, m.
      yaw: Direction at the start, rad.
      on_junction: Whether the lane forks from, merges with or crosses another one.
      longitudinal: Offset of the sign from the start along the lane, m.
      lateral: Offset of the sign from the start to the left of the lane, m.
    """

    lane: Int[np.ndarray, " K"]
    start: Float[np.ndarray, "K 3"]
    yaw: Float[np.ndarray, " K"]
    on_junction: Bool[np.ndarray, " K"]
    longitudinal: Float[np.ndarray, " K"]
    lateral: Float[np.ndarray, " K"]

    def select(self, rows) -> "_Entries":
        return _Entries(*(values[rows] for values in self))


def infer_controls(
    lines: Centerlines,
    signs: Int[np.ndarray, " G"],
    xyz: Float[np.ndarray, "G 3"],
    is_bike: Bool[np.ndarray, " F"],
    successors: Links,
    crossed: Bool[np.ndarray, " F"],
    params: StopSignParams = STOP_SIGN_PARAMS,
) -> Int[np.ndarray, "K 3"]:
    """Links (stop sign, lane, `CONTROLS`): all lanes of the approach at whose right a sign stands.

    The approach is that of the nearest lane that begins to the left of the sign and is on a junction; without one, of
    the nearest lane that begins at the sign. It consists of the lanes that begin next to that lane, to both
    sides, in its direction. Lanes in which others merge at their start lead away from a junction and are left out.

    Args:
      lines: Lane centerlines.
      signs: Rows of the stop signs in the feature table.
      xyz: Positions of the signs, m.
      is_bike: Bike lanes, which no sign controls.
      successors: Links between lanes.
      crossed: Lanes that cross another one, from `crossed_lanes`.
      params: Distances and angles.
    """
    size = len(lines.num_segments)
    num_successors, num_predecessors = (np.bincount(successors[:, column], minlength=size) for column in (0, 1))
    forks, merges = np.zeros((2, size), bool)
    forks[successors[num_successors[successors[:, 0]] > 1, 1]] = True
    merges[successors[num_predecessors[successors[:, 1]] > 1, 0]] = True
    on_junction = crossed | forks | merges

    lanes = np.flatnonzero((lines.num_segments > 0) & ~is_bike & (num_predecessors <= 1))
    first = lines.first_segment[lanes]
    start, yaw = lines.start[first], lines.yaw[first]
    sign, row = pairs_within_radius(xyz[:, :2], start[:, :2], params.approach_radius)
    is_level = np.abs(xyz[sign, 2] - start[row, 2]) < params.max_height
    sign, row = sign[is_level], row[is_level]
    offsets = in_frame(start[row], yaw[row], xyz[sign])
    entries = _Entries(lanes[row], start[row], yaw[row], on_junction[lanes[row]], *offsets)
    order = np.argsort(sign, kind="stable")
    links = []
    for rows in np.split(order, np.flatnonzero(np.diff(sign[order])) + 1) if len(order) else []:
        approach = _approach(entries.select(rows), params)
        links += [(signs[sign[rows[0]]], lane, CONTROLS) for lane in approach.tolist()]
    return np.array(links, int).reshape(-1, 3)


def _approach(entries: _Entries, params: StopSignParams) -> Int[np.ndarray, " K"]:
    """The lanes of the approach that one sign controls; none if no lane begins to its left."""
    in_reach = (entries.lateral < 0) & (entries.lateral >= -params.max_lateral)
    in_reach &= np.abs(entries.longitudinal) <= params.max_longitudinal
    is_candidate = in_reach & entries.on_junction
    if not is_candidate.any():
        is_candidate = in_reach & (np.abs(entries.longitudinal) <= params.max_longitudinal_straight)
    if not is_candidate.any():
        return np.zeros(0, int)
    distance = np.where(is_candidate, np.hypot(entries.longitudinal, entries.lateral), np.inf)
    nearest = np.argmin(distance)
    origin, yaw = (np.broadcast_to(values[nearest], values.shape) for values in (entries.start, entries.yaw))
    is_aligned = angle_between(entries.yaw, yaw) <= params.max_angle
    is_aligned &= entries.on_junction == entries.on_junction[nearest]
    longitudinal, lateral = in_frame(origin, yaw, entries.start)
    rows = np.flatnonzero(is_aligned & (np.abs(longitudinal) <= params.max_stagger))
    rows = rows[np.argsort(lateral[rows], kind="stable")]
    # Lanes that follow each other across the road without a gap, the nearest one among them.
    group = np.cumsum(np.diff(lateral[rows], prepend=lateral[rows[0]]) > params.max_gap)
    return entries.lane[rows[group == group[rows == nearest]]]
