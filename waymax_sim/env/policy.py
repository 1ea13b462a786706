"""The policy protocol."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Dynamics
from waymax_sim.env.observation import Observation
from waymax_sim.pytree import Array


@runtime_checkable
class Policy(Protocol):
    """Actions for all agents of a scenario in one call; a rollout applies those of the assigned agents.

    A policy is an argument of compiled programs, so it is a pytree: weights are leaves (`pytree`), everything else is
    static (`static`, or `static_record` for a policy without weights). Policies of equal structure share one program.
    Subclasses inherit the defaults below. Two attributes are optional: `observes_goals`, whether the policy needs the
    goals of its agents (evaluations then add the end of the log as goal to scenarios without goals, and state it in
    reports), and `num_history_steps`, the steps of history that it observes.

    Attributes:
      privileged: Whether the policy reads the logged future; stated in reports.
      dynamics: Dynamics model of its actions; None for that of the environment.
    """

    privileged: bool = False
    dynamics: Dynamics | None = None

    def init(self, observation: Observation, key: Key[Array, ""]) -> Any:
        """Recurrent state at the start of an episode, any pytree; empty by default.

        Args:
          observation: The first observation.
          key: Random key.
        """
        return ()

    def act(self, observation: Observation, carry: Any, key: Key[Array, ""]) -> tuple[Action, Any]:
        """Actions [N, A] and the next recurrent state, of the same structure.

        Only the actions of `observation.controlled` are used. A network may compute only these rows and distribute
        them with `scatter_actions`.

        Args:
          observation: The observation.
          carry: From `init` or from the previous call.
          key: Random key of this step.
        """
        ...


def observes_goals(policy: Policy | None) -> bool:
    """Whether a policy declares that it needs the goals of its agents."""
    return getattr(policy, "observes_goals", False)


def observed_history_steps(policies: Iterable[Policy | None]) -> int:
    """Steps of history that policies observe (`EnvConfig.num_history_steps`): their `num_history_steps`, at least 2."""
    return max([2, *(getattr(policy, "num_history_steps", 2) for policy in policies)])
