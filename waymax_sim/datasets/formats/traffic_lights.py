"""Traffic lights as sources list them, per step, to one column per lane."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.errors import DataError

# Far beyond any scene. Steps times lanes is the only size that can outgrow the input, so it is bounded.
MAX_CELLS = 4_000_000


@dataclasses.dataclass(frozen=True)
class Lights:
    """Lights by lane, in the order of lane ids: the `signal_*` fields of a `RawScene`."""

    lane_id: Int[np.ndarray, " S"]
    state: Int[np.ndarray, "T S"]
    stop_point: Float[np.ndarray, "T S 3"]
    valid: Bool[np.ndarray, "T S"]


def by_lane(
    num_steps: int,
    step: Int[np.ndarray, " K"],
    lane: Int[np.ndarray, " K"],
    state: Int[np.ndarray, " K"],
    stop_point: Float[np.ndarray, "K 3"],
) -> Lights:
    """Collects sightings of lights into columns.

    A sighting is a lane, its light and where to stop (m), at a step below `num_steps`. Where a lane is listed
    twice at one step, the first sighting counts.

    Raises:
      DataError: There are absurdly many lanes.
    """
    lane_id, column = np.unique(lane, return_inverse=True)
    if num_steps * len(lane_id) > MAX_CELLS:
        raise DataError(f"{len(lane_id)} lights over {num_steps} steps are too many", field="signal_lane_id")
    shape = (num_steps, len(lane_id))
    cell, first = np.unique(step * len(lane_id) + column, return_index=True)
    where = np.unravel_index(cell, shape)
    lights = Lights(lane_id, np.zeros(shape, np.int64), np.zeros((*shape, 3)), np.zeros(shape, bool))
    lights.state[where] = state[first]
    lights.stop_point[where] = stop_point[first]
    lights.valid[where] = True
    return lights
