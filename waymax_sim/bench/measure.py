"""Time, memory and work of one function. Nothing here knows what is measured."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Calls that are shorter than this (s) are repeated within a sample, so that clocks are fine enough.
SAMPLE = 0.04
# The process rests when it uses less than this part of a core for PAUSE (s). It is waited for that at most so often.
REST, PAUSE, MAX_PAUSES = 0.2, 0.01, 100
MEGA = 1e6


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function with what XLA says about it.

    Attributes:
      call: Runs variant i of the arguments and waits for the result.
      result: What variant 0 gave.
      compile_s: Tracing, lowering and compilation, s.
      temp_mb: Temporaries, MB.
      argument_mb: Arguments, MB.
      output_mb: Results, MB.
      accessed_mb: Bytes read and written by the operations, MB. The body of a loop is counted once.
      mflop: Floating-point operations, million; counted in the same way.
    """

    call: Callable[[int], Any]
    result: Any
    compile_s: float
    temp_mb: float | None
    argument_mb: float | None
    output_mb: float | None
    accessed_mb: float | None
    mflop: float | None


@dataclasses.dataclass(frozen=True)
class Samples:
    """Seconds per call, one entry per sample: by the clock on the wall and of all threads of this process."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def compiled(function: Callable[..., Any], variants: Sequence[tuple]) -> Program:
    """Compiles a function for arguments like `variants[0]` and runs it once.

    Args:
      function: Pure, of arrays.
      variants: Arguments of equal shapes; calls take them in turn, so that no result can be remembered.
    """
    jitted = jax.jit(function)
    start = time.perf_counter()
    program = jitted.lower(*variants[0]).compile()
    compile_s = time.perf_counter() - start
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}

    def megabytes(name: str) -> float | None:
        return None if memory is None else getattr(memory, f"{name}_size_in_bytes") / MEGA

    def mega(name: str) -> float | None:
        return cost[name] / MEGA if cost.get(name, 0) > 0 else None

    def call(index: int) -> Any:
        # The jitted function finds the program compiled above, and is called faster than the program itself.
        return jax.block_until_ready(jitted(*variants[index % len(variants)]))

    return Program(
        call=call,
        result=call(0),
        compile_s=compile_s,
        temp_mb=megabytes("temp"),
        argument_mb=megabytes("argument"),
        output_mb=megabytes("output"),
        accessed_mb=mega("bytes accessed"),
        mflop=mega("flops"),
    )


def over_devices(function: Callable[..., Any], variants: list[tuple], batch: int) -> tuple[Callable[..., Any], list]:
    """The function and its arguments with the leading axis spread over all devices, where it divides evenly."""
    devices = jax.devices()
    if len(devices) == 1 or batch % len(devices):
        return function, variants
    mesh = jax.make_mesh((len(devices),), ("scenes",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("scenes")
    # Devices never talk to each other here, so the check of what varies among them would find nothing.
    spread = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return spread, jax.device_put(variants, NamedSharding(mesh, spec))


def interleaved(calls: Sequence[Callable[[int], Any]], repeats: int, seconds: float) -> list[Samples]:
    """Samples of several functions, taken in turn: what disturbs the machine disturbs all of them.

    Args:
      calls: Each is given a running number and waits for its result.
      repeats: Samples of each at least.
      seconds: How long to go on at least, unless there are ten times as many samples before.
    """
    counts = [_calls_per_sample(call) for call in calls]
    found: list[list[tuple[float, float]]] = [[] for _ in calls]
    begin, number = time.perf_counter(), itertools.count()
    while len(found[0]) < repeats or (time.perf_counter() - begin < seconds and len(found[0]) < 10 * repeats):
        for call, count, samples in zip(calls, counts, found, strict=True):
            settle()
            # Caches hold what this function uses, not what the one before it did.
            for _ in range(count if count > 1 else 0):
                call(next(number))
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(count):
                call(next(number))
            samples.append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    return [Samples(*zip(*samples, strict=True)) for samples in found]


def settle() -> None:
    """Waits until this process rests.

    What has returned may still work: brute force gives back hundreds of MB, which takes 40 ms of a core that would be
    counted as time of whoever comes next.
    """
    for _ in range(MAX_PAUSES):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < REST * PAUSE:
            return


def _calls_per_sample(call: Callable[[int], Any]) -> int:
    settle()
    start = time.perf_counter()
    call(0)
    first = time.perf_counter() - start
    if first > SAMPLE:
        return 1
    start = time.perf_counter()
    call(1)
    return max(1, round(SAMPLE / max(time.perf_counter() - start, 1e-6)))
