"""What is in a scene, in numbers and words."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES
from waymax_sim.datatypes.roadmap import kind_name
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.validate import validate


def describe(scenario: Scenario) -> dict[str, Any]:
    """Facts about one scene as plain Python values, ready for JSON. Padding is not counted.

    `origin` is the world position of the local origin (m); `bounds` are the extremes of map points and valid agents
    in the local frame (m), None where there are neither. `sdc_index` is None where there is no sdc. `num_lights` is the
    largest number of lights seen at one step: sources may know a lane's light only for a while.
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
