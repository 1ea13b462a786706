"""Transfer of Scaled Q-learning: a trained encoder on held-out driving tasks with few transitions.

    python -m examples.reproductions.scaled_q_learning --out runs/scaled_q_learning
    python -m examples.reproductions.scaled_q_transfer --out runs/scaled_q_learning

The networks of the first program are trained on 2,000 transitions of each held-out task: as a whole or their heads
alone, and next to them networks with random parameters. Each drives in test scenes of its task.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from behavior_models.offline.evaluation import TaskEvaluation
from behavior_models.offline.scaled_q_learning import ScaledQLearning, with_new_heads
from behavior_models.offline.stored_set import StoredSet
from behavior_models.offline.task_policy import load_task_policy
from behavior_models.offline.tasks import HELD_OUT_TASKS
from examples.reproductions.scaled_q_learning import BEHAVIORS, OWN
from examples.reproductions.scaled_q_runs import Arm, find_actor, log_scores, log_tasks, make_evaluation, slug, train
from examples.reproductions.scaled_q_statistics import Resamples
from examples.reproductions.waymax_common import Criterion, table_line

NUM_TRANSITIONS = 2_000
NUM_LOG_SCENES = 128
# Names of arms.
TUNED = "fine-tuned"
FROZEN = "frozen encoder"
SCRATCH = "from scratch"
CONTROL = "frozen random encoder (control)"


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of the trained networks, logs and the report.
      num_scenes: Test scenes of each task.
      num_updates: Training steps of 250 gradient steps.
      seeds: Training seeds, each with its own trained network.
      quick: Few transitions, scenes and steps and one seed, to see that it runs.
    """

    out: Path
    num_scenes: int = 60
    num_updates: int = 6
    seeds: int = 3
    quick: bool = False


def main(study: Study) -> None:
    """Logs, trains, drives, and writes transfer.json."""
    if study.quick:
        study = dataclasses.replace(study, num_scenes=2, num_updates=1, seeds=1)
    folder, evaluations = study.out / "held_out", {}
    logs = {}
    for task in HELD_OUT_TASKS:
        count = 200 if study.quick else NUM_TRANSITIONS
        logs[task] = log_tasks(folder / "log" / task, (task,), BEHAVIORS["suboptimal"], count, NUM_LOG_SCENES)
        evaluations[task] = make_evaluation((task,), study.num_scenes)
    scores = {}
    for name in (TUNED, FROZEN, SCRATCH, CONTROL):
        rows = [
            [stored_scores(study, name, seed, logs[task], evaluations[task]) for seed in range(study.seeds)]
            for task in HELD_OUT_TASKS
        ]
        scores[name] = np.array(rows)
    logged = [log_scores(folder / "log" / task, (task,))[task] for task in HELD_OUT_TASKS]
    scores["data"] = np.broadcast_to(np.array(logged)[:, None, None], scores[TUNED].shape)
    report(study, scores)


def stored_scores(study: Study, name: str, seed: int, stored: StoredSet, evaluation: TaskEvaluation) -> list[float]:
    """Normalized return of each test scene, of a stored run or a new one.

    Args:
      study: The study.
      name: Name of the arm.
      seed: Training seed.
      stored: The log of the task.
      evaluation: The test scenes.
    """
    (task,) = stored.tasks
    file = study.out / "held_out" / f"{task}-{slug(name)}-{seed}.json"
    if not file.exists():
        learner = Arm().learner(stored, study.num_updates, frozen=name in (FROZEN, CONTROL))
        assert isinstance(learner, ScaledQLearning)
        params = start_params(study, name, seed, learner)
        trained, scalars = train(learner, stored.transitions, seed, params)
        result = evaluation.evaluate(find_actor(learner, trained, stored))
        content = {"scores": result.normalized[task].tolist(), "failed": result.failed[task], "scalars": scalars}
        file.write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(task, name, seed, round(float(np.mean(content["scores"])), 3), flush=True)
    return json.loads(file.read_text(encoding="utf-8"))["scores"]


def start_params(study: Study, name: str, seed: int, learner: ScaledQLearning) -> Any:
    """Parameters before the first step: those of a trained network with new heads, or None for random ones.

    Args:
      study: The study.
      name: Name of the arm.
      seed: Seed of the trained network and of the heads.
      learner: The algorithm.
    """
    if name not in (TUNED, FROZEN):
        return None
    trained = load_task_policy(study.out / "suboptimal" / f"{slug(OWN)}-{seed}").params
    return with_new_heads(learner.model, jax.device_put(trained), jax.random.key(seed))


def report(study: Study, scores: dict[str, np.ndarray]) -> None:
    """Prints the table and the criteria, and writes transfer.json."""
    resamples = Resamples(scores)
    print(table_line("learner", {name: name for name in ("mean", "low", "high", *HELD_OUT_TASKS)}))
    rows = {}
    for name, own in scores.items():
        rows[name] = [float(value) for value in (*resamples.interval(name), *own.mean(axis=(1, 2)))]
        print(table_line(name, {str(index): f"{value:.2f}" for index, value in enumerate(rows[name])}))
    criteria = find_criteria(resamples)
    for criterion in criteria:
        print(criterion)
    content = {"rows": rows, "criteria": [dataclasses.asdict(each) | {"passed": each.passed} for each in criteria]}
    (study.out / "transfer.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def find_criteria(resamples: Resamples) -> list[Criterion]:
    """Transfer of the encoder, and its control."""
    points = resamples.points
    ratio = points[TUNED] / points[SCRATCH] if points[SCRATCH] > 0 else np.nan
    return [
        Criterion("Q4 return of the fine-tuned network relative to that from scratch", ratio, low=1.5),
        Criterion("lower 95 % bound of its gain", resamples.difference(TUNED, SCRATCH)[1], low=0.0),
        Criterion("gain of the frozen encoder over random ones", resamples.difference(FROZEN, CONTROL)[0], low=0.05),
        Criterion("lower 95 % bound of this gain", resamples.difference(FROZEN, CONTROL)[1], low=0.0),
    ]


if __name__ == "__main__":
    main(tyro.cli(Study))
