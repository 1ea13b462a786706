"""Sparse mixture of experts: each token passes through the two feed-forward layers that a router selects.

Sources: top-2 routing with capacity (Lepikhin et al. 2021), load-balance loss (Fedus et al. 2022), router z-loss (Zoph
et al. 2022).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# Standard deviation of the initial weights of the router: probabilities are nearly equal.
ROUTER_SCALE = 0.02


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """A mixture of experts.

    Attributes:
      num_experts: Experts of a layer.
      num_selected: Experts of a token.
      capacity_factor: Tokens that an expert accepts in training, as a multiple of those at equal load.
      balance_weight: Weight of the load-balance loss.
      z_weight: Weight of the router z-loss.
      has_bias: Whether the router has a bias.
    """

    num_experts: int = 8
    num_selected: int = 2
    capacity_factor: float = 1.25
    balance_weight: float = 1e-2
    z_weight: float = 1e-3
    has_bias: bool = False

    def capacity(self, num_tokens: int) -> int:
        """Tokens that an expert accepts in training."""
        return math.ceil(self.capacity_factor * self.num_selected * num_tokens / self.num_experts)


@pytree
class RouterStatistics:
    """Use of the experts by the valid tokens of a layer.

    Attributes:
      balance_loss: Product of the share of first choices and the mean probability, summed over experts, times their
        number: 1 at equal load.
      z_loss: Mean square of the logarithm of the sum of exponentiated logits.
      load: Share of each expert among all choices.
      dropped: Share of choices beyond the capacity.
      first: First choice of each token.
    """

    balance_loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    load: Float[Array, " E"]
    dropped: Float[Array, ""]
    first: Int[Array, "*lead"]


@pytree
class Routing:
    """Choices of tokens, the most probable one first.

    Attributes:
      expert: Experts.
      gate: Their weights, with the sum 1.
    """

    expert: Int[Array, "N k"]
    gate: Float[Array, "N k"]


class Experts(nnx.Module):
    """Gated feed-forward layers and their router.

    Args:
      width: Features of a token D.
      hidden: Width of the gate of each expert F.
      config: The mixture.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, width: int, hidden: int, config: ExpertConfig, *, rngs: nnx.Rngs):
        self.config = config
        count = config.num_experts
        self.router = nnx.Param(jax.random.normal(rngs.params(), (width, count)) * ROUTER_SCALE)
        self.router_bias = nnx.data(nnx.Param(jnp.zeros(count)) if config.has_bias else None)
        self.gate_up = nnx.Param(jax.random.normal(rngs.params(), (count, 2, width, hidden)) / width**0.5)
        self.down = nnx.Param(jax.random.normal(rngs.params(), (count, hidden, width)) / hidden**0.5)

    def __call__(
        self, tokens: Float[Array, "*lead D"], valid: Bool[Array, "*lead"], training: bool = False
    ) -> tuple[Float[Array, "*lead D"], RouterStatistics]:
        """Weighted outputs of the selected experts, and their use.

        In training, choices beyond the capacity of an expert are dropped, those of later tokens and second choices
        first. Otherwise none is dropped, so a result does not depend on the other tokens.

        Args:
          tokens: Features.
          valid: Valid tokens; others neither use capacity nor count in the statistics.
          training: Whether the capacity is limited.
        """
        rows, mask = tokens.reshape(-1, tokens.shape[-1]), valid.reshape(-1)
        logits = self._route(rows.astype(jnp.float32))
        probabilities = jax.nn.softmax(logits, axis=-1)
        routing = select_experts(probabilities, self.config.num_selected)
        if training:
            outputs, dropped = self._dispatch(rows, routing, mask)
        else:
            outputs, dropped = self._all(rows, routing), jnp.zeros(())
        statistics = _summarize(logits, probabilities, routing, mask, dropped, tokens.shape[:-1])
        return outputs.reshape(tokens.shape), statistics

    def _route(self, rows: Float[Array, "N D"]) -> Float[Array, "N E"]:
        logits = rows @ self.router[...].astype(jnp.float32)
        return logits if self.router_bias is None else logits + self.router_bias[...][None]

    def _dispatch(self, rows: Float[Array, "N D"], routing: Routing, valid: Bool[Array, " N"]) -> tuple[Array, Array]:
        """Outputs of the experts for the tokens within their capacity, and the share of the others."""
        num_tokens, (num_selected, count) = rows.shape[0], (self.config.num_selected, self.config.num_experts)
        capacity = self.config.capacity(num_tokens)
        slot = assign_slots(routing.expert, valid, count, capacity)
        token = jnp.broadcast_to(jnp.arange(num_tokens, dtype=jnp.int32)[:, None], slot.shape)
        # Free slots read the row of zeros behind the last token.
        source = jnp.full(count * capacity + 1, num_tokens, jnp.int32).at[slot].set(token)[:-1]
        inputs = _with_zero_row(rows)[source].reshape(count, capacity, -1)
        outputs = _with_zero_row(self._run(inputs).reshape(count * capacity, -1))
        chosen = outputs[slot] * routing.gate[..., None].astype(rows.dtype)
        is_dropped = (slot == count * capacity) & valid[:, None]
        share = jnp.sum(is_dropped, dtype=jnp.float32) / _count(valid) / num_selected
        return jnp.sum(chosen, axis=1), share

    def _all(self, rows: Float[Array, "N D"], routing: Routing) -> Float[Array, "N D"]:
        """Weighted outputs of all experts, with the weight 0 for those that are not selected."""
        count = self.config.num_experts
        outputs = self._run(jnp.broadcast_to(rows[None], (count, *rows.shape)))
        weights = jnp.sum(jax.nn.one_hot(routing.expert, count) * routing.gate[..., None], axis=1)
        return jnp.einsum("ne,end->nd", weights.astype(rows.dtype), outputs)

    def _run(self, inputs: Float[Array, "E C D"]) -> Float[Array, "E C D"]:
        gate_up, down = (parameter[...].astype(inputs.dtype) for parameter in (self.gate_up, self.down))
        hidden = jnp.einsum("ecd,eadf->eacf", inputs, gate_up)
        return jnp.einsum("ecf,efd->ecd", jax.nn.gelu(hidden[:, 0]) * hidden[:, 1], down)


