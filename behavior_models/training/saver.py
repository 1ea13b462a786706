"""Checkpoints of the state of a training and of its position in the data."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


class Saver:
    """The last checkpoints in a folder; typed random keys are stored as their data.

    Args:
      folder: The folder.
    """

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, number: int, state: Any, position: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint; one that is interrupted has no effect.

        Args:
          number: Number of steps done.
          state: A pytree of arrays.
          position: Position in the data, plain values.
        """
        leaves = _stored_leaves(jax.tree.leaves(state))
        items = {"state": ocp.args.StandardSave(leaves), "data": ocp.args.JsonSave(position or {})}
        self._manager.save(number, args=ocp.args.Composite(**items))
        self._manager.wait_until_finished()

    def restore(self, state: Any) -> tuple[int, Any, dict[str, Any]]:
        """The number of steps done, the state after them and the position in the data.

        Without a checkpoint: 0, the given state, and no position.

        Args:
          state: A state of the same structure, shapes and devices.
        """
        latest = self._manager.latest_step()
        if latest is None:
            return 0, state, {}
        leaves, structure = jax.tree.flatten(state)
        items = {"state": ocp.args.StandardRestore(_stored_leaves(leaves)), "data": ocp.args.JsonRestore()}
        stored = self._manager.restore(latest, args=ocp.args.Composite(**items))
        # Leaves without values are not stored.
        restored = [_like(stored["state"].get(str(index), leaf), leaf) for index, leaf in enumerate(leaves)]
        return latest, jax.tree.unflatten(structure, restored), stored["data"]


def _stored_leaves(leaves: list[Any]) -> dict[str, np.ndarray]:
    """The leaves by number, without those of size zero, which cannot be stored."""
    return {str(index): _to_plain(leaf) for index, leaf in enumerate(leaves) if np.size(leaf)}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(stored: Any, leaf: Any) -> Any:
    """Stored values on the devices of a leaf: otherwise the next step would be compiled for other devices."""
    values: Any = np.asarray(stored)
    if _is_key(leaf):
        values = jax.random.wrap_key_data(jnp.asarray(values))
    # An array that is not committed to a device must remain so.
    return jax.device_put(values, leaf.sharding if getattr(leaf, "committed", False) else None)
