"""Checkpoint folders: `policy.json` names the function that loads the policy."""

import json
import os
import re
from pathlib import Path
from typing import Any

from waymax_sim.plugins.entry_points import PluginError, describe_error, load_object

POLICY_FILE = "policy.json"
LOADER_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_checkpoint(text: str) -> bool:
    """Whether a text is the path of a checkpoint folder."""
    # Unlike `Path.is_file`, `isfile` accepts texts that are too long for a path.
    return bool(text) and os.path.isfile(os.path.join(text, POLICY_FILE))


def load_checkpoint(folder: Path) -> Any:
    """Calls the loader that `policy.json` names with the folder.

    The loader is imported from the installed packages. The file is data: nothing in it is executed.

    Raises:
      PluginError: `policy.json` is not valid, or the loader cannot be imported or raises an error.
    """
    file = folder / POLICY_FILE
    target = _read_loader(file)
    loader = load_object(target, f"{file}, field 'loader': {target}")
    if not callable(loader):
        raise PluginError(f"{file}, field 'loader': {target} is not a function")
    try:
        return loader(folder)
    except Exception as error:
        raise PluginError(f"{folder} cannot be loaded by {target}: {describe_error(error)}") from error


def _read_loader(file: Path) -> str:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PluginError(f"{file} is not readable JSON: {describe_error(error)}") from error
    if not isinstance(data, dict):
        raise PluginError(f"{file} is not a JSON object with the field 'loader'")
    loader = data.get("loader")
    if not isinstance(loader, str) or not LOADER_PATTERN.fullmatch(loader):
        raise PluginError(f"{file}, field 'loader': {json.dumps(loader)} is not 'module:function'")
    return loader
