"""Trace-time choice of the platform, and operations that control how XLA compiles a computation."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim.pytree import Array

T = TypeVar("T")


def on_cpu() -> bool:
    """Whether programs traced now run on a CPU: the platform of `jax.default_device`, else the default backend.

    Some kernels have one algorithm for CPUs and one for accelerators, with equal results. The choice is made once, at
    trace time: `jax.lax.platform_dependent` would trace and lower both (first call of the bench row `transition`). A
    program lowered for another platform is slower, not wrong.
    """
    config: Any = jax.config
    device = config.jax_default_device
    if device is None:
        return jax.default_backend() == "cpu"
    return (device if isinstance(device, str) else device.platform) == "cpu"


def materialize(values: T) -> T:
    """The same values, computed once: XLA neither fuses nor repeats their computation in their consumers.

    Shown by the bench row `metric_time_to_collision`.
    """
    return jax.lax.optimization_barrier(values)


def min_without_nan(values: Float[Array, "*b"], axis: int) -> Float[Array, "*c"]:
    """Minimum along an axis of values without NaN, which XLA:CPU vectorizes, unlike `jnp.min`.

    Shown by the bench row `observe_all`.
    """
    return jax.lax.reduce(values, jnp.float32(jnp.inf), _smaller, (axis,))


def _smaller(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(a < b, a, b)
