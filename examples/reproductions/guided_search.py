"""Guided evolution with binary discriminators (arXiv 2402.05821): criteria with their controls.

    python -m examples.reproductions.guided_search --out runs/guided_search

Searches the acceleration of the Intelligent Driver Model with 20 seeds per arm and 2,500 evaluations each: evolution
alone, filters of a known accuracy, the learned discriminator, and discriminators that must not help. Arms of a folder
that have ended are used again.
"""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from behavior_models.program_search.discriminator import DiscriminatorConfig
from behavior_models.program_search.domains.idm_law import NUM_IDM_STATES, idm_law_domain, sample_states
from behavior_models.program_search.evolution import Search, SearchConfig
from behavior_models.program_search.export import to_formula, to_python
from behavior_models.program_search.mutation import random_program
from behavior_models.program_search.run import SearchResult, run_search
from waymax_sim.evaluation.confidence import optional_float
from waymax_sim.pytree import tree_index
from waymax_sim.results_dir import write_json

NUM_BOOTSTRAP_SAMPLES = 2000
# Cost of one evaluation for which the time to the target is listed, s.
EVALUATION_COSTS = (1e-4, 1.0, 60.0)
# An arm that does not reach the target counts as this many budgets.
NOT_REACHED = 1.25

LEARNED = DiscriminatorConfig()
ARMS = {
    "evolution": {"filter": "none"},
    "evolution, other seeds": {"filter": "none"},
    "coin": {"filter": "coin"},
    "oracle .5": {"filter": "oracle", "oracle_accuracy": 0.5},
    "oracle .9": {"filter": "oracle", "oracle_accuracy": 0.9},
    "learned": {"filter": "learned"},
    "graph alone": {"filter": "learned", "discriminator": dataclasses.replace(LEARNED, use_description=False)},
    "shuffled labels": {"filter": "learned", "discriminator": dataclasses.replace(LEARNED, shuffle_labels=True)},
    "length alone": {"filter": "learned", "discriminator": dataclasses.replace(LEARNED, length_only=True)},
}
REFERENCE = "evolution"
# Seeds of the second run of the reference.
OTHER_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of the searches and the report.
      num_seeds: Seeds of each arm.
      first_seed: The first of them.
      budget: Evaluated programs of each search.
      arms: Names of the arms; all by default.
      quick: Two seeds and 150 evaluations of three arms, to see that it runs.
    """

    out: Path
    num_seeds: int = 20
    first_seed: int = 500
    budget: int = 2500
    arms: tuple[str, ...] = tuple(ARMS)
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An arm compared with evolution alone over paired seeds.

    Attributes:
      final: Mean largest fitness at the end.
      speed_up: Budget divided by the evaluations at which the mean curve reaches the end of the reference.
      speed_up_interval: Its 95 % bootstrap interval over seeds.
      gain: Mean difference of the areas under the curves, per evaluation.
      gain_interval: Its 95 % bootstrap interval over seeds.
      won: Share of seeds with a positive difference.
    """

    final: float
    speed_up: float
    speed_up_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    won: float


def speed_up(curve: Float[np.ndarray, " B"], reference: Float[np.ndarray, " B"]) -> float:
    """Budget divided by the evaluations at which a mean curve reaches the end of another.

    Args:
      curve: Mean curve of an arm.
      reference: Mean curve of the reference.
    """
    reached = curve >= reference[-1]
    return len(curve) / (np.argmax(reached) + 1) if reached.any() else 1.0 / NOT_REACHED


def compare(curves: Float[np.ndarray, "S B"], reference: Float[np.ndarray, "S B"]) -> Comparison:
    """Paired comparison of two arms.

    Args:
      curves: Curves of the arm.
      reference: Curves of the reference with the same seeds.
    """
    rng = np.random.default_rng(0)
    draws = rng.integers(len(curves), size=(NUM_BOOTSTRAP_SAMPLES, len(curves)))
    gains = curves.mean(axis=1) - reference.mean(axis=1)
    ratios = [speed_up(curves[draw].mean(axis=0), reference[draw].mean(axis=0)) for draw in draws]
    ratio_low, ratio_high = np.quantile(ratios, (0.025, 0.975))
    low, high = np.quantile(gains[draws].mean(axis=1), (0.025, 0.975))
    return Comparison(
        float(curves[:, -1].mean()),
        speed_up(curves.mean(axis=0), reference.mean(axis=0)),
        (float(ratio_low), float(ratio_high)),
        float(gains.mean()),
        (float(low), float(high)),
        float((gains > 0).mean()),
    )


def passes(comparison: Comparison, lift: float) -> bool:
    """Criterion V2: a gain, a speed-up of 1.5 with its lower bound above 1.2, and a lift of 3.

    Args:
      comparison: The arm.
      lift: Ratio of the win rates of accepted and rejected children.
    """
    is_faster = comparison.speed_up >= 1.5 and comparison.speed_up_interval[0] > 1.2
    return comparison.gain_interval[0] > 0 and is_faster and lift >= 3


