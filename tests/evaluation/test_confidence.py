import numpy as np

from waymax_sim.evaluation.confidence import NUM_BOOTSTRAP_SAMPLES, bootstrap


def test_intervals_equal_those_of_single_draws():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(30, 3))
    table[rng.random(table.shape) < 0.3] = np.nan
    means, low, high = bootstrap(table)
    rows = [rng.integers(0, 30, 30) for _ in range(4 * NUM_BOOTSTRAP_SAMPLES)]
    for column, values in enumerate(table.T):
        sampled = [np.nanmean(values[row]) for row in rows]
        np.testing.assert_allclose(means[column], np.nanmean(values), rtol=1e-12)
        np.testing.assert_allclose(
            [low[column], high[column]],
            np.quantile(sampled, [0.025, 0.975]),
            atol=0.1 * np.std(values[values == values]),
        )


def test_undefined_columns_have_no_mean_and_single_scenes_no_interval():
    means, low, high = bootstrap(np.array([[1.0, np.nan, 2.0], [3.0, np.nan, np.nan]]))
    np.testing.assert_array_equal(means, [2.0, np.nan, 2.0])
    np.testing.assert_array_equal(np.isnan(low), [False, True, True])
    assert (low[0], high[0]) == (1.0, 3.0)
    for some in (np.zeros((0, 2)), np.ones((1, 2))):
        assert all(np.isnan(ends).all() for ends in bootstrap(some)[1:])


def test_the_coverage_of_intervals_is_about_their_confidence():
    rng = np.random.default_rng(2)
    samples = rng.exponential(1.0, size=(100, 200))
    _, low, high = bootstrap(samples)
    assert 0.9 < np.mean((low < 1.0) & (high > 1.0)) < 0.98
