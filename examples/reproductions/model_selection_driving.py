"""Model selection from logged driving: the rung of a critic, and one-shot decisions with skewed logs.

    python -m examples.reproductions.model_selection_driving [--quick] [--picture FILE]

ModBE on car following with and without effective lights, where the right rung of features is known; and the rules of
contextual bandits on decisions that are simulated in the graph (`behavior_models.model_selection.decision_bed`).
"""

import dataclasses
import functools
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from behavior_models.model_selection.bandit_beds import Regrets, compute_regrets
from behavior_models.model_selection.batch_policy import BanditParams
from behavior_models.model_selection.dataset_context import summarize_selection
from behavior_models.model_selection.decision_bed import (
    SITUATIONS,
    decision_bandit,
    expected_outcomes,
)
from behavior_models.model_selection.decision_scene import DecisionParams, template_scenario
from behavior_models.model_selection.light_bed import RUNGS, LightBedParams, select_rung
from examples.reproductions.model_selection import BANDIT_HEADER, SelectionConfig, interval, table_row
from examples.reproductions.waymax_common import Criterion
from waymax_sim.viz.selection import draw_selection

# Bound of all predictions of a context with 90 % probability, in standard deviations: 4 classes and 5 actions.
CONSTANTS = BanditParams(noise=0.3, confidence=float(np.sqrt(2 * np.log(4 * 5 / 0.1))))


@dataclasses.dataclass(frozen=True)
class DrivingConfig(SelectionConfig):
    """Sizes of the experiments.

    Attributes:
      picture: Image of the tests of one seed where lights matter; nothing else is run then.
    """

    picture: Path | None = None


def draw_rungs(path: Path, seed: int) -> None:
    """Draws held-out errors, and gaps against tolerances, of one selection.

    Args:
      path: Image to write.
      seed: Seed of the transitions.
    """
    select = jax.jit(lambda key: select_rung(key, LightBedParams(), 6000))
    draw_selection(summarize_selection(select(jax.random.key(seed)), RUNGS), path)


def rungs(config: SelectionConfig) -> list[Criterion]:
    """Criterion D-M: families with lights need the rung of lights, families without do not."""
    criteria, count = [], 2 if config.quick else 20
    print(f"Rung chosen in {count} seeds\n{table_row('family', ['rule', *RUNGS])}")
    print("|" + "---|" * (2 + len(RUNGS)))
    for matter, right in ((True, 3), (False, 2)):
        bed = LightBedParams(lights_matter=matter)
        run = jax.jit(functools.partial(_choose_rungs, bed=bed, num_vehicles=1000 if config.quick else 6000))
        choices = jax.device_get(run(config.keys(60 + int(matter), 20)[:count]))
        name = "lights matter" if matter else "lights without effect"
        for rule, chosen in zip(("ModBE", "hold-out"), choices, strict=True):
            counts = np.bincount(chosen, minlength=len(RUNGS))
            print(table_row(name, [rule, *map(str, counts)]), flush=True)
        share = float(np.mean(choices[0] == right))
        criteria.append(Criterion(f"D-M {name}: share of the rung {RUNGS[right]!r}", share, low=0.9))
    return criteria


def _choose_rungs(keys, bed: LightBedParams, num_vehicles: int):
    def one(key):
        result = select_rung(key, bed, num_vehicles)
        return result.chosen, result.held_out_choice

    return jax.lax.map(one, keys)


def decisions(config: SelectionConfig) -> list[Criterion]:
    """Regret and certificates of all rules on simulated decisions."""
    params, criteria = DecisionParams(), []
    scenario = jax.device_put(template_scenario(params))
    key = jax.random.fold_in(jax.random.key(config.seed), 70)
    contexts, mean = expected_outcomes(scenario, key, 60 if config.quick else 400, 32, params)
    names = ", ".join(SITUATIONS)
    print(f"\nDecisions ({names}), {len(config.keys(0, 20))} seeds of logs\n{BANDIT_HEADER}")
    print("|" + "---|" * 8)
    for index, samples in enumerate((200,) if config.quick else (200, 500, 2000)):
        run = jax.jit(functools.partial(_decide, count=samples, params=params))
        result = jax.device_get(run(config.keys(71 + index, 20), scenario, contexts, mean))
        best = np.asarray(result.per_class)[:, np.argmin(np.mean(result.per_class, axis=0))]
        rules = (getattr(result, name) for name in ("hold_out", "slope", "complexity_coverage", "upper_bound"))
        cells = [interval(best), f"{np.mean(result.per_class, axis=0).max():.4f}", *map(interval, rules)]
        print(table_row(str(samples), [*cells, f"{np.mean(result.valid):.3f}"]), flush=True)
        if samples <= 500:
            wins = float(np.mean(result.complexity_coverage <= best))
            ratio = float(np.mean(result.upper_bound) / np.mean(best))
            criteria += [
                Criterion(f"decisions at n = {samples}: share of seeds not worse than the best class", wins, low=0.8),
                Criterion(f"decisions at n = {samples}: valid certificates", float(np.mean(result.valid)), low=0.9),
                Criterion(f"decisions at n = {samples}: control, upper bounds over the best class", ratio, low=1.0),
            ]
    return criteria


def _decide(keys, scenario, contexts, mean, count: int, params: DecisionParams) -> Regrets:
    def one(key):
        return compute_regrets(decision_bandit(scenario, key, count, contexts, mean, params), CONSTANTS)

    return jax.lax.map(one, keys)


def main(config: DrivingConfig) -> list[Criterion]:
    """Prints all tables and returns the criteria."""
    if config.picture is not None:
        draw_rungs(config.picture, config.seed)
        return []
    start = time.process_time()
    criteria = [criterion for part in (rungs, decisions) for criterion in part(config)]
    print(f"{time.process_time() - start:.0f} CPU s")
    return criteria


if __name__ == "__main__":
    for criterion in main(tyro.cli(DrivingConfig)):
        print(criterion)
