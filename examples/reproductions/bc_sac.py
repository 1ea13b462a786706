"""BC-SAC (Lu et al. 2023, "Imitation Is Not Enough") on synthetic scenes: criteria with their controls.

    python -m examples.reproductions.bc_sac --out runs/bc_sac

Trains behavior cloning, a more strongly regularized one, soft actor-critic, and BC-SAC with several weights of the
imitation, each from the same cloned start, and drives all traveling vehicles of held-out scenes with each. The weight
of the main comparison is chosen on other scenes. Vehicles are sliced by a model of difficulty, which predicts the
failures of behavior cloning (a collision or a road departure) from the initial scene, and which is fitted on other
scenes. Trained policies in the folder are used again.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import tyro
from jaxtyping import Bool, Float, Key

from behavior_models.imitation.demonstrations import collect_demonstrations
from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.policy import NetworkActor
from behavior_models.trainers.bc import train_bc
from behavior_models.trainers.bc_sac import train_bc_sac
from behavior_models.trainers.options import BCOptions, BCSACOptions, SACOptions
from behavior_models.trainers.sac import train_sac
from examples.reproductions.bc_sac_drives import NUM_DECISIONS, TASK, Drives, Scenes, StationaryActor, drive
from waymax_sim.evaluation.difficulty import percentile_ranks
from waymax_sim.evaluation.difficulty_model import DifficultyModel, area_under_curve, fit_difficulty
from waymax_sim.evaluation.paired import ClusterTable, arm_intervals, cluster_table, paired_intervals
from waymax_sim.pytree import Array

# Slices of vehicles by difficulty: shares of the most difficult ones. The paper's hardest 1 % would be five vehicles.
SLICES = {"top 10%": 0.1, "top 50%": 0.5, "all": 1.0}
COLUMNS = ("failed", "reached", "progress")
# Bins of an action component, and the share of its bound beyond which an action is at the bound.
NUM_BINS = 24
BOUND_SHARE = 0.95
# Outcomes by arm and slice.
Tables = dict[str, dict[str, ClusterTable]]


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of the trained policies and the report.
      train: Scenes to train on.
      difficulty: Scenes that the model of difficulty is fitted on.
      test: Scenes to drive in.
      num_seeds: Training seeds of behavior cloning and BC-SAC.
      num_control_seeds: Training seeds of the controls.
      num_epochs: Epochs of behavior cloning.
      num_updates: Training steps of soft actor-critic and BC-SAC.
      actor_delay: First ones of these steps, in which the critics learn alone.
      weights: Weights of the imitation in BC-SAC, one seed each. The one with the fewest failures in the scenes of the
        difficulty model is the weight of the arm.
      quick: Two scenes, two steps and one seed, to see that it runs.
    """

    out: Path
    train: str = "synthetic:0:300"
    difficulty: str = "synthetic:101:300"
    test: str = "synthetic:901:300"
    num_seeds: int = 3
    num_control_seeds: int = 2
    num_epochs: int = 16
    num_updates: int = 300
    actor_delay: int = 40
    weights: tuple[float, ...] = (0.01, 0.03, 0.1, 1.0)
    quick: bool = False

    @property
    def resized(self) -> "Study":
        """The study itself, or its quick version."""
        if not self.quick:
            return self
        small = dict(train="synthetic:0:2", difficulty="synthetic:101:3", test="synthetic:901:3")
        return dataclasses.replace(
            self,
            **small,
            num_seeds=1,
            num_control_seeds=1,
            num_epochs=2,
            num_updates=2,
            actor_delay=1,
            weights=(0.1, 10.0),
        )

    def seeds(self, arm: str, weight: float | None = None) -> list[NetworkActor]:
        """Policies of an arm: "bc", "bc strong", "sac", or "bc-sac" with a weight."""
        count = self.num_control_seeds if arm in ("bc strong", "sac") else self.num_seeds
        return [self.actor(arm, seed, weight) for seed in range(count)]

    def actor(self, arm: str, seed: int, weight: float | None = None) -> NetworkActor:
        """The trained policy of a seed, from the folder if it is there.

        Args:
          arm: See `seeds`.
          seed: Seed of the training.
          weight: Weight of the imitation.
        """
        name = f"{arm.replace(' ', '_')}-{seed}" if weight is None else f"{arm}-{weight:g}-{seed}"
        if not (self.out / name / "policy" / "policy.json").exists():
            self._train(self.out / name, arm, seed, weight)
        policy = load_policy(self.out / name / "policy")
        return NetworkActor(policy.params, policy.graph, policy.dynamics, policy.mode, policy.head)

    def _train(self, out: Path, arm: str, seed: int, weight: float | None) -> None:
        """Trains the policy of a seed into a folder; soft actor-critic and BC-SAC begin with the cloned one."""
        shared = dict(data=self.train, out=out, seed=seed)
        if arm.startswith("bc") and weight is None:
            decay = 0.3 if arm == "bc strong" else 1e-3
            train_bc(BCOptions(**shared, steps=self.num_epochs, action="bicycle", weight_decay=decay))
            return
        start = self.out / f"bc-{seed}" / "policy"
        shared |= dict(steps=self.num_updates, start=start, actor_delay=self.actor_delay)
        if weight is None:
            train_sac(SACOptions(**shared))
        else:
            train_bc_sac(BCSACOptions(**shared, imitation_weight=weight))


