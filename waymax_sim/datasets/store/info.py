"""Facts about scenes."""

import dataclasses

import numpy as np

from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.scenario import Scenario


@dataclasses.dataclass(frozen=True)
class SceneInfo:
    """Facts about a scene that are known without decoding it; padding is not counted.

    Attributes:
      num_steps: Recorded steps.
      num_agents: Agents.
      num_valid_now: Agents seen at the current step.
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


def info_of(scenario: Scenario) -> SceneInfo:
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
