"""Resampling of records to another time step."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import MAX_TIME_STEP, MIN_TIME_STEP, RawScene, check_increasing

# Shares of a recorded step within which a time counts as that of the step.
SNAP = 1e-3


def resample(raw: RawScene, time_step: float) -> RawScene:
    """Interpolates a record at equal time steps through its current step.

    Positions, velocities and sizes are interpolated linearly, headings along the shorter turn. An agent is valid
    between two recorded steps where it is valid at both. Lights keep their state until the next recorded step.

    Args:
      raw: A record with increasing timestamps, equally spaced or not.
      time_step: The new time step, s.

    Raises:
      DataError: The timestamps do not increase.
      ValueError: The time step is out of range.
    """
    check_time_step(time_step)
    recorded = np.asarray(raw.timestamps, np.float64)
    if not np.isfinite(recorded).all():
        raise DataError("are not finite", field="timestamps", remedy="drop the steps without a time")
    check_increasing(recorded)
    if not 0 <= raw.current_step < len(recorded):
        raise DataError(f"{raw.current_step} is not a step of 0..{len(recorded) - 1}", field="current_step")
    before, after = recorded[raw.current_step] - recorded[0], recorded[-1] - recorded[raw.current_step]
    num_before, num_after = (int(duration / time_step + SNAP) for duration in (before, after))
    times = recorded[raw.current_step] + time_step * np.arange(-num_before, num_after + 1)
    low, share = _locate(recorded, times)
    high = np.minimum(low + 1, len(recorded) - 1)

    def interpolate(values: Float[np.ndarray, "T ..."]) -> Float[np.ndarray, "W ..."]:
        weight = share.reshape(-1, *(1 for _ in values.shape[1:]))
        # A weight of zero must not read values of a step that is not valid.
        between = values[low] + weight * (values[high] - values[low])
        return np.where(weight == 0, values[low], between)

    with np.errstate(invalid="ignore", over="ignore"):
        turn = np.mod(raw.yaw[high] - raw.yaw[low] + np.pi, 2 * np.pi) - np.pi
        yaw = np.where(share[:, None] == 0, raw.yaw[low], raw.yaw[low] + share[:, None] * turn)
        states = {name: interpolate(getattr(raw, name)) for name in ("xyz", "velocity", "size")}
    signals = {name: getattr(raw, name)[low] for name in ("signal_state", "signal_stop_point", "signal_valid")}
    valid: Bool[np.ndarray, "W N"] = raw.valid[low] & (raw.valid[high] | (share == 0)[:, None])
    return dataclasses.replace(
        raw, timestamps=times, current_step=num_before, yaw=yaw, valid=valid, **states, **signals
    )


def check_time_step(time_step: float | None) -> None:
    """Raises a ValueError for a time step (s) that is out of range; None is the time step of the record."""
    if time_step is not None and not MIN_TIME_STEP <= time_step <= MAX_TIME_STEP:
        raise ValueError(f"the time step {time_step} s is not within {MIN_TIME_STEP} to {MAX_TIME_STEP} s")


def _locate(recorded: Float[np.ndarray, " T"], times: Float[np.ndarray, " W"]) -> tuple[np.ndarray, np.ndarray]:
    """The recorded step at or before each time, and the share of the following interval that has passed."""
    low = np.clip(np.searchsorted(recorded, times, side="right") - 1, 0, max(len(recorded) - 2, 0))
    if len(recorded) == 1:
        return low, np.zeros(len(times))
    share = (times - recorded[low]) / (recorded[low + 1] - recorded[low])
    is_next = share > 1 - SNAP
    low, share = np.where(is_next, low + 1, low), np.where(is_next | (share < SNAP), 0.0, share)
    return low, share
