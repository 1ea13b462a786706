"""Edits of scenarios on the host, for constructed and counterfactual scenes.

Each function takes one scenario of NumPy arrays, as `load` returns it, and returns another; the argument is not
modified. Positions are in the local frame (world = local + `scenario.origin`), and the origin does not change. Arrays
that a function does not document as changed stay bit-equal. Agents keep their rows, so that results before and after an
edit can be compared row by row. A scenario padded to `bucket_lengths` stays so; in any other, only axes without
content are padded.

`agents` is a `Selector` such as "others", a mask over agents, or track ids.
"""

from waymax_sim.datasets.edit.agents import (
    add_agent,
    add_traffic,
    drop_agents,
    move_agents,
    scale_boxes,
    set_sdc,
    set_types,
)
from waymax_sim.datasets.edit.common import agent_mask
from waymax_sim.datasets.edit.steps import delay_agents, shift_start, slice_steps
from waymax_sim.datasets.edit.surroundings import crop_map, set_lights, set_routes

__all__ = [
    "add_agent",
    "add_traffic",
    "agent_mask",
    "crop_map",
    "delay_agents",
    "drop_agents",
    "move_agents",
    "scale_boxes",
    "set_lights",
    "set_routes",
    "set_sdc",
    "set_types",
    "shift_start",
    "slice_steps",
]
