"""What is around the agents: map, lights and routes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num

from waymax_sim.datasets.edit.common import Numbers, all_there, finite, sized_like
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES, RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES, Signals
from waymax_sim.maps.elements import build_elements
from waymax_sim.maps.lanes import build_lane_graph
from waymax_sim.maps.segments import build_segments


def crop_map(scenario: Scenario, center: Numbers, radius: float) -> Scenario:
    """Keeps the map features that have a point within a circle, and drops the lights of lanes that are not.

    Features stay whole: half a road edge would change what is off the road. Rows of the feature table change.

    Args:
      scenario: Whose map is cropped.
      center: x and y of the centre, m, local frame.
      radius: m.
    """
    old = scenario.roadmap
    near = old.valid & (np.linalg.norm(old.xyz[:, :2] - finite("center", center), axis=-1) <= radius)
    features = np.bincount(old.feature[near], minlength=len(old.feature_id)) > 0
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
    )
    lanes = build_segments(roadmap.xyz, roadmap.feature, roadmap.feature_type, LANE_TYPES, sided=False)
    signals = _without(scenario.signals, np.setdiff1d(old.feature_id, roadmap.feature_id))
    edited = dataclasses.replace(
        scenario,
        roadmap=roadmap,
        edges=build_segments(roadmap.xyz, roadmap.feature, roadmap.feature_type, ROAD_EDGE_TYPES),
        lanes=lanes,
        graph=build_lane_graph(roadmap, lanes, signals),
        elements=build_elements(roadmap.xyz, roadmap.feature),
        signals=signals,
    )
    return sized_like(scenario, edited)


def _without(signals: Signals, lane_ids: Int[np.ndarray, " n"]) -> Signals:
    """Makes the lights of some lanes padding."""
    kept = ~np.isin(signals.lane_id, lane_ids)
    return Signals(
        lane_id=np.where(kept, signals.lane_id, -1),
        state=np.where(kept, signals.state, 0),
        stop_point=np.where(kept[:, None], signals.stop_point, np.float32(0)),
        valid=signals.valid & kept,
    )


def set_lights(scenario: Scenario, state: Numbers, lane_ids: Sequence[int] | None = None) -> Scenario:
    """Switches lights to a state at the steps they are seen.

    Args:
      scenario: Where they are switched.
      state: 0 unknown, 1 to 3 arrow stop, caution, go, 4 to 6 stop, caution, go, 7 and 8 flashing stop and caution:
        one for all, [T, 1] for each step, or [T, S] for each step and light.
      lane_ids: Map ids of their lanes; all lights unless told.

    Raises:
      ValueError: There is no such state, or a lane has no light.
    """
    signals, state = scenario.signals, np.asarray(state, np.int32)
    if state.min() < 0 or state.max() >= len(SIGNAL_STATE_NAMES):
        raise ValueError(f"states of lights are 0 to {len(SIGNAL_STATE_NAMES) - 1}")
    lanes = signals.lane_id if lane_ids is None else all_there("lights of lanes", lane_ids, signals.lane_id)
    switched = np.isin(signals.lane_id, lanes) & signals.valid
    signals = dataclasses.replace(signals, state=np.where(switched, state, signals.state))
    return dataclasses.replace(scenario, signals=signals)


def set_routes(
    scenario: Scenario, paths: Sequence[Num[np.ndarray, "_ 3"]], on_route: Sequence[bool] | None = None
) -> Scenario:
    """Replaces the paths of the sdc; arc lengths are computed. Without a path the scene has no routes.

    Args:
      scenario: Where they are replaced.
      paths: Points of each path in the direction of travel, m, local frame.
      on_route: Which of them are the way to go; all unless told.

    Raises:
      ValueError: A number is not finite, or there are not as many flags as paths.
    """
    if not paths:
        return dataclasses.replace(scenario, routes=None)
    flags = np.ones(len(paths), bool) if on_route is None else np.array(on_route, bool)
    if len(flags) != len(paths):
        raise ValueError(f"{len(flags)} flags for {len(paths)} paths")
    counts = np.array([len(path) for path in paths])
    valid = np.arange(counts.max()) < counts[:, None]
    xyz, arc_length = np.zeros((*valid.shape, 3)), np.zeros(valid.shape)
    xyz[valid] = finite("paths", np.concatenate(paths))
    arc_length[:, 1:] = np.cumsum(np.linalg.norm(np.diff(xyz, axis=1), axis=-1), axis=1)
    routes = Routes(
        xyz=xyz.astype(np.float32),
        arc_length=np.where(valid, arc_length, 0.0).astype(np.float32),
        valid=valid,
        on_route=flags,
    )
    return sized_like(scenario, dataclasses.replace(scenario, routes=routes))
