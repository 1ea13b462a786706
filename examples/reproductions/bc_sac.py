"""BC-SAC (Lu et al. 2023, "Imitation Is Not Enough") on synthetic scenes: criteria with their controls.

    python -m examples.reproductions.bc_sac --out runs/bc_sac

Trains behavior cloning, a more strongly regularized one, soft actor-critic, and BC-SAC with several weights of the
imitation, each from the same cloned start, and drives all traveling vehicles of held-out scenes with each. Vehicles are
sliced by a model of difficulty, which predicts the failures of behavior cloning (a collision or a road departure) from
the initial scene, and which is fitted on other scenes. Trained policies in the folder are used again.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import tyro
from jaxtyping import Bool, Float

from behavior_models.imitation.demonstrations import collect_demonstrations
from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.policy import NetworkActor
from behavior_models.trainers.bc import train_bc
from behavior_models.trainers.bc_sac import train_bc_sac
from behavior_models.trainers.options import BCOptions, BCSACOptions, SACOptions
from behavior_models.trainers.sac import train_sac
from examples.reproductions.bc_sac_drives import NUM_DECISIONS, TASK, Drives, Scenes, StationaryActor, drive
from waymax_sim.evaluation.difficulty import percentile_ranks
from waymax_sim.evaluation.difficulty_model import area_under_curve, fit_difficulty
from waymax_sim.evaluation.paired import ClusterTable, arm_intervals, cluster_table, paired_intervals

# Slices of vehicles by difficulty: shares of the most difficult ones. The paper's hardest 1 % would be five vehicles.
SLICES = {"top 10%": 0.1, "top 50%": 0.5, "all": 1.0}
COLUMNS = ("failed", "reached", "progress")
# Bins of an action component, and the share of its bound beyond which an action is at the bound.
NUM_BINS = 24
BOUND_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of the trained policies and the report.
      train: Scenes to train on.
      difficulty: Scenes that the model of difficulty is fitted on.
      test: Scenes to drive in.
      num_seeds: Training seeds of the main arms.
      num_epochs: Epochs of behavior cloning.
      num_updates: Training steps of soft actor-critic and BC-SAC.
      weight: Weight of the imitation in BC-SAC.
      sweep: Further weights, one seed each.
      quick: Two scenes, two steps and one seed, to see that it runs.
    """

    out: Path
    train: str = "synthetic:0:300"
    difficulty: str = "synthetic:101:300"
    test: str = "synthetic:901:300"
    num_seeds: int = 3
    num_epochs: int = 16
    num_updates: int = 300
    weight: float = 0.1
    sweep: tuple[float, ...] = (0.001, 0.01, 1.0, 10.0)
    quick: bool = False

    @property
    def resized(self) -> "Study":
        """The study itself, or its quick version."""
        if not self.quick:
            return self
        small = dict(train="synthetic:0:2", difficulty="synthetic:101:3", test="synthetic:901:3")
        return dataclasses.replace(self, **small, num_seeds=1, num_epochs=2, num_updates=2, sweep=(10.0,))

    def policies(self) -> dict[str, list[NetworkActor]]:
        """Trained policies of each arm, one per seed."""
        arms = {
            name: [self._train(name, seed) for seed in range(self.num_seeds)] for name in ("bc", "bc strong", "sac")
        }
        arms["bc-sac"] = [self._train("bc-sac", seed, self.weight) for seed in range(self.num_seeds)]
        return arms | {f"bc-sac {weight:g}": [self._train("bc-sac", 0, weight)] for weight in self.sweep}

    def _train(self, arm: str, seed: int, weight: float | None = None) -> NetworkActor:
        name = f"{arm.replace(' ', '_')}-{seed}" if weight is None else f"{arm}-{weight:g}-{seed}"
        if not (self.out / name / "policy" / "policy.json").exists():
            shared = dict(data=self.train, out=self.out / name, seed=seed)
            start = self.out / f"bc-{seed}" / "policy"
            if arm.startswith("bc") and weight is None:
                decay = 0.3 if arm == "bc strong" else 1e-3
                train_bc(BCOptions(**shared, steps=self.num_epochs, action="bicycle", weight_decay=decay))
            elif weight is None:
                train_sac(SACOptions(**shared, steps=self.num_updates, start=start))
            else:
                train_bc_sac(BCSACOptions(**shared, steps=self.num_updates, start=start, imitation_weight=weight))
        policy = load_policy(self.out / name / "policy")
        return NetworkActor(policy.params, policy.graph, policy.dynamics, policy.mode, policy.head)


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


