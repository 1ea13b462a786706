"""Sizes of transformers: the published ones of Gemma, and small ones.

Source: Gemma (Gemma Team 2024, arXiv 2403.08295), tables 1 and 2.
"""

import dataclasses
from typing import Literal

from behavior_models.networks.kv_cache import KVCache
from behavior_models.networks.mixture_of_experts import ExpertConfig


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Size of a transformer.

    Attributes:
      width: Features of a token D.
      num_layers: Layers.
      hidden: Width F of the gate of the feed-forward layer, half of that which is often stated (gate and input).
      num_heads: Heads H.
      head_size: Features of a head G, independent of the width.
      num_kv_heads: Heads of keys and values K, a divisor of H: 1 for multi-query attention.
      vocabulary: Rows of the embedding V.
      positions: Rotary embedding of all features of a head, of half of them, or none: order then follows from the mask.
      window: Steps of attention, see `attention.visible`.
      experts: A mixture of experts instead of the feed-forward layer.
      dtype: Number format of the computation; norms and softmax are float32, as are the initial parameters.

    Raises:
      ValueError: K does not divide H.
    """

    width: int
    num_layers: int
    hidden: int
    num_heads: int
    head_size: int
    num_kv_heads: int
    vocabulary: int
    positions: Literal["none", "half", "rope"] = "none"
    window: int | None = None
    experts: ExpertConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")

    @property
    def num_embedding_parameters(self) -> int:
        """Parameters of the embedding."""
        return self.vocabulary * self.width

    @property
    def num_parameters(self) -> int:
        """Parameters of the transformer."""
        return self._count(self.experts.num_experts if self.experts else 1)

    @property
    def num_active_parameters(self) -> int:
        """Parameters that one token uses, embedding included."""
        return self._count(self.experts.num_selected if self.experts else 1)

    def cache(self, lead: tuple[int, ...], size: int) -> KVCache:
        """An empty cache.

        Args:
          lead: Leading axes.
          size: Number of slots.
        """
        return KVCache.empty(self.num_layers, (*lead, size, self.num_kv_heads, self.head_size), self.dtype)

    def _count(self, num_experts: int) -> int:
        """Parameters with a number of feed-forward layers per layer."""
        attention = 2 * self.width * self.head_size * (self.num_heads + self.num_kv_heads)
        feed_forward = 3 * self.width * self.hidden * num_experts + 2 * self.width
        router = 0 if self.experts is None else (self.width + self.experts.has_bias) * self.experts.num_experts
        return self.num_embedding_parameters + self.num_layers * (attention + feed_forward + router) + self.width


GEMMA_2B = TransformerConfig(2048, 18, 16_384, 8, 256, 1, 256_128, positions="rope", dtype="bfloat16")
GEMMA_7B = TransformerConfig(3072, 28, 24_576, 16, 256, 16, 256_128, positions="rope", dtype="bfloat16")
NANO = TransformerConfig(64, 2, 128, 4, 16, 1, 512)
SMALL = TransformerConfig(128, 4, 512, 4, 32, 1, 2048)
BASE = TransformerConfig(256, 8, 1024, 8, 32, 1, 4096)
BASE_MOE = dataclasses.replace(BASE, experts=ExpertConfig())
