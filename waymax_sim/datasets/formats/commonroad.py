"""CommonRoad scenarios (XML, versions 2018b and 2020a) to `RawScene`.

Planes without heights: the ground is at 0, and boxes of a nominal height stand on it. There is no ego, and a planning
problem is not a track. Bounds of lanelets are road lines, each once, however many lanelets share it. What lies between
lanelets and where the road ends is not said, so there are no road edges. Traffic lights of 2020a, which are given as
cycles, are not read.
"""

from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.commonroad_map import read_map
from waymax_sim.datasets.formats.commonroad_xml import (
    REMEDY,
    child,
    id_of,
    number,
    number_of,
    parse,
    points_of,
    text_of,
    whole,
)
from waymax_sim.datasets.formats.map_features import MAX_STATES, map_fields, no_lights
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN, VEHICLE

LARGEST = 64 * 2**20  # bytes; the sample has 0.6 MB

# Agent type and nominal height (m).
OBSTACLES = {
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
ANY_OBSTACLE = (OTHER, 1.5)


def scene_from_file(path: str) -> RawScene:
    """Reads a scenario.

    "Now" is step 0. Centre lines of lanes lie midway between the bounds. Speeds are along the orientation, static
    obstacles are there at all steps, and obstacles with nothing but predicted occupancies only at their first one.

    Raises:
      DataError: The file is no such scenario, or says something twice.
    """
    root = parse(read_bytes(path, LARGEST))
    step = number(root.get("timeStepSize", ""), "timeStepSize")
    if not 0 < step < 1e3:
        raise DataError(f"{step} s is no time step", field="timeStepSize", remedy=REMEDY)
    tags = ("obstacle", "dynamicObstacle", "staticObstacle")
    obstacles = [element for element in root if element.tag in tags]
    tracks = [_states(obstacle) for obstacle in obstacles]
    num_steps = 1 + max((time for track in tracks for time in track), default=0)
    shape = num_steps, len(tracks)
    if num_steps * max(len(tracks), 1) > MAX_STATES:
        raise DataError(f"{shape[1]} obstacles over {num_steps} steps are too many", field="time", remedy=REMEDY)
    x, y, yaw, speed = np.zeros((4, *shape))
    valid = np.zeros(shape, bool)
    for row, track in enumerate(tracks):
        times = slice(None) if _is_static(obstacles[row]) else list(track)
        for values, column in zip((x, y, yaw, speed), zip(*track.values(), strict=True), strict=True):
            values[times, row] = column
        valid[times, row] = True
    kinds = [OBSTACLES.get(text_of(obstacle, "type"), ANY_OBSTACLE) for obstacle in obstacles]
    agent_type, height = np.array(kinds).reshape(-1, 2).T
    size, center = _boxes(obstacles)
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = x + cos * center[:, 0] - sin * center[:, 1], y + sin * center[:, 0] + cos * center[:, 1]
    features, links = read_map(root)
    return RawScene(
        scenario_id=root.get("benchmarkID", ""),
        timestamps=step * np.arange(num_steps),
        current_step=0,
        agent_id=np.array([id_of(obstacle, "id") for obstacle in obstacles], np.int64),
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
        **no_lights(num_steps),
        lacks=("sdc", "lights", "stop signs", "road edges", "heights", "box heights"),
    )


def _is_static(obstacle: Element) -> bool:
    """2018b says so in the role, 2020a in the name of the element."""
    return obstacle.tag == "staticObstacle" or text_of(obstacle, "role") == "static"


def _states(obstacle: Element) -> dict[int, tuple[float, float, float, float]]:
    """x, y, orientation and speed by step."""
    later = [] if _is_static(obstacle) else obstacle.findall("trajectory/state")
    track = {}
    for state in [child(obstacle, "initialState"), *later]:
        time = whole(text_of(state, "time/exact"), "time/exact")
        if time in track:
            raise DataError(f"obstacle {obstacle.get('id')} has two states at {time}", field="time", remedy=REMEDY)
        # Whatever has no trajectory may leave out its speed.
        speed = number_of(state, "velocity/exact", "" if later else "0")
        place = number_of(state, "position/point/x"), number_of(state, "position/point/y")
        track[time] = (*place, number_of(state, "orientation/exact"), speed)
    return track


def _boxes(obstacles: list[Element]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Length and width, and centre in the frame of the obstacle (m), of the smallest boxes around its shapes."""
    low, high = np.zeros((2, len(obstacles), 2))
    for row, obstacle in enumerate(obstacles):
        corners = np.concatenate([np.zeros((0, 2)), *(_corners(shape) for shape in child(obstacle, "shape"))])
        if not len(corners):
            raise DataError(f"obstacle {obstacle.get('id')} has none", field="shape", remedy=REMEDY)
        low[row], high[row] = corners.min(axis=0), corners.max(axis=0)
    return high - low, (low + high) / 2


def _corners(shape: Element) -> Float[np.ndarray, "P 2"]:
    """Of a rectangle or polygon, or of the square around a circle."""
    if shape.tag == "polygon":
        return points_of(shape)[:, :2]
    radius = number_of(shape, "radius") if shape.tag == "circle" else 0.0
    length, width = (2 * radius or number_of(shape, name) for name in ("length", "width"))
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array([length, width]) / 2
    turn = number_of(shape, "orientation", "0")
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return turned + [number_of(shape, "center/x", "0"), number_of(shape, "center/y", "0")]
