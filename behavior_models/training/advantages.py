"""Generalized advantage estimates."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.pytree import Array


def generalized_advantages(
    value: Float[Array, "T *lead"],
    reward: Float[Array, "T *lead"],
    ended: Bool[Array, "T *lead"],
    last_value: Float[Array, "*lead"],
    discount: float,
    decay: float,
    active: Bool[Array, "T *lead"] | None = None,
) -> Float[Array, "T *lead"]:
    """Advantages of actions over the value of the state.

    Args:
      value: Value of the state before each action.
      reward: Reward of each action.
      ended: Whether the episode ended with the action.
      last_value: Value of the state after the last action.
      discount: Discount factor per decision.
      decay: Weight of longer estimates, lambda.
      active: Valid actions; all by default. The advantage of the others is 0, so estimates before an action that is not
        valid, because its scenario has been replaced, end with the value of its state.

    Source: Schulman et al. 2016.
    """

    def step(following: tuple[Array, Array], item: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        advantage, next_value = following
        value, reward, ended, active = item
        error = reward + discount * jnp.where(ended, 0.0, next_value) - value
        advantage = error + discount * decay * jnp.where(ended, 0.0, advantage)
        advantage = jnp.where(active, advantage, 0.0)
        return (advantage, value), advantage

    first = jnp.zeros_like(last_value), last_value
    active = jnp.ones(ended.shape, bool) if active is None else active
    return jax.lax.scan(step, first, (value, reward, ended, active), reverse=True)[1]
