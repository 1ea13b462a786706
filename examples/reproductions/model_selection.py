"""Model selection from logged data: the test beds with a known optimum, and their controls.

    python -m examples.reproductions.model_selection [--quick]

ModBE (arXiv 2211.02016) on linear Markov decision processes and on a persistent density, and the rules for contextual
bandits (arXiv 2112.12320) in two regimes. The same rules on driving data are `model_selection_driving.py`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np
import tyro
from jaxtyping import Float, Key, Shaped

from behavior_models.model_selection.bandit_beds import NestedParams, RegionParams, Regrets, run_bandits
from behavior_models.model_selection.linear_beds import (
    DENSITY_COMPLETE_CLASS,
    DensityParams,
    FiniteMDP,
    Instance,
    LinearMDPParams,
    random_linear_mdp,
    run_instances,
    sample_steps,
    select_class,
)
from behavior_models.model_selection.modbe import LoggedSteps, split_steps
from examples.reproductions.model_selection_loop import host_steps, modbe_loop
from examples.reproductions.waymax_common import Criterion, table_line
from waymax_sim.pytree import Array, tree_index

NUM_RESAMPLES = 2000
# Runs of which the median time counts.
NUM_REPEATS = 5
# Constant of SLOPE by its theory, for comparison with the default.
LOOSE_SLOPE = 2.0


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Sizes of the experiments.

    Attributes:
      quick: Few instances and the smallest tables, to see that all parts run.
      seed: Seed of all instances.
    """

    quick: bool = False
    seed: int = 2026

    def keys(self, part: int, count: int):
        """Random keys of the instances of an experiment; few of them if quick."""
        return jax.random.split(jax.random.fold_in(jax.random.key(self.seed), part), 3 if self.quick else count)


def table_row(name: str, cells: Iterable[str]) -> str:
    """A row of a table.

    Args:
      name: First cell.
      cells: Further cells.
    """
    return table_line(name, {str(index): cell for index, cell in enumerate(cells)})


def interval(values: Shaped[np.ndarray, " I"]) -> str:
    """Mean and 95 % bootstrap interval over instances."""
    draws = np.random.default_rng(0).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.quantile(np.mean(values[draws], axis=1), (0.025, 0.975))
    return f"{np.mean(values):.4f} ({low:.4f} to {high:.4f})"


def ratio_bound(first: Float[np.ndarray, " I"], second: Float[np.ndarray, " I"], quantile: float) -> float:
    """Bootstrap quantile, over common draws of instances, of the ratio of two means."""
    draws = np.random.default_rng(0).integers(len(first), size=(NUM_RESAMPLES, len(first)))
    ratios = np.mean(first[draws], axis=1) / np.maximum(np.mean(second[draws], axis=1), 1e-12)
    return float(np.quantile(ratios, quantile))


def _chosen_regret(result: Instance, chosen: Shaped[np.ndarray, " I"]) -> np.ndarray:
    return np.asarray(result.regret)[np.arange(len(chosen)), chosen]


def linear_mdps(config: SelectionConfig) -> list[Criterion]:
    """Criteria M1, M2 and M4, and the table of linear MDPs."""
    bed, criteria = LinearMDPParams(), []
    complete = bed.dimensions.index(bed.true_dimension)
    print(f"Linear MDPs, {len(config.keys(0, 40))} instances, regret: mean and 95 % interval over instances")
    print("| n | k* chosen | by hold-out | ModBE | class k* | smallest | largest |\n|---|---|---|---|---|---|---|")
    for index, samples in enumerate((300,) if config.quick else (100, 300, 1000, 4000)):
        result = jax.device_get(run_instances(config.keys(index, 40), bed, samples))
        regret, own = np.asarray(result.regret), _chosen_regret(result, result.chosen)
        share = float(np.mean(result.chosen == complete))
        columns = own, regret[:, complete], regret[:, 0], regret[:, -1]
        cells = [f"{share:.0%}", f"{np.mean(result.held_out_choice == complete):.0%}", *map(interval, columns)]
        print(table_row(str(samples), cells), flush=True)
        if samples >= 300:
            best, low = ratio_bound(own, columns[1], 0.975), ratio_bound(own, columns[2], 0.975)
            criteria += [Criterion(f"M1 share of k* at n = {samples}", share, low=0.9)]
            criteria += [Criterion(f"M2 regret over that of k* at n = {samples}, upper bound", best, high=1.05)]
            criteria += [Criterion(f"M2 regret over that of the smallest, n = {samples}, upper bound", low, high=0.6)]
        if 300 <= samples <= 1000:
            high = ratio_bound(own, columns[3], 0.975)
            criteria += [Criterion(f"M2 regret over that of the largest, n = {samples}, upper bound", high, high=0.6)]
    broken = dataclasses.replace(bed, complete=False)
    result = jax.device_get(run_instances(config.keys(9, 40), broken, 1000 if config.quick else 4000))
    last = float(np.mean(result.chosen == len(bed.dimensions) - 1))
    return [*criteria, Criterion("M4 no class but the last is complete: share of the last", last, low=0.9)]


