"""Reader of CommonRoad scenarios (XML, versions 2018b and 2020a).

Scenarios are planar: the ground has height 0, and boxes have a nominal height above it. There is no ego, because a
planning problem is not a track. Bounds of lanelets are road lines; a bound of several lanelets appears once. The
format does not describe the drivable area, so there are no road edges.

Measured states can be intervals and regions; their middles are used. Traffic lights of 2020a are cycles, in steps, that
apply to the lanelets that refer to them.
"""

from xml.etree.ElementTree import Element

import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.commonroad_lights import read_lights
from waymax_sim.datasets.formats.commonroad_map import is_sidewalk, read_map
from waymax_sim.datasets.formats.commonroad_states import Track, is_static, read_boxes, read_track
from waymax_sim.datasets.formats.commonroad_xml import (
    COMMONROAD_REMEDY,
    child_text,
    parse_id,
    parse_number,
    parse_xml,
)
from waymax_sim.datasets.formats.map_features import check_num_states, map_fields
from waymax_sim.datasets.scenario_id import content_id
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN, VEHICLE

MAX_COMMONROAD_BYTES = 64 * 2**20  # the sample has 0.6 MB

# Obstacle type -> agent type and nominal height, m.
OBSTACLE_TYPES = {
    "car": (VEHICLE, 1.5),
    "parkedVehicle": (VEHICLE, 1.5),
    "taxi": (VEHICLE, 1.5),
    "priorityVehicle": (VEHICLE, 2.5),
    "truck": (VEHICLE, 3.5),
    "bus": (VEHICLE, 3.2),
    "motorcycle": (VEHICLE, 1.7),
    "bicycle": (CYCLIST, 1.7),
    "pedestrian": (PEDESTRIAN, 1.7),
}
OTHER_OBSTACLE = (OTHER, 1.5)


def scene_from_file(path: str) -> RawScene:
    """Reads a scenario.

    The current step is 0. Centerlines of lanes are midway between the bounds. Velocities have the direction of the
    orientation; absent speeds are derived from the positions. Static obstacles are valid at all steps, obstacles with
    predicted occupancies only at their first one.

    Raises:
      DataError: The file is not a CommonRoad scenario, or it has duplicate states or ids.
    """
    root = parse_xml(read_bytes(path, MAX_COMMONROAD_BYTES))
    step = parse_number(root.get("timeStepSize", ""), "timeStepSize")
    if not 0 < step < 1e3:
        raise DataError(f"{step} s is not a valid time step", field="timeStepSize", remedy=COMMONROAD_REMEDY)
    tags = ("obstacle", "dynamicObstacle", "staticObstacle")
    obstacles = [element for element in root if element.tag in tags]
    tracks = [read_track(obstacle, step) for obstacle in obstacles]
    num_steps = 1 + max((time for track in tracks for time in track.states), default=0)
    shape = num_steps, len(tracks)
    check_num_states(num_steps, len(tracks), field="time", remedy=COMMONROAD_REMEDY)
    x, y, yaw, speed = np.zeros((4, *shape))
    valid = np.zeros(shape, bool)
    for row, track in enumerate(tracks):
        times = slice(None) if is_static(obstacles[row]) else list(track.states)
        for values, column in zip((x, y, yaw, speed), zip(*track.states.values(), strict=True), strict=True):
            values[times, row] = column
        valid[times, row] = True
    kinds = [OBSTACLE_TYPES.get(child_text(obstacle, "type"), OTHER_OBSTACLE) for obstacle in obstacles]
    agent_type, height = np.array(kinds).reshape(-1, 2).T
    size, center = read_boxes(obstacles)
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = x + cos * center[:, 0] - sin * center[:, 1], y + sin * center[:, 0] + cos * center[:, 1]
    features, links = read_map(root)
    lights = read_lights(root, {feature.id: feature for feature in features}, num_steps)
    benchmark = root.get("benchmarkID", "")
    return RawScene(
        scenario_id=benchmark or content_id(x, y, valid),
        timestamps=step * np.arange(num_steps),
        current_step=0,
        agent_id=np.array([parse_id(obstacle, "id") for obstacle in obstacles], np.int64),
        agent_type=agent_type.astype(np.int64),
        xyz=np.stack([x, y, np.broadcast_to(height / 2, shape)], axis=-1),
        yaw=yaw,
        velocity=np.stack([speed * cos, speed * sin], axis=-1),
        size=np.broadcast_to(np.column_stack([size, height]), (*shape, 3)).copy(),
        valid=valid,
        sdc_index=-1,
        to_predict=np.zeros(len(tracks), bool),
        of_interest=np.zeros(len(tracks), bool),
        **map_fields(features, links),
        signal_lane_id=lights.lane_id,
        signal_state=lights.state,
        signal_stop_point=lights.stop_point,
        signal_valid=lights.valid,
        missing_fields=_missing_fields(root, tracks, has_lights=len(lights.lane_id) > 0),
    )


def _missing_fields(root: Element, tracks: list[Track], *, has_lights: bool) -> tuple[str, ...]:
    counts = {
        "exact states of {} obstacles": sum(track.is_uncertain for track in tracks),
        "speeds of {} obstacles": sum(not track.has_speeds for track in tracks),
        "states of {} obstacles after the first one": len(root.findall("dynamicObstacle/occupancySet")),
        "{} sidewalks": sum(is_sidewalk(lanelet) for lanelet in root.iterfind("lanelet")),
    }
    partly = (text.format(count) for text, count in counts.items() if count)
    return ("sdc", *(() if has_lights else ("lights",)), "stop signs", "road edges", "heights", "box heights", *partly)
