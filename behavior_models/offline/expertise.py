"""Mixtures of policies graded by expertise, for datasets of a given normalized mean return."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Mixture(NamedTuple):
    """Policies of a dataset.

    Attributes:
      policies: Indices of the policies, by ascending return.
      expertise: Share of all policies, sorted by return, among which they were chosen.
      mean: Mean of their normalized returns.
    """

    policies: Int[np.ndarray, " M"]
    expertise: float
    mean: float


def normalize_returns(
    returns: Float[np.ndarray, "*n"] | float, random: float, reference: float
) -> Float[np.ndarray, "*n"]:
    """Returns normalized so that 0 is the mean of random actions and 1 that of the reference planner.

    Args:
      returns: Returns.
      random: Mean return of random actions.
      reference: Mean return of the reference.

    Raises:
      ValueError: The reference is not better than random actions.
    """
    if not reference > random:
        raise ValueError(f"the reference planner ({reference:.3f}) is not better than random actions ({random:.3f})")
    return (np.asarray(returns, float) - random) / (reference - random)


def select_policies(
    returns: Float[np.ndarray, " P"], expertise: float, num_policies: int, *, from_top: bool = False
) -> Mixture:
    """Equally spaced policies among the share `expertise` with the lowest returns.

    Args:
      returns: Normalized mean return of each policy.
      expertise: Share of the policies that is retained, in (0, 1].
      num_policies: Number of policies M; fewer if fewer are retained.
      from_top: Whether the policies with the highest returns are retained instead.
    """
    order = np.argsort(returns, kind="stable")
    num_kept = int(np.clip(np.ceil(expertise * len(order) - 1e-9), 1, len(order)))
    retained = order[-num_kept:] if from_top else order[:num_kept]
    index = np.unique(np.round(np.linspace(0, num_kept - 1, min(num_policies, num_kept))).astype(int))
    chosen = retained[index]
    return Mixture(chosen, expertise, float(np.mean(returns[chosen])))


def grade_mixture(
    returns: Float[np.ndarray, " P"], target: float, sizes: Sequence[int] = (4, 5, 6, 7, 8), *, from_top: bool = False
) -> Mixture:
    """The mixture whose mean is nearest to a target, over all expertise fractions and sizes.

    Args:
      returns: Normalized mean return of each policy.
      target: Mean normalized return.
      sizes: Numbers of policies.
      from_top: See `select_policies`.
    """
    fractions = np.arange(1, len(returns) + 1) / len(returns)
    mixtures = [
        select_policies(returns, float(fraction), size, from_top=from_top) for fraction in fractions for size in sizes
    ]
    return min(mixtures, key=lambda mixture: abs(mixture.mean - target))