def densities(config: SelectionConfig) -> list[Criterion]:
    """Criterion M3 and the table of persistent densities."""
    criteria = []
    print(f"\nPersistent density, {len(config.keys(0, 100))} instances")
    print("| n | k* by ModBE | by hold-out | ModBE | hold-out | class k* |\n|---|---|---|---|---|---|")
    for index, samples in enumerate((1000,) if config.quick else (1000, 4000)):
        result = jax.device_get(run_instances(config.keys(20 + index, 100), DensityParams(), samples))
        own, held_out = (_chosen_regret(result, rule) for rule in (result.chosen, result.held_out_choice))
        shares = [np.mean(rule == DENSITY_COMPLETE_CLASS) for rule in (result.chosen, result.held_out_choice)]
        columns = own, held_out, np.asarray(result.regret)[:, DENSITY_COMPLETE_CLASS]
        cells = [*(f"{share:.0%}" for share in shares), *map(interval, columns)]
        print(table_row(str(samples), cells), flush=True)
        ratio = ratio_bound(held_out, own, 0.025)
        criteria += [Criterion(f"M3 share of k* by ModBE at n = {samples}", float(shares[0]), low=0.9)]
        criteria += [Criterion(f"M3 control, share of k* by hold-out at n = {samples}", float(shares[1]), high=0.1)]
        criteria += [Criterion(f"M3 hold-out regret over ModBE's at n = {samples}, lower bound", ratio, low=3.0)]
    return criteria


def _bandit_row(samples: int, result: Regrets) -> None:
    names = "hold_out", "slope", "complexity_coverage", "upper_bound"
    per_class = np.mean(result.per_class, axis=0)
    cells = [f"{per_class.min():.4f}", f"{per_class.max():.4f}", *(interval(getattr(result, name)) for name in names)]
    print(table_row(str(samples), [*cells, f"{np.mean(result.valid):.3f}"]), flush=True)


BANDIT_HEADER = "| n | best class | worst | hold-out | SLOPE | complexity-coverage | upper bounds | valid |"


def good_coverage(config: SelectionConfig) -> list[Criterion]:
    """Criteria S1 and S3 and the table of regime A."""
    regime, criteria = NestedParams(), []
    print(f"\nRegime A, good coverage, small classes wrong; {len(config.keys(0, 60))} bandits\n{BANDIT_HEADER}")
    print("|" + "---|" * 8)
    for index, samples in enumerate((100,) if config.quick else (100, 500, 2000, 20000)):
        result = jax.device_get(run_bandits(config.keys(30 + index, 60), regime, samples))
        _bandit_row(samples, result)
        best = np.asarray(result.per_class)[:, np.argmin(np.mean(result.per_class, axis=0))]
        ratios = [float(np.mean(rule) / np.mean(best)) for rule in (result.hold_out, result.complexity_coverage)]
        if samples <= 2000:
            criteria += [Criterion(f"S1 hold-out over the best class at n = {samples}", ratios[0], high=1.3)]
        if samples == 2000:
            criteria += [Criterion("S1 complexity-coverage over the best class, must fail", ratios[1], low=5.0)]
        if samples >= 2000:
            loose = run_bandits(config.keys(30 + index, 60), dataclasses.replace(regime, slope=LOOSE_SLOPE), samples)
            wide = float(np.mean(loose.slope) / np.mean(best))
            print(f"SLOPE with the constant {LOOSE_SLOPE:g}: {wide:.2f} times the regret of the best class")
            bound, ratio = 5.0 if samples == 2000 else 1.5, float(np.mean(result.slope) / np.mean(best))
            criteria += [Criterion(f"S3 SLOPE over the best class at n = {samples}", ratio, high=bound)]
    return criteria


