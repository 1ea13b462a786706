"""Search of losses for value learners on car following: criterion V5 with its controls.

    python -m examples.reproductions.rl_loss_search --out runs/rl_loss [--quick]

Searches begin with the loss of DQN (Co-Reyes et al. 2021). Their best losses are scored again with other training
seeds, and the best of these is compared with DQN on other leading vehicles. DQNReg, the published result, is compared
too, and controls that must be worse. An interrupted study is resumed by the same command.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from behavior_models.offline.car_following_bed import CarFollowingBedParams
from behavior_models.program_search.domains.rl_loss import (
    HELD_OUT_BEDS,
    LOSS_SPACE,
    LOSS_TRAINING,
    SEARCH_BEDS,
    LossTrainingParams,
    dqn_program,
    dqn_reg_program,
    program_loss,
    return_range,
    rl_loss_domain,
    score_loss,
)
from behavior_models.program_search.evolution import NO_PARENT, Search, SearchConfig
from behavior_models.program_search.export import num_live_nodes, to_formula
from behavior_models.program_search.program import Program
from behavior_models.program_search.run import SearchResult, run_search
from examples.reproductions.waymax_common import Criterion
from waymax_sim.pytree import tree_index
from waymax_sim.results_dir import read_json, write_json

NUM_RESAMPLES = 2000
# Seed of the trainings that choose among found losses.
VALIDATION_SEED = 4000
# Seed of the trainings of the comparison.
TEST_SEED = 9000
# Score from which the first environment of a search counts as learned.
HURDLE = LOSS_TRAINING.hurdle


@dataclasses.dataclass(frozen=True)
class LossStudy:
    """Size of the study.

    Attributes:
      out: Folder of the searches and the report.
      num_searches: Searches.
      budget: Evaluated losses of each search.
      stop_at: Losses of each search after which the study goes on; a later one with a larger number continues it.
      num_best: Losses of each search that are scored again.
      num_validation: Trainings of each of them in each environment.
      num_test: Paired trainings of the comparison in each environment.
      quick: One search of 12 losses with short trainings, to see that it runs.
    """

    out: Path
    num_searches: int = 2
    budget: int = 300
    stop_at: int | None = None
    num_best: int = 8
    num_validation: int = 10
    num_test: int = 20
    quick: bool = False

    @property
    def training(self) -> LossTrainingParams:
        """Training of the losses."""
        if not self.quick:
            return LOSS_TRAINING
        return dataclasses.replace(LOSS_TRAINING, num_steps=40, num_seeds=1, num_vehicles=20, hurdle=0.0)

    @property
    def config(self) -> SearchConfig:
        """Sizes of the searches; without a comparison of programs, which the few evaluations would not train."""
        if self.quick:
            return SearchConfig(12, population=4, tournament=2, num_tries=4, filter="none", train_interval=4)
        return SearchConfig(self.budget, population=20, tournament=6, num_tries=4, filter="none", train_interval=10)


def find_losses(study: LossStudy) -> SearchResult:
    """The searches, or those of the folder."""
    count = 1 if study.quick else study.num_searches
    domain = rl_loss_domain(params=study.training)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("losses", total=study.config.budget)

        def report(evaluated: int, fitness: float) -> None:
            bar.update(task, completed=evaluated, description=f"losses: best {fitness:.3f}")

        search = Search(domain, study.config)
        return run_search(study.out / "search", search, list(range(count)), report, 1, study.stop_at)


class Scorer:
    """Scores of losses in given environments, by one compiled program for each environment.

    Args:
      beds: The environments.
      params: Training.
      seed: Seed of the trainings.
      count: Trainings in each environment.
    """

    def __init__(self, beds: tuple[CarFollowingBedParams, ...], params: LossTrainingParams, seed: int, count: int):
        keys = [jax.random.split(jax.random.key(seed + index), count) for index in range(len(beds))]
        limits = [return_range(bed, params) for bed in beds]
        self._runs = [
            jax.jit(functools.partial(_score, bed=bed, keys=own, limits=limit, params=params))
            for bed, own, limit in zip(beds, keys, limits, strict=True)
        ]

    def __call__(self, program: Program) -> Float[np.ndarray, "B S"]:
        """Scores of all trainings in all environments; 0 for losses that train nothing."""
        scores = [np.asarray(run(jax.tree.map(jnp.asarray, program))) for run in self._runs]
        return np.nan_to_num(np.stack(scores), nan=0.0)


def _score(program: Program, bed: Any, keys: Any, limits: tuple[float, float], params: LossTrainingParams) -> Any:
    return score_loss(program_loss(program), bed, keys, limits, params).score


def stored_scores(path: Path, scorer: Scorer, programs: dict[str, Program]) -> dict[str, np.ndarray]:
    """Scores of programs, from a file as far as they are in it.

    Args:
      path: The file.
      scorer: The trainings.
      programs: Programs by name.
    """
    stored = read_json(path) if path.exists() else {}
    for name, program in programs.items():
        if name not in stored:
            stored[name] = scorer(program).tolist()
            write_json(path, stored)
    return {name: np.asarray(stored[name]) for name in programs}


def rewardless_program() -> Program:
    """A control: the loss of DQN without the reward."""
    node, first = LOSS_SPACE.node, LOSS_SPACE.num_leaves
    q, q_target, _, discount, action = range(first)
    nodes = [
        node("dot", q, action),
        node("largest", q_target),
        node("multiply", discount, first + 1),
        node("half_squared_difference", first, first + 2),
    ]
    return LOSS_SPACE.build(nodes)


def random_loss(result: SearchResult, seed: int = 0) -> Program:
    """A control: an evaluated loss that is not chosen by its fitness; a mutated one past the hurdle if there is any.

    Args:
      result: The searches.
      seed: Seed of the draw.
    """
    archive = result.archive
    passed = np.argwhere((archive.fitness > HURDLE) & (archive.parent != NO_PARENT))
    if len(passed) == 0:
        passed = np.argwhere(np.isfinite(archive.fitness))
    search, row = passed[np.random.default_rng(seed).integers(len(passed))]
    return tree_index(tree_index(archive.programs, int(search)), int(row))


def interval(values: Float[np.ndarray, "B S"]) -> tuple[float, float, float]:
    """Mean, and its 95 % bootstrap interval over trainings within each environment."""
    rng, means = np.random.default_rng(0), []
    for _ in range(NUM_RESAMPLES):
        draws = rng.integers(values.shape[1], size=values.shape)
        means.append(np.mean(np.take_along_axis(values, draws, axis=1)))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


def criteria(scores: dict[str, np.ndarray]) -> list[Criterion]:
    """Criterion V5 and its controls.

    Args:
      scores: Scores in the held-out environments by name of the loss.
    """
    differences = {name: interval(values - scores["DQN"]) for name, values in scores.items()}
    # A training run in pairs: a difference whose interval has a negative upper bound is a worse loss.
    return [
        Criterion("V5 best found loss minus DQN, upper bound", differences["found"][2], low=0.0),
        Criterion("V5 DQNReg minus DQN, upper bound", differences["DQNReg"][2], low=0.0),
        Criterion("control, DQN without rewards minus DQN, upper bound", differences["no rewards"][2], high=0.0),
    ]


def choose(study: LossStudy, result: SearchResult) -> tuple[Program, dict[str, Any]]:
    """The best found loss by other training seeds in the environments of the search, and the table of candidates.

    Args:
      study: Size of the study.
      result: The searches.
    """
    count = 1 if study.quick else study.num_validation
    candidates: dict[str, Program] = {"DQN": dqn_program()}
    rows: dict[str, Any] = {}
    for seed in range(len(result.archive.fitness)):
        for rank, (fitness, program) in enumerate(result.best(seed, 2 if study.quick else study.num_best)):
            name = f"{seed}_{rank}"
            candidates[name] = program
            facts = {"fitness": fitness, "nodes": num_live_nodes(LOSS_SPACE, program)}
            rows[name] = facts | {"formula": to_formula(LOSS_SPACE, program)}
    scorer = Scorer(SEARCH_BEDS, study.training, VALIDATION_SEED, count)
    scores = stored_scores(study.out / "validation.json", scorer, candidates)
    for name, row in rows.items():
        row["validation"] = float(np.mean(scores[name]))
    best = max(rows, key=lambda name: rows[name]["validation"])
    facts = {"chosen": best, "candidates": rows, "dqn_validation": float(np.mean(scores["DQN"]))}
    return candidates[best], facts


def main(study: LossStudy) -> list[Criterion]:
    """Runs the study, prints its tables and returns the criteria."""
    begin = time.process_time()
    result = find_losses(study)
    best, facts = choose(study, result)
    losses = {"DQN": dqn_program(), "DQNReg": dqn_reg_program(), "found": best}
    losses |= {"no rewards": rewardless_program(), "random loss": random_loss(result)}
    count = 2 if study.quick else study.num_test
    scorer = Scorer(HELD_OUT_BEDS, study.training, TEST_SEED, count)
    scores = stored_scores(study.out / "test.json", scorer, losses)
    table = Table("loss", *(f"environment {index}" for index in range(len(HELD_OUT_BEDS))), "minus DQN", "formula")
    for name, values in scores.items():
        own = [interval(row[None]) for row in values]
        difference = interval(values - scores["DQN"])
        cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in (*own, difference)]
        table.add_row(name, *cells, to_formula(LOSS_SPACE, losses[name]))
    Console(width=200, markup=False, highlight=False).print(table)
    statements = criteria(scores)
    evaluated = np.isfinite(result.archive.fitness)
    share = float(np.mean(result.archive.fitness[evaluated] > HURDLE))
    report = {"losses": int(evaluated.sum()), "share_past_hurdle": share, "scores": facts}
    report |= {"test": {name: values.tolist() for name, values in scores.items()}}
    report |= {"criteria": {str(item.name): item.passed for item in statements}}
    write_json(study.out / "report.json", report)
    seconds = time.process_time() - begin
    print(f"chosen {facts['chosen']}; {share:.0%} of {evaluated.sum()} losses past the hurdle; {seconds:.0f} CPU s")
    return statements


if __name__ == "__main__":
    for criterion in main(tyro.cli(LossStudy)):
        print(criterion)
