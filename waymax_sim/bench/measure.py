"""Compilation, timing and memory of one function, independent of the workload."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

MIN_SAMPLE_S = 0.04  # shorter calls are repeated within a sample, above the resolution of the clocks
IDLE_LOAD = 0.2  # the process is idle below this share of a core
PAUSE_S = 0.01  # interval over which the load of the process is measured
MAX_PAUSES = 100
MEGA = 1e6


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled function with the analysis of XLA.

    Attributes:
      call: Runs variant i of the arguments and waits for the result.
      result: Result of variant 0.
      compile_s: Tracing, lowering and compilation, s.
      temp_mb: Temporary buffers, MB.
      argument_mb: Arguments, MB.
      output_mb: Results, MB.
      accessed_mb: Bytes read and written by the operations, MB. The body of a loop is counted once.
    """

    call: Callable[[int], Any]
    result: Any
    compile_s: float
    temp_mb: float | None
    argument_mb: float | None
    output_mb: float | None
    accessed_mb: float | None


@dataclasses.dataclass(frozen=True)
class Samples:
    """Seconds per call, one entry per sample: elapsed time, and CPU time of all threads of this process."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def compile_program(function: Callable[..., Any], variants: Sequence[tuple]) -> CompiledProgram:
    """Compiles a function for arguments like `variants[0]` and runs it once.

    Args:
      function: Pure function of arrays.
      variants: Arguments of equal shapes; calls cycle through them, so that no result can be reused.
    """
    jitted = jax.jit(function)
    start = time.perf_counter()
    program = jitted.lower(*variants[0]).compile()
    compile_s = time.perf_counter() - start
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}

    def megabytes(name: str) -> float | None:
        return None if memory is None else getattr(memory, f"{name}_size_in_bytes") / MEGA

    def call(index: int) -> Any:
        # The jitted function reuses the executable and has less call overhead than the executable itself.
        return jax.block_until_ready(jitted(*variants[index % len(variants)]))

    accessed = cost.get("bytes accessed", 0) / MEGA
    sizes = {f"{name}_mb": megabytes(name) for name in ("temp", "argument", "output")}
    return CompiledProgram(call=call, result=call(0), compile_s=compile_s, accessed_mb=accessed or None, **sizes)


def over_devices(function: Callable[..., Any], variants: list[tuple], batch: int) -> tuple[Callable[..., Any], list]:
    """Shards the leading axis over all devices if it divides evenly.

    Args:
      function: Function of batched arrays.
      variants: Its arguments.
      batch: Length of the leading axis.

    Returns:
      The function and the arguments, sharded.
    """
    devices = jax.devices()
    if len(devices) == 1 or batch % len(devices):
        return function, variants
    mesh = jax.make_mesh((len(devices),), ("scenes",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("scenes")
    # No collective operations, so the check of varying values is not needed.
    sharded = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return sharded, jax.device_put(variants, NamedSharding(mesh, spec))


def interleaved(calls: Sequence[Callable[[int], Any]], repeats: int, seconds: float) -> list[Samples]:
    """Samples several functions alternately, so that disturbances of the machine affect all of them.

    Args:
      calls: Functions of a running number that wait for their result.
      repeats: Minimum number of samples of each.
      seconds: Minimum duration, s, unless ten times `repeats` samples are taken before.

    Returns:
      One entry per function.
    """
    counts = [_calls_per_sample(call) for call in calls]
    samples: list[list[tuple[float, float]]] = [[] for _ in calls]
    begin, number = time.perf_counter(), itertools.count()
    while len(samples[0]) < repeats or (time.perf_counter() - begin < seconds and len(samples[0]) < 10 * repeats):
        for call, count, rows in zip(calls, counts, samples, strict=True):
            wait_until_idle()
            # Warms the caches, which hold data of the previous function.
            for _ in range(count if count > 1 else 0):
                call(next(number))
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(count):
                call(next(number))
            rows.append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    return [Samples(*zip(*rows, strict=True)) for rows in samples]


def wait_until_idle() -> None:
    """Waits for background work of this process.

    Returned calls leave work behind: freeing the memory of brute force takes 40 ms of a core, which would be counted as
    time of the next function.
    """
    for _ in range(MAX_PAUSES):
        before = time.process_time()
        time.sleep(PAUSE_S)
        if time.process_time() - before < IDLE_LOAD * PAUSE_S:
            return


def _calls_per_sample(call: Callable[[int], Any]) -> int:
    wait_until_idle()
    start = time.perf_counter()
    call(0)
    if time.perf_counter() - start > MIN_SAMPLE_S:
        return 1
    start = time.perf_counter()
    call(1)
    return max(1, round(MIN_SAMPLE_S / max(time.perf_counter() - start, 1e-6)))
