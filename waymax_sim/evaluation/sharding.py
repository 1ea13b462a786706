"""Many scenes: over all devices, in chunks that fit into memory."""

import contextlib
import functools
import os
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Key

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array, tree_index

SCENE_AXIS = "scenes"

# A function of one scenario, its key, and further arguments that all scenarios share.
SceneFunction = Callable[..., Any]
T = TypeVar("T")


def map_scenes(
    function: SceneFunction,
    scenarios: Scenario,
    keys: Key[Array, " B"],
    *shared: Any,
    memory_budget: int | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """Applies a function of one scene to B scenes, spread over the devices.

    Each device maps its share chunk by chunk; inside a chunk the function runs under `vmap`. B is arbitrary: shares are
    padded with repeats, whose results are dropped. Programs are cached per function, compared by `==`, and per
    structure of the arguments: define the function once, outside of loops, and pass policies as arguments. It can be
    called under `jax.jit`.

    Args:
      function: Pure; takes one scenario, its key and the shared arguments, and returns any pytree of arrays.
      scenarios: A batch [B, ...], or one scenario without a batch axis that all keys share; it is not copied B times.
      keys: One random key per call of the function.
      shared: Further arguments, any pytrees such as an `Assignment`; all scenes and devices share them.
      memory_budget: Largest size of the temporaries of the program on each device, bytes, not counting scenes and
        results. By default a share is one chunk.
      mesh: The devices, with any axes; all devices of this process by default.

    Returns:
      The results of `function`, with a leading axis B.

    Raises:
      ValueError: There is no key, there are not as many keys as scenarios, or one scene alone exceeds the budget.
    """
    num, mesh = _count(scenarios, keys), _flat_mesh(mesh)
    if memory_budget is None:
        chunk_size = 1 if mesh.devices.flat[0].platform == "cpu" else _share(num, mesh)
    else:
        chunk_size = fit_chunk_size(function, scenarios, keys, memory_budget, *shared, mesh=mesh)
    filled = np.arange(mesh.size * _share(num, mesh)) % num

    def placed(records: T, spec: P) -> T:
        if spec and len(filled) > num:
            records = tree_index(records, filled)
        return jax.device_put(records, NamedSharding(mesh, spec))

    arguments = placed(scenarios, _spec(scenarios)), placed(keys, P(SCENE_AXIS)), placed(shared, P())
    results = _mapped(*arguments, function=function, mesh=mesh, chunk_size=chunk_size)
    return tree_index(results, slice(num)) if len(filled) > num else results


def fit_chunk_size(
    function: SceneFunction,
    scenarios: Scenario,
    keys: Key[Array, " B"],
    memory_budget: int,
    *shared: Any,
    mesh: Mesh | None = None,
) -> int:
    """The number of scenes per chunk and device with which `map_scenes` keeps within a memory budget.

    The size of the temporaries of a program is that of the compiler. Beginning with the whole share of a device, the
    chunk is reduced until the program fits.

    Args:
      function: See `map_scenes`, as for the other arguments.
      scenarios: Only their shapes matter.
      keys: Only their number matters.
      memory_budget: Bytes of temporaries on each device.
      shared: Only their shapes matter.
      mesh: The devices.

    Raises:
      ValueError: See `map_scenes`.
    """
    _count(scenarios, keys)
    leaves, structure = jax.tree.flatten((scenarios, keys, shared))
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _scenes_chunk_size(function, shapes, structure, memory_budget, _flat_mesh(mesh))


def scene_key(seed: int, scenario_id: str) -> Key[Array, ""]:
    """Random key of a scene. It depends on seed and id alone, not on other scenes or their order."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(zlib.crc32(scenario_id.encode("utf-8"))))


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Makes each CPU core a device of JAX; without effect after JAX has been initialized."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_cores())


@functools.partial(jax.jit, static_argnames=("function", "mesh", "chunk_size"))
def _mapped(
    scenarios: Scenario, keys: Key[Array, " B"], shared: tuple, *, function: SceneFunction, mesh: Mesh, chunk_size: int
) -> Any:
    is_shared = _is_shared(scenarios)
    # With jit it is traced once for both the shapes of the results and the loop.
    batched = jax.jit(jax.vmap(function, in_axes=(None if is_shared else 0, 0, *[None] * len(shared))))

    def share(scenarios, keys, shared):
        num = len(keys)

        def simulate(start):
            part = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=chunk_size)
            return batched(scenarios if is_shared else jax.tree.map(part, scenarios), part(keys), *shared)

        # The last chunk overlaps the one before, so that all chunks have the same size.
        def chunk(index, results):
            start = jnp.minimum(index * chunk_size, num - chunk_size)
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
            return jax.tree.map(put, results, simulate(start))

        shapes = jax.eval_shape(simulate, 0)
        empty = jax.tree.map(lambda leaf: jax.lax.full((num, *leaf.shape[1:]), 0, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, _ceil_div(num, chunk_size), chunk, empty)

    # No collective operations, so the check of varying values is not needed.
    specs = (_spec(scenarios), P(SCENE_AXIS), P())
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=P(SCENE_AXIS), check_vma=False)(
        scenarios, keys, shared
    )


@functools.lru_cache(maxsize=256)
def _scenes_chunk_size(function: SceneFunction, shapes: tuple, structure: Any, memory_budget: int, mesh: Mesh) -> int:
    scenarios, keys, shared = jax.tree.unflatten(structure, shapes)
    share = _share(keys.shape[0], mesh)

    def placed(item, spec):
        shape = (mesh.size * share, *item.shape[1:]) if spec else item.shape
        return jax.ShapeDtypeStruct(shape, item.dtype, sharding=NamedSharding(mesh, spec))

    arguments = (
        jax.tree.map(functools.partial(placed, spec=_spec(scenarios)), scenarios),
        placed(keys, P(SCENE_AXIS)),
        jax.tree.map(functools.partial(placed, spec=P()), shared),
    )

    def temporaries(chunk_size: int) -> int:
        program = _mapped.lower(*arguments, function=function, mesh=mesh, chunk_size=chunk_size).compile()
        stats = program.memory_analysis()
        if stats is None:
            raise ValueError(
                f"the compiler for {jax.default_backend()} does not report the memory of a program; omit memory_budget"
            )
        return stats.temp_size_in_bytes

    chunk_size = share
    while (needed := temporaries(chunk_size)) > memory_budget:
        if chunk_size == 1:
            raise ValueError(
                f"memory_budget={memory_budget} is too small: one scene takes {needed} bytes of temporaries"
            )
        fits = max(1, min(chunk_size - 1, chunk_size * memory_budget // needed))
        # The same number of chunks with the most equal sizes.
        chunk_size = _ceil_div(share, _ceil_div(share, fits))
    return chunk_size


def _count(scenarios: Scenario, keys: Key[Array, " B"]) -> int:
    num = len(keys)
    if not num:
        raise ValueError("no scenes to map over")
    if not _is_shared(scenarios) and len(scenarios.timestamps) != num:
        raise ValueError(f"{num} keys for {len(scenarios.timestamps)} scenarios; give each its own")
    return num


def _flat_mesh(mesh: Mesh | None) -> Mesh:
    """A mesh with one axis over the same devices."""
    if mesh is not None:
        return Mesh(mesh.devices.reshape(-1), SCENE_AXIS)
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (SCENE_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def _is_shared(scenarios: Scenario) -> bool:
    return scenarios.timestamps.ndim == 1


def _spec(scenarios: Scenario) -> P:
    return P() if _is_shared(scenarios) else P(SCENE_AXIS)


def _share(num: int, mesh: Mesh) -> int:
    return _ceil_div(num, mesh.size)


def _ceil_div(num: int, size: int) -> int:
    return -(-num // size)
