"""Speeds and accelerations from positions, by central differences."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.pytree import Array


def central(values: Float[Array, "*lead T N"]) -> Float[Array, "*lead T N"]:
    """Half the difference between the next and the previous step; NaN at both ends of time."""
    return _with_ends((values[..., 2:, :] - values[..., :-2, :]) / 2)


def acute(angle: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Half an angle (rad) after twice of it is wrapped: changes over two steps take the shorter way."""
    return geometry.wrap_angle(2 * angle) / 2


def speed(xyz: Float[Array, "*lead T N d"], dt: float) -> Float[Array, "*lead T N"]:
    """Speed (m/s) in as many dimensions as are given; NaN at both ends of time."""
    return _with_ends(geometry.norm((xyz[..., 2:, :, :] - xyz[..., :-2, :, :]) / 2) / dt)


def speeds_and_accelerations(
    xyz: Float[Array, "*lead T N 3"], yaw: Float[Array, "*lead T N"], dt: float
) -> dict[str, Float[Array, "*lead T N"]]:
    """Speed in space (m/s, m/s^2) and turning (rad/s, rad/s^2); NaN at the ends, where differences do not reach."""
    linear = speed(xyz, dt)
    turn = acute(central(yaw))
    return {
        "linear_speed": linear,
        "linear_acceleration": central(linear) / dt,
        "angular_speed": turn / dt,
        "angular_acceleration": acute(central(turn)) / dt**2,
    }


def on_both_sides(valid: Bool[Array, "*lead T N"]) -> Bool[Array, "*lead T N"]:
    """Steps whose two neighbours are valid; never the first and the last."""
    inside = valid[..., 2:, :] & valid[..., :-2, :]
    end = jnp.zeros_like(valid[..., :1, :])
    return jnp.concatenate([end, inside, end], axis=-2)


def _with_ends(inside: Float[Array, "*lead t N"]) -> Float[Array, "*lead T N"]:
    end = jnp.full((*inside.shape[:-2], 1, inside.shape[-1]), jnp.nan)
    return jnp.concatenate([end, inside, end], axis=-2)
