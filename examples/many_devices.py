"""Evaluates a policy in all scenes of a path, on all devices of one or more machines.

On one machine, with all its devices:

    python examples/many_devices.py 'folder/*.tfrecord*' --out results

With several processes, on one or more machines, start the same command in each. They must have access to the same files
and to the same output folder:

    python examples/many_devices.py 'folder/*.tfrecord*' --out results \
        --coordinator 10.0.0.1:1234 --num-processes 2 --process-id 0    # and 1 in the other

Of n processes, each evaluates every n-th scene. The last one to finish writes `rows.jsonl` and `summary.json`. An
interrupted process resumes when it is started again.
"""

import sys
from pathlib import Path
from typing import Annotated

import jax
import tyro

import waymax_sim as ws
from waymax_sim.evaluation import Evaluation, EvaluationConfig, EvaluationRun
from waymax_sim.plugins import resolve_policy


def main(
    path: Annotated[str, tyro.conf.Positional],
    out: Path,
    policy: str = "constant_velocity",
    metrics: tuple[str, ...] = ("overlap", "offroad", "log_divergence"),
    steps: int = 80,
    memory_budget: int = 2**31,
    coordinator: str | None = None,
    num_processes: int = 1,
    process_id: int = 0,
) -> None:
    """Evaluates a policy in all scenes of a path, on all devices of one or more machines.

    Args:
      path: Path of the scenes: a file, a quoted glob, shards as name@N, or synthetic:SEED:COUNT.
      out: Output folder.
      policy: Policy of the ego.
      metrics: Names of metrics.
      steps: Number of simulated steps.
      memory_budget: Memory for scenes in flight, bytes.
      coordinator: HOST:PORT of process 0; only for several processes.
      num_processes: Number of processes.
      process_id: Index of this process.
    """
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)

    config = EvaluationConfig(
        {policy: resolve_policy(policy)}, traffic={"log_replay": None}, metrics=metrics, max_steps=steps
    )
    evaluation = Evaluation(ws.load(path), config, memory_budget)
    run = EvaluationRun(out, evaluation, path, shard=(jax.process_index(), jax.process_count()))
    run.open()
    for num_rows in run.results():
        print(f"process {jax.process_index()}: {num_rows} rows", file=sys.stderr)
    if summary := run.finish():
        print(f"wrote {out / 'rows.jsonl'}: {summary['num_scenes']} scenes, {summary['num_failed']} failed")


if __name__ == "__main__":
    tyro.cli(main)
