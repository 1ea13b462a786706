"""BC-SAC: soft actor-critic whose actor also imitates demonstrations.

Source: "Imitation Is Not Enough: Robustifying Imitation with Reinforcement Learning for Challenging Driving Scenarios"
(Lu et al. 2023). One objective of the actor,

    E[min Q(s, a) - temperature * log pi(a|s)] + weight * E_demonstrations[log pi(a*|s)],

and the critics of soft actor-critic. Each gradient step has as many demonstrations as transitions of the replay buffer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from behavior_models.imitation.demonstrations import Demonstrations
from behavior_models.networks.model import ActorCriticModel
from behavior_models.reinforcement.sac import SAC, ActorTerm, SACLearner, Scalars
from behavior_models.training.off_policy import OffPolicyState
from waymax_sim.env import Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class BCSAC:
    """The algorithm: soft actor-critic with a term of imitation. Hashable: equal instances share programs.

    Attributes:
      sac: Soft actor-critic.
      weight: Weight of the log-likelihood of demonstrated actions, as a share of the running mean of the magnitude of
        action values: it does not depend on the scale of the rewards. 0 is soft actor-critic, exactly.

    Raises:
      ValueError: The weight is negative.
    """

    sac: SAC
    weight: float = 0.1

    def __post_init__(self):
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight} must not be negative")

    @property
    def model(self) -> ActorCriticModel:
        """The network of the actor."""
        return self.sac.model

    def init(
        self, bank: ScenarioBank, key: Key[Array, ""], traffic: Policies = None, actor: Any = None
    ) -> OffPolicyState:
        """The state before the first training step; see `SAC.init`.

        Args:
          bank: The scenarios.
          key: Random key.
          traffic: Policies of agents that are not controlled.
          actor: Initial parameters of the actor; random by default.
        """
        return self.sac.init(bank, key, traffic, actor)

    def train_step(
        self, state: OffPolicyState, bank: ScenarioBank, data: Demonstrations, traffic: Policies = None
    ) -> tuple[OffPolicyState, Scalars]:
        """Collects decisions, and takes gradient steps on samples of the replay buffer and of demonstrations.

        Args:
          state: The state.
          bank: The scenarios.
          data: Demonstrations, on the device.
          traffic: Policies of agents that are not controlled.
        """
        term = self.imitation_term(data) if self.weight else None
        return self.sac.train_step(state, bank, traffic, term)

    def imitation_term(self, data: Demonstrations) -> ActorTerm:
        """The weighted negative log-likelihood of random demonstrations, for `SAC.update`."""

        def term(actor: Any, learner: SACLearner, key: Key[Array, ""]) -> tuple[Float[Array, ""], Scalars]:
            rows = jax.random.randint(key, (self.sac.config.batch,), 0, len(data))
            part = jax.tree.map(lambda leaf: leaf[rows], data)
            loss = self.imitation_loss(actor, part)
            return self.weight * learner.value_scale * loss, {"imitation_loss": loss}

        return term

    def imitation_loss(self, actor: Any, data: Demonstrations) -> Float[Array, ""]:
        """Mean negative log-likelihood of demonstrated actions, nats.

        Args:
          actor: Parameters of the actor.
          data: Demonstrations.
        """
        return -jnp.mean(self.model.distribution(actor, data.observation.astype(jnp.float32)).log_prob(data.value))
