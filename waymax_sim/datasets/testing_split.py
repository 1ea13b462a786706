"""Records of testing splits, which end with the current step: the steps to simulate are added."""

import dataclasses

import numpy as np

from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.window import cut_window
from waymax_sim.datatypes.scenario import TIME_STEP

# Steps of a record that ends with the current step -> steps of the task: 11 and 91 in Waymo Open Motion, 50 and 110 in
# Argoverse 2.
TASK_LENGTHS = {11: 91, 50: 110}
MAX_TIME_STEP_ERROR = 0.01  # s; of the time step of a record of these data sets
# Entry of `RawScene.missing_fields` for records without a state after the current step.
NO_FUTURE = "future states"


def add_task_steps(raw: RawScene) -> RawScene:
    """Extends a record of a testing split, all of whose agents and lights are then invalid after the current step.

    Other records are returned as they are. `missing_fields` says where no state follows the current step.
    """
    length = TASK_LENGTHS.get(len(raw.timestamps))
    if length is not None and raw.current_step == len(raw.timestamps) - 1 and _has_time_step(raw):
        raw = cut_window(raw, start=0, num_steps=length, current_step=raw.current_step)
    if raw.valid[raw.current_step + 1 :].any() or raw.current_step >= len(raw.timestamps) - 1:
        return raw
    return dataclasses.replace(raw, missing_fields=(*raw.missing_fields, NO_FUTURE))


def _has_time_step(raw: RawScene) -> bool:
    return bool(abs(float(np.median(np.diff(raw.timestamps))) - TIME_STEP) < MAX_TIME_STEP_ERROR)
