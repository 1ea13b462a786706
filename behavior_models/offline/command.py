"""The command `waymax-sim log`."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

if TYPE_CHECKING:
    from behavior_models.offline.transitions import Transitions

CONDITIONS_FILE = "log.json"


def log(
    out: Path,
    policies: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    data: str | None = None,
    transitions: int = 10_000,
    observation: Literal["flat", "raster"] = "flat",
    grade: float | None = None,
    seed: int = 0,
    scenes: int = 512,
    neighbors: int = 7,
) -> int:
    """Logs transitions of a mixture of policies, in driving tasks or in scenes; a repeated command resumes.

    Args:
      out: Folder for the shards and dataset.json.
      policies: Policies NAME or NAME:EPSILON with the probability of random actions; each drives equally many episodes.
        In tasks: lookahead, slow, hasty, inattentive, constant_speed, random. In scenes: names of
        policies, or folders of checkpoints.
      tasks: Driving tasks; all by default, unless `data` is given.
      data: Scenes instead of tasks: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT.
      transitions: Decisions to log, of each task or in all scenes.
      observation: Encoder of the observations of tasks.
      grade: Normalized mean return (0: random actions, 1: the reference planner) of a mixture that is chosen among
        planners of all degrees of expertise, instead of `policies`.
      seed: Seed of scenes and actions.
      scenes: Different scenes of each task.
      neighbors: Nearest agents in the observations of scenes.
    """
    if bool(policies) == (grade is not None):
        sys.exit("give either --policies or --grade")
    if neighbors < 1 or (data is None and neighbors != 7):
        sys.exit("--neighbors is the number of agents in the observations of --data, at least 1")
    if data is not None and (tasks or grade is not None or observation != "flat"):
        sys.exit("--data logs self-play with its observation: it has no --tasks, --grade and --observation")
    conditions = {
        "policies": list(policies),
        "tasks": list(tasks),
        "data": data,
        "transitions": transitions,
        "observation": observation,
        "grade": grade,
        "seed": seed,
        "scenes": scenes,
        "neighbors": neighbors,
    }
    try:
        open_folder(out, conditions)
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
            lines = log_data(out, conditions, bar) if data is not None else log_tasks(out, conditions, bar)
    except ValueError as error:
        sys.exit(str(error))
    for line in lines:
        print(line)
    print(f"wrote {out}", file=sys.stderr)
    return 0


def open_folder(out: Path, conditions: dict[str, Any]) -> None:
    """Creates the folder.

    Raises:
      ValueError: A log with other options has begun in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / CONDITIONS_FILE
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name, value in conditions.items() if stored.get(name) != value]
        if changed:
            raise ValueError(f"{out} has a log with other {', '.join(changed)}; use another folder")
    file.write_text(json.dumps(conditions) + "\n", encoding="utf-8")


def log_tasks(out: Path, conditions: dict[str, Any], bar: Progress) -> list[str]:
    """Logs each task that the folder lacks; returns a line for each task.

    Args:
      out: The folder.
      conditions: The options.
      bar: Progress.
    """
    from behavior_models.encoders.raster import Raster
    from behavior_models.offline.dataset import write_dataset
    from behavior_models.offline.simulation import TASK_VIEW, TaskSimulator
    from behavior_models.offline.tasks import TASKS

    names = conditions["tasks"] or list(TASKS)
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise ValueError(f"no driving tasks: {', '.join(unknown)}; the tasks are {', '.join(TASKS)}")
    raster = Raster(size=32, resolution=2.0)
    is_raster = conditions["observation"] == "raster"
    simulator = TaskSimulator(raster, raster.quantize) if is_raster else TaskSimulator()
    facts = {}
    for name in names:
        file = out / f"{name}.json"
        if not file.exists():
            done = _log_task(out, name, simulator, conditions, _reporter(bar, name, conditions["transitions"]))
            file.write_text(json.dumps(done) + "\n", encoding="utf-8")
        facts[name] = json.loads(file.read_text(encoding="utf-8"))
    files = [shard for name in names for shard in facts[name].pop("shards")]
    encoder = raster if is_raster else TASK_VIEW
    write_dataset(out, encoder, list(TASKS), files, logs=facts, seed=conditions["seed"])
    return [_describe(name, fact) for name, fact in facts.items()]


