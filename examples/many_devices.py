"""Judges a policy in all scenes of a path, on every device of one or more machines.

On one machine, with all its devices:

    python examples/many_devices.py 'folder/*.tfrecord*' --out results

In several processes, on one machine or many, start the same command in each. They must see the same files, and the
same folder to write to:

    python examples/many_devices.py 'folder/*.tfrecord*' --out results \
        --coordinator 10.0.0.1:1234 --num-processes 2 --process-id 0    # and 1 in the other

Each process takes every n-th scene. When all are done, the last one writes `rows.jsonl` and `summary.json`. A process
that was killed goes on where it was when it is started again.
"""

import sys
from pathlib import Path
from typing import Annotated

import jax
import tyro

import waymax_sim as ws
from waymax_sim.evaluation import Evaluation, Folder, Plan
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
    """Judges a policy in all scenes of a path, on every device of one or more machines.

    Args:
      path: Where the scenes are: a file, a quoted glob, shards as name@N, or synthetic:SEED:COUNT.
      out: Folder to write to.
      policy: Who drives the ego.
      metrics: What is judged.
      steps: Steps to simulate.
      memory_budget: Bytes for scenes under way.
      coordinator: HOST:PORT of process 0; only for several processes.
      num_processes: How many processes there are.
      process_id: Which one this is.
    """
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)

    plan = Plan({policy: resolve_policy(policy)}, traffic={"log_replay": None}, metrics=metrics, max_steps=steps)
    evaluation = Evaluation(ws.load(path), plan, memory_budget)
    folder = Folder(out, evaluation, path, shard=(jax.process_index(), jax.process_count()))
    folder.open()
    for number in folder.results():
        print(f"process {jax.process_index()}: {number} rows", file=sys.stderr)
    if summary := folder.finish():
        print(f"wrote {out / 'rows.jsonl'}: {summary['num_scenes']} scenes, {summary['num_failed']} failed")


if __name__ == "__main__":
    tyro.cli(main)
