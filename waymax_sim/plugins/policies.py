"""Policies by text: a registered name, an object of a module, or a checkpoint folder."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import jax

from waymax_sim.env import Policy
from waymax_sim.plugins.checkpoint import POLICY_FILE, is_checkpoint, load_checkpoint
from waymax_sim.plugins.entry_points import (
    POLICY_GROUP,
    PluginError,
    describe_error,
    find_entry_points,
    load_entry_point,
    load_object,
    suggest,
)
from waymax_sim.plugins.options import parse_options, split_options

# NAME or module:attribute, then the options. The text after the first colon is an attribute if it is an identifier.
POLICY_PATTERN = re.compile(r"(?P<target>[^:]+(?::[A-Za-z_][\w.]*(?=:|$))?)(?::(?P<options>.*))?", re.DOTALL)
POLICY_ATTRIBUTES = ("privileged", "dynamics", "init", "act")


def policy_names() -> list[str]:
    """Names of all registered policies, in alphabetical order; nothing is imported."""
    return list(find_entry_points(POLICY_GROUP))


def resolve_policy(text: str) -> Policy:
    """Resolves a text to a policy.

    The forms are:

    - `NAME`: an entry point of the group `waymax_sim.policies`: a class or function that makes a policy, or a policy;
    - `module:attribute`: the same in any module. The current directory is appended to `sys.path`;
    - either with options, `NAME:key=value,key=value`: arguments of the constructor, read by their annotations;
    - a folder with a file `policy.json`, which names the function that loads it: `{"loader": "module:function"}`.

    A folder with this file takes precedence over a name.

    Args:
      text: One of these forms.

    Raises:
      PluginError: There is no such policy, an option is not valid, or the policy cannot be made.
    """
    if is_checkpoint(text):
        policy = load_checkpoint(Path(text))
    else:
        target, options = _split(text)
        source = _import_source(target) if ":" in target else _registered_source(target)
        policy = _construct(source, target, options)
    _check_policy(policy, text)
    return policy


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The name or module:attribute, and the options."""
    form = POLICY_PATTERN.fullmatch(text)
    if form is None:
        raise PluginError(f"policy {text!r} is neither a name nor module:attribute")
    return form["target"], {} if form["options"] is None else split_options(form["options"])


def _registered_source(name: str) -> Any:
    known = find_entry_points(POLICY_GROUP)
    if name in known:
        return load_entry_point(known[name])
    if os.path.isdir(name):
        raise PluginError(f"the folder {name} is not a checkpoint: it has no {POLICY_FILE}")
    if not known:
        raise PluginError(
            f"unknown policy {name!r}: no installed package registers policies; install waymax-sim with pip"
        )
    raise PluginError(f"unknown policy {name!r}{suggest(name, known)}; known are {', '.join(known)}")


def _import_source(target: str) -> Any:
    # Installed modules take precedence: a file in the current directory never shadows a library.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    name, _, attribute = target.partition(":")
    try:
        return load_object(target, f"policy {target}")
    except PluginError as error:
        if name not in find_entry_points(POLICY_GROUP):
            raise
        raise PluginError(f"{error}; an option of the policy {name} is written {name}:{attribute}=VALUE") from error


def _construct(source: Any, label: str, options: dict[str, str]) -> Any:
    if not isinstance(source, type) and isinstance(source, Policy):
        if options:
            raise PluginError(f"{label} is a policy and not a constructor: it takes no options")
        return source
    if not callable(source):
        raise PluginError(f"{label} is neither a policy nor makes one: it is of type {type(source).__name__}")
    arguments = parse_options(source, options, label)
    try:
        return source(**arguments)
    except Exception as error:
        raise PluginError(f"{label} cannot be made: {describe_error(error)}") from error


def _check_policy(policy: Any, text: str) -> None:
    """Raises a PluginError unless the object is a policy and a pytree."""
    missing = [name for name in POLICY_ATTRIBUTES if not hasattr(policy, name)]
    if isinstance(policy, type) or missing:
        reason = f"it has no {', '.join(missing)}" if missing else "it is a class"
        raise PluginError(f"{text} gives a {type(policy).__name__} that is not a waymax_sim.env.Policy: {reason}")
    if any(leaf is policy for leaf in jax.tree.leaves(policy)):
        raise PluginError(
            f"{text} gives a policy that is not a pytree: decorate its class with `static_record` or `pytree`"
        )
