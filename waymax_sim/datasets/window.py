"""Cuts records to a common number of steps and a common current step."""

import dataclasses

import numpy as np
from jaxtyping import Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.scenario import TIME_STEP


@dataclasses.dataclass(frozen=True)
class Window:
    """A range of steps to cut from every record.

    Attributes:
      num_steps: Length of the window, steps.
      current_step: Index of the current step in the window.
      start: First step of the window in the record.

    Raises:
      ValueError: The window is empty, the current step is outside of it, or the start is negative.
    """

    num_steps: int = 91
    current_step: int = 10
    start: int = 0

    def __post_init__(self):
        if not (0 <= self.current_step < self.num_steps and self.start >= 0):
            raise ValueError(f"{self} must have start >= 0 and 0 <= current_step < num_steps")


def cut_window(raw: RawScene, *, start: int, num_steps: int, current_step: int) -> RawScene:
    """Cuts a record to a `Window`.

    Steps after the end of the record are invalid for agents and lights; their timestamps continue with the median time
    step of the record. Agents that are invalid at all steps of the window are dropped, except for the sdc.

    Args:
      raw: The record.
      start: First step of the window in the record.
      num_steps: Length of the window, steps.
      current_step: Index of the current step in the window.

    Raises:
      DataError: The record ends before the current step.
      ValueError: See `Window`.
    """
    Window(num_steps, current_step, start)  # validates the numbers
    num_recorded = len(raw.timestamps)
    if start + current_step >= num_recorded:
        problem = f"has {num_recorded} steps, but the current step of the window is step {start + current_step}"
        raise DataError(problem, field="timestamps", remedy="choose an earlier start or current step")
    num_missing = max(start + num_steps - num_recorded, 0)

    def cut(values: Shaped[np.ndarray, "T ..."]) -> Shaped[np.ndarray, "W ..."]:
        recorded = values[start : start + num_steps]
        return np.concatenate([recorded, np.zeros((num_missing, *values.shape[1:]), values.dtype)])

    time_step = np.median(np.diff(raw.timestamps)) if num_recorded > 1 else TIME_STEP
    timestamps = cut(raw.timestamps)
    timestamps[num_steps - num_missing :] = raw.timestamps[-1] + time_step * np.arange(1, num_missing + 1)
    valid = cut(raw.valid)
    agent_mask = valid.any(axis=0) | (np.arange(len(raw.agent_id)) == raw.sdc_index)
    agents = ("agent_id", "agent_type", "to_predict", "of_interest")
    states = ("xyz", "yaw", "velocity", "size")
    return dataclasses.replace(
        raw,
        timestamps=timestamps,
        current_step=current_step,
        valid=valid[:, agent_mask],
        sdc_index=int(agent_mask[: raw.sdc_index].sum()) if raw.sdc_index >= 0 else raw.sdc_index,
        **{name: getattr(raw, name)[agent_mask] for name in agents},
        **{name: cut(getattr(raw, name))[:, agent_mask] for name in states},
        **{name: cut(getattr(raw, name)) for name in ("signal_state", "signal_stop_point", "signal_valid")},
    )
