"""Shared parts of the reproduction of Gemini: sizes, stored parts, training, evaluation, intervals."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.scene_decoder.modality_bed import Situation, draw_situations
from behavior_models.scene_decoder.modality_decoder import ModalityConfig, ModalityModel, presence
from behavior_models.scene_decoder.modality_evaluation import (
    acceleration_nll,
    drive,
    drive_metrics,
    straight_middle,
    style_nll,
    token_nll,
)
from behavior_models.scene_decoder.modality_scenes import raw_scenes
from behavior_models.scene_decoder.modality_tokens import SceneTokens, stack_tokens
from behavior_models.scene_decoder.modality_training import ModalityTraining, ModalityTrainingConfig, Teacher
from examples.reproductions.waymax_common import mean_interval, ratio_interval
from waymax_sim.datasets.scene import to_scenario

# Seeds of the drives of training, tuning and test.
TRAINING = 0
TUNING = 101
TEST = 901
JOINT = ModalityConfig()
LATE = ModalityConfig(width=24, hidden=48, head_size=8, fusion="late")
STUDENT = ModalityConfig(width=20, hidden=40, num_heads=2, head_size=8)
# Modalities of which each has a decoder that was trained without it.
SPECIALISTS = ("raster", "lights")


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes of the experiments.

    Attributes:
      out: Folder of the parts and of the report.
      quick: The smallest sizes, to see that all parts run.
      seeds: Seeds of decoders of all modalities.
      other_seeds: Seeds of their control, of specialists, of late fusion, and of decoders before thin rasters.
      student_seeds: Seeds of students.
      drives: Drives of training.
      test_drives: Drives of tuning and of test.
      updates: Training steps of 100 gradient steps.
      student_updates: Those of students.
    """

    out: Path
    quick: bool = False
    seeds: int = 3
    other_seeds: int = 2
    student_seeds: int = 5
    drives: int = 2000
    test_drives: int = 300
    updates: int = 16
    student_updates: int = 6

    def sizes(self) -> "Study":
        """The sizes that are used."""
        if not self.quick:
            return self
        small = {"seeds": 1, "other_seeds": 1, "student_seeds": 2, "drives": 40, "test_drives": 20}
        return dataclasses.replace(self, **small, updates=1, student_updates=1)


@dataclasses.dataclass(frozen=True)
class Bed:
    """Drives of a seed.

    Attributes:
      tokens: Contents of the tokens, as they are read from scenarios.
      situation: Their situations.
    """

    tokens: SceneTokens
    situation: Situation


def part(study: Study, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of a part, computed unless they are stored.

    Args:
      study: Sizes and folder.
      name: Name of the part.
      compute: Computes them.
    """
    path = study.out / "parts" / f"{name}.npz"
    if path.exists():
        with np.load(path) as stored:
            return dict(stored)
    start = time.process_time()
    arrays = compute() | {"cpu_seconds": np.asarray(time.process_time() - start)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.rename(path)
    print(f"{name}: {float(arrays['cpu_seconds']):.0f} CPU s", flush=True)
    return arrays


def load_bed(study: Study, seed: int, count: int) -> Bed:
    """Drives of a seed.

    Args:
      study: Sizes and folder.
      seed: Seed of the drives.
      count: Number of drives.
    """

    def compute() -> dict[str, np.ndarray]:
        scenarios = (to_scenario(raw, pad_to_bucket=False) for raw in raw_scenes(seed, count))
        return to_arrays(jax.device_get(stack_tokens(list(scenarios))))

    arrays = part(study, f"drives-{seed}-{count}", compute)
    fields = [field.name for field in dataclasses.fields(SceneTokens)]
    return Bed(SceneTokens(*(arrays[str(index)] for index in range(len(fields)))), draw_situations(seed, count))


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by number."""
    return {str(index): np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(tree))}


