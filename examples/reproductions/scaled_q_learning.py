"""Scaled Q-learning (Kumar et al. 2023) on four driving tasks: beyond its data, sizes of networks, and ablations.

    python -m examples.reproductions.scaled_q_learning --out runs/scaled_q_learning

A log of degraded planners and random actions, whose normalized mean return is about one half (0: random actions, 1: the
reference planner), and a near-optimal one train Scaled Q-learning, its ablations, clones, return-conditioned clones and
a control with permuted rewards. Each network drives in test scenes. Observations are agents and polylines instead of
images, so the spatial embedding of the paper is not part of the ablations. Parts in the folder are used again.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tyro

from behavior_models.offline.tasks import TRAINING_TASKS
from examples.reproductions.scaled_q_runs import SIZES, Arm, Runs, log_scores, log_tasks, make_evaluation, slug
from examples.reproductions.scaled_q_statistics import Resamples
from examples.reproductions.waymax_common import Criterion, table_line

# Names of arms.
OWN = "Scaled Q-learning"
ABLATED = "squared error, not normalized"
CLONE = "cloning"
CONDITIONED = "return-conditioned cloning"
CONTROLS = ("permuted rewards (control)", "permuted rewards of mean 0 (control)")
LARGEST = max(SIZES)
# Normalized mean return or policies of the logs, transitions and scenes of each task.
BEHAVIORS = {"suboptimal": 0.5, "near_optimal": ("lookahead:0", "lookahead:0.05", "lookahead:0.1")}
NUM_TRANSITIONS = {"suboptimal": 50_000, "near_optimal": 10_000}
NUM_LOG_SCENES = 256


def sized(name: str, size: int) -> str:
    """Name of an arm with a network of a size; the largest one has none."""
    return name if size == LARGEST else f"{name}, size {size}"


ARMS = {
    OWN: Arm(),
    CLONE: Arm("clone"),
    CONDITIONED: Arm("conditioned"),
    "the same, highest level": Arm("conditioned", highest=True),
    CONTROLS[0]: Arm(rewards="permuted"),
    CONTROLS[1]: Arm(rewards="centered"),
    "squared error": Arm(loss="mse"),
    "not normalized": Arm(normalize=False),
    **{sized(ABLATED, size): Arm(size=size, loss="mse", normalize=False) for size in reversed(SIZES)},
    **{sized(OWN, size): Arm(size=size) for size in reversed(SIZES) if size != LARGEST},
}
NEAR_OPTIMAL_ARMS = {name: ARMS[name] for name in (OWN, CLONE, CONDITIONED)}


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of logs, runs and the report.
      num_scenes: Test scenes of each task.
      num_updates: Training steps of 250 gradient steps.
      seeds: Training seeds.
      near_optimal: Whether the near-optimal log is part of the study.
      quick: Few transitions, scenes and steps and one seed, to see that it runs.
    """

    out: Path
    num_scenes: int = 60
    num_updates: int = 24
    seeds: int = 3
    near_optimal: bool = True
    quick: bool = False


def main(study: Study) -> None:
    """Logs, trains, drives, and writes report.json."""
    if study.quick:
        study = dataclasses.replace(study, num_scenes=2, num_updates=1, seeds=1)
    evaluation = make_evaluation(TRAINING_TASKS, study.num_scenes)
    results = {}
    logs = {"suboptimal": ARMS} | ({"near_optimal": NEAR_OPTIMAL_ARMS} if study.near_optimal else {})
    for name, arms in logs.items():
        folder, count = study.out / name, 200 if study.quick else NUM_TRANSITIONS[name]
        stored = log_tasks(
            folder / "log", TRAINING_TASKS, BEHAVIORS[name], count, 64 if study.quick else NUM_LOG_SCENES
        )
        runs = Runs(folder, stored, evaluation, study.num_updates)
        rows: dict[str, list] = {arm: [] for arm in arms}
        for seed in range(study.seeds):
            for arm, own in arms.items():
                rows[arm].append(runs.scores(arm, own, seed))
        logged = np.array(list(log_scores(folder / "log", stored.tasks).values()))
        scores = {arm: np.array(values).swapaxes(0, 1) for arm, values in rows.items()}
        shape = scores[OWN].shape
        results[name] = {"data": np.broadcast_to(logged[:, None, None], shape)} | scores
    report(study, results, {name: runs_parameters(study, name) for name in ARMS})


