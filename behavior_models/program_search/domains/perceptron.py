"""A multilayer perceptron as a pure function, small enough to be trained thousands of times."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from waymax_sim.pytree import Array

# Weight [I, O] and bias [O] of each layer.
Perceptron = list[tuple[Array, Array]]


def init_perceptron(key: Key[Array, ""], sizes: tuple[int, ...]) -> Perceptron:
    """Normal weights of the variance 1 / I (LeCun), and biases of 0.

    Args:
      key: Random key.
      sizes: Number of inputs, of the units of each hidden layer, and of outputs.
    """
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(own, (before, after)) / jnp.sqrt(float(before)), jnp.zeros(after))
        for own, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply_perceptron(params: Perceptron, inputs: Float[Array, "B I"]) -> Float[Array, "B O"]:
    """Outputs, with tanh between the layers.

    Args:
      params: Parameters.
      inputs: Inputs.
    """
    values = inputs
    for weight, bias in params[:-1]:
        values = jnp.tanh(values @ weight + bias[None])
    weight, bias = params[-1]
    return values @ weight + bias[None]
