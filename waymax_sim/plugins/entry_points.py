"""Entry points of installed packages, and objects by the name of their module."""

import difflib
import importlib
from collections.abc import Iterable
from importlib import metadata
from types import ModuleType
from typing import Any

POLICY_GROUP = "waymax_sim.policies"
COMMAND_GROUP = "waymax_sim.commands"
BENCH_GROUP = "waymax_sim.bench"


class PluginError(ValueError):
    """A plug-in that is unknown, cannot be loaded, or does not have the expected interface."""


def find_entry_points(group: str) -> dict[str, list[metadata.EntryPoint]]:
    """Entry points of a group by name, in alphabetical order; nothing is imported.

    A name has more than one entry point where packages register different objects under it.
    """
    by_name: dict[str, dict[str, metadata.EntryPoint]] = {}
    for entry_point in sorted(metadata.entry_points(group=group), key=lambda item: item.name):
        by_name.setdefault(entry_point.name, {}).setdefault(entry_point.value, entry_point)
    return {name: list(by_value.values()) for name, by_value in by_name.items()}


def load_entry_point(entry_points: list[metadata.EntryPoint]) -> Any:
    """Imports the object of a name.

    Raises:
      PluginError: Packages register different objects under this name, or its module cannot be imported.
    """
    first, *others = entry_points
    if others:
        origins = " and ".join(map(origin, entry_points))
        raise PluginError(f"{first.name!r} is ambiguous: it is registered by {origins}; uninstall one of them")
    target = first.value.partition("[")[0]  # without the extras of the package
    return load_object(target, f"{first.name!r} of {origin(first)}")


def load_object(target: str, label: str) -> Any:
    """The object `module:attribute`; the attribute may be dotted.

    Args:
      target: Module and attribute.
      label: Name of the object in error messages.

    Raises:
      PluginError: The module cannot be imported or has no such attribute.
    """
    module_name, _, attribute = (part.strip() for part in target.partition(":"))
    module = value = None
    try:
        module = value = importlib.import_module(module_name)
        for name in attribute.split("."):
            value = getattr(value, name)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        reason = describe_error(error)
        if module is not None and isinstance(error, AttributeError):
            reason = _missing_attribute(module, attribute, value)
        raise PluginError(f"{label} cannot be imported: {reason}") from error
    return value


def _missing_attribute(module: ModuleType, attribute: str, parent: Any) -> str:
    """Error message with the file of the module, and attributes of similar spelling."""
    file = getattr(module, "__file__", None) or "a folder without __init__.py"
    known = [name for name in dir(parent) if not name.startswith("_")]
    return f"{module.__name__} ({file}) has no attribute {attribute}{suggest(attribute.split('.')[-1], known)}"


def origin(entry_point: metadata.EntryPoint) -> str:
    """Name of the package that registers an entry point, and the registered object."""
    package = entry_point.dist.name if entry_point.dist else "an unknown package"
    return f"{package} ({entry_point.value})"


def describe_error(error: BaseException) -> str:
    """Type and message of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def suggest(name: str, known: Iterable[str]) -> str:
    """A question for error messages, empty where no known name has a similar spelling."""
    similar = difflib.get_close_matches(name, list(known))
    return f" (did you mean {' or '.join(similar)}?)" if similar else ""
