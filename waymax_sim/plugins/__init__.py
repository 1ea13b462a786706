"""Policies and commands of installed packages, found by entry points; policies by text.

A package registers policies in the group `waymax_sim.policies` and commands in the group `waymax_sim.commands`. Nothing
is imported before it is requested.
"""

from waymax_sim.plugins.entry_points import COMMAND_GROUP, POLICY_GROUP, PluginError
from waymax_sim.plugins.policies import policy_names, resolve_policy

__all__ = ["COMMAND_GROUP", "POLICY_GROUP", "PluginError", "policy_names", "resolve_policy"]
