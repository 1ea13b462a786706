"""Egos of recorded scenes: each traveling vehicle in turn."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from examples.reproductions.waymax_traffic import traveling_vehicles
from waymax_sim.datasets.edit import set_sdc
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load_all
from waymax_sim.datasets.window import Window
from waymax_sim.datatypes.scenario import Scenario


class Egos(NamedTuple):
    """B scenarios with their egos.

    Attributes:
      scenarios: In host memory.
      record: Index of the record of each scenario. Records of one scene in several formats share it.
    """

    scenarios: list[Scenario]
    record: Int[np.ndarray, " B"]


def recorded_egos(paths: Iterable[str], max_egos: int) -> Egos:
    """The traveling vehicles of recorded scenes as egos, with routes of their own; 8 s from the step 10 of a record on.

    Args:
      paths: Paths of scenes, see `waymax_sim.load`.
      max_egos: Largest number of vehicles of a scene, a random choice.

    Raises:
      DataError: No vehicle travels in any scene.
    """
    scenarios: list[Scenario] = []
    names: list[str] = []
    for scenario in load_all(list(paths), pad_to_bucket=False, window=Window()):
        slots = np.random.default_rng(0).permutation(traveling_vehicles(scenario))[:max_egos]
        scenarios += [set_sdc(scenario, int(scenario.agents.id[slot])) for slot in slots]
        names += [scenario.scenario_id] * len(slots)
    if not scenarios:
        raise DataError("no vehicle travels in any scene", file="the recorded scenes")
    return Egos(scenarios, np.unique(names, return_inverse=True)[1])
