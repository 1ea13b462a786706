"""Gradient steps of a clone on random batches: its state, and a scan over the steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Key

from waymax_sim.pytree import Array, pytree


@pytree
class CloningState:
    """The state of training of a clone of logged actions.

    Attributes:
      params: Parameters of the network.
      optimizer: State of the optimizer.
      key: Random key of the following training steps.
    """

    params: Any
    optimizer: Any
    key: Key[Array, ""]


def take_gradient_steps(
    state: CloningState,
    draw: Callable[[Key[Array, ""]], Any],
    loss: Callable[[Any, Any], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]],
    optimizer: optax.GradientTransformation,
    num_steps: int,
) -> tuple[CloningState, dict[str, Float[Array, ""]]]:
    """Gradient steps on random batches; the next state and the means of the scalars.

    Args:
      state: The state.
      draw: A batch of a random key.
      loss: Loss and scalars of parameters and a batch.
      optimizer: The optimizer.
      num_steps: Number of gradient steps.
    """
    key, step_key = jax.random.split(state.key)

    def gradient_step(carry: tuple[Any, Any], key: Key[Array, ""]):
        params, optimizer_state = carry
        (_, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(params, draw(key))
        change, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, change), optimizer_state), scalars

    carry, keys = (state.params, state.optimizer), jax.random.split(step_key, num_steps)
    (params, optimizer_state), scalars = jax.lax.scan(gradient_step, carry, keys)
    return CloningState(params, optimizer_state, key), jax.tree.map(jnp.mean, scalars)
