"""Scenes in which one kind of content is empty, for tests of policies, metrics, views, drawing and adapters."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from tests.scenes import raw_scene
from waymax_sim.datasets.scene import RawRoutes, RawScene, to_scenario
from waymax_sim.datatypes.roadmap import CROSSWALK, DRIVEWAY, LANE_TYPES, ROAD_EDGE_TYPES, STOP_SIGN
from waymax_sim.datatypes.scenario import Scenario

# Side of the crosswalk and of the driveway, m.
POLYGON_SIZE = 4.0


def full_scene(**changes) -> RawScene:
    """The road of `raw_scene` with a crosswalk, a driveway, a stop sign and two routes of the sdc."""
    base = raw_scene(**changes)
    corners = POLYGON_SIZE * np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    driveway = corners + np.array([30.0, -6.0, 0.0])
    sign = np.array([[-50.0, 5.0, 0.0]])
    along = np.arange(-80.0, 80.0, 2.0)
    paths = np.stack([np.stack([along, np.full_like(along, y), 0 * along], axis=-1) for y in (0.0, 3.5)])
    is_on_route = np.array([True, False])
    return dataclasses.replace(
        base,
        point_xyz=np.concatenate([base.point_xyz, corners, sign, driveway]),
        point_feature=np.concatenate([base.point_feature, np.repeat([4, 5, 6], [4, 1, 4])]),
        feature_id=np.arange(7) + 10,
        feature_type=np.array([2, 2, 15, 15, CROSSWALK, STOP_SIGN, DRIVEWAY]),
        speed_limit=np.array([13.4, 13.4, 0.0, 0.0, 0.0, 0.0, 0.0]),
        # The oncoming lane is to the left of that of the agents; the stop sign controls it.
        links=np.array([[0, 1, 1], [5, 1, 3]]),
        routes=RawRoutes(paths, np.stack([along + 80] * 2), np.ones((2, len(along)), bool), is_on_route),
    )


def without_features(raw: RawScene, types: Iterable[int] | None = None) -> RawScene:
    """The scene without the map features of some types; without any feature by default."""
    keep = ~np.isin(raw.feature_type, raw.feature_type if types is None else list(types))
    row, points = np.cumsum(keep) - 1, keep[raw.point_feature]
    links = raw.links[keep[raw.links[:, :2]].all(axis=1)]
    return dataclasses.replace(
        raw,
        point_xyz=raw.point_xyz[points],
        point_feature=row[raw.point_feature[points]],
        feature_id=raw.feature_id[keep],
        feature_type=raw.feature_type[keep],
        speed_limit=raw.speed_limit[keep],
        links=np.concatenate([row[links[:, :2]], links[:, 2:]], axis=1),
    )


def without_lights(raw: RawScene) -> RawScene:
    """The scene without traffic lights."""
    return dataclasses.replace(
        raw,
        signal_lane_id=raw.signal_lane_id[:0],
        signal_state=raw.signal_state[:, :0],
        signal_stop_point=raw.signal_stop_point[:, :0],
        signal_valid=raw.signal_valid[:, :0],
    )


def first_agents(raw: RawScene, num_agents: int) -> RawScene:
    """The scene with its first agents only."""
    per_agent = {name: getattr(raw, name)[:num_agents] for name in ("agent_id", "agent_type", "to_predict")}
    per_step = {name: getattr(raw, name)[:, :num_agents] for name in ("xyz", "yaw", "velocity", "size", "valid")}
    sdc_index = raw.sdc_index if raw.sdc_index < num_agents else -1
    of_interest = raw.of_interest[:num_agents]
    return dataclasses.replace(raw, **per_agent, **per_step, of_interest=of_interest, sdc_index=sdc_index)


def empty_routes(num_routes: int, num_points: int) -> RawRoutes:
    """Routes of which no sample is valid."""
    shape = num_routes, num_points
    return RawRoutes(np.zeros((*shape, 3)), np.zeros(shape), np.zeros(shape, bool), np.ones(num_routes, bool))


def with_routes(raw: RawScene, num_routes: int, num_points: int) -> RawScene:
    """The scene with routes of which no sample is valid."""
    return dataclasses.replace(raw, routes=empty_routes(num_routes, num_points))


def without_stop_lines(raw: RawScene) -> RawScene:
    """The scene without traffic lights and stop signs."""
    return without_lights(without_features(raw, [STOP_SIGN]))


def without_anything(raw: RawScene) -> RawScene:
    """The scene without map, lights, routes and agents."""
    return first_agents(with_routes(without_lights(without_features(raw)), 0, 0), 0)


# Removal of content by name; the scene of `full_scene` has all of it.
REMOVALS: dict[str, Callable[[RawScene], RawScene]] = {
    "nothing": lambda raw: raw,
    "stop lines": without_stop_lines,
    "lights": without_lights,
    "lanes": lambda raw: without_features(raw, LANE_TYPES),
    "road edges": lambda raw: without_features(raw, ROAD_EDGE_TYPES),
    "crosswalks": lambda raw: without_features(raw, [CROSSWALK]),
    "driveways": lambda raw: without_features(raw, [DRIVEWAY]),
    "map": without_features,
    "map and lights": lambda raw: without_lights(without_features(raw)),
    "routes": lambda raw: with_routes(raw, 0, 0),
    "points of routes": lambda raw: with_routes(raw, 2, 0),
    "all but one point of routes": lambda raw: with_routes(raw, 1, 1),
    "all but one agent": lambda raw: first_agents(raw, 1),
    "ego": lambda raw: dataclasses.replace(raw, sdc_index=-1),
    "agents": lambda raw: first_agents(raw, 0),
    "states of agents": lambda raw: dataclasses.replace(raw, valid=np.zeros_like(raw.valid)),
    "anything": without_anything,
}


def empty_scenario(name: str, *, pad_to_bucket: bool = False, **changes) -> Scenario:
    """The scenario of `full_scene` without the content of a name in `REMOVALS`.

    Args:
      name: Name of the removal.
      pad_to_bucket: See `to_scenario`.
      changes: Fields of `raw_scene`.
    """
    return to_scenario(REMOVALS[name](full_scene(**changes)), pad_to_bucket=pad_to_bucket)