def select_experts(probabilities: Float[Array, "N E"], num_selected: int) -> Routing:
    """The most probable experts of each token, weighted by their probabilities.

    Args:
      probabilities: Probabilities of the experts.
      num_selected: Experts of a token.
    """
    largest, expert = jax.lax.top_k(probabilities, num_selected)
    return Routing(expert, largest / jnp.sum(largest, axis=-1, keepdims=True))


def assign_slots(
    expert: Int[Array, "N k"], valid: Bool[Array, " N"], num_experts: int, capacity: int
) -> Int[Array, "N k"]:
    """Slots of choices among those of all experts, E C for choices beyond the capacity; first choices go first.

    Args:
      expert: Choices of each token, the most probable one first.
      valid: Valid tokens.
      num_experts: Number of experts E.
      capacity: Slots of an expert C.
    """
    choice = expert.T.reshape(-1)
    is_choice = jax.nn.one_hot(choice, num_experts, dtype=jnp.int32) * jnp.tile(valid, expert.shape[1])[:, None]
    rank = jnp.sum((jnp.cumsum(is_choice, axis=0) - is_choice) * is_choice, axis=-1)
    fits = (rank < capacity) & (jnp.sum(is_choice, axis=-1) > 0)
    return jnp.where(fits, choice * capacity + rank, num_experts * capacity).reshape(expert.shape[::-1]).T


def router_loss(statistics: tuple[RouterStatistics, ...], config: ExpertConfig) -> Float[Array, ""]:
    """Weighted load-balance and z-loss, the mean over layers; 0 without a layer of experts.

    Args:
      statistics: Statistics of the layers.
      config: The mixture.
    """
    losses = [config.balance_weight * each.balance_loss + config.z_weight * each.z_loss for each in statistics]
    return sum(losses, start=jnp.zeros(())) / max(len(losses), 1)


def _summarize(
    logits: Array, probabilities: Array, routing: Routing, valid: Array, dropped: Array, lead: tuple[int, ...]
) -> RouterStatistics:
    """Statistics of the router.

    Args:
      logits: Its outputs, [N, E].
      probabilities: Their softmax, [N, E].
      routing: The choices.
      valid: Valid tokens, [N].
      dropped: Share of choices beyond the capacity.
      lead: Shape of the tokens.
    """
    count, num_tokens = logits.shape[-1], _count(valid)
    weight = valid.astype(jnp.float32)[:, None] / num_tokens
    chosen = jax.nn.one_hot(routing.expert, count)
    first_share = jnp.sum(chosen[:, 0] * weight, axis=0)
    balance = count * jnp.sum(first_share * jnp.sum(probabilities * weight, axis=0))
    z_loss = jnp.sum(jax.nn.logsumexp(logits, axis=-1) ** 2 * weight[:, 0])
    load = jnp.sum(jnp.mean(chosen, axis=1) * weight, axis=0)
    return RouterStatistics(balance, z_loss, load, dropped, routing.expert[:, 0].reshape(lead))


def _count(valid: Bool[Array, " N"]) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1.0)


def _with_zero_row(rows: Float[Array, "N D"]) -> Float[Array, "N1 D"]:
    return jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