@dataclasses.dataclass(frozen=True)
class Finding:
    """A statement of the paper at this scale.

    Attributes:
      name: The statement.
      value: The number that it is about.
      holds: Whether it holds; a number that is not finite satisfies no statement.
    """

    name: str
    value: float
    holds: bool

    def __str__(self) -> str:
        return f"{'pass' if self.holds and np.isfinite(self.value) else 'FAIL'}  {self.name}: {self.value:.3g}"


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """A model of difficulty, fitted on the failures of behavior cloning, and one of shuffled labels.

    Attributes:
      scenes: Scenes of the fit.
      cloned: Drives of behavior cloning in them.
      model: The model.
      shuffled: The model of shuffled labels.
    """

    scenes: Scenes
    cloned: Drives
    model: DifficultyModel
    shuffled: DifficultyModel

    @classmethod
    def fit(cls, path: str, actor: NetworkActor, key: Key[Array, ""]) -> "Difficulty":
        """The models of the scenes of a path, with the failures of a policy."""
        scenes = Scenes.load(path)
        driven = drive(actor, scenes, key)
        labels = driven.failed, np.random.default_rng(0).permutation(driven.failed)
        return cls(scenes, driven, *(fit_difficulty(driven.features, label) for label in labels))

    def slices(self, features: Float[np.ndarray, "V F"]) -> dict[str, Bool[np.ndarray, " V"]]:
        """Masks of the vehicles of each slice."""
        ranks = percentile_ranks(self.model.predict(features))
        slices = {name: ranks >= 1.0 - share for name, share in SLICES.items()}
        return slices | {"bottom 50%": ~slices["top 50%"]}


def main(study: Study) -> None:
    """Trains, drives, and writes report.json."""
    study, key = study.resized, jax.random.key(1)
    cloned = study.seeds("bc")
    difficulty = Difficulty.fit(study.difficulty, cloned[0], key)
    sweep = sweep_weights(study, difficulty, key)
    weight = best_weight({f"{each:g}": sweep[f"{each:g}"] for each in study.weights})
    arms = {
        "bc": cloned,
        "bc strong": study.seeds("bc strong"),
        "sac": study.seeds("sac"),
        "bc-sac": study.seeds("bc-sac", weight),
        "stationary": [StationaryActor()],
    }
    test = Scenes.load(study.test)
    drives = {name: [drive(actor, test, key) for actor in actors] for name, actors in arms.items()}
    tables = slice_tables(drives, difficulty)
    print(f"\ntest scenes, weight {weight:g}")
    print_table(tables)
    expert = collect_demonstrations(TASK, test.bank, key, num_decisions=NUM_DECISIONS).value
    findings = _difficulty_findings(drives["bc"][0], difficulty) + _findings(tables, drives, expert)
    best = best_weight(sweep, "top 10%")
    findings.append(Finding("B6 failures, top 10%: the best weight is positive and finite", best, 0 < best < np.inf))
    print(*findings, sep="\n")
    report = {
        "study": {name: str(value) for name, value in vars(study).items()},
        "sweep": intervals(sweep),
        "arms": intervals(tables),
        "differences": {
            arm: {name: paired_intervals(table, tables["bc"][name]) for name, table in parts.items()}
            for arm, parts in tables.items()
        },
        "seeds": {arm: parts["all"].seed_means.tolist() for arm, parts in tables.items()},
        "findings": [dataclasses.asdict(finding) | {"value": float(finding.value)} for finding in findings],
    }
    (study.out / "report.json").write_text(json.dumps(report, indent=1, default=float) + "\n", encoding="utf-8")


