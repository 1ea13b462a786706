"""A selector among behavior models against its members, on held-out scenes.

    python -m examples.reproductions.selector --out runs/selector [--quick]

Traveling vehicles of training scenes are driven by random members for 4 s. Certificates are fitted to their outcomes
(complexity-coverage selection, arXiv 2112.12320), constants are chosen on validation scenes, and test scenes are driven
by the selector, by each member, by random members, and by a selector that was fitted to shuffled outcomes. Differences
are paired by scene. Parts that have ended are stored, and an interrupted study is resumed by the same command.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table

import waymax_sim as ws
from behavior_models.model_selection.batch_policy import BanditParams, complexity_coverage, predict
from behavior_models.model_selection.selector import Selector, member_columns, save_selector
from behavior_models.model_selection.selector_fit import (
    BY_SELECTOR,
    LoggedOutcomes,
    assign_members,
    estimate_noise,
    fit_selector,
    random_members,
    run_outcomes,
    scene_means,
    unfitted_selector,
)
from behavior_models.study.run import Scenes, prepare_scenes
from examples.reproductions.waymax_common import NUM_RESAMPLES, Criterion
from waymax_sim.results_dir import write_json

# Half-widths of the certificates in standard deviations, among which the validation scenes choose.
CONFIDENCES = (0.0, 0.5, 1.0, 2.0)
PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class SelectorStudy:
    """Size of the study.

    Attributes:
      out: Folder of the selector, the outcomes and the report.
      members: Names of the behavior models.
      train: Scenes of the logged outcomes.
      validation: Scenes that choose constants and the best member.
      test: Scenes of the comparison.
      skip: First scenes of these that are left out: a smaller study of 150 training scenes was compared on 50.
      seed: Seed of all draws.
      quick: Few scenes and two members without networks, to see that it runs.
    """

    out: Path
    members: tuple[str, ...] = ("idm", "ppo_anchored", "constant_speed")
    train: str = "synthetic:0:500"
    validation: str = "synthetic:101:60"
    test: str = "synthetic:901:150"
    skip: int = 50
    seed: int = 0
    quick: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The members that are used."""
        return ("idm", "constant_speed") if self.quick else self.members

    @property
    def sources(self) -> tuple[str, str, str]:
        """Scenes of each part."""
        if self.quick:
            return "synthetic:0:8", "synthetic:101:2", "synthetic:901:2"
        return self.train, self.validation, self.test


class Runner:
    """Outcomes of all parts, in scenes of one bank so that they share a program; stored as they end.

    Args:
      study: The study.
    """

    def __init__(self, study: SelectorStudy):
        scenarios = [list(ws.load(source, pad_to_bucket=False)) for source in study.sources]
        scenarios[-1] = scenarios[-1][0 if study.quick else study.skip :]
        ends = np.cumsum([len(part) for part in scenarios])
        self.scenes: Scenes = prepare_scenes([item for part in scenarios for item in part])
        self.indices = {
            name: range(int(end) - len(part), int(end)) for name, part, end in zip(PARTS, scenarios, ends, strict=True)
        }
        self._study = study

    def __call__(self, part: str, name: str, selector: Selector, assigned: Int[np.ndarray, "B N"]) -> LoggedOutcomes:
        """Outcomes of the scenes of a part.

        Args:
          part: The part.
          name: Name of the arm.
          selector: The selector.
          assigned: Member of each agent.
        """
        path = self._study.out / f"{part}_{name}.npz"
        if path.exists():
            with np.load(path) as stored:
                return LoggedOutcomes(*(stored[field.name] for field in dataclasses.fields(LoggedOutcomes)))
        logged = run_outcomes(selector, self.scenes, assigned, self._study.seed, indices=self.indices[part])
        fields: dict[str, Any] = {
            field.name: np.asarray(getattr(logged, field.name)) for field in dataclasses.fields(LoggedOutcomes)
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **fields)
        return logged


def shuffle_outcomes(logged: LoggedOutcomes, seed: int) -> LoggedOutcomes:
    """A control: the outcomes of other decisions.

    Args:
      logged: The outcomes.
      seed: Seed of the permutation.
    """
    outcome, valid = np.array(logged.outcome), np.asarray(logged.valid)
    outcome[valid] = np.random.default_rng(seed).permutation(outcome[valid])
    return dataclasses.replace(logged, outcome=outcome)


