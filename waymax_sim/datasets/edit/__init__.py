"""Changes to scenarios on the host: hand-made scenes and what-if versions of recorded ones.

Each function takes one scenario of NumPy arrays, as `load` gives it, and returns another; nothing is changed in place.
Places are in the local frame (world = local + `scenario.origin`), and the origin stays where it is. What a function
does not name stays bit for bit. Agents keep their rows, so results before and after an edit can be compared row by row.
A scenario padded to common sizes stays so, and any other gets no padding.

Who is meant (`who`) is a `Selector` such as "others", a mask over agents, or track ids.
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
from waymax_sim.datasets.edit.common import chosen
from waymax_sim.datasets.edit.steps import delay_agents, shift_start, slice_steps
from waymax_sim.datasets.edit.surroundings import crop_map, set_lights, set_routes

__all__ = [
    "add_agent",
    "add_traffic",
    "chosen",
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
