"""The protocol of dynamics models."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.pytree import Array

# Duration of a step, s.
TimeStep = float | Float[Array, ""]


@runtime_checkable
class Dynamics(Protocol):
    """A dynamics model. Implementations are frozen and hashable; they hold parameters, not arrays.

    A model with a true attribute `preserves_finite` states that finite agents and values give finite agents; the
    environment checks the results of all others.

    `apply` and `invert` compute the motion of N agents in the plane. Heights, spawning and despawning are part of the
    environment.
    """

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of each of the A action components."""
        ...

    def apply(self, agents: AgentState, value: Num[Array, "N A"], dt: TimeStep) -> AgentState:
        """Agents `dt` seconds later; values are clipped to the bounds.

        Args:
          agents: N agents.
          value: Actions.
          dt: Duration, s.
        """
        ...

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The action within the bounds that best explains the motion; valid where both states are.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        ...


def float_bounds(limits: tuple[float, ...]) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
    """Symmetric bounds from one limit per action component."""
    high = np.asarray(limits, np.float32)
    return -high, high
