"""Descriptions of scenes: the facts that a store indexes, and a description for users."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.roadmap import kind_name
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.validate import validate


@dataclasses.dataclass(frozen=True)
class SceneInfo:
    """Facts about a scene that stores index, so that no decoding is needed; padding is not counted.

    Attributes:
      num_steps: Recorded steps.
      num_agents: Agents.
      num_valid_now: Agents valid at the current step.
      num_vehicles: Vehicles among the agents.
      num_pedestrians: Pedestrians among the agents.
      num_cyclists: Cyclists among the agents.
      num_points: Map points.
      num_lights: Lanes with lights.
      has_sdc: Whether there is a self-driving car.
      has_routes: Whether there are paths of the sdc.
    """

    num_steps: int
    num_agents: int
    num_valid_now: int
    num_vehicles: int
    num_pedestrians: int
    num_cyclists: int
    num_points: int
    num_lights: int
    has_sdc: bool
    has_routes: bool


def scene_info(scenario: Scenario) -> SceneInfo:
    """The facts about a scenario."""
    s = scenario
    kinds = np.bincount(np.asarray(s.agents.type)[np.asarray(s.agents.exists)], minlength=5)
    return SceneInfo(
        num_steps=s.num_steps,
        num_agents=int(kinds.sum()),
        num_valid_now=int(np.count_nonzero(s.log.valid[int(s.current_step)])),
        num_vehicles=int(kinds[VEHICLE]),
        num_pedestrians=int(kinds[PEDESTRIAN]),
        num_cyclists=int(kinds[CYCLIST]),
        num_points=int(np.count_nonzero(s.roadmap.valid)),
        num_lights=int(np.count_nonzero(s.signals.valid.any(axis=0))),
        has_sdc=bool(np.any(s.agents.is_sdc)),
        has_routes=s.routes is not None,
    )


def describe_scene(scenario: Scenario) -> dict[str, Any]:
    """A description of a scene in values that JSON can encode. Padding is not counted.

    `origin` is the world position of the local origin (m); `bounds` are the extremes of map points and valid agents
    in the local frame (m), None where there are neither. `sdc_index` is None where there is no sdc. `num_lights` is the
    largest number of lights observed at one step.
    """
    info, roadmap, now = scenario.agents, scenario.roadmap, int(scenario.current_step)
    exists, is_sdc = np.asarray(info.exists), np.asarray(info.is_sdc & info.exists)
    points, features = np.asarray(roadmap.valid), np.asarray(roadmap.feature_type)
    kinds = np.array([kind_name(code) for code in features.tolist()], dtype=object)
    return {
        "scenario_id": scenario.scenario_id,
        "num_agents": int(exists.sum()),
        "num_valid_now": int(np.sum(scenario.log.valid[now])),
        "agents_by_type": _count(AGENT_TYPE_NAMES[code] for code in info.type[exists].tolist()),
        "num_steps": scenario.num_steps,
        "current_step": now,
        "sdc_index": int(np.argmax(is_sdc)) if is_sdc.any() else None,
        "num_map_points": int(points.sum()),
        "map_features_by_type": _count(kinds[features >= 0]),
        "map_points_by_type": _count(kinds[roadmap.feature[points]]),
        "num_lights": int(np.sum(scenario.signals.valid, axis=-1).max(initial=0)),
        "origin": scenario.origin.tolist(),
        "bounds": _bounds(scenario),
        "problems": validate(scenario),
    }


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _bounds(scenario: Scenario) -> dict[str, list[float]] | None:
    xyz = np.concatenate([scenario.roadmap.xyz[scenario.roadmap.valid], scenario.log.xyz[scenario.log.valid]])
    if not len(xyz):
        return None
    low, high = xyz.min(axis=0).tolist(), xyz.max(axis=0).tolist()
    return {axis: [low[index], high[index]] for index, axis in enumerate("xyz")}