def runs_parameters(study: Study, name: str) -> int:
    """Number of parameters of an arm on the suboptimal log."""
    file = study.out / "suboptimal" / f"{slug(name)}-0" / "scores.json"
    return json.loads(file.read_text(encoding="utf-8"))["parameters"]


def report(study: Study, results: Mapping[str, Mapping[str, np.ndarray]], parameters: Mapping[str, int]) -> None:
    """Prints tables and criteria, and writes report.json.

    Args:
      study: The study.
      results: Scores of each arm by log.
      parameters: Number of parameters by arm.
    """
    facts = {}
    for log, arms in results.items():
        resamples = Resamples(arms)
        print(table_line(log, {name: name for name in ("IQM", "low", "high", *TRAINING_TASKS)}))
        for name, scores in arms.items():
            values = *resamples.interval(name), *scores.mean(axis=(1, 2))
            print(table_line(name, {str(index): f"{value:.2f}" for index, value in enumerate(values)}))
            facts[f"{log}: {name}"] = [float(value) for value in values]
    criteria = find_criteria(results, parameters)
    for criterion in criteria:
        print(criterion)
    content = {
        "study": {name: str(value) for name, value in vars(study).items()},
        "parameters": dict(parameters),
        "rows": facts,
        "criteria": [dataclasses.asdict(each) | {"passed": each.passed} for each in criteria],
    }
    (study.out / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def find_criteria(results: Mapping[str, Mapping[str, np.ndarray]], parameters: Mapping[str, int]) -> list[Criterion]:
    """The statements of the paper at this scale, and that of the control.

    Args:
      results: Scores of each arm by log.
      parameters: Number of parameters by arm.
    """
    own = Resamples(results["suboptimal"])
    slopes = {
        name: own.slope({sized(name, size): parameters[sized(name, size)] for size in SIZES}) for name in (OWN, ABLATED)
    }
    ratio = slopes[ABLATED][0] / slopes[OWN][0] if slopes[OWN][0] > 0 else np.nan
    bounds = {"data": 0.15, CLONE: 0.1}
    criteria = []
    for other, least in bounds.items():
        gain, low, _ = own.difference(OWN, other)
        criteria += [Criterion(f"Q1 gain over {other}", gain, low=least)]
        criteria += [Criterion(f"Q1 lower 95 % bound of the gain over {other}", low, low=0.0)]
    losses = [own.difference(OWN, name)[0] for name in ("squared error", "not normalized", ABLATED)]
    conditioned = own.difference(OWN, CONDITIONED)[1]
    criteria += [
        *(Criterion(f"gain of {name} over cloning", own.difference(name, CLONE)[0], high=0.02) for name in CONTROLS),
        Criterion("Q2 lower 95 % bound of the slope over the size", slopes[OWN][1], low=0.0),
        Criterion("Q2 slope of the ablation as a share", ratio, high=0.5),
        Criterion("Q2 loss of the ablation at the largest size", losses[2], low=0.1),
        Criterion("Q3 loss without distributions", losses[0], low=0.05),
        Criterion("Q3 loss without normalized features", losses[1], low=0.05),
        Criterion("lower 95 % bound of the gain over return conditioning", conditioned, low=0.0),
    ]
    if "near_optimal" in results:
        near = Resamples(results["near_optimal"]).difference(OWN, CONDITIONED)[0]
        criteria.append(Criterion("near-optimal: gain over return conditioning", near, low=-0.05))
    return criteria


if __name__ == "__main__":
    main(tyro.cli(Study))
