"""What is measured on the host: reading scenes and building the index of a map."""

from collections.abc import Callable
from typing import Any

from waymax_sim.datasets import tfrecord, wire
from waymax_sim.datasets.loader import Scenarios
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES
from waymax_sim.maps.segments import build_segments

HOST = ("index_build", "load_tf_example", "load_scenario_proto")


def host_cases(scenarios: Scenarios, index: int, raw: RawScene) -> dict[str, Callable[[int], Any]]:
    """Functions to call, by name; each is given a running number that it does not need.

    Args:
      scenarios: The scenes.
      index: Which of them.
      raw: The same scene as its reader gave it.
    """
    origin = raw.point_xyz.mean(axis=0)

    def build(_: int) -> Any:
        points = raw.point_xyz - origin
        return [build_segments(points, raw.point_feature, raw.feature_type, t) for t in (ROAD_EDGE_TYPES, LANE_TYPES)]

    cases: dict[str, Callable[[int], Any]] = {"index_build": build}
    form = _form(*scenarios.source(index))
    if form is not None:
        cases[f"load_{form}"] = lambda _: scenarios[index]
    return cases


def _form(file: str, record: int) -> str | None:
    """What a record is; None for made-up scenes."""
    if file.startswith("synthetic:"):
        return None
    fields = wire.decode(tfrecord.read(tfrecord.index(file), record), "record")
    return "tf_example" if fields.keys() == {1} else "scenario_proto"
