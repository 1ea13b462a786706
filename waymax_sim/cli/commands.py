"""Commands that installed packages register as entry points."""

import sys
from collections.abc import Callable, Container
from importlib.metadata import EntryPoint

from waymax_sim.plugins.entry_points import COMMAND_GROUP, PluginError, find_entry_points, load_entry_point, origin

Command = Callable[..., object]


def plugin_commands(requested: str, built_in: Container[str]) -> dict[str, Command]:
    """Commands of plug-ins by name. Only the module of the requested command is imported; without one, all are.

    A command with the name of a built-in one is ignored and reported on stderr.

    Args:
      requested: First argument of the command line, which may be an option; empty if there is none.
      built_in: Names of built-in commands.

    Raises:
      PluginError: The requested command cannot be loaded.
    """
    commands = find_entry_points(COMMAND_GROUP)
    if requested in built_in or requested in commands:
        commands = {name: entry_points for name, entry_points in commands.items() if name == requested}
    for name in [name for name in commands if name in built_in]:
        origins = ", ".join(map(origin, commands.pop(name)))
        print(f"ignored: command {name!r} of {origins}, because a built-in command has this name", file=sys.stderr)
    load = _load if requested in commands else _load_for_help
    return {name: load(entry_points) for name, entry_points in commands.items()}


def _load(entry_points: list[EntryPoint]) -> Command:
    command = load_entry_point(entry_points)
    if not callable(command):
        raise PluginError(f"{entry_points[0].name!r} of {origin(entry_points[0])} is not callable")
    return command


def _load_for_help(entry_points: list[EntryPoint]) -> Command:
    """The command; if it cannot be loaded, a substitute that reports it in the list of commands."""
    try:
        return _load(entry_points)
    except PluginError:
        return _broken_command


def _broken_command() -> None:
    """Cannot be loaded; its own --help prints the reason."""
