"""Cuts a record to the steps that matter, so that records of any length and "now" can be simulated alike."""

import dataclasses

import numpy as np
from jaxtyping import Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene

STEP = 0.1  # s; of records of a single step


@dataclasses.dataclass(frozen=True)
class Window:
    """Which steps of every record to take.

    Attributes:
      num_steps: How many.
      current_step: Which of these is "now".
      start: Step of the record to start from.

    Raises:
      ValueError: No step, or "now" is not one of them, or the start is negative.
    """

    num_steps: int = 91
    current_step: int = 10
    start: int = 0

    def __post_init__(self):
        if not (0 <= self.current_step < self.num_steps and self.start >= 0):
            raise ValueError(f"{self} must have start >= 0 and 0 <= current_step < num_steps")


def window(raw: RawScene, *, start: int, num_steps: int, current_step: int) -> RawScene:
    """Cuts a record to `num_steps` steps from step `start`; `current_step` counts from `start`.

    Steps beyond the end of the record are not valid, for agents and lights alike; their times go on by the median
    step of the record. Agents that are valid at no step of the window are dropped, except for the sdc.

    Raises:
      DataError: The record ends before "now".
      ValueError: As for `Window`.
    """
    Window(num_steps, current_step, start)  # refuses what makes no sense
    recorded = len(raw.timestamps)
    if start + current_step >= recorded:
        problem = f"has {recorded} steps, and now would be step {start + current_step}"
        raise DataError(problem, field="timestamps", remedy="choose an earlier start or current step")
    missing = max(start + num_steps - recorded, 0)

    def cut(values: Shaped[np.ndarray, "T ..."]) -> Shaped[np.ndarray, "W ..."]:
        kept = values[start : start + num_steps]
        return np.concatenate([kept, np.zeros((missing, *values.shape[1:]), values.dtype)])

    step = np.median(np.diff(raw.timestamps)) if recorded > 1 else STEP
    timestamps = cut(raw.timestamps)
    timestamps[num_steps - missing :] = raw.timestamps[-1] + step * np.arange(1, missing + 1)
    valid = cut(raw.valid)
    keep = valid.any(axis=0) | (np.arange(len(raw.agent_id)) == raw.sdc_index)
    agents = ("agent_id", "agent_type", "to_predict", "of_interest")
    states = ("xyz", "yaw", "velocity", "size")
    return dataclasses.replace(
        raw,
        timestamps=timestamps,
        current_step=current_step,
        valid=valid[:, keep],
        sdc_index=int(keep[: raw.sdc_index].sum()) if raw.sdc_index >= 0 else raw.sdc_index,
        **{name: getattr(raw, name)[keep] for name in agents},
        **{name: cut(getattr(raw, name))[:, keep] for name in states},
        **{name: cut(getattr(raw, name)) for name in ("signal_state", "signal_stop_point", "signal_valid")},
    )
