"""Edits of map, lights and routes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num

from waymax_sim.datasets.edit.common import ArrayLike, check_finite, check_ids, pad_like
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES, RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES, Signals
from waymax_sim.maps.driveways import driveway_sides
from waymax_sim.maps.lanes import build_lane_graph
from waymax_sim.maps.polylines import build_polylines
from waymax_sim.maps.segments import build_segments


def crop_map(scenario: Scenario, center: ArrayLike, radius: float) -> Scenario:
    """Selects the map features with a point within a circle, and the lights of selected lanes.

    Features are not cut, because parts of road edges would change the drivable area. Rows of the feature table
    change.

    Args:
      scenario: The scenario.
      center: x and y of the center, m, local frame.
      radius: Radius of the circle, m.
    """
    old = scenario.roadmap
    is_near = old.valid & (np.linalg.norm(old.xyz[:, :2] - check_finite("center", center), axis=-1) <= radius)
    features = np.bincount(old.feature[is_near], minlength=len(old.feature_id)) > 0
    points = np.flatnonzero(old.valid)
    points = points[features[old.feature[points]]]
    row = (np.cumsum(features) - 1).astype(np.int32)
    links = old.links[old.links[:, 2] >= 0]
    links = links[features[links[:, :2]].all(axis=1)]
    roadmap = RoadMap(
        xyz=old.xyz[points],
        feature=row[old.feature[points]],
        valid=np.ones(len(points), bool),
        feature_id=old.feature_id[features],
        feature_type=old.feature_type[features],
        speed_limit=old.speed_limit[features],
        links=np.concatenate([row[links[:, :2]], links[:, 2:]], axis=1),
        driveways=driveway_sides(old.xyz[points], row[old.feature[points]], old.feature_type[features]),
    )
    lanes = build_segments(roadmap.xyz, roadmap.feature, roadmap.feature_type, LANE_TYPES, sided=False)
    signals = _without(scenario.signals, np.setdiff1d(old.feature_id, roadmap.feature_id))
    edited = dataclasses.replace(
        scenario,
        roadmap=roadmap,
        edges=build_segments(roadmap.xyz, roadmap.feature, roadmap.feature_type, ROAD_EDGE_TYPES),
        lanes=lanes,
        graph=build_lane_graph(roadmap, lanes, signals),
        polylines=build_polylines(roadmap.xyz, roadmap.feature),
        signals=signals,
    )
    return pad_like(scenario, edited)


def _without(signals: Signals, lane_ids: Int[np.ndarray, " n"]) -> Signals:
    """Turns the lights of some lanes into padding."""
    remaining = ~np.isin(signals.lane_id, lane_ids)
    return Signals(
        lane_id=np.where(remaining, signals.lane_id, -1),
        state=np.where(remaining, signals.state, 0),
        stop_point=np.where(remaining[:, None], signals.stop_point, np.float32(0)),
        valid=signals.valid & remaining,
    )


def set_lights(scenario: Scenario, state: ArrayLike, lane_ids: Sequence[int] | None = None) -> Scenario:
    """Sets the state of lights at their valid steps.

    Args:
      scenario: The scenario.
      state: 0 unknown, 1 to 3 arrow stop, caution, go, 4 to 6 stop, caution, go, 7 and 8 flashing stop and caution:
        a scalar, [T, 1] per step, or [T, S] per step and light.
      lane_ids: Map ids of their lanes; all lights by default.

    Raises:
      ValueError: A state is invalid, or a lane has no light.
    """
    signals, state = scenario.signals, np.asarray(state, np.int32)
    if state.min() < 0 or state.max() >= len(SIGNAL_STATE_NAMES):
        raise ValueError(f"a light state is not one of 0 to {len(SIGNAL_STATE_NAMES) - 1}")
    lanes = signals.lane_id if lane_ids is None else check_ids("lights of lanes", lane_ids, signals.lane_id)
    is_set = np.isin(signals.lane_id, lanes) & signals.valid
    signals = dataclasses.replace(signals, state=np.where(is_set, state, signals.state))
    return dataclasses.replace(scenario, signals=signals)


def set_routes(
    scenario: Scenario, paths: Sequence[Num[np.ndarray, "_ 3"]], on_route: Sequence[bool] | None = None
) -> Scenario:
    """Replaces the routes of the sdc; without a path the scenario has no routes.

    Args:
      scenario: The scenario.
      paths: Points of each path in the direction of travel, m, local frame.
      on_route: Whether each path is on route; all are by default.

    Raises:
      ValueError: A number is not finite, or the number of flags differs from that of paths.
    """
    if not paths:
        return dataclasses.replace(scenario, routes=None)
    flags = np.ones(len(paths), bool) if on_route is None else np.array(on_route, bool)
    if len(flags) != len(paths):
        raise ValueError(f"{len(flags)} flags for {len(paths)} paths")
    counts = np.array([len(path) for path in paths])
    valid = np.arange(counts.max()) < counts[:, None]
    xyz, arc_length = np.zeros((*valid.shape, 3)), np.zeros(valid.shape)
    xyz[valid] = check_finite("paths", np.concatenate(paths))
    arc_length[:, 1:] = np.cumsum(np.linalg.norm(np.diff(xyz, axis=1), axis=-1), axis=1)
    routes = Routes(
        xyz=xyz.astype(np.float32),
        arc_length=np.where(valid, arc_length, 0.0).astype(np.float32),
        valid=valid,
        on_route=flags,
    )
    return pad_like(scenario, dataclasses.replace(scenario, routes=routes))
