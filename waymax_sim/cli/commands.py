"""Commands of installed packages, beside those built in."""

import sys
from collections.abc import Callable, Container
from importlib.metadata import EntryPoint

from waymax_sim.plugins.entry_points import COMMAND_GROUP, PluginError, find_entry_points, load_entry_point, origin

Command = Callable[..., object]


def plugin_commands(requested: str, built_in: Container[str]) -> dict[str, Command]:
    """The commands that packages register, or the requested one alone; of each, its module is imported.

    A package whose command has the name of a built-in one is reported on stderr.

    Args:
      requested: First argument of the command line, which may be an option; empty if there is none.
      built_in: Names that packages cannot have.

    Raises:
      PluginError: The requested command cannot be loaded.
    """
    found = find_entry_points(COMMAND_GROUP)
    if requested in built_in or requested in found:
        found = {name: entry_points for name, entry_points in found.items() if name == requested}
    for name in [name for name in found if name in built_in]:
        origins = ", ".join(map(origin, found.pop(name)))
        print(f"ignored: the command {name!r} of {origins}, because a built-in command has this name", file=sys.stderr)
    load = _load if requested in found else _load_for_help
    return {name: load(entry_points) for name, entry_points in found.items()}


def _load(entry_points: list[EntryPoint]) -> Command:
    command = load_entry_point(entry_points)
    if not callable(command):
        raise PluginError(f"{entry_points[0].name!r} of {origin(entry_points[0])} is not callable")
    return command


def _load_for_help(entry_points: list[EntryPoint]) -> Command:
    """The command, or where it cannot be loaded a substitute that says so in the list of commands."""
    try:
        return _load(entry_points)
    except PluginError:
        return _broken_command


def _broken_command() -> None:
    """Cannot be loaded; its own --help says why."""
