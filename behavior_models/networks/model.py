"""Kinds of networks: observation, actions and size, without parameters."""

import abc
import dataclasses
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Float, Key

from behavior_models.networks.actor_critic import ActorCritic
from behavior_models.networks.heads import Distribution, Mode
from behavior_models.networks.policy import (
    NetworkActor,
    NetworkPolicy,
    action_distribution,
    num_distribution_outputs,
)
from behavior_models.networks.q_network import QHeadConfig, QNetwork
from behavior_models.networks.scene_encoder import NetworkConfig
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Discrete, Dynamics
from waymax_sim.env.encoder import ObservationEncoder
from waymax_sim.pytree import Array

Model = TypeVar("Model", bound="NetworkModel")


@dataclasses.dataclass(frozen=True)
class NetworkModel(abc.ABC):
    """A network without parameters. Hashable: equal models share programs.

    Attributes:
      encoder: Encoder of the observation.
      dynamics: Model of the actions.
      config: Size and head.
    """

    encoder: ObservationEncoder
    dynamics: Dynamics
    config: NetworkConfig = NetworkConfig()

    @classmethod
    def from_env(cls: type[Model], env: FunctionalEnv, config: NetworkConfig, **options: Any) -> Model:
        """The model for the observations and actions of an environment.

        Args:
          env: The environment.
          config: Size.
          options: Further fields of the model.
        """
        assert isinstance(env.observe, ObservationEncoder), "a network needs an encoder with a specification"
        return cls(env.observe, env.env.dynamics, config, **options)

    @property
    def graph(self) -> nnx.GraphDef:
        """Structure of the network."""
        return nnx.graphdef(self._skeleton)

    @property
    def shapes(self) -> Any:
        """Parameters as shapes."""
        return nnx.state(self._skeleton)

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(self._module(nnx.Rngs(key)))

    def actor(self, params: Any, mode: Mode = "sample") -> NetworkActor:
        """The network as an actor of encoded observations.

        Args:
          params: Parameters.
          mode: See `NetworkPolicy`.
        """
        return NetworkActor(params, self.graph, self.dynamics, mode, self.config.head)

    def distribution(self, params: Any, rows: Float[Array, "*lead D"]) -> Distribution:
        """The distribution over actions for encoded observations.

        Args:
          params: Parameters.
          rows: Encoded observations.
        """
        outputs, _ = nnx.merge(self.graph, params)(rows)
        return action_distribution(self.dynamics, outputs, self.config.head)

    def policy(self, params: Any, mode: Mode, interval: int) -> NetworkPolicy:
        """The network as a policy.

        Args:
          params: Parameters.
          mode: See `NetworkPolicy`.
          interval: Steps for which an action is held.
        """
        return NetworkPolicy(params, self.graph, self.encoder, self.dynamics, mode, interval, self.config.head)

    @property
    def _skeleton(self) -> nnx.Module:
        return nnx.eval_shape(lambda: self._module(nnx.Rngs(0)))

    @abc.abstractmethod
    def _module(self, rngs: nnx.Rngs) -> nnx.Module:
        """The network with random parameters."""


@dataclasses.dataclass(frozen=True)
class ActorCriticModel(NetworkModel):
    """An actor-critic network."""

    def at_temperature(self, params: Any, temperature: float) -> Any:
        """Parameters of the policy whose logits are divided by a temperature; below 1 its samples vary less.

        Args:
          params: Parameters for discrete actions.
          temperature: The temperature.
        """
        assert isinstance(self.dynamics, Discrete), "only categorical distributions have a temperature"

        def divide(path: Any, leaf: Array) -> Array:
            return leaf / temperature if path[0].key == "outputs" else leaf

        return jax.tree_util.tree_map_with_path(divide, params)

    def _module(self, rngs: nnx.Rngs) -> ActorCritic:
        num_outputs = num_distribution_outputs(self.dynamics, self.config.head)
        return ActorCritic(self.encoder.spec(), num_outputs, self.config, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class QModel(NetworkModel):
    """A network of the values of discrete actions; its policy is greedy with the mode "mode".

    Attributes:
      head: Outputs.
    """

    head: QHeadConfig = QHeadConfig()

    def _module(self, rngs: nnx.Rngs) -> QNetwork:
        assert isinstance(self.dynamics, Discrete), "values of actions need discrete dynamics"
        return QNetwork(self.encoder.spec(), self.dynamics.num_actions, self.config, self.head, rngs=rngs)
