"""Speeds and accelerations from positions, by central differences."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.pytree import Array


def central_difference(values: Float[Array, "*lead T N"]) -> Float[Array, "*lead T N"]:
    """Half the difference between the next and the previous step; NaN at both ends of time."""
    return _pad_ends((values[..., 2:, :] - values[..., :-2, :]) / 2)


def wrap_half_angle(angle: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Half of the wrapped double of an angle (rad): changes of a heading over two steps are below pi."""
    return geometry.wrap_angle(2 * angle) / 2


def speed(xyz: Float[Array, "*lead T N d"], dt: float) -> Float[Array, "*lead T N"]:
    """Speed (m/s) from positions with any number of dimensions (m); NaN at both ends of time."""
    return _pad_ends(geometry.norm((xyz[..., 2:, :, :] - xyz[..., :-2, :, :]) / 2) / dt)


def speeds_and_accelerations(
    xyz: Float[Array, "*lead T N 3"], yaw: Float[Array, "*lead T N"], dt: float
) -> dict[str, Float[Array, "*lead T N"]]:
    """Linear and angular speeds and accelerations by name; NaN at the ends of time, where differences are undefined.

    Args:
      xyz: Positions, m.
      yaw: Headings, rad.
      dt: Time step, s.

    Returns:
      m/s, m/s^2, rad/s and rad/s^2.
    """
    linear = speed(xyz, dt)
    turn = wrap_half_angle(central_difference(yaw))
    return {
        "linear_speed": linear,
        "linear_acceleration": central_difference(linear) / dt,
        "angular_speed": turn / dt,
        "angular_acceleration": wrap_half_angle(central_difference(turn)) / dt**2,
    }


def has_valid_neighbors(valid: Bool[Array, "*lead T N"]) -> Bool[Array, "*lead T N"]:
    """Mask of the steps whose two neighbors are valid; never the first and the last."""
    inside = valid[..., 2:, :] & valid[..., :-2, :]
    end = jnp.zeros_like(valid[..., :1, :])
    return jnp.concatenate([end, inside, end], axis=-2)


def _pad_ends(inside: Float[Array, "*lead t N"]) -> Float[Array, "*lead T N"]:
    end = jnp.full((*inside.shape[:-2], 1, inside.shape[-1]), jnp.nan)
    return jnp.concatenate([end, inside, end], axis=-2)