def _log_task(
    out: Path, name: str, simulator: Any, conditions: dict[str, Any], report: Callable[[int], None]
) -> dict[str, Any]:
    """Logs a task and writes its shards.

    Args:
      out: The folder.
      name: Name of the task.
      simulator: The `TaskSimulator`.
      conditions: The options.
      report: Receives the number of decisions so far.
    """
    from behavior_models.offline.behaviors import noisy_actor
    from behavior_models.offline.dataset import write_shards
    from behavior_models.offline.scene_log import split_policy
    from behavior_models.offline.task_log import (
        ScenePool,
        choose_mixture,
        limit_streams,
        log_task,
        mean_returns,
        normalized_mean,
    )

    pool = ScenePool(name, conditions["seed"], conditions["scenes"])
    if conditions["grade"] is None:
        actors = {text: noisy_actor(*split_policy(text)) for text in conditions["policies"]}
        bounds = {"random:1": noisy_actor("random", 1.0), "lookahead:0": noisy_actor("lookahead", 0.0)}
        returns = mean_returns(pool, bounds, pool.num_batches)
    else:
        actors, returns = choose_mixture(pool, conditions["grade"])
    log = log_task(simulator, pool, list(actors.values()), conditions["transitions"], conditions["seed"], report)
    retained = limit_streams(log.transitions, conditions["transitions"])
    return {
        "shards": write_shards(out, retained, name),
        "policies": list(actors),
        "normalized_return": normalized_mean(log, returns),
        "random_return": returns["random:1"],
        "reference_return": returns["lookahead:0"],
        "failed": log.failed,
        "transitions": int(retained.count),
        "steps_per_cpu_second": log.num_steps / max(log.cpu_seconds, 1e-9) if log.num_steps else None,
    }


def log_data(out: Path, conditions: dict[str, Any], bar: Progress) -> list[str]:
    """Logs plain scenes, unless the folder has them; returns lines with the results.

    Args:
      out: The folder.
      conditions: The options.
      bar: Progress.
    """
    import numpy as np

    from behavior_models.offline.dataset import DATASET_FILE, concatenate, read_description, write_dataset, write_shards
    from behavior_models.offline.scene_log import log_scenes, scene_policy
    from behavior_models.training.presets import SELF_PLAY_VIEW

    view = dataclasses.replace(SELF_PLAY_VIEW, num_agents=1 + conditions["neighbors"])
    if not (out / DATASET_FILE).exists():
        policies = [scene_policy(text) for text in conditions["policies"]]
        report = _reporter(bar, conditions["data"], conditions["transitions"])
        size = conditions["transitions"], conditions["seed"]
        parts = log_scenes(conditions["data"], policies, *size, report, view)
        joined: Transitions = concatenate([part for part, _ in parts])
        returns = np.concatenate([values for _, values in parts])
        mean = float(returns.mean()) if len(returns) else None
        files = write_shards(out, joined, "scenes")
        facts = {name: conditions[name] for name in ("data", "policies", "seed")}
        facts |= {"mean_return": mean, "transitions": int(joined.count)}
        write_dataset(out, view, ["goal"], files, **facts)
    facts = read_description(out)["facts"]
    return [f"{facts['transitions']} transitions, mean return {facts['mean_return']}"]


def _reporter(bar: Progress, name: str, total: int) -> Callable[[int], None]:
    task = bar.add_task(name, total=total)
    return lambda count: bar.update(task, completed=count)


def _describe(name: str, facts: dict[str, Any]) -> str:
    speed = facts["steps_per_cpu_second"]
    rate = "" if speed is None else f", {speed:,.0f} ego steps per CPU second"
    return (
        f"{name}: {facts['transitions']} transitions, normalized return {facts['normalized_return']:.3f}, "
        f"{100 * facts['failed']:.0f} % of episodes failed{rate}; {', '.join(facts['policies'])}"
    )