def main(study: Study) -> None:
    """Trains, drives, and writes report.json."""
    study = study.resized
    arms = {name: [*actors] for name, actors in study.policies().items()} | {"stationary": [StationaryActor()]}
    test, key = Scenes.load(study.test), jax.random.key(1)
    drives = {name: [drive(actor, test, key) for actor in actors] for name, actors in arms.items()}
    fitted = drive(arms["bc"][0], Scenes.load(study.difficulty), key)
    model, shuffled = (fit_difficulty(fitted.features, label) for label in (fitted.failed, _shuffled(fitted.failed)))
    scores, chance = (each.predict(drives["bc"][0].features) for each in (model, shuffled))
    slices = {name: percentile_ranks(scores) >= 1.0 - share for name, share in SLICES.items()}
    slices["bottom 50%"] = ~slices["top 50%"]
    tables = {arm: {name: _table(parts, mask) for name, mask in slices.items()} for arm, parts in drives.items()}
    print_table(tables)
    expert = collect_demonstrations(TASK, test.bank, key, num_decisions=NUM_DECISIONS).value
    findings = _difficulty_findings(drives["bc"][0], scores, chance) + _findings(study, tables, drives, expert)
    for finding in findings:
        print(finding)
    report = {
        "study": {name: str(value) for name, value in vars(study).items()},
        "arms": {arm: {name: arm_intervals(table) for name, table in parts.items()} for arm, parts in tables.items()},
        "findings": [dataclasses.asdict(finding) | {"value": float(finding.value)} for finding in findings],
    }
    (study.out / "report.json").write_text(json.dumps(report, indent=1, default=float) + "\n", encoding="utf-8")


def _shuffled(label: Bool[np.ndarray, " V"]) -> Bool[np.ndarray, " V"]:
    return np.random.default_rng(0).permutation(label)


def _table(drives: list[Drives], mask: Bool[np.ndarray, " V"]) -> ClusterTable:
    """Outcomes of the vehicles of a slice, by seed and scene."""
    rows = [
        {"policy": seed, "scene": int(each.scene[row]), **{name: float(getattr(each, name)[row]) for name in COLUMNS}}
        for seed, each in enumerate(drives)
        for row in np.flatnonzero(mask)
    ]
    return cluster_table(rows, COLUMNS, sorted({row["scene"] for row in rows}))


def print_table(tables: dict[str, dict[str, ClusterTable]]) -> None:
    """Failures (%) of each arm in each slice with 95 % intervals; arrivals and progress of all vehicles."""
    print(
        f"{'arm':14s}" + "".join(f"{f'failed, {name}':>24s}" for name in SLICES) + f"{'reached':>10s}{'progress':>10s}"
    )
    for arm, parts in tables.items():
        cells = [arm_intervals(parts[name])[0] for name in SLICES]
        texts = [f"{100 * cell['value']:.1f} ({100 * cell['low']:.1f}, {100 * cell['high']:.1f})" for cell in cells]
        reached, progress = parts["all"].mean[1:]
        print(f"{arm:14s}" + "".join(f"{text:>24s}" for text in texts) + f"{100 * reached:10.1f}{progress:10.2f}")


def _difficulty_findings(
    drives: Drives, scores: Float[np.ndarray, " V"], chance: Float[np.ndarray, " V"]
) -> list[Finding]:
    """B5: the model of difficulty on held-out vehicles, and one that is fitted to shuffled labels.

    Args:
      drives: Drives of behavior cloning.
      scores: Predicted probabilities of failure.
      chance: Those of a model of shuffled labels.
    """
    area, control = area_under_curve(scores, drives.failed), area_under_curve(chance, drives.failed)
    parts = np.array_split(np.argsort(scores), 10)
    rates = np.array([drives.failed[part].mean() if len(part) else np.nan for part in parts])
    rank = np.corrcoef(np.arange(10), percentile_ranks(rates))[0, 1] if np.isfinite(rates).all() else np.nan
    return [
        Finding("B5 area under the curve of difficulty >= 0.75", area, area >= 0.75),
        Finding("B5 Spearman correlation of failures and deciles > 0.8", rank, rank > 0.8),
        Finding("B5 control, shuffled labels: area within 0.5 +- 0.05", control, abs(control - 0.5) <= 0.05),
    ]


def _findings(
    study: Study,
    tables: dict[str, dict[str, ClusterTable]],
    drives: dict[str, list[Drives]],
    expert: Float[np.ndarray, "D 2"],
) -> list[Finding]:
    """B1 to B4 and B6, with their controls.

    Args:
      study: The study.
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
    weights = sorted([*study.sweep, study.weight])
    sweep = [failures("bc-sac" if weight == study.weight else f"bc-sac {weight:g}", "top 10%") for weight in weights]
    best = weights[int(np.argmin(sweep))]
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
        Finding("B6 the best weight is inside the range", best, weights[0] < best < weights[-1]),
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
