"""Long context and mixtures of experts (Gemini 1.5, 2024) on driving histories with known optima.

    python -m examples.reproductions.gemini_1_5 --out runs/gemini_1_5

L1: loss by position against the optimum; L2: recall by length and depth of a record that occurs once; L3: the last of
two records; L4: a mixture of experts against dense networks, and its recovery from a router that
selects two experts alone; L5: recall from 100,000 tokens. Trained parts in the folder are used again.
"""

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from behavior_models.long_context.evaluation import fit_power_law, log_bins, position_curve, recall_rates
from behavior_models.long_context.habit_bed import HabitBed
from behavior_models.long_context.recall_network import RecallModel
from behavior_models.long_context.region_bed import RegionBed, mutual_information
from behavior_models.long_context.training import BedTrainingConfig, train
from behavior_models.networks.checkpoint import restore_params, write_checkpoint
from behavior_models.networks.mixture_of_experts import ExpertConfig
from behavior_models.networks.transformer import TransformerModel
from behavior_models.networks.transformer_config import TransformerConfig
from behavior_models.training.log import half_width
from examples.reproductions.waymax_common import Criterion, table_line

# Records of eight situations as shares of a history: those that occur once, and those whose last record counts.
DEPTHS = (0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.95)
OVERRIDES = ((0.05, 0.2), (0.1, 0.9), (0.25, 0.75), (0.3, 0.4), (0.45, 0.55), (0.6, 0.7), (0.65, 0.85), (0.92, 0.97))
ABSENT = ((2.0, 2.0),) * len(DEPTHS)
# Depths of the longest histories.
LONG_DEPTHS = (0.02, 0.25, 0.5, 0.75, 0.95)
# Tokens of a history in training; the others are evaluated without training.
TRAINED_LENGTH = 256
CHANCE = 1 / 16
# Needles at each depth of the longest histories, as offsets from it.
OFFSETS = (-0.012, -0.004, 0.004, 0.012)


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of parts and of the report.
      parts: Names of the parts to run; all by default.
      seeds: Training seeds of the networks without positions; other networks have one.
      num_histories: Histories of a cell of the grids.
      long_lengths: Tokens of the longest histories.
      num_long_histories: Their number, with four needles at each depth.
      quick: Few steps and histories and three parts, to see that it runs.
    """

    out: Path
    parts: tuple[str, ...] = ()
    seeds: int = 3
    num_histories: int = 128
    long_lengths: tuple[int, ...] = (4096, 16_384, 102_400)
    num_long_histories: int = 8
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Arm:
    """A trained network of the recall bed.

    Attributes:
      positions: See `TransformerConfig`.
      window: See `TransformerConfig`.
      bed: Distribution of the training.
      num_steps: Gradient steps.
      num_seeds: Largest number of seeds.
      start: Arm whose trained network is continued.
    """

    positions: Any = "none"
    window: int | None = None
    bed: HabitBed = HabitBed()
    num_steps: int = 500
    num_seeds: int = 1
    start: str | None = None

    @property
    def model(self) -> RecallModel:
        """The network."""
        return RecallModel(dataclasses.replace(RecallModel().config, positions=self.positions, window=self.window))


OVERRIDE = HabitBed(redraw=0.1)
ARMS = {
    "none, 1500": Arm(num_steps=1500, num_seeds=3),
    "override": Arm(bed=OVERRIDE, num_steps=1200),
    "window": Arm(window=64, num_steps=0, start="none, 1500"),
    "shuffled": Arm(bed=HabitBed(is_shuffled=True), num_steps=300),
    "rope": Arm("rope"),
    "none": Arm(),
    "half": Arm("half"),
}
BED = RegionBed()
EXPERTS = ExpertConfig(has_bias=True)
NO_LOSS = dataclasses.replace(EXPERTS, balance_weight=0.0, z_weight=0.0)
# Hidden width, experts, and bias of the router for the first two experts at the beginning.
MIXTURES: dict[str, tuple[int, ExpertConfig | None, float]] = {
    "dense, equal active": (64, None, 0.0),
    "experts": (32, EXPERTS, 0.0),
    "dense, equal total": (256, None, 0.0),
    "collapsed": (32, EXPERTS, 4.0),
    "collapsed, no balance loss": (32, NO_LOSS, 4.0),
}
NUM_MIXTURE_SEEDS = 3


def train_arm(study: Study, name: str, seed: int) -> Any:
    """Parameters of a network, trained if the folder has none.

    Args:
      study: The study.
      name: Name of the arm.
      seed: Training seed.
    """
    arm, folder = ARMS[name], study.out / f"{name.replace(', ', '_')}-{seed}"
    if not (folder / "policy.json").exists():
        num_steps = min(20, arm.num_steps) if study.quick else arm.num_steps
        config = BedTrainingConfig(num_steps=num_steps, num_chunk_steps=min(max(num_steps, 1), 50))

        def loss(params: Any, histories: Any) -> Any:
            nll = jnp.mean(arm.model.nll(params, histories))
            return nll, {"nll": nll}

        def draw(key: Any) -> Any:
            return arm.bed.draw(key, config.batch, TRAINED_LENGTH // 2)

        def report(step: int, scalars: dict[str, float]) -> None:
            print(name, seed, step, f"{scalars['nll']:.3f}", flush=True)

        begin = time.process_time()
        params = train_arm(study, arm.start, seed) if arm.start else None
        if num_steps:
            params = train(arm.model.init, draw, loss, jax.random.key(seed), config, report, params)
        facts = {"arm": name, "seed": seed, "steps": num_steps, "cpu_seconds": time.process_time() - begin}
        write_checkpoint(folder, facts, jax.device_get(params))
    shapes = jax.eval_shape(arm.model.init, jax.random.key(0))
    return restore_params(folder, shapes)


def stored(study: Study, name: str, compute: Any) -> Any:
    """A result in the folder, computed if there is none."""
    path = study.out / f"{name.replace(', ', '_').replace(' ', '_')}.json"
    if not path.exists():
        begin = time.process_time()
        result = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"result": result, "cpu_seconds": time.process_time() - begin}
        path.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        print(name, f"{facts['cpu_seconds']:.0f} CPU s", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))["result"]


def lengths(study: Study, num_steps: int) -> tuple[int, ...]:
    """Tokens of the histories of the grids, the long ones for networks that are trained long."""
    return (256,) if study.quick else (256, 512) if num_steps < 1500 else (256, 512, 1024, 2048)


def measure_arm(study: Study, name: str, seed: int) -> dict[str, Any]:
    """Curves and grids of a network.

    Args:
      study: The study.
      name: Name of the arm.
      seed: Training seed.
    """
    arm, params = ARMS[name], train_arm(study, name, seed)
    key, result = jax.random.key(901 + seed), {}
    bed, count = arm.bed, study.num_histories
    for num_tokens in lengths(study, arm.num_steps):
        nll, excess = position_curve(arm.model, bed, params, key, count, num_tokens // 2)
        row = {"nll": np.asarray(nll).tolist(), "excess": np.asarray(excess).tolist()}
        once = tuple((depth, depth) for depth in DEPTHS)
        row["recall"], _ = recall_rates(arm.model, bed, params, key, count, num_tokens, once)
        row["last"], row["first"] = recall_rates(arm.model, bed, params, key, count, num_tokens, OVERRIDES)
        result[str(num_tokens)] = row
    others = HabitBed(is_shuffled=True)
    nll, _ = position_curve(arm.model, others, params, key, count, TRAINED_LENGTH // 2)
    none, _ = recall_rates(arm.model, bed, params, key, count, TRAINED_LENGTH, ABSENT)
    return result | {"nll of other drivers": float(np.mean(nll)), "no needle": none}


def measure_long(study: Study, num_tokens: int, is_sharp: bool) -> list[float]:
    """Recall by depth from long histories, four needles at each depth.

    Args:
      study: The study.
      num_tokens: Length of a history.
      is_sharp: Whether queries beyond the trained length are multiplied by the logarithm of their position.
    """
    name, seed = "none, 1500", 0
    model, bed, params = ARMS[name].model, ARMS[name].bed, train_arm(study, name, seed)
    if is_sharp:
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, sharp_length=TRAINED_LENGTH))
    depths = tuple((depth + offset, depth + offset) for depth in LONG_DEPTHS for offset in OFFSETS)
    key, count = jax.random.key(4000 + seed), study.num_long_histories
    rates, _ = recall_rates(model, bed, params, key, count, num_tokens, depths)
    return np.reshape(rates, (len(LONG_DEPTHS), len(OFFSETS))).mean(axis=1).tolist()


def measure_mixture(study: Study, name: str) -> dict[str, Any]:
    """Loss, load and specialization of a mixture or a dense network, for each seed."""
    hidden, experts, bias = MIXTURES[name]
    model = TransformerModel(TransformerConfig(32, 2, hidden, 2, 16, 1, BED.vocabulary, experts=experts))
    num_steps, num_seeds = (20, 2) if study.quick else (2000, NUM_MIXTURE_SEEDS)
    config = BedTrainingConfig(num_steps, 64, 3e-3, 100, num_chunk_steps=min(num_steps, 100))

    def init(key: Any) -> Any:
        params = model.init(key)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.at[:2].set(bias) if path[-2].key == "router_bias" else leaf, params
        )

    def loss(params: Any, tokens: Any) -> Any:
        value, (nll, _) = BED.loss(model, params, tokens)
        return value, {"nll": nll}

    def report(step: int, scalars: dict[str, float]) -> None:
        if step % 500 == 0:
            print(name, step, f"{scalars['nll']:.3f}", flush=True)

    keys = jax.random.split(jax.random.key(0), num_seeds)
    params = train(init, lambda key: BED.draw(key, config.batch), loss, keys, config, report)
    tokens = jax.jit(lambda key: BED.draw(key, 640))(jax.random.key(901))
    test = jax.jit(jax.vmap(lambda own: BED.loss(model, own, tokens, False)[1]))
    nll, statistics = test(params)
    result: dict[str, Any] = {"nll": np.asarray(nll).tolist()}
    load = [np.asarray(each.load) for each in statistics]
    result["cv"] = [(own.std(axis=1) / own.mean(axis=1)).tolist() for own in load]
    region = np.repeat(np.asarray(tokens)[:, :1] - BED.num_tokens, BED.length, axis=1).ravel()
    token = np.asarray(tokens)[:, :-1].ravel()
    for label, category in (("region", region), ("token", token)):
        result[f"information {label}"] = [
            [mutual_information(own.ravel(), category) for own in np.asarray(each.first)] for each in statistics
        ]
    return result


def main(study: Study) -> None:
    """Runs the parts, prints tables and criteria, and writes report.json."""
    if study.quick:
        parts = ("none, 1500, 0", "sharp, 512", "mixture, experts")
        study = dataclasses.replace(study, parts=parts, num_histories=4, long_lengths=(512,), num_long_histories=1)
    results: dict[str, Any] = {}
    for name, compute in tasks(study).items():
        if not study.parts or name in study.parts:
            results[name] = stored(study, name, compute)
    print_tables(results)
    criteria = find_criteria(results)
    for criterion in criteria:
        print(criterion)
    facts = {"criteria": [dataclasses.asdict(each) | {"passed": each.passed} for each in criteria]}
    (study.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def tasks(study: Study) -> dict[str, Any]:
    """Computations by name: one seed of each network, the long histories, the mixtures, and further seeds."""
    arms = {
        f"{name}, {seed}": functools.partial(measure_arm, study, name, seed)
        for seed in range(study.seeds)
        for name, arm in ARMS.items()
        if seed < arm.num_seeds
    }
    long = {
        f"{name}, {num_tokens}": functools.partial(measure_long, study, num_tokens, is_sharp)
        for num_tokens in study.long_lengths
        for name, is_sharp in (("long", False), ("sharp", True))
    }
    mixtures = {f"mixture, {name}": functools.partial(measure_mixture, study, name) for name in MIXTURES}
    first = {name: compute for name, compute in arms.items() if name.endswith(", 0")}
    return first | long | mixtures | arms


def print_tables(results: dict[str, Any]) -> None:
    """Prints the tables of the parts that have run."""
    for name, result in results.items():
        if name.startswith("mixture"):
            cells = {"nll": f"{np.mean(result['nll']):.3f} ± {half_width(np.array(result['nll'])):.3f}"}
            print(table_line(name, cells | {"cv": str(np.round(result["cv"], 2).tolist())}))
        elif name.startswith(("long", "sharp")):
            print(table_line(name, {str(depth): rate for depth, rate in zip(LONG_DEPTHS, result, strict=True)}))
        else:
            for num_tokens in (key for key in result if key.isdigit()):
                row = result[num_tokens]
                cells = {"excess": f"{np.mean(row['excess']):.3f}"}
                cells |= {own: " ".join(f"{rate:.2f}" for rate in row[own]) for own in ("recall", "last", "first")}
                print(table_line(f"{name}, {num_tokens} tokens", cells))


def find_criteria(results: dict[str, Any]) -> list[Criterion]:
    """Statements about the parts that have run; the worst seed and cell counts."""
    criteria = []
    main_parts = [result for name, result in results.items() if name.startswith("none, 1500")]
    if main_parts:
        criteria += recall_criteria(main_parts)
    for name, result in results.items():
        if name.startswith("sharp"):
            criteria.append(Criterion(f"L5 recall, {name} tokens", np.mean(result), low=0.95))
        if name.startswith("override"):
            last = [(own, min(result[own]["last"])) for own in ("256", "512")]
            criteria += [
                Criterion(f"L3 last record, {own} tokens", rate, low=0.97 if own == "256" else 0.95)
                for own, rate in last
            ]
        if name.startswith("window"):
            criteria.append(
                Criterion("control: L2 recall beyond the window", max(result["512"]["recall"][:7]), high=0.2)
            )
            criteria.append(
                Criterion("control: L1 excess of the window, 512 tokens", np.mean(result["512"]["excess"]), low=0.03)
            )
        if name.startswith("rope"):
            criteria.append(
                Criterion("control: L2 recall of rotated heads, 512", min(result["512"]["recall"]), high=0.9)
            )
        if name.startswith("shuffled"):
            distance = abs(result["nll of other drivers"] - np.log(16))
            criteria.append(
                Criterion("control: L1 distance from ln 16, trained on shuffled histories", distance, high=0.03)
            )
    return criteria + mixture_criteria(results)


def recall_criteria(parts: list[dict[str, Any]]) -> list[Criterion]:
    """Statements about the networks without positions, one part for each seed."""

    def worst(num_tokens: str, measure: Any) -> float:
        return max(measure(part[num_tokens]) for part in parts if num_tokens in part)

    own = [(name, high) for name, high in (("256", 0.02), ("512", 0.03)) if name in parts[0]]
    longest = own[-1][0]
    criteria = [
        Criterion(f"L1 excess, {name} tokens", worst(name, lambda row: np.mean(row["excess"])), high=high)
        for name, high in own
    ]
    for name in (name for name in parts[0] if name.isdigit()):
        low = 0.99 if name == "256" else 0.95
        rate = -worst(name, lambda row: -min(row["recall"]))
        criteria.append(Criterion(f"L2 recall, {name} tokens, worst depth", rate, low=low))
    optimum = HabitBed().optimum(int(longest) // 2)
    curve = np.mean([part[longest]["excess"] for part in parts], axis=0) + optimum
    expected, fitted = (fit_power_law(*log_bins(own)) for own in (optimum, curve))
    bins = log_bins(curve, 12)[1]
    none = np.mean([part["no needle"] for part in parts])
    others = min(part["nll of other drivers"] for part in parts)
    last = max(max(part["256"]["last"]) for part in parts)
    return [
        *criteria,
        Criterion("L1 exponent minus that of the optimum", fitted.exponent - expected.exponent, low=-0.1, high=0.1),
        Criterion("L1 R squared", fitted.r_squared, low=0.98),
        Criterion("L1 largest ascent between bins", float(np.max(np.diff(bins))), high=0.0),
        Criterion("control: L2 recall without a needle minus chance", abs(none - CHANCE), high=0.03),
        Criterion("control: L1 loss on shuffled histories minus ln 16", others - np.log(16), low=0.0),
        Criterion("control: L3 last record, before training on overrides", last, high=0.9),
    ]


def mixture_criteria(results: dict[str, Any]) -> list[Criterion]:
    """Statements about mixtures of experts, for all seeds."""
    names = [name for name in MIXTURES if f"mixture, {name}" in results]
    if len(names) < len(MIXTURES):
        return []
    own = {name: results[f"mixture, {name}"] for name in names}
    nll = {name: np.array(own[name]["nll"]) for name in names}
    gain = np.min(nll["dense, equal active"] - nll["experts"])
    recovered = np.min(nll["collapsed, no balance loss"] - nll["collapsed"])
    exact = np.abs(np.array(own["collapsed, no balance loss"]["cv"]) - 3**0.5)
    information = np.max([own["experts"]["information region"], own["experts"]["information token"]], axis=(0, 1))
    return [
        Criterion("L4 gain over a dense network of equal active size, worst seed", gain, low=0.03),
        Criterion(
            "L4 loss minus that of a dense network of equal size",
            np.mean(nll["experts"] - nll["dense, equal total"]),
            low=0.0,
        ),
        Criterion(
            "L4 coefficient of variation of the load from a collapsed router", np.max(own["collapsed"]["cv"]), high=1.3
        ),
        Criterion("L4 gain of the balance loss from a collapsed router, worst seed", recovered, low=0.02),
        Criterion("control: L4 distance of its load from two experts without balance loss", np.max(exact), high=0.05),
        Criterion(
            "L4 information of the first expert on region or token, nats, worst seed", np.min(information), low=0.2
        ),
    ]


if __name__ == "__main__":
    main(tyro.cli(Study))
