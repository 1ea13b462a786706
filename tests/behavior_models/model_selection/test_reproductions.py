"""Studies of model selection: their statistics, and quick runs."""

import numpy as np
import pytest

from examples.reproductions import model_selection, selector
from examples.reproductions.model_selection import SelectionConfig, median_time, ratio_bound
from examples.reproductions.selector import SelectorStudy, paired_interval

pytestmark = pytest.mark.compile_heavy
RNG = np.random.default_rng(0)
BEST, WORST = RNG.normal(1.0, 0.2, 40), RNG.normal(0.4, 0.2, 40)


def _means(chosen, control):
    return {"best": BEST, "worst": WORST, "selector": chosen, "random members": control}


def test_criteria_of_the_selector_need_the_best_member():
    average = (BEST + WORST) / 2
    noise = RNG.normal(0, 0.05, 40)
    good = selector.criteria(_means(BEST + noise, average + noise), ("best", "worst"))
    assert [item.passed for item in good] == [True, True, True]
    # As good as the average: worse than the best member, and not better than the mean. A control that is better fails.
    bad = selector.criteria(_means(average + noise, BEST), ("best", "worst"))
    assert [item.passed for item in bad] == [False, False, False]


def test_intervals_of_pairs_leave_out_scenes_without_vehicles():
    first = np.array([1.0, np.nan, 2.0])
    assert paired_interval(first, np.array([0.5, 1.0, 1.5])) == (0.5, 0.5, 0.5)
    assert ratio_bound(BEST, 2 * BEST, 0.975) == pytest.approx(0.5)
    assert median_time(lambda: None) < 0.1


@pytest.mark.slow
def test_quick_tables_of_the_beds():
    results = {item.name: item for item in model_selection.main(SelectionConfig(quick=True))}
    assert all(np.isfinite(item.value) for item in results.values())
    assert results["M1 share of k* at n = 300"].passed
    assert results["share of equal choices"].passed


@pytest.mark.slow
def test_a_quick_comparison_of_a_selector(tmp_path):
    results = selector.main(SelectorStudy(tmp_path, quick=True))
    assert all(np.isfinite(item.value) for item in results)
    # Parts that have ended are read.
    again = selector.main(SelectorStudy(tmp_path, quick=True))
    assert [item.value for item in again] == [item.value for item in results]
