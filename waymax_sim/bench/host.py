"""What is measured on the host: reading scenes and building the index of a map."""

from collections.abc import Callable
from typing import Any, NamedTuple

from waymax_sim.bench.measure import MEGA
from waymax_sim.datasets.encoding import protobuf, tfrecord
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.store.pack import pack, snapped
from waymax_sim.datasets.store.unpack import unpack
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES
from waymax_sim.maps.segments import build_segments

HOST = ("index_build", "load_tf_example", "load_scenario_proto", "read_scene", "load_store")


class HostCase(NamedTuple):
    """A function to call with a running number that it does not need, and the size of what it is given, MB."""

    call: Callable[[int], Any]
    argument_mb: float | None = None


def host_cases(scenarios: Scenarios, index: int, raw: RawScene) -> dict[str, HostCase]:
    """What to measure, by name.

    Args:
      scenarios: The scenes.
      index: Which of them.
      raw: The same scene as its reader gave it.
    """
    origin = raw.point_xyz.mean(axis=0)

    def build(_: int) -> Any:
        points = raw.point_xyz - origin
        edges = build_segments(points, raw.point_feature, raw.feature_type, ROAD_EDGE_TYPES)
        return edges, build_segments(points, raw.point_feature, raw.feature_type, LANE_TYPES, sided=False)

    packed = pack(to_scenario(snapped(raw), bucketed=False))
    cases = {"index_build": HostCase(build), "load_store": HostCase(lambda _: unpack(packed), len(packed) / MEGA)}
    form = _form(*scenarios.source(index))
    if form is not None:
        cases[f"load_{form}"] = HostCase(lambda _: scenarios[index])
        cases["read_scene"] = HostCase(lambda _: scenarios.read(index))
    return cases


def _form(file: str, record: int) -> str | None:
    """What a record is; None for made-up scenes."""
    if file.startswith("synthetic:"):
        return None
    fields = protobuf.decode(tfrecord.read(tfrecord.index(file), record), "record")
    return "tf_example" if fields.keys() == {1} else "scenario_proto"
