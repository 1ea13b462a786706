"""Reader of CommonRoad scenarios (XML, versions 2018b and 2020a).

Scenarios are planar: the ground has height 0, and boxes have a nominal height above it. There is no ego, because a
planning problem is not a track. Bounds of lanelets are road lines; a bound of several lanelets appears once. The
format does not describe the drivable area, so there are no road edges. Traffic lights of 2020a, which are cycles, are
not read.
"""

from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.commonroad_map import read_map
from waymax_sim.datasets.formats.commonroad_xml import (
    COMMONROAD_REMEDY,
    child,
    child_number,
    child_text,
    parse_id,
    parse_integer,
    parse_number,
    parse_points,
    parse_xml,
)
from waymax_sim.datasets.formats.map_features import MAX_STATES, empty_light_fields, map_fields
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
    orientation. Static obstacles are valid at all steps, obstacles with predicted occupancies only at their first one.

    Raises:
      DataError: The file is not a CommonRoad scenario, or it has duplicate states or ids.
    """
    root = parse_xml(read_bytes(path, MAX_COMMONROAD_BYTES))
    step = parse_number(root.get("timeStepSize", ""), "timeStepSize")
    if not 0 < step < 1e3:
        raise DataError(f"{step} s is not a valid time step", field="timeStepSize", remedy=COMMONROAD_REMEDY)
    tags = ("obstacle", "dynamicObstacle", "staticObstacle")
    obstacles = [element for element in root if element.tag in tags]
    tracks = [_states(obstacle) for obstacle in obstacles]
    num_steps = 1 + max((time for track in tracks for time in track), default=0)
    shape = num_steps, len(tracks)
    if num_steps * max(len(tracks), 1) > MAX_STATES:
        raise DataError(
            f"has too many states, {shape[1]} obstacles over {num_steps} steps", field="time", remedy=COMMONROAD_REMEDY
        )
    x, y, yaw, speed = np.zeros((4, *shape))
    valid = np.zeros(shape, bool)
    for row, track in enumerate(tracks):
        times = slice(None) if _is_static(obstacles[row]) else list(track)
        for values, column in zip((x, y, yaw, speed), zip(*track.values(), strict=True), strict=True):
            values[times, row] = column
        valid[times, row] = True
    kinds = [OBSTACLE_TYPES.get(child_text(obstacle, "type"), OTHER_OBSTACLE) for obstacle in obstacles]
    agent_type, height = np.array(kinds).reshape(-1, 2).T
    size, center = _boxes(obstacles)
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = x + cos * center[:, 0] - sin * center[:, 1], y + sin * center[:, 0] + cos * center[:, 1]
    features, links = read_map(root)
    return RawScene(
        scenario_id=root.get("benchmarkID", ""),
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
        **empty_light_fields(num_steps),
        missing_fields=("sdc", "lights", "stop signs", "road edges", "heights", "box heights"),
    )


def _is_static(obstacle: Element) -> bool:
    """Whether an obstacle is static: 2018b has a role, 2020a another element."""
    return obstacle.tag == "staticObstacle" or child_text(obstacle, "role") == "static"


def _states(obstacle: Element) -> dict[int, tuple[float, float, float, float]]:
    """x (m), y (m), orientation (rad) and speed (m/s) by step."""
    later = [] if _is_static(obstacle) else obstacle.findall("trajectory/state")
    track = {}
    for state in [child(obstacle, "initialState"), *later]:
        time = parse_integer(child_text(state, "time/exact"), "time/exact")
        if time in track:
            raise DataError(
                f"obstacle {obstacle.get('id')} has two states at {time}", field="time", remedy=COMMONROAD_REMEDY
            )
        # Obstacles without trajectory may omit their speed.
        speed = child_number(state, "velocity/exact", "" if later else "0")
        position = child_number(state, "position/point/x"), child_number(state, "position/point/y")
        track[time] = (*position, child_number(state, "orientation/exact"), speed)
    return track


def _boxes(obstacles: list[Element]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Length and width of the bounding boxes of the obstacles, and their centers in the frame of the obstacle, m."""
    low, high = np.zeros((2, len(obstacles), 2))
    for row, obstacle in enumerate(obstacles):
        corners = np.concatenate([np.zeros((0, 2)), *(_corners(shape) for shape in child(obstacle, "shape"))])
        if not len(corners):
            raise DataError(f"obstacle {obstacle.get('id')} has no shape", field="shape", remedy=COMMONROAD_REMEDY)
        low[row], high[row] = corners.min(axis=0), corners.max(axis=0)
    return high - low, (low + high) / 2


def _corners(shape: Element) -> Float[np.ndarray, "P 2"]:
    """Corners of a rectangle or polygon, or of the bounding square of a circle, m."""
    if shape.tag == "polygon":
        return parse_points(shape)[:, :2]
    radius = child_number(shape, "radius") if shape.tag == "circle" else 0.0
    length, width = (2 * radius or child_number(shape, name) for name in ("length", "width"))
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array([length, width]) / 2
    angle = child_number(shape, "orientation", "0")
    rotated = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return rotated + [child_number(shape, "center/x", "0"), child_number(shape, "center/y", "0")]
