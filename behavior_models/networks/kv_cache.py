"""Caches of keys and values, of static size: a ring that stores the order of its tokens."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float, Int

from behavior_models.networks.attention import TokenIndex
from waymax_sim.pytree import Array, pytree


@pytree
class KVCache:
    """Keys and values of the last S tokens in each layer.

    A token that is written when the ring is full replaces the oldest one. With a window of attention, a ring that has
    the tokens of the window and those of one call before it gives the same result as a cache of all tokens.

    Attributes:
      keys: Keys of each layer.
      values: Values of each layer.
      index: Order of the stored tokens; free slots are not valid.
      num_written: Number of tokens written so far.
    """

    keys: tuple[Float[Array, "*lead S K G"], ...]
    values: tuple[Float[Array, "*lead S K G"], ...]
    index: TokenIndex
    num_written: Int[Array, ""]

    @classmethod
    def empty(cls, num_layers: int, shape: tuple[int, ...], dtype: str = "float32") -> "KVCache":
        """A cache without tokens.

        Args:
          num_layers: Number of layers.
          shape: Shape of the keys of a layer, [*lead, S, K, G].
          dtype: Number format.
        """
        layers = tuple(jnp.zeros(shape, jnp.dtype(dtype)) for _ in range(num_layers))
        none = jnp.zeros(shape[:-2], jnp.int32)
        index = TokenIndex(none, none, jnp.zeros(shape[:-2], bool))
        return cls(layers, layers, index, jnp.zeros((), jnp.int32))

    @property
    def size(self) -> int:
        """Number of slots S."""
        return self.keys[0].shape[-3]

    def slots(self, num_tokens: int) -> Int[Array, " T"]:
        """Slots of the next tokens.

        Raises:
          ValueError: The tokens of one call do not fit into the cache.
        """
        if num_tokens > self.size:
            raise ValueError(f"{num_tokens} tokens do not fit into a cache of {self.size}; write them in several calls")
        return (self.num_written + jnp.arange(num_tokens, dtype=jnp.int32)) % self.size

    def append(self, index: TokenIndex) -> "KVCache":
        """The cache with the order of the next tokens, whose keys and values `write` stores."""
        num_tokens = index.step.shape[-1]
        slots = self.slots(num_tokens)
        stored = zip(_fields(self.index), _fields(index), strict=True)
        written = TokenIndex(*(old.at[..., slots].set(new) for old, new in stored))
        return dataclasses.replace(self, index=written, num_written=self.num_written + num_tokens)

    def write(
        self, layer: int, slots: Int[Array, " T"], key: Float[Array, "*lead T K G"], value: Float[Array, "*lead T K G"]
    ) -> "KVCache":
        """The cache with keys and values of a layer.

        Args:
          layer: Number of the layer.
          slots: Slots of the tokens, those before `append`.
          key: Keys.
          value: Values.
        """
        keys, values = list(self.keys), list(self.values)
        keys[layer] = keys[layer].at[..., slots, :, :].set(key.astype(keys[layer].dtype))
        values[layer] = values[layer].at[..., slots, :, :].set(value.astype(values[layer].dtype))
        return dataclasses.replace(self, keys=tuple(keys), values=tuple(values))


def _fields(index: TokenIndex) -> tuple[Array, Array, Array]:
    return index.step, index.position, index.valid
