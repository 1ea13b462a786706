"""Agent selection, argument checks and padding of edits."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from waymax_sim.datatypes.agents import select
from waymax_sim.datatypes.padding import axis_lengths, bucket_lengths, pad, pad_empty_axes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array

T = TypeVar("T")
AgentSelection: TypeAlias = str | Sequence[int] | Array
ArrayLike: TypeAlias = int | float | np.generic | Sequence | Array


def agent_mask(scenario: Scenario, agents: AgentSelection) -> Bool[np.ndarray, " N"]:
    """Mask of agents given by a `Selector`, a mask, or track ids.

    Raises:
      ValueError: The selector or an id does not exist, or a mask has a wrong shape.
    """
    info = scenario.agents
    if isinstance(agents, str):
        return np.asarray(select(info, agents))
    given = np.asarray(agents)
    if given.dtype == bool:
        if given.shape != info.exists.shape:
            raise ValueError(f"a mask has shape {given.shape} where ({scenario.num_agents},) is expected")
        return given & info.exists
    return np.isin(info.id, check_ids("agents", given, info.id[info.exists])) & info.exists


def check_ids(kind: str, ids: ArrayLike, known: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, " k"]:
    """The ids as an array, if all are known.

    Args:
      kind: Name of their objects in error messages.
      ids: The ids.
      known: The known ids.

    Raises:
      ValueError: An id is unknown.
    """
    unknown = np.setdiff1d(ids, known)
    if len(unknown):
        raise ValueError(f"there are no {kind} {unknown.tolist()}")
    return np.asarray(ids)


def check_finite(name: str, values: ArrayLike) -> Float[np.ndarray, "*n"]:
    """The numbers as float64.

    Raises:
      ValueError: A number is not finite.
    """
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is not finite")
    return numbers


def zero_outside(record: T, mask: Bool[np.ndarray, "*lead"]) -> T:
    """A record with zeros and False outside of a mask over the leading axes of all its arrays."""

    def clear(leaf: np.ndarray) -> np.ndarray:
        return np.where(mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim)), leaf, np.zeros((), leaf.dtype))

    return jax.tree.map(clear, record)


def pad_like(scenario: Scenario, edited: Scenario) -> Scenario:
    """The edited scenario, padded to `bucket_lengths` if the original is, otherwise where axes have no content."""
    lengths = axis_lengths(scenario)
    if lengths == bucket_lengths(lengths):
        return pad(edited, bucket_lengths(axis_lengths(edited)))
    return pad_empty_axes(edited)
