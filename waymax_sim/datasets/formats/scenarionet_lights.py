"""Reader of traffic lights of ScenarioNet records."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.encoding.json_fields import member, numbers, row_width
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.scenarionet_map import SCENARIONET_REMEDY, to_xyz
from waymax_sim.datasets.formats.traffic_lights import MAX_CELLS, Lights, lights_by_lane
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES

NOT_OBSERVED = -1
# States of Waymo, of MetaDrive, and the numbers of the older schema.
LIGHT_STATES: dict[Any, int] = {
    **{f"LANE_STATE_{name.upper()}": code for code, name in enumerate(SIGNAL_STATE_NAMES)},
    **{code: code for code in range(len(SIGNAL_STATE_NAMES))},
    "TRAFFIC_LIGHT_UNKNOWN": SIGNAL_STATE_NAMES.index("unknown"),
    "TRAFFIC_LIGHT_RED": SIGNAL_STATE_NAMES.index("stop"),
    "TRAFFIC_LIGHT_YELLOW": SIGNAL_STATE_NAMES.index("caution"),
    "TRAFFIC_LIGHT_GREEN": SIGNAL_STATE_NAMES.index("go"),
    None: NOT_OBSERVED,
    "": NOT_OBSERVED,
}


def lane_name(key: Any, light: Any) -> str:
    """The id of the lane of a light in the file: a member, in the oldest schema one per step, or else the key."""
    name = f"dynamic_map_states.{str(key)[:40]}"
    if isinstance(light, dict) and light.get("lane") is None:
        per_step = member(light, "state", dict, name).get("lane")
        # Steps at which the light was not observed are zero.
        lanes = {str(lane) for lane in per_step.tolist() if lane} if isinstance(per_step, np.ndarray) else set()
        return lanes.pop() if len(lanes) == 1 else str(key)
    return str(member(light, "lane", (str, int), name, default=str(key)))


def read_lights(dynamic_map_states: dict, num_steps: int, ids: dict[str, int]) -> Lights:
    """The lights, whose stop points are constant, or given per step in the older schemas.

    The oldest schema has the stop points in the states.

    Args:
      dynamic_map_states: As in the file.
      num_steps: Steps of the scene.
      ids: Integer ids of all lanes by name.

    Raises:
      DataError: A light is malformed, or steps times lights exceed `MAX_CELLS`.
    """
    if num_steps * len(dynamic_map_states) > MAX_CELLS:
        raise DataError(
            f"has too many lights, {len(dynamic_map_states)} over {num_steps} steps", field="dynamic_map_states"
        )
    lane, codes, points = [], [], []
    for key, light in dynamic_map_states.items():
        name = f"dynamic_map_states.{str(key)[:40]}"
        states = member(light, "state", dict, name)
        code = _light_states(states.get("object_state"), num_steps, name)
        is_oldest = light.get("stop_point") is None and "stop_point" in states
        stop_points, per_step = _stop_points(states if is_oldest else light, num_steps, name)
        if per_step:
            # Steps at which the light was not observed are zero.
            code = np.where((code > 0) | stop_points.any(axis=-1), code, NOT_OBSERVED)
        lane.append(ids[lane_name(key, light)])
        codes.append(code)
        points.append(stop_points)
    state = np.array(codes, np.int64).reshape(len(lane), num_steps)
    light_index, step = np.nonzero(state != NOT_OBSERVED)
    stop_point = np.array(points).reshape(len(lane), num_steps, 3)
    return lights_by_lane(
        num_steps, step, np.array(lane, np.int64)[light_index], state[light_index, step], stop_point[light_index, step]
    )


def _stop_points(record: dict, num_steps: int, name: str) -> tuple[Float[np.ndarray, "T 3"], bool]:
    """Stop points at all steps, m, and whether the file has one for each step."""
    values = member(record, "stop_point", (np.ndarray, list, tuple), name)
    width = row_width(values)
    points = numbers(values, f"{name}.stop_point", width)
    points = points[None] if width is None else points
    if points.shape[1] not in (2, 3) or len(points) not in (1, num_steps):
        raise DataError(
            "is neither a point nor one for each step", field=f"{name}.stop_point", remedy=SCENARIONET_REMEDY
        )
    return np.broadcast_to(to_xyz(points, points.shape[1] == 3), (num_steps, 3)), width is not None


def _light_states(values: Any, num_steps: int, name: str) -> Int[np.ndarray, " T"]:
    words = values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind in "iufU" else values
    if not isinstance(words, (list, tuple)) or len(words) != num_steps:
        raise DataError(
            f"is not a list of {num_steps} states", field=f"{name}.state.object_state", remedy=SCENARIONET_REMEDY
        )
    codes = [LIGHT_STATES.get(word) if isinstance(word, (str, int, float, type(None))) else None for word in words]
    if None in codes:
        raise DataError("has unknown states", field=f"{name}.state.object_state", remedy=SCENARIONET_REMEDY)
    return np.array(codes, np.int64)
