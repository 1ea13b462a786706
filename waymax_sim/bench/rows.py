"""Rows and conditions of the result."""

import dataclasses
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import jax
import numpy as np

from waymax_sim.bench.cases import HostCase, SizedWorkload
from waymax_sim.bench.measure import Program, Samples, compile_program, interleaved, over_devices
from waymax_sim.datasets.scene import RawScene
from waymax_sim.evaluation.sharding import num_cores

Json = dict[str, Any]
# Columns of a row, in this order; null where a column does not apply.
ROW_COLUMNS = (
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
    "collect_cpu_ms",
    "fit_cpu_ms",
    "bank_mb_per_scene",
    "temp_mb",
    "argument_mb",
    "output_mb",
    "accessed_mb",
    "compile_s",
)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Amount of measurement per row.

    Attributes:
      repeats: Minimum number of samples.
      seconds: Minimum sampling time per row, s.
    """

    repeats: int = 3
    seconds: float = 0.5


def compiled_rows(sizes: Sequence[SizedWorkload], sampling: Sampling) -> list[Json]:
    """Compiles workloads and measures them alternately with each other and with their brute-force baselines."""
    programs = [compile_program(*over_devices(size.work.function, size.work.variants, size.batch)) for size in sizes]
    baselines = [
        size.work.baseline and compile_program(size.work.baseline, size.work.baseline_variants) for size in sizes
    ]
    calls = [program.call for pair in zip(programs, baselines, strict=True) for program in pair if program]
    samples = iter(interleaved(calls, sampling.repeats, sampling.seconds * len(sizes)))
    rows = []
    for size, program, baseline in zip(sizes, programs, baselines, strict=True):
        own = next(samples)
        row = _compiled_row(size, program, own)
        if baseline:
            row |= compare_to_brute_force(size.work.baseline_share, own, next(samples), program.result, baseline.result)
        rows.append(row)
    return rows


def _compiled_row(size: SizedWorkload, program: Program, samples: Samples) -> Json:
    work, scene_steps = size.work, size.batch * size.work.steps
    row = single_row(
        name=size.name,
        batch=size.batch,
        agents=size.scene.agents,
        valid_agents=work.valid_agents,
        map_points=size.scene.points,
        steps=work.steps,
        **{name: getattr(program, name) for name in ("compile_s", "temp_mb", "argument_mb", "output_mb")},
        **sample_times(samples),
    )
    scene_steps_per_s = scene_steps / median(samples.wall)
    return row | {
        "wall_ms_per_scene_step": row["wall_ms"] / scene_steps,
        "cpu_ms_per_scene_step": row["cpu_ms"] / scene_steps,
        "scene_steps_per_s": scene_steps_per_s,
        "agent_steps_per_s": scene_steps_per_s * work.valid_agents,
        # XLA counts a single pass of a loop.
        "accessed_mb": program.accessed_mb if work.steps == 1 else None,
    }


def compare_to_brute_force(share: float, samples: Samples, slow: Samples, result: Any, expected: Any) -> Json:
    """Ratios to brute force, and the largest difference of the results.

    Args:
      share: Share of the work that brute force computes.
      samples: Times of the measured function.
      slow: Times of brute force.
      result: Result of the measured function.
      expected: Result of brute force.
    """

    def ratio(times: tuple[float, ...], slow_times: tuple[float, ...]) -> float | None:
        ratios = [b / share / a for a, b in zip(times, slow_times, strict=True) if a > 0]
        return median(ratios) if ratios else None

    def difference(own: jax.Array, other: jax.Array) -> float:
        own_part = np.asarray(own[tuple(slice(length) for length in other.shape)], np.float64)
        return float(np.max(np.abs(own_part - np.asarray(other, np.float64)), initial=0.0))

    return {
        "ratio_to_brute_force": ratio(samples.wall, slow.wall),
        "cpu_ratio_to_brute_force": ratio(samples.cpu, slow.cpu),
        "brute_force_share": share,
        "largest_difference": max(jax.tree.leaves(jax.tree.map(difference, result, expected))),
    }


def host_row(name: str, case: HostCase, raw: RawScene, sampling: Sampling) -> Json:
    """Measures a function of the host.

    Args:
      name: Name of the row.
      case: The function.
      raw: The scene it processes.
      sampling: Amount of measurement.
    """
    (samples,) = interleaved([case.call], sampling.repeats, sampling.seconds)
    sizes = {"agents": len(raw.agent_id), "map_points": len(raw.point_xyz), "argument_mb": case.argument_mb}
    return single_row(name=name, **sizes) | sample_times(samples)


def single_row(**values: Any) -> Json:
    """A row with the given columns; the others are null."""
    return dict.fromkeys(ROW_COLUMNS) | values


def sample_times(samples: Samples) -> Json:
    """Medians of samples and the interquartile range of the elapsed time, ms."""
    quarters = quantiles(samples.wall, n=4) if len(samples.wall) > 1 else [0.0, 0.0, 0.0]
    return {
        "samples": len(samples.wall),
        "wall_ms": 1e3 * median(samples.wall),
        "wall_ms_spread": 1e3 * (quarters[2] - quarters[0]),
        "cpu_ms": 1e3 * median(samples.cpu),
    }


def run_conditions() -> Json:
    """Date, machine and versions."""
    device = jax.devices()[0]
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {name: metadata.version(name) for name in ("waymax-sim", "jax", "jaxlib", "numpy")}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": num_cores(),
        "versions": versions | {"python": platform.python_version()},
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"] is not None,
    }
