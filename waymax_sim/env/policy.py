"""What a policy is."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Dynamics
from waymax_sim.env.observation import Observation
from waymax_sim.pytree import Array


@runtime_checkable
class Policy(Protocol):
    """Decides for every agent at once; a rollout uses the actions of the agents it was given.

    Implementations are frozen and hashable, or pytrees where they hold learned parameters.
    """

    @property
    def privileged(self) -> bool:
        """Whether the policy looks at the logged future. Reports say so."""
        ...

    @property
    def dynamics(self) -> Dynamics | None:
        """The model its actions are meant for; None for that of the environment."""
        ...

    def init(self, observation: Observation, key: Key[Array, ""]) -> Any:
        """State of its own at the start of an episode, any pytree; () if it has none."""
        ...

    def act(self, observation: Observation, carry: Any, key: Key[Array, ""]) -> tuple[Action, Any]:
        """Actions for all N agents, and its next state of the same structure."""
        ...