def bad_coverage(config: SelectionConfig) -> list[Criterion]:
    """Criterion S2 with its control and the table of regime B."""
    criteria = []
    print(f"\nRegime B, skewed logging, all classes right; {len(config.keys(0, 30))} bandits\n{BANDIT_HEADER}")
    print("|" + "---|" * 8)
    for index, samples in enumerate((300,) if config.quick else (100, 300, 1000, 3000)):
        result = jax.device_get(run_bandits(config.keys(40 + index, 30), RegionParams(), samples))
        _bandit_row(samples, result)
        best = np.asarray(result.per_class)[:, np.argmin(np.mean(result.per_class, axis=0))]
        composed, wins = result.complexity_coverage, result.complexity_coverage < np.min(result.per_class, axis=1)
        ratio, held_out = ratio_bound(composed, best, 0.975), float(np.mean(result.hold_out) / np.mean(best))
        criteria += [
            Criterion(f"S2 complexity-coverage over the best class at n = {samples}, upper bound", ratio, high=0.3),
            Criterion(f"S2 better than each class, share at n = {samples}", float(np.mean(wins)), low=0.95),
            Criterion(f"S2 hold-out over the best class at n = {samples}", held_out, low=0.9),
        ]
        if samples in (300, 1000):
            ratio = float(np.mean(result.upper_bound) / np.mean(best))
            criteria += [Criterion(f"S2 control, upper bounds over the best class at n = {samples}", ratio, low=1.0)]
    return criteria


def speed(config: SelectionConfig) -> list[Criterion]:
    """CPU time of one program against that of a plain loop, for the same transitions: medians of `NUM_REPEATS` runs.

    The loop stops at the first class that passes, and does not test a class any more that has failed.
    """
    bed, samples = LinearMDPParams(), 1000
    make = jax.jit(lambda keys: jax.lax.map(lambda key: _make_instance(key, bed, samples), keys))
    mdps, steps = make(config.keys(50, 40))
    select = jax.jit(
        lambda *data: jax.lax.map(lambda item: select_class(item[0], item[1], bed.dimensions).chosen, data)
    )
    chosen = np.asarray(select(mdps, steps))
    train, valid = (host_steps(part) for part in _split_instances(steps))
    features = np.asarray(mdps.features, np.float64)

    def loop() -> np.ndarray:
        rows = (tree_index((train, valid), index) for index in range(len(features)))
        pairs = zip(rows, features, strict=True)
        return np.array([modbe_loop(first, second, table, bed.dimensions)[0] for (first, second), table in pairs])

    compiled, looped = median_time(lambda: jax.block_until_ready(select(mdps, steps))), median_time(loop)
    count = len(features)
    print(f"\n{count} instances at n = {samples}: {1e3 * compiled:.0f} CPU ms, loop {1e3 * looped:.0f} CPU ms")
    return [
        Criterion("CPU time of the loop over that of the program", looped / compiled, low=5.0),
        Criterion("share of equal choices", float(np.mean(loop() == chosen)), low=0.95),
    ]


def _make_instance(key: Key[Array, ""], bed: LinearMDPParams, samples: int) -> tuple[FiniteMDP, LoggedSteps]:
    instance_key, data_key = jax.random.split(key)
    mdp = random_linear_mdp(instance_key, bed)
    return mdp, sample_steps(mdp, data_key, samples, bed.noise)


def _split_instances(steps: LoggedSteps) -> tuple[LoggedSteps, LoggedSteps]:
    """`split_steps` of each instance."""
    return jax.vmap(split_steps)(steps)


def median_time(run: Callable[[], object]) -> float:
    """Median CPU time of `NUM_REPEATS` calls, s."""
    times = []
    for _ in range(NUM_REPEATS):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return float(np.median(times))


def main(config: SelectionConfig) -> list[Criterion]:
    """Prints all tables and returns the criteria."""
    parts = linear_mdps, densities, good_coverage, bad_coverage, speed
    return [criterion for part in parts for criterion in part(config)]


if __name__ == "__main__":
    for criterion in main(tyro.cli(SelectionConfig)):
        print(criterion)
