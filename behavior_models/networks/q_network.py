"""Networks with the value of each discrete action."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from behavior_models.networks.actor_critic import OUTPUT_SCALE
from behavior_models.networks.encoder import build_encoder
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.networks.value_heads import ValueSupport
from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class QHeadConfig:
    """Outputs of a network of action values.

    Attributes:
      dueling: Whether outputs are the sum of the value of the state and the advantage of the action over the mean of
        all actions (Wang et al. 2016).
      support: Support of a categorical distribution over returns (C51); None for scalar values.
    """

    dueling: bool = True
    support: ValueSupport | None = None

    @property
    def num_atoms(self) -> int:
        """Outputs M per action."""
        return 1 if self.support is None else self.support.num_atoms


class QNetwork(nnx.Module):
    """Values of L discrete actions.

    A policy that takes the action of the largest output ("mode") is the greedy one.

    Args:
      spec: Content of the encoded observations.
      num_actions: Number of actions L.
      config: Size.
      head: Outputs.
      rngs: Random streams of the initial parameters.
    """

    def __init__(
        self, spec: ObservationSpec, num_actions: int, config: NetworkConfig, head: QHeadConfig, *, rngs: nnx.Rngs
    ):
        self.head = head
        self.encoder = build_encoder(spec, config, rngs=rngs)
        self.first = nnx.Linear(self.encoder.num_outputs, config.trunk, rngs=rngs)
        self.second = nnx.Linear(config.trunk, config.trunk, rngs=rngs)
        init, atoms = nnx.initializers.normal(OUTPUT_SCALE), head.num_atoms
        self.advantage = nnx.Linear(config.trunk, num_actions * atoms, kernel_init=init, rngs=rngs)
        value = nnx.Linear(config.trunk, atoms, kernel_init=init, rngs=rngs) if head.dueling else None
        self.value = nnx.data(value)

    def __call__(self, rows: Float[Array, "*lead D"]) -> tuple[Float[Array, "*lead L"], Float[Array, "*lead"]]:
        """Values of the actions, and the largest of them."""
        values = self.values(self.raw(rows))
        return values, jnp.max(values, axis=-1)

    def raw(self, rows: Float[Array, "*lead D"]) -> Float[Array, "*lead L M"]:
        """Logits of the atoms of each action, or its value (M = 1)."""
        hidden = self.encoder(rows).astype(jnp.float32)
        hidden = nnx.relu(self.second(nnx.relu(self.first(hidden))))
        outputs = self.advantage(hidden).reshape(*hidden.shape[:-1], -1, self.head.num_atoms)
        if self.value is None:
            return outputs
        return self.value(hidden)[..., None, :] + outputs - jnp.mean(outputs, axis=-2, keepdims=True)

    def values(self, raw: Float[Array, "*lead L M"]) -> Float[Array, "*lead L"]:
        """Values of the actions, from `raw`."""
        return raw[..., 0] if self.head.support is None else self.head.support.mean(raw)
