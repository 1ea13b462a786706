"""Plug-ins: policies and commands that installed packages register as entry points, and policies by text.

The groups are `waymax_sim.policies` and `waymax_sim.commands`. A plug-in is imported when it is requested.
"""

from waymax_sim.plugins.entry_points import COMMAND_GROUP, POLICY_GROUP, PluginError
from waymax_sim.plugins.policies import policy_names, resolve_policy

__all__ = ["COMMAND_GROUP", "POLICY_GROUP", "PluginError", "policy_names", "resolve_policy"]
