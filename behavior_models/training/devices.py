"""Devices that share the environments or the seeds of a training."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from waymax_sim.ops.backend import on_cpu

ENVIRONMENT_AXIS = "environments"
T = TypeVar("T")


def use_cpu_devices(count: int) -> None:
    """Makes CPU cores devices of JAX; without effect after JAX has been initialized, and on accelerators."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def device_mesh(count: int, max_devices: int | None = None) -> Mesh | None:
    """A mesh of the devices, each of which gets an equal share of `count` items; None for a single device.

    Without `max_devices`, the largest number of devices that divides the items is used.

    Args:
      count: Items: environments, seeds, or programs.
      max_devices: Number of devices; None for all that can be used.

    Raises:
      ValueError: There are fewer devices, or they do not divide the number of items.
    """
    devices = jax.local_devices()
    number = max_devices or max(size for size in range(1, len(devices) + 1) if count % size == 0)
    if number > len(devices) or count % number:
        raise ValueError(f"{count} items cannot be shared equally by {number} devices of {len(devices)}")
    return None if number == 1 else Mesh(devices[:number], (ENVIRONMENT_AXIS,), axis_types=(AxisType.Auto,))


def put_on_devices(values: T, mesh: Mesh | None, is_shared: bool) -> T:
    """Values on the devices of a mesh, outside of compiled functions; unchanged without a mesh.

    Args:
      values: A pytree of arrays.
      mesh: The devices.
      is_shared: Whether each device gets all values; otherwise its share of the leading axis.
    """
    return values if mesh is None else jax.device_put(values, _sharding(mesh, is_shared))


def replicate(values: T, mesh: Mesh | None) -> T:
    """The same values on every device, in a compiled function; unchanged without a mesh."""
    return values if mesh is None else jax.lax.with_sharding_constraint(values, _sharding(mesh, True))


def distribute(values: T, mesh: Mesh | None) -> T:
    """Shares of the leading axis for each device, in a compiled function; unchanged without a mesh."""
    return values if mesh is None else jax.lax.with_sharding_constraint(values, _sharding(mesh, False))


def map_seeds(function: Callable[..., Any], mesh: Mesh | None = None) -> Callable[..., Any]:
    """Maps a function over the leading axis of its first argument, the seeds; other arguments are shared.

    Devices share the seeds. A CPU computes its seeds one after another, because loops whose length depends on the data
    would run until the last of them ends; accelerators compute them together by `vmap`.

    Args:
      function: A function of one seed.
      mesh: Devices that share the seeds; None for one.
    """

    def mapped(own: Any, *shared: Any) -> Any:
        if on_cpu():
            return jax.lax.map(lambda item: function(item, *shared), own)
        return jax.vmap(function, in_axes=(0, *(None for _ in shared)))(own, *shared)

    if mesh is None:
        return mapped

    def distributed(own: Any, *shared: Any) -> Any:
        share = PartitionSpec(ENVIRONMENT_AXIS)
        specs = share, *(PartitionSpec() for _ in shared)
        return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=share, check_vma=False)(own, *shared)

    return distributed


def _sharding(mesh: Mesh, is_shared: bool) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec() if is_shared else PartitionSpec(ENVIRONMENT_AXIS))
