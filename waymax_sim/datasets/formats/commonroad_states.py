"""Reader of states and shapes of CommonRoad obstacles."""

from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.commonroad_xml import (
    COMMONROAD_REMEDY,
    child,
    child_number,
    child_text,
    parse_integer,
    parse_points,
)
from waymax_sim.datasets.formats.drivable_area import centroid

State = tuple[float, float, float, float]  # x (m), y (m), orientation (rad) and speed (m/s)
NO_SPEED = np.nan  # of a state without speed


class Track(NamedTuple):
    """States of an obstacle.

    Attributes:
      states: By step.
      is_uncertain: Whether a state is an interval or a region, whose middle is used.
      has_speeds: Whether all speeds are in the file.
    """

    states: dict[int, State]
    is_uncertain: bool
    has_speeds: bool


def is_static(obstacle: Element) -> bool:
    """Whether an obstacle is static: 2018b has a role, 2020a another element."""
    return obstacle.tag == "staticObstacle" or child_text(obstacle, "role") == "static"


def read_track(obstacle: Element, time_step: float) -> Track:
    """The states of an obstacle; static ones have their initial state only.

    Absent speeds are derived from the positions of the neighboring states. The trajectory may begin with the initial
    state.

    Args:
      obstacle: The element.
      time_step: Duration of a step, s.

    Raises:
      DataError: A state is malformed, or a step has two different states.
    """
    later = [] if is_static(obstacle) else obstacle.findall("trajectory/state")
    elements, states = [child(obstacle, "initialState"), *later], {}
    for element in elements:
        time, state = parse_integer(child_text(element, "time/exact"), "time/exact"), _state(element)
        if time in states and not np.array_equal(states[time], state, equal_nan=True):
            raise DataError(
                f"obstacle {obstacle.get('id')} has two states at {time}", field="time", remedy=COMMONROAD_REMEDY
            )
        states[time] = state
    has_speeds = not any(np.isnan(state[3]) for state in states.values())
    # Obstacles without trajectory may omit their speed: they are at rest.
    states = states if has_speeds else _with_speeds(states, time_step)
    return Track(states, any(map(_is_uncertain, elements)), has_speeds or not later)


def _state(element: Element) -> State:
    speed = _middle(element, "velocity") if element.find("velocity") is not None else NO_SPEED
    return (*_position(element), _middle(element, "orientation"), speed)


def _middle(state: Element, name: str) -> float:
    """A number of a state, or the middle of its interval."""
    if state.find(f"{name}/intervalStart") is None:
        return child_number(state, f"{name}/exact")
    return (child_number(state, f"{name}/intervalStart") + child_number(state, f"{name}/intervalEnd")) / 2


def _position(state: Element) -> tuple[float, float]:
    """The position of a state, m, or the mean of the middles of its regions."""
    regions = [] if state.find("position/point") is not None else list(child(state, "position"))
    if any(region.tag == "lanelet" for region in regions):
        raise DataError("is a lanelet, not a point or a shape", field="position", remedy=COMMONROAD_REMEDY)
    if not regions:
        return child_number(state, "position/point/x"), child_number(state, "position/point/y")
    x, y = np.mean([_region_center(region) for region in regions], axis=0)
    return float(x), float(y)


def _region_center(shape: Element) -> Float[np.ndarray, " 2"]:
    corners = shape_corners(shape)
    if not len(corners):
        raise DataError("is a region without points", field="position", remedy=COMMONROAD_REMEDY)
    return centroid(corners) if shape.tag == "polygon" else corners.mean(axis=0)


def _is_uncertain(state: Element) -> bool:
    return state.find("position/point") is None or any(
        state.find(f"{name}/intervalStart") is not None for name in ("velocity", "orientation")
    )


def _with_speeds(states: dict[int, State], time_step: float) -> dict[int, State]:
    """States whose absent speeds are those of the positions along the orientation; 0 for a single state."""
    times = sorted(states)
    x, y, yaw, speed = np.array([states[time] for time in times]).T
    rate = np.zeros((2, len(times)))
    if len(times) > 1:
        rate = np.gradient(np.stack([x, y]), time_step * np.array(times, np.float64), axis=1)
    derived = rate[0] * np.cos(yaw) + rate[1] * np.sin(yaw)
    speed = np.where(np.isnan(speed), derived, speed)
    return {time: (*states[time][:3], float(value)) for time, value in zip(times, speed, strict=True)}


def read_boxes(obstacles: list[Element]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Length and width of the bounding boxes of the obstacles, and their centers in the frame of the obstacle, m."""
    low, high = np.zeros((2, len(obstacles), 2))
    for row, obstacle in enumerate(obstacles):
        corners = np.concatenate([np.zeros((0, 2)), *(shape_corners(shape) for shape in child(obstacle, "shape"))])
        if not len(corners):
            raise DataError(f"obstacle {obstacle.get('id')} has no shape", field="shape", remedy=COMMONROAD_REMEDY)
        low[row], high[row] = corners.min(axis=0), corners.max(axis=0)
    return high - low, (low + high) / 2


def shape_corners(shape: Element) -> Float[np.ndarray, "P 2"]:
    """Corners of a rectangle or polygon, or of the bounding square of a circle, m."""
    if shape.tag == "polygon":
        return parse_points(shape)[:, :2]
    radius = child_number(shape, "radius") if shape.tag == "circle" else 0.0
    length, width = (2 * radius or child_number(shape, name) for name in ("length", "width"))
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array([length, width]) / 2
    angle = child_number(shape, "orientation", "0")
    rotated = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return rotated + [child_number(shape, "center/x", "0"), child_number(shape, "center/y", "0")]
