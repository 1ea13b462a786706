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
from waymax_sim.pytree import Array, take

AXIS = "scenes"

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

    Each device maps its share chunk by chunk; inside a chunk the function runs under `vmap`. Any B will do: the shares
    are filled up with repeats, whose results are cut off. Compiled programs are kept per function, compared by `==`,
    and per structure of the arguments: define the function once, outside of loops, and pass policies as arguments. It
    can be called under `jax.jit`.

    Args:
      function: Pure; takes one scenario, its key and the shared arguments, and returns any pytree of arrays.
      scenarios: A batch [B, ...], or one scenario without a batch axis that all keys share; it is not copied B times.
      keys: One random key per call of the function.
      shared: Further arguments, any pytrees such as an `Assignment`; all scenes and devices share them.
      memory_budget: Bytes that the temporaries of the program may take on each device. The scenes and the results are
        not counted. By default a share is one chunk.
      mesh: The devices, whatever its axes; all devices of this process by default.

    Returns:
      What `function` returns, with a leading axis B.

    Raises:
      ValueError: There is no key, there are not as many keys as scenarios, or one scene alone exceeds the budget.
    """
    num, mesh = _count(scenarios, keys), _in_a_row(mesh)
    if memory_budget is None:
        at_once = 1 if mesh.devices.flat[0].platform == "cpu" else _share(num, mesh)
    else:
        at_once = scenes_at_once(function, scenarios, keys, memory_budget, *shared, mesh=mesh)
    filled = np.arange(mesh.size * _share(num, mesh)) % num

    def placed(records: T, spec: P) -> T:
        if spec and len(filled) > num:
            records = take(records, filled)
        return jax.device_put(records, NamedSharding(mesh, spec))

    arguments = placed(scenarios, _spec(scenarios)), placed(keys, P(AXIS)), placed(shared, P())
    results = _mapped(*arguments, function=function, mesh=mesh, at_once=at_once)
    return take(results, slice(num)) if len(filled) > num else results


def scenes_at_once(
    function: SceneFunction,
    scenarios: Scenario,
    keys: Key[Array, " B"],
    memory_budget: int,
    *shared: Any,
    mesh: Mesh | None = None,
) -> int:
    """How many scenes `map_scenes` puts into a chunk on each device to keep within a memory budget.

    The compiler says how many bytes of temporaries a program takes. Beginning with the whole share of a device, chunks
    are made smaller until the program fits.

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
    return _scenes_at_once(function, shapes, structure, memory_budget, _in_a_row(mesh))


def scene_key(seed: int, scenario_id: str) -> Key[Array, ""]:
    """Random key of a scene. It depends on nothing but seed and id, so neither order nor company change a draw."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(zlib.crc32(scenario_id.encode("utf-8"))))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Makes each CPU core a device, so that batches spread over them; unless devices have been counted before."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores())


@functools.partial(jax.jit, static_argnames=("function", "mesh", "at_once"))
def _mapped(
    scenarios: Scenario, keys: Key[Array, " B"], shared: tuple, *, function: SceneFunction, mesh: Mesh, at_once: int
) -> Any:
    is_shared = _is_shared(scenarios)
    # jit, so that it is traced once for the shapes of the results and for the loop.
    batched = jax.jit(jax.vmap(function, in_axes=(None if is_shared else 0, 0, *[None] * len(shared))))

    def share(scenarios, keys, shared):
        num = len(keys)

        def simulate(start):
            part = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=at_once)
            return batched(scenarios if is_shared else jax.tree.map(part, scenarios), part(keys), *shared)

        # Results are written where they belong. The last chunk begins early enough to be full, and does some again.
        def chunk(index, results):
            start = jnp.minimum(index * at_once, num - at_once)
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
            return jax.tree.map(put, results, simulate(start))

        shapes = jax.eval_shape(simulate, 0)
        nothing = jax.tree.map(lambda leaf: jax.lax.full((num, *leaf.shape[1:]), 0, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, _parts(num, at_once), chunk, nothing)

    # Devices never talk to each other here, so the check of what varies among them would find nothing.
    specs = (_spec(scenarios), P(AXIS), P())
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)(scenarios, keys, shared)


@functools.lru_cache(maxsize=256)
def _scenes_at_once(function: SceneFunction, shapes: tuple, structure: Any, memory_budget: int, mesh: Mesh) -> int:
    scenarios, keys, shared = jax.tree.unflatten(structure, shapes)
    share = _share(keys.shape[0], mesh)

    def placed(item, spec):
        shape = (mesh.size * share, *item.shape[1:]) if spec else item.shape
        return jax.ShapeDtypeStruct(shape, item.dtype, sharding=NamedSharding(mesh, spec))

    arguments = (
        jax.tree.map(functools.partial(placed, spec=_spec(scenarios)), scenarios),
        placed(keys, P(AXIS)),
        jax.tree.map(functools.partial(placed, spec=P()), shared),
    )

    def temporaries(at_once: int) -> int:
        program = _mapped.lower(*arguments, function=function, mesh=mesh, at_once=at_once).compile()
        stats = program.memory_analysis()
        if stats is None:
            raise ValueError(f"the compiler for {jax.default_backend()} does not say what a program takes")
        return stats.temp_size_in_bytes

    at_once = share
    while (needed := temporaries(at_once)) > memory_budget:
        if at_once == 1:
            raise ValueError(
                f"memory_budget={memory_budget} is too small: one scene takes {needed} bytes of temporaries"
            )
        fits = max(1, min(at_once - 1, at_once * memory_budget // needed))
        # Chunks as few as these would be, but of equal length: the last repeats less.
        at_once = _parts(share, _parts(share, fits))
    return at_once


def _count(scenarios: Scenario, keys: Key[Array, " B"]) -> int:
    num = len(keys)
    if not num:
        raise ValueError("no scenes to map over")
    if not _is_shared(scenarios) and len(scenarios.timestamps) != num:
        raise ValueError(f"{num} keys for {len(scenarios.timestamps)} scenarios; give each its own")
    return num


def _in_a_row(mesh: Mesh | None) -> Mesh:
    """A mesh with one axis over the same devices, sharded by hand."""
    if mesh is not None:
        return Mesh(mesh.devices.reshape(-1), AXIS)
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def _is_shared(scenarios: Scenario) -> bool:
    return scenarios.timestamps.ndim == 1


def _spec(scenarios: Scenario) -> P:
    return P() if _is_shared(scenarios) else P(AXIS)


def _share(num: int, mesh: Mesh) -> int:
    return _parts(num, mesh.size)


def _parts(num: int, size: int) -> int:
    return -(-num // size)
