"""What a dynamics model is."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.pytree import Array

# A time step in seconds.
Step = float | Float[Array, ""]


@runtime_checkable
class Dynamics(Protocol):
    """How agents move. Implementations are frozen and hashable; they hold settings, never arrays.

    A model with a true attribute `preserves_finite` states that finite agents and values give finite agents; the
    environment checks the results of all others.

    `apply` and `invert` work on N agents at once, and on nothing but their plane motion: heights, births and
    deaths belong to the environment.
    """

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each of the A action numbers."""
        ...

    def apply(self, agents: AgentState, value: Num[Array, "N A"], dt: Step) -> AgentState:
        """Agents `dt` seconds later. Values outside the bounds count as the nearest bound."""
        ...

    def invert(self, before: AgentState, after: AgentState, dt: Step) -> Action:
        """The action within bounds that best takes `before` to `after`; valid where both are."""
        ...


def float_bounds(limits: tuple[float, ...]) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
    """Symmetric bounds from one limit per action number."""
    high = np.asarray(limits, np.float32)
    return -high, high