def choose_confidence(
    study: SelectorStudy, runner: Runner, fit: Callable[[float], Selector]
) -> tuple[float, dict[float, float]]:
    """The confidence of the largest mean outcome in the validation scenes, and the means of all.

    Args:
      study: The study.
      runner: Outcomes.
      fit: The selector of a confidence.
    """
    by_selector, means = assign_members(runner.scenes, BY_SELECTOR), {}
    for confidence in CONFIDENCES[:2] if study.quick else CONFIDENCES:
        logged = runner("validation", f"{confidence:g}", fit(confidence), by_selector)
        means[confidence] = float(np.nanmean(scene_means(logged)))
    return max(means, key=lambda confidence: means[confidence]), means


def member_shares(selector: Selector, logged: LoggedOutcomes) -> list[float]:
    """Share of the first decisions for each member."""
    columns = jnp.asarray(logged.columns)[np.asarray(logged.valid)]
    count = len(selector.members)
    chosen = complexity_coverage(predict(selector.fits, member_columns(columns, count))).action
    return (np.bincount(np.asarray(chosen), minlength=count) / len(chosen)).tolist()


def paired_interval(first: Float[np.ndarray, " B"], second: Float[np.ndarray, " B"]) -> tuple[float, float, float]:
    """Mean difference of scenes and its 95 % bootstrap interval; scenes without a vehicle are left out."""
    difference = first - second
    difference = difference[np.isfinite(difference)]
    draws = np.random.default_rng(0).integers(len(difference), size=(NUM_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


def criteria(means: dict[str, np.ndarray], names: Sequence[str]) -> list[Criterion]:
    """The comparison with the members, and the control.

    Args:
      means: Mean outcomes of the test scenes by arm.
      names: The members.
    """
    best = max(names, key=lambda name: np.nanmean(means[name]))
    average = np.mean([means[name] for name in names], axis=0)
    pairs = {
        "best": paired_interval(means["selector"], means[best]),
        "mean": paired_interval(means["selector"], average),
        "control": paired_interval(means["random members"], average),
    }
    for name, (mean, low, high) in pairs.items():
        print(f"{name}: {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    return [
        Criterion(f"selector minus the best member ({best}), upper bound", pairs["best"][2], low=0.0),
        Criterion("selector minus the mean of the members, lower bound", pairs["mean"][1], low=1e-9),
        Criterion("control, random members minus the mean of the members, lower bound", pairs["control"][1], high=0.0),
    ]


def main(study: SelectorStudy) -> list[Criterion]:
    """Fits and compares, prints the table and returns the criteria."""
    begin, names = time.process_time(), study.names
    runner = Runner(study)
    empty = unfitted_selector(names)
    drawn = random_members(runner.scenes, [1.0] * len(names), study.seed)
    logged = runner("train", "random", empty, drawn)
    noise = estimate_noise(logged, len(names))

    def fit(confidence: float, data: LoggedOutcomes = logged) -> Selector:
        return fit_selector(names, data, BanditParams(noise=noise, confidence=confidence))

    confidence, validation = choose_confidence(study, runner, fit)
    selectors = {"selector": fit(confidence), "shuffled": fit(confidence, shuffle_outcomes(logged, study.seed))}
    facts: dict[str, Any] = {"noise": noise, "confidence": confidence, "validation": validation}
    facts["decisions"] = int(np.sum(logged.valid))
    arms = {name: (empty, assign_members(runner.scenes, index)) for index, name in enumerate(names)}
    arms["random members"] = (empty, drawn)
    arms |= {name: (one, assign_members(runner.scenes, BY_SELECTOR)) for name, one in selectors.items()}
    outcomes = {name: runner("test", name.replace(" ", "_"), *arm) for name, arm in arms.items()}
    means = {name: scene_means(item) for name, item in outcomes.items()}
    table = Table("arm", "mean outcome", "selector minus it")
    for name, values in means.items():
        mean, low, high = paired_interval(means["selector"], values)
        table.add_row(name, f"{np.nanmean(values):.4f}", f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    Console(width=120, markup=False, highlight=False).print(table)
    statements = criteria(means, names)
    facts["shares"] = member_shares(selectors["selector"], outcomes["selector"])
    facts["test"] = {name: values.tolist() for name, values in means.items()}
    save_selector(study.out / "policy", names, selectors["selector"], {"train": study.sources[0], "noise": noise})
    write_json(study.out / "report.json", facts | {"criteria": {item.name: item.passed for item in statements}})
    shares = ", ".join(f"{share:.0%} {name}" for name, share in zip(names, facts["shares"], strict=True))
    print(f"{facts['decisions']} decisions, noise {noise:.3f}, confidence {confidence:g}; chosen: {shares}")
    print(f"{time.process_time() - begin:.0f} CPU s")
    return statements


if __name__ == "__main__":
    for criterion in main(tyro.cli(SelectorStudy)):
        print(criterion)
