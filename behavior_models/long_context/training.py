"""Training on beds: batches are drawn in the graph, and the learning rate falls along a cosine."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Key

from behavior_models.training.gradient_steps import CloningState, take_gradient_steps
from waymax_sim.pytree import Array

Loss = Callable[[Any, Any], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]]


@dataclasses.dataclass(frozen=True)
class BedTrainingConfig:
    """Hyperparameters of AdamW.

    Attributes:
      num_steps: Gradient steps.
      batch: Sequences of a batch.
      learning_rate: Largest learning rate.
      num_warmup_steps: Steps of its linear ascent, at most half of all.
      final_learning_rate: Learning rate after the last step.
      weight_decay: Weight decay.
      max_norm: Norm at which gradients are clipped.
      num_chunk_steps: Gradient steps of one call of the program.
    """

    num_steps: int = 1500
    batch: int = 16
    learning_rate: float = 4e-3
    num_warmup_steps: int = 60
    final_learning_rate: float = 3e-5
    weight_decay: float = 1e-4
    max_norm: float = 1.0
    num_chunk_steps: int = 50

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer."""
        rate = optax.warmup_cosine_decay_schedule(
            0.0,
            self.learning_rate,
            min(self.num_warmup_steps, self.num_steps // 2),
            self.num_steps,
            self.final_learning_rate,
        )
        return optax.chain(optax.clip_by_global_norm(self.max_norm), optax.adamw(rate, weight_decay=self.weight_decay))


def train(
    init: Callable[[Key[Array, ""]], Any],
    draw: Callable[[Key[Array, ""]], Any],
    loss: Loss,
    key: Key[Array, "*seeds"],
    config: BedTrainingConfig,
    report: Callable[[int, dict[str, float]], None] = lambda step, scalars: None,
    params: Any = None,
) -> Any:
    """Trained parameters; of a key per seed [S], those of all seeds.

    Args:
      init: Initial parameters of a random key.
      draw: A batch of a random key.
      loss: Loss and scalars of parameters and a batch.
      key: Random key, or one for each seed.
      config: Hyperparameters.
      report: Called with the number of steps done, and the mean scalars since the last call.
      params: Initial parameters; random by default.
    """
    optimizer = config.optimizer

    def begin(key: Key[Array, ""]) -> CloningState:
        init_key, key = jax.random.split(key)
        own = init(init_key) if params is None else jax.tree.map(jnp.asarray, params)
        return CloningState(own, optimizer.init(own), key)

    def advance(state: CloningState) -> tuple[CloningState, dict[str, Array]]:
        return take_gradient_steps(state, draw, loss, optimizer, config.num_chunk_steps)

    if key.ndim:
        begin, advance = jax.vmap(begin), jax.vmap(advance)
    state, step = jax.jit(begin)(key), jax.jit(advance, donate_argnums=0)
    for done in range(config.num_chunk_steps, config.num_steps + 1, config.num_chunk_steps):
        state, scalars = step(state)
        report(done, {name: float(value.mean()) for name, value in scalars.items()})
    return state.params
