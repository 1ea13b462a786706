"""From measurements to the rows and conditions of a result."""

import dataclasses
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import jax
import numpy as np

from waymax_sim.bench.cases import Work
from waymax_sim.bench.host import HostCase
from waymax_sim.bench.measure import Program, Samples, compiled, interleaved, over_devices
from waymax_sim.bench.scenes import Workload
from waymax_sim.datasets.scene import RawScene
from waymax_sim.evaluation.sharding import cores

Json = dict[str, Any]
# What a row says, in this order; null where it does not apply.
COLUMNS = (
    "name",
    "batch",
    "agents",
    "valid_agents",
    "map_points",
    "steps",
    "samples",
    "wall_ms",
    "wall_ms_spread",
    "cpu_ms",
    "wall_ms_per_scene_step",
    "cpu_ms_per_scene_step",
    "ratio_to_brute_force",
    "cpu_ratio_to_brute_force",
    "brute_force_share",
    "largest_difference",
    "agent_steps_per_s",
    "agent_steps_per_cpu_s",
    "scene_steps_per_s",
    "auto_reset_ratio",
    "bank_mb_per_scene",
    "temp_mb",
    "argument_mb",
    "output_mb",
    "accessed_mb",
    "mflop",
    "bandwidth_share",
    "compile_s",
    "peak_rss_mb",
)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How long to measure, and what to compare with.

    Attributes:
      repeats: Samples at least.
      seconds: Time to sample each row at least, s.
      bandwidth: Memory bandwidth of the device, GB/s; None where it is not known.
    """

    repeats: int = 3
    seconds: float = 0.5
    bandwidth: float | None = None


class Sized(NamedTuple):
    """Some work for a scene of one size, ready to be compiled."""

    name: str
    batch: int
    workload: Workload
    work: Work


def compiled_rows(sizes: Sequence[Sized], sampling: Sampling) -> list[Json]:
    """Compiles some works and measures them in turn, and in turn with brute force where there is such a thing."""
    ours = [compiled(*over_devices(size.work.function, size.work.variants, size.batch)) for size in sizes]
    plain = [size.work.plain and compiled(size.work.plain, size.work.plain_variants) for size in sizes]
    calls = [program.call for pair in zip(ours, plain, strict=True) for program in pair if program]
    samples = iter(interleaved(calls, sampling.repeats, sampling.seconds * len(sizes)))
    return [
        _compiled_row(size, program, next(samples), slow, next(samples) if slow else None, sampling)
        for size, program, slow in zip(sizes, ours, plain, strict=True)
    ]


def _compiled_row(
    size: Sized, ours: Program, samples: Samples, plain: Program | None, slow: Samples | None, sampling: Sampling
) -> Json:
    work = size.work
    row = single_row(
        name=size.name,
        batch=size.batch,
        agents=size.workload.agents,
        valid_agents=work.valid_agents,
        map_points=size.workload.points,
        steps=work.steps,
        **{name: getattr(ours, name) for name in ("compile_s", "temp_mb", "argument_mb", "output_mb")},
    )
    if plain and slow:
        row |= _compared(work, ours, plain, samples, slow)
    row |= sample_times(samples)
    scene_steps = size.batch * work.steps
    per_second = scene_steps / median(samples.wall)
    row["wall_ms_per_scene_step"] = row["wall_ms"] / scene_steps
    row["cpu_ms_per_scene_step"] = row["cpu_ms"] / scene_steps
    row["scene_steps_per_s"], row["agent_steps_per_s"] = per_second, per_second * work.valid_agents
    if work.steps == 1:  # of a loop, XLA counts one pass
        row["accessed_mb"], row["mflop"] = ours.accessed_mb, ours.mflop
        if sampling.bandwidth and ours.accessed_mb:
            row["bandwidth_share"] = ours.accessed_mb / 1e3 / median(samples.wall) / sampling.bandwidth
    return row


def _compared(work: Work, ours: Program, plain: Program, samples: Samples, slow: Samples) -> Json:
    share = work.plain_share

    def ratio(fast: tuple[float, ...], slow: tuple[float, ...]) -> float | None:
        ratios = [b / share / a for a, b in zip(fast, slow, strict=True) if a > 0]
        return median(ratios) if ratios else None

    def difference(mine: jax.Array, other: jax.Array) -> float:
        same = np.asarray(mine[tuple(slice(length) for length in other.shape)], np.float64)
        return float(np.max(np.abs(same - np.asarray(other, np.float64)), initial=0.0))

    return {
        "ratio_to_brute_force": ratio(samples.wall, slow.wall),
        "cpu_ratio_to_brute_force": ratio(samples.cpu, slow.cpu),
        "brute_force_share": share,
        "largest_difference": max(jax.tree.leaves(jax.tree.map(difference, ours.result, plain.result))),
    }


def host_row(name: str, case: HostCase, raw: RawScene, sampling: Sampling) -> Json:
    """Measures a function that is not compiled."""
    (samples,) = interleaved([case.call], sampling.repeats, sampling.seconds)
    size = {"agents": len(raw.agent_id), "map_points": len(raw.point_xyz), "argument_mb": case.argument_mb}
    return single_row(name=name, **size) | sample_times(samples)


def single_row(**values: Any) -> Json:
    """A row with the given columns; the others are null."""
    return dict.fromkeys(COLUMNS) | values


def sample_times(samples: Samples) -> Json:
    """Medians and spread of samples, ms."""
    quarters = quantiles(samples.wall, n=4) if len(samples.wall) > 1 else [0.0, 0.0, 0.0]
    return {
        "samples": len(samples.wall),
        "wall_ms": 1e3 * median(samples.wall),
        "wall_ms_spread": 1e3 * (quarters[2] - quarters[0]),
        "cpu_ms": 1e3 * median(samples.cpu),
    }


def cold_row(name: str, found: Json) -> Json:
    """The row of cold starts of one kind."""
    samples = Samples(tuple(found.pop("wall")), tuple(found.pop("cpu")))
    return single_row(name=name, batch=1, steps=1, **found) | sample_times(samples)


def conditions() -> Json:
    """When, on what machine and with what versions."""
    device = jax.devices()[0]
    versions = {name: _version(name) for name in ("waymax-sim", "jax", "jaxlib", "numpy")}
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": cores(),
        "versions": versions | {"python": platform.python_version()},
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"] is not None,
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