def criteria(comparisons: dict[str, Comparison], lifts: dict[str, float]) -> dict[str, bool]:
    """Criteria V1 to V3 of the arms that were run, and whether they hold.

    Args:
      comparisons: The arms.
      lifts: Ratios of the win rates of accepted and rejected children.
    """
    result = {}
    if "oracle .9" in comparisons:
        oracle = comparisons["oracle .9"]
        holds = oracle.gain_interval[0] > 0 and oracle.speed_up >= 2.5
        result["V1: a filter of accuracy .9 is at least 2.5 times as fast"] = holds
    for name in ("oracle .5", "coin"):
        if name in comparisons:
            result[f"V1/V3: {name} gains nothing"] = comparisons[name].gain_interval[0] <= 0
    if "learned" in comparisons:
        result["V2: the learned filter"] = passes(comparisons["learned"], lifts["learned"])
    for name in ("shuffled labels", "length alone"):
        if name in comparisons:
            result[f"V3: {name} does not pass V2"] = not passes(comparisons[name], lifts[name])
    return result


def run_arm(study: Study, name: str) -> SearchResult:
    """Runs an arm, or reads it.

    Args:
      study: Size of the study.
      name: Name of the arm.
    """
    # Two trainings of the discriminator, so that a short run uses it.
    sizes = {"population": 20, "tournament": 4, "train_from": 50} if study.quick else {}
    config = SearchConfig(budget=150 if study.quick else study.budget, **sizes, **ARMS[name])
    first = study.first_seed + (OTHER_SEEDS if "other" in name else 0)
    seeds = list(range(first, first + (2 if study.quick else study.num_seeds)))
    columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=config.budget)
        folder = study.out / name.replace(" ", "_").replace(",", "")
        search = Search(idm_law_domain(), config)
        result = run_search(folder, search, seeds, lambda count, _: bar.update(task, completed=count))
        bar.update(task, completed=config.budget)
        return result


def interpreter_speed(num_programs: int, num_compiled: int) -> tuple[float, float]:
    """Programs whose fitness is computed per CPU second: by the interpreter, and by compiling each.

    Args:
      num_programs: Programs of the interpreter, in one call; the compilation counts, so use no compilation cache.
      num_compiled: Programs that are compiled, each with its operators as constants.
    """
    domain = idm_law_domain()
    keys = jax.random.split(jax.random.key(0), num_programs)
    programs = jax.block_until_ready(jax.jit(jax.vmap(lambda key: random_program(domain.space, key)))(keys))
    begin = time.process_time()
    jax.block_until_ready(jax.jit(domain.evaluate)(programs))
    interpreted = num_programs / (time.process_time() - begin)
    begin = time.process_time()
    for index in range(num_compiled):
        source = to_python(domain.space, jax.device_get(tree_index(programs, index)))
        scope: dict = {}
        exec(source.replace("import numpy as np", "import jax.numpy as np"), scope)
        jax.block_until_ready(jax.jit(scope["program"])(*jnp.asarray(sample_states(0, NUM_IDM_STATES))))
    compiled = num_compiled / (time.process_time() - begin)
    return interpreted, compiled


def main(study: Study) -> int:
    """Runs all arms and prints their table with the criteria.

    Args:
      study: Size of the study.
    """
    names = ("evolution", "coin", "learned") if study.quick else study.arms
    results = {name: run_arm(study, name) for name in names}
    reference = results[REFERENCE]
    budget = reference.archive.fitness.shape[1]
    table = Table("arm", "final", "speed-up", "gain of area", "won", "better if accepted", "if not", "ms", title="Arms")
    costs = Table("arm", *(f"{cost:g} s" for cost in EVALUATION_COSTS), title="Seconds to the target per evaluation of")
    comparisons, lifts = {}, {}
    for name, result in results.items():
        item, rates = compare(result.curves, reference.curves), result.win_rates
        comparisons[name], lifts[name] = item, rates["accepted"] / max(rates["fallback"], 1e-6)
        overhead = result.cpu_seconds / result.archive.fitness.size
        table.add_row(*_cells(name, item, rates, overhead))
        seconds = (budget / item.speed_up * (overhead + cost) for cost in EVALUATION_COSTS)
        costs.add_row(name, *(f"{value:,.3g}" for value in seconds))
    console = Console(width=140, markup=False, highlight=False)
    console.print(table)
    console.print(costs)
    held = criteria(comparisons, lifts)
    interpreted, compiled = interpreter_speed(*((2_000, 2) if study.quick else (10_000, 20)))
    held["the interpreter evaluates at least 20 times the programs"] = interpreted >= 20 * compiled
    console.print(f"programs per CPU second: {interpreted:.0f} interpreted, {compiled:.1f} if each is compiled")
    for text, holds in held.items():
        console.print(f"{'pass' if holds else 'FAIL'}  {text}")
    space = idm_law_domain().space
    best = max((item for seed in range(len(reference.curves)) for item in results[names[-1]].best(seed)), key=_fitness)
    console.print(f"best of {names[-1]}: {to_formula(space, best[1])} ({best[0]:.3f})")
    report = {
        name: dataclasses.asdict(item) | {"lift": optional_float(lifts[name])} for name, item in comparisons.items()
    }
    write_json(
        study.out / "report.json", {"arms": report, "criteria": {text: bool(holds) for text, holds in held.items()}}
    )
    return 0


def _fitness(item: tuple) -> float:
    return item[0]


def _cells(name: str, item: Comparison, rates: dict[str, float], overhead: float) -> list[str]:
    low, high = item.speed_up_interval
    return [
        name,
        f"{item.final:.3f}",
        f"{item.speed_up:.2f} [{low:.2f}, {high:.2f}]",
        f"{item.gain:.3f} [{item.gain_interval[0]:.3f}, {item.gain_interval[1]:.3f}]",
        f"{item.won:.2f}",
        f"{rates['accepted']:.2f}",
        f"{rates['fallback']:.2f}",
        f"{1e3 * overhead:.2f}",
    ]


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Study)))