def sweep_weights(study: Study, difficulty: Difficulty, key: Key[Array, ""]) -> Tables:
    """Outcomes of the first seed of each weight, the name of its arm, in the scenes of the difficulty model.

    Soft actor-critic has the weight 0, behavior cloning an infinite one.

    Args:
      study: The study.
      difficulty: The model of difficulty.
      key: Random key of the drives.
    """
    actors = {"0": study.actor("sac", 0)} | {f"{each:g}": study.actor("bc-sac", 0, each) for each in study.weights}
    drives = {name: [drive(actor, difficulty.scenes, key)] for name, actor in actors.items()}
    tables = slice_tables(drives | {"inf": [difficulty.cloned]}, difficulty)
    print("\nweights, scenes of the difficulty model")
    print_table(tables)
    return tables


def best_weight(sweep: Tables, name: str = "all") -> float:
    """The weight with the fewest failures in a slice; without any rate, the largest one.

    Args:
      sweep: Outcomes by weight.
      name: Name of the slice. The most difficult tenth has too few vehicles to select by.
    """
    rates = {float(weight): float(parts[name].mean[0]) for weight, parts in sweep.items()}
    return min(sorted(rates, reverse=True), key=lambda weight: np.nan_to_num(rates[weight], nan=np.inf))


def slice_tables(drives: dict[str, list[Drives]], difficulty: Difficulty) -> Tables:
    """Outcomes by arm and slice. All arms drive the same vehicles."""
    slices = difficulty.slices(next(iter(drives.values()))[0].features)
    return {arm: {name: _table(parts, mask) for name, mask in slices.items()} for arm, parts in drives.items()}


def intervals(tables: Tables) -> dict[str, dict[str, list]]:
    """Means with 95 % intervals by arm and slice, for each of `COLUMNS`."""
    return {arm: {name: arm_intervals(table) for name, table in parts.items()} for arm, parts in tables.items()}


def _table(drives: list[Drives], mask: Bool[np.ndarray, " V"]) -> ClusterTable:
    """Outcomes of the vehicles of a slice, by seed and scene."""
    rows = [
        {"policy": seed, "scene": int(each.scene[row]), **{name: float(getattr(each, name)[row]) for name in COLUMNS}}
        for seed, each in enumerate(drives)
        for row in np.flatnonzero(mask)
    ]
    return cluster_table(rows, COLUMNS, sorted({row["scene"] for row in rows}))


def print_table(tables: Tables) -> None:
    """Failures (%) of each arm in each slice with 95 % intervals; arrivals and progress of all vehicles."""
    print(
        f"{'arm':14s}" + "".join(f"{f'failed, {name}':>24s}" for name in SLICES) + f"{'reached':>10s}{'progress':>10s}"
    )
    for arm, parts in tables.items():
        cells = [arm_intervals(parts[name])[0] for name in SLICES]
        texts = [f"{100 * cell['value']:.1f} ({100 * cell['low']:.1f}, {100 * cell['high']:.1f})" for cell in cells]
        reached, progress = parts["all"].mean[1:]
        print(f"{arm:14s}" + "".join(f"{text:>24s}" for text in texts) + f"{100 * reached:10.1f}{progress:10.2f}")


def _difficulty_findings(drives: Drives, difficulty: Difficulty) -> list[Finding]:
    """B5: the model of difficulty on held-out vehicles, and one that is fitted to shuffled labels.

    Args:
      drives: Drives of behavior cloning.
      difficulty: Both models.
    """
    scores, chance = (model.predict(drives.features) for model in (difficulty.model, difficulty.shuffled))
    area, control = area_under_curve(scores, drives.failed), area_under_curve(chance, drives.failed)
    parts = np.array_split(np.argsort(scores), 10)
    rates = np.array([drives.failed[part].mean() if len(part) else np.nan for part in parts])
    rank = np.corrcoef(np.arange(10), percentile_ranks(rates))[0, 1] if np.isfinite(rates).all() else np.nan
    return [
        Finding("B5 area under the curve of difficulty >= 0.75", area, area >= 0.75),
        Finding("B5 Spearman correlation of failures and deciles > 0.8", rank, rank > 0.8),
        Finding("B5 control, shuffled labels: area within 0.5 +- 0.05", control, abs(control - 0.5) <= 0.05),
    ]


