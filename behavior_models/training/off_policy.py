"""The state of trainings that learn from a replay buffer."""

from typing import Any

from jaxtyping import Int, Key

from behavior_models.training.collect import Environments
from behavior_models.training.replay_buffer import ReplayState
from waymax_sim.pytree import Array, pytree


@pytree
class OffPolicyState:
    """The state between two training steps.

    Attributes:
      learner: Everything that gradient steps change; its `params` are those of the policy.
      replay: The replay buffer.
      environments: The environments.
      key: Random key of the following training steps.
      step: Number of training steps done.
    """

    learner: Any
    replay: ReplayState
    environments: Environments
    key: Key[Array, ""]
    step: Int[Array, ""]

    @property
    def params(self) -> Any:
        """Parameters of the policy."""
        return self.learner.params
