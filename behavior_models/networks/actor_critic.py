"""Networks with an encoder, a trunk, and outputs for actions and values."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from behavior_models.networks.encoder import build_encoder
from behavior_models.networks.scene_encoder import NetworkConfig
from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array

# Standard deviation of the initial weights of the last layer: the first policy is nearly uniform.
OUTPUT_SCALE = 1e-3
# That of mixtures: equal components would have equal gradients and remain equal.
MIXTURE_OUTPUT_SCALE = 0.1


class ActorCritic(nnx.Module):
    """Outputs for a distribution over actions, and the value of the state.

    Args:
      spec: Content of the encoded observations.
      num_outputs: Outputs of the policy.
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, spec: ObservationSpec, num_outputs: int, config: NetworkConfig, *, rngs: nnx.Rngs):
        self.encoder = build_encoder(spec, config, rngs=rngs)
        self.first = nnx.Linear(self.encoder.num_outputs, config.trunk, rngs=rngs)
        self.second = nnx.Linear(config.trunk, config.trunk, rngs=rngs)
        scale = MIXTURE_OUTPUT_SCALE if config.head == "mixture" else OUTPUT_SCALE
        init = nnx.initializers.normal(scale)
        self.outputs = nnx.Linear(config.trunk, num_outputs, kernel_init=init, rngs=rngs)
        self.value = nnx.Linear(config.trunk, 1, rngs=rngs)

    def __call__(self, rows: Float[Array, "*lead D"]) -> tuple[Float[Array, "*lead B"], Float[Array, "*lead"]]:
        hidden = self.encoder(rows).astype(jnp.float32)
        hidden = jnp.tanh(self.second(jnp.tanh(self.first(hidden))))
        return self.outputs(hidden), self.value(hidden)[..., 0]


def num_parameters(module: nnx.Module) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