def _findings(tables: Tables, drives: dict[str, list[Drives]], expert: Float[np.ndarray, "D 2"]) -> list[Finding]:
    """B1 to B4, with their controls.

    Args:
      tables: Outcomes by arm and slice.
      drives: Drives by arm.
      expert: Actions of the expert.
    """

    def ratio(arm: str) -> tuple[float, float]:
        ratios = paired_intervals(tables[arm]["top 10%"], tables["bc"]["top 10%"])[0]["ratio"]
        return tuple(np.nan if ratios[name] is None else ratios[name] for name in ("value", "high"))

    def failures(arm: str, name: str) -> float:
        return 100 * float(tables[arm][name].mean[0])

    (value, high), (strong, strong_high) = ratio("bc-sac"), ratio("bc strong")
    easy = failures("bc-sac", "bottom 50%") - failures("bc", "bottom 50%")
    spread = [np.std([failures(arm, name) for name in SLICES]) for arm in ("bc-sac", "bc")]
    style = divergence(drives["sac"], expert) / divergence(drives["bc-sac"], expert)
    bound = bound_share(drives["sac"]) / bound_share(drives["bc-sac"])
    progress = {arm: float(tables[arm]["all"].mean[2]) for arm in ("bc-sac", "stationary")}
    return [
        Finding("B1 failures, top 10%: BC-SAC / BC <= 0.62", value, value <= 0.62),
        Finding("B1 upper bound of the ratio < 0.8", high, high < 0.8),
        Finding("B1 control, more regularized BC: fails B1", strong, not (strong <= 0.62 and strong_high < 0.8)),
        Finding("B2 failures, bottom 50%: BC-SAC - BC <= 1 point", easy, easy <= 1.0),
        Finding("B2 deviation over slices: BC-SAC / BC <= 0.5", spread[0] / spread[1], spread[0] <= 0.5 * spread[1]),
        Finding("B3 divergence of actions from the expert: SAC / BC-SAC >= 2", style, style >= 2.0),
        Finding("B3 actions at the bounds: SAC / BC-SAC >= 3", bound, bound >= 3.0),
        Finding("B4 progress of BC-SAC in [0.9, 1.05]", progress["bc-sac"], 0.9 <= progress["bc-sac"] <= 1.05),
        Finding("B4 control, a stationary car: fails B4", progress["stationary"], progress["stationary"] < 0.9),
    ]


def divergence(drives: list[Drives], expert: Float[np.ndarray, "D 2"]) -> float:
    """Jensen-Shannon divergence (bits) of the actions from those of the expert, mean over seeds."""
    return float(np.mean([jensen_shannon(histogram(each.actions), histogram(expert)) for each in drives]))


def histogram(actions: Float[np.ndarray, "D 2"]) -> Float[np.ndarray, " B"]:
    """Shares of actions in bins of both components."""
    edges = [np.linspace(-1.0, 1.0, NUM_BINS + 1)] * 2
    counts = np.histogram2d(*np.clip(actions, -1.0, 1.0).T, bins=edges)[0].reshape(-1)
    return counts / max(counts.sum(), 1.0)


def jensen_shannon(p: Float[np.ndarray, " B"], q: Float[np.ndarray, " B"]) -> float:
    """Jensen-Shannon divergence of two distributions, bits."""
    middle = (p + q) / 2

    def relative(a: np.ndarray) -> float:
        return float(np.sum(a[a > 0] * np.log2(a[a > 0] / middle[a > 0])))

    return (relative(p) + relative(q)) / 2


def bound_share(drives: list[Drives]) -> float:
    """Share of action components at their bounds, mean over seeds, at least one of 10,000."""
    return max(float(np.mean([np.mean(np.abs(each.actions) > BOUND_SHARE) for each in drives])), 1e-4)


if __name__ == "__main__":
    main(tyro.cli(Study))
