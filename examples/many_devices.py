"""Judges a policy in all scenes of a path, on every device of one or more machines.

On one machine, with all its devices:

    python examples/many_devices.py 'folder/*.tfrecord*' --out results

In several processes, on one machine or many, start the same command in each. They must see the same files, and the
same folder to write to:

    python examples/many_devices.py 'folder/*.tfrecord*' --out results \
        --coordinator 10.0.0.1:1234 --num-processes 2 --process-id 0    # and 1 in the other

Each process takes every n-th scene and writes `rows-<process>.jsonl`. When all are done, process 0 merges them into
`rows.jsonl`, one line per scene in the order of the source: its metrics, or why it could not be used.
"""

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from jax.experimental.multihost_utils import sync_global_devices

import waymax_sim as ws
from behavior_models import POLICIES
from waymax_sim.evaluation import SceneOutput, evaluate_scene, stream_scenes


def main(
    path: Annotated[str, tyro.conf.Positional],
    out: Path,
    policy: str = "constant_velocity",
    metrics: tuple[str, ...] = ("overlap", "offroad", "log_divergence"),
    steps: int = 80,
    chunk: int = 16,
    memory_budget: int = 2**30,
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
      chunk: Scenes that are on the devices of a process together.
      memory_budget: Bytes of temporaries on each device.
      coordinator: HOST:PORT of process 0; only for several processes.
      num_processes: How many processes there are.
      process_id: Which one this is.
    """
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    this, count = jax.process_index(), jax.process_count()

    env = ws.Env(config=ws.EnvConfig(metrics=metrics, rewards=()))
    judge = functools.partial(evaluate_scene, env, POLICIES[policy](), num_steps=steps)
    scenarios = ws.load(path)
    results = stream_scenes(judge, scenarios[this::count], chunk=chunk, memory_budget=memory_budget)

    out.mkdir(parents=True, exist_ok=True)
    with (out / f"rows-{this}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows_of(results):
            file.write(json.dumps(row, allow_nan=False) + "\n")
    if count > 1:
        sync_global_devices("all rows are written")
    if this == 0:
        for problem in scenarios.problems:
            print(f"skipped: {problem}", file=sys.stderr)
        merge(out, count)
        print(f"wrote {out / 'rows.jsonl'}: {len(scenarios)} scenes, processes: {count}")


def rows_of(results: Iterator[SceneOutput | ws.DataError]) -> Iterator[dict[str, Any]]:
    """What is written about each scene; null where a metric is not valid."""
    for result in results:
        row: dict[str, Any] = {"file": result.file, "record": result.record}
        if isinstance(result, ws.DataError):
            yield row | {"error": str(result)}
        else:
            metrics = {name: float(item.value) if item.valid else None for name, item in result.output.items()}
            yield row | {"scenario_id": result.scenario_id, "metrics": metrics}


def merge(out: Path, count: int) -> None:
    """Deals the rows of all processes back into the order of the source."""
    shares = [(out / f"rows-{process}.jsonl").read_text(encoding="utf-8").splitlines() for process in range(count)]
    rows = [shares[index % count][index // count] for index in range(sum(map(len, shares)))]
    (out / "rows.jsonl").write_text("".join(row + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
