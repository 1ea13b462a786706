"""Conversion of lists of traffic light observations to arrays with one column per lane."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.errors import DataError

# Limit of steps times lanes for damaged files, far above that of recorded scenes.
MAX_CELLS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Lights:
    """Lights by lane, in the order of lane ids: the `signal_*` fields of a `RawScene`."""

    lane_id: Int[np.ndarray, " S"]
    state: Int[np.ndarray, "T S"]
    stop_point: Float[np.ndarray, "T S 3"]
    valid: Bool[np.ndarray, "T S"]


def lights_by_lane(
    num_steps: int,
    step: Int[np.ndarray, " K"],
    lane: Int[np.ndarray, " K"],
    state: Int[np.ndarray, " K"],
    stop_point: Float[np.ndarray, "K 3"],
) -> Lights:
    """Scatters K observations of lights to arrays of steps and lanes. The first observation of a lane at a step counts.

    Args:
      num_steps: Steps of the scene.
      step: Step of each observation, less than `num_steps`.
      lane: Map id of the lane.
      state: WOMD light state.
      stop_point: Stop point, m, world frame.

    Raises:
      DataError: Steps times lanes exceed `MAX_CELLS`.
    """
    lane_id, column = np.unique(lane, return_inverse=True)
    if num_steps * len(lane_id) > MAX_CELLS:
        raise DataError(f"has too many lights, {len(lane_id)} over {num_steps} steps", field="signal_lane_id")
    shape = (num_steps, len(lane_id))
    cell, first = np.unique(step * len(lane_id) + column, return_index=True)
    index = np.unravel_index(cell, shape)
    lights = Lights(lane_id, np.zeros(shape, np.int64), np.zeros((*shape, 3)), np.zeros(shape, bool))
    lights.state[index] = state[first]
    lights.stop_point[index] = stop_point[first]
    lights.valid[index] = True
    return lights
