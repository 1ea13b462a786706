"""Reader of traffic lights of CommonRoad 2020a."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.commonroad_xml import (
    COMMONROAD_REMEDY,
    child_text,
    parse_id,
    parse_integer,
    parse_points,
)
from waymax_sim.datasets.formats.map_features import MapFeature
from waymax_sim.datasets.formats.traffic_lights import MAX_CELLS, Lights, lights_by_lane
from waymax_sim.datatypes.roadmap import LANE_TYPES
from waymax_sim.datatypes.signals import CAUTION, GO, STOP, UNKNOWN

LIGHT_COLORS = {"red": STOP, "redYellow": CAUTION, "yellow": CAUTION, "green": GO, "inactive": UNKNOWN}


def read_lights(root: Element, features: Mapping[int, MapFeature], num_steps: int) -> Lights:
    """The lights of the lanes that refer to one; of several, the first one counts.

    The stop point is the middle of the stop line, or the end of the lane without one.

    Args:
      root: The scenario.
      features: Map features by id.
      num_steps: Steps of the scene.

    Raises:
      DataError: A light is malformed, or steps times lights exceed `MAX_CELLS`.
    """
    lights = {light.get("id"): light for light in root.iterfind("trafficLight")}
    lanes, states, points = [], [], []
    for lanelet in root.iterfind("lanelet"):
        light = next((lights[ref] for ref in _references(lanelet) if ref in lights), None)
        feature = features.get(parse_id(lanelet, "id"))
        if light is None or feature is None or feature.type not in LANE_TYPES:
            continue
        if num_steps * (len(lanes) + 1) > MAX_CELLS:
            raise DataError(f"has too many lights over {num_steps} steps", field="trafficLight")
        lanes.append(feature.id)
        states.append(_cycle_states(light, num_steps))
        points.append(_stop_point(lanelet, feature))
    step = np.tile(np.arange(num_steps), len(lanes))
    lane, point = np.array(lanes, np.int64), np.array(points, np.float64).reshape(-1, 3)
    return lights_by_lane(
        num_steps,
        step,
        np.repeat(lane, num_steps),
        np.array(states, np.int64).reshape(-1),
        np.repeat(point, num_steps, axis=0),
    )


def _references(lanelet: Element) -> list[str | None]:
    paths = ("trafficLightRef", "stopLine/trafficLightRef")
    return [reference.get("ref") for path in paths for reference in lanelet.iterfind(path)]


def _cycle_states(light: Element, num_steps: int) -> Int[np.ndarray, " T"]:
    """States of a light: its cycle begins at step `timeOffset`, before which it is continued backwards."""
    name = f"trafficLight {light.get('id')}"
    elements = light.findall("cycle/cycleElement") or light.findall("cycle/trafficLightCycle/cycleElement")
    durations = np.array([parse_integer(child_text(each, "duration"), f"{name}.duration") for each in elements], int)
    colors = [child_text(each, "color") for each in elements]
    unknown = set(colors) - LIGHT_COLORS.keys()
    if unknown:
        raise DataError(f"{min(unknown)[:40]!r} is not a color", field=f"{name}.color", remedy=COMMONROAD_REMEDY)
    if child_text(light, "active") == "false" or not durations.sum():
        return np.full(num_steps, UNKNOWN)
    offset = parse_integer(child_text(light, "cycle/timeOffset") or "0", f"{name}.timeOffset")
    phase = (np.arange(num_steps) - offset) % durations.sum()
    return np.array([LIGHT_COLORS[color] for color in colors])[np.searchsorted(np.cumsum(durations), phase, "right")]


def _stop_point(lanelet: Element, lane: MapFeature) -> Float[np.ndarray, " 3"]:
    line = lanelet.find("stopLine")
    points = np.zeros((0, 3)) if line is None else parse_points(line)
    return points.mean(axis=0) if len(points) else lane.xyz[-1]
