"""Networks for the value of continuous actions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Key

from behavior_models.networks.encoder import build_encoder
from behavior_models.networks.scene_encoder import NetworkConfig
from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array


class ActionValue(nnx.Module):
    """The value of an action in a state, with an encoder of its own.

    Args:
      spec: Content of the encoded observations.
      num_components: Components of an action.
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, spec: ObservationSpec, num_components: int, config: NetworkConfig, *, rngs: nnx.Rngs):
        self.encoder = build_encoder(spec, config, rngs=rngs)
        self.first = nnx.Linear(self.encoder.num_outputs + num_components, config.trunk, rngs=rngs)
        self.second = nnx.Linear(config.trunk, config.trunk, rngs=rngs)
        self.value = nnx.Linear(config.trunk, 1, rngs=rngs)

    def __call__(self, rows: Float[Array, "*lead D"], action: Float[Array, "*lead A"]) -> Float[Array, "*lead"]:
        hidden = jnp.concatenate([self.encoder(rows).astype(jnp.float32), action], axis=-1)
        hidden = nnx.relu(self.second(nnx.relu(self.first(hidden))))
        return self.value(hidden)[..., 0]


@dataclasses.dataclass(frozen=True)
class ActionValueModel:
    """C independent networks of action values, without parameters. Hashable: equal models share programs.

    Attributes:
      spec: Content of the encoded observations.
      num_components: Components of an action.
      config: Size of each network.
      num_networks: C.
    """

    spec: ObservationSpec
    num_components: int
    config: NetworkConfig = NetworkConfig()
    num_networks: int = 2

    def init(self, key: Key[Array, ""]) -> tuple[Any, ...]:
        """Random parameters of each network."""
        return tuple(nnx.state(self._module(nnx.Rngs(own))) for own in jax.random.split(key, self.num_networks))

    def values(
        self, params: tuple[Any, ...], rows: Float[Array, "*lead D"], action: Float[Array, "*lead A"]
    ) -> Float[Array, "C *lead"]:
        """The values of each network.

        Args:
          params: Parameters.
          rows: Encoded observations.
          action: Actions.
        """
        graph = nnx.graphdef(nnx.eval_shape(lambda: self._module(nnx.Rngs(0))))
        return jnp.stack([nnx.merge(graph, own)(rows, action) for own in params])

    def _module(self, rngs: nnx.Rngs) -> ActionValue:
        return ActionValue(self.spec, self.num_components, self.config, rngs=rngs)