def from_arrays(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The tree of `to_arrays`.

    Args:
      arrays: Leaves by number.
      like: A tree of the same structure.
    """
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[str(index)]) for index in range(len(leaves))])


_steps: dict[Any, Callable] = {}


def train(
    study: Study,
    name: str,
    model: ModalityModel,
    data: SceneTokens,
    seed: int,
    *,
    removed: tuple[str, ...] = (),
    updates: int | None = None,
    teacher: tuple[ModalityModel, Any] | None = None,
) -> Any:
    """Parameters of a trained decoder.

    Args:
      study: Sizes and folder.
      name: Name of the arm.
      model: The decoder.
      data: Drives.
      seed: Seed of the training.
      removed: Modalities that are absent.
      updates: Training steps; those of the study by default.
      teacher: A decoder to learn from, and its parameters.
    """
    steps = 10 if study.quick else 100
    config = ModalityTrainingConfig(updates or study.updates, steps, removed=removed)
    training = ModalityTraining(model, config, teacher and teacher[0])
    like = jax.eval_shape(model.init, jax.random.key(0))

    def compute() -> dict[str, np.ndarray]:
        # Equal algorithms share a program.
        step = _steps.setdefault(training, jax.jit(training.train_step))
        state, losses = training.init(jax.random.key(seed)), []
        for _ in range(config.num_updates):
            state, scalars = step(state, data, teacher and Teacher(teacher[1]))
            losses.append(float(scalars["cross_entropy"]))
            if not np.isfinite(losses[-1]):
                raise ValueError(f"{name}, seed {seed}: the loss is not finite")
        return to_arrays(state.params) | {"losses": np.array(losses)}

    return from_arrays(part(study, f"{name}-{seed}", compute), like)


def evaluate(
    study: Study, name: str, model: ModalityModel, params: Any, bed: Bed, seed: int, removed: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Values and validity of all metrics of each drive, without some modalities.

    Args:
      study: Sizes and folder.
      name: Name of the arm.
      model: The decoder.
      params: Its parameters.
      bed: Drives of the evaluation.
      seed: Seed of the training, and of the samples.
      removed: Modalities that are absent.
    """

    def compute() -> dict[str, np.ndarray]:
        count = bed.tokens.label.shape[0]
        present = presence(*removed, lead=(count,))
        nll = token_nll(model, params, bed.tokens, present)
        drives = drive(model, params, bed.tokens, present, jax.random.key(seed), 1.0)
        values = drive_metrics(drives, bed.situation, straight_middle(bed.situation))
        accelerations = acceleration_nll(model, params, bed.tokens, present)
        values["style_nll"] = style_nll(accelerations, bed.situation)
        arrays = {
            f"{metric}/{field}": np.asarray(getattr(item, field))
            for metric, item in values.items()
            for field in ("value", "valid")
        }
        return arrays | {"nll": np.asarray(nll.mean(axis=-1))}

    label = "-".join((f"evaluate-{name}-{seed}", *(f"no-{item}" for item in removed)))
    return part(study, label, compute)


def paired_effect(
    before: list[dict[str, np.ndarray]], after: list[dict[str, np.ndarray]], metric: str
) -> tuple[float, float, float]:
    """Mean difference of a metric over drives that are valid in both, and its 95 % interval over drives.

    Args:
      before: Evaluations of each seed.
      after: Evaluations of the same seeds under other conditions.
      metric: Name of the metric.
    """
    values, rows = [], []
    for one, other in zip(before, after, strict=True):
        valid = one[f"{metric}/valid"] & other[f"{metric}/valid"]
        values.append((other[f"{metric}/value"] - one[f"{metric}/value"])[valid])
        rows.append(np.flatnonzero(valid))
    joined = np.concatenate(values)
    return mean_interval(joined, np.concatenate(rows)) if len(joined) else (np.nan, np.nan, np.nan)


def rate(evaluations: list[dict[str, np.ndarray]], metric: str) -> tuple[float, float, float]:
    """Mean of a metric over drives and seeds, and its 95 % interval over drives.

    Args:
      evaluations: Evaluations of each seed.
      metric: Name of the metric.
    """
    rows = [np.flatnonzero(one[f"{metric}/valid"]) for one in evaluations]
    values = [one[f"{metric}/value"][row] for one, row in zip(evaluations, rows, strict=True)]
    if not sum(map(len, rows)):
        return np.nan, np.nan, np.nan
    return mean_interval(np.concatenate(values), np.concatenate(rows))


def interval_text(values: tuple[float, float, float]) -> str:
    """Mean and bounds."""
    return "{:.3f} ({:.3f} to {:.3f})".format(*values)


def nll_ratio(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> tuple[float, float, float]:
    """Ratio of mean likelihoods over drives and seeds, minus 1, with its 95 % interval over drives."""
    numerator, denominator = (np.concatenate([one["nll"] for one in arm]) for arm in (first, second))
    scene = np.tile(np.arange(len(first[0]["nll"])), len(first))
    middle, low, high = ratio_interval(numerator, denominator, scene)
    return middle - 1, low - 1, high - 1


def mean_nll(model: ModalityModel, params: Any, bed: Bed) -> float:
    """Mean negative log-likelihood with all modalities, nats.

    Args:
      model: The decoder.
      params: Its parameters.
      bed: Drives.
    """
    return float(np.mean(token_nll(model, params, bed.tokens, presence(lead=(bed.tokens.label.shape[0],)))))
