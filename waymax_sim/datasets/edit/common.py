"""What edits have in common: who is meant, numbers that make sense, and padding."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from waymax_sim.datatypes.agents import select
from waymax_sim.datatypes.padding import bucket, pad, sizes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array

T = TypeVar("T")
Who: TypeAlias = str | Sequence[int] | Array
Numbers: TypeAlias = int | float | np.generic | Sequence | Array


def chosen(scenario: Scenario, who: Who) -> Bool[np.ndarray, " N"]:
    """Mask of the agents meant by `who`: a `Selector`, a mask, or track ids.

    Raises:
      ValueError: There is no such selector, an agent with such an id is not there, or a mask has a wrong length.
    """
    info = scenario.agents
    if isinstance(who, str):
        return np.asarray(select(info, who))
    given = np.asarray(who)
    if given.dtype == bool:
        if given.shape != info.exists.shape:
            raise ValueError(f"a mask of shape {given.shape} for {scenario.num_agents} agents")
        return given & info.exists
    return np.isin(info.id, all_there("agents", given, info.id[info.exists])) & info.exists


def all_there(what: str, ids: Numbers, known: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, " k"]:
    """The ids, after a look that each is known.

    Raises:
      ValueError: One is not.
    """
    unknown = np.setdiff1d(ids, known)
    if len(unknown):
        raise ValueError(f"there are no {what} {unknown.tolist()}")
    return np.asarray(ids)


def finite(name: str, values: Numbers) -> Float[np.ndarray, "*n"]:
    """Numbers given by the user, as float64.

    Raises:
      ValueError: One is not finite.
    """
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is not finite")
    return numbers


def only(record: T, keep: Bool[np.ndarray, "*lead"]) -> T:
    """A record with zeros and False outside of `keep`, which covers the first axes of all its arrays."""

    def cleared(leaf: np.ndarray) -> np.ndarray:
        return np.where(keep.reshape(keep.shape + (1,) * (leaf.ndim - keep.ndim)), leaf, np.zeros((), leaf.dtype))

    return jax.tree.map(cleared, record)


def sized_like(scenario: Scenario, edited: Scenario) -> Scenario:
    """The edited scenario with padding to common sizes, if the one it was made from has common sizes."""
    lengths = sizes(scenario)
    return pad(edited, bucket(sizes(edited))) if lengths == bucket(lengths) else edited
