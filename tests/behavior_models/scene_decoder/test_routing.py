"""Consensus of futures against a search over all clusters, and the limits of the threshold."""

import jax
import numpy as np
import pytest

from behavior_models.scene_decoder.routing import RoutingParams, find_consensus, route, tune_threshold

PARAMS = RoutingParams(num_samples=8, cluster_radius=1.5)
consensus = jax.jit(find_consensus, static_argnums=1)
routed = jax.jit(route, static_argnums=4)


def search(points, radius):
    """Share and medoid of the largest cluster, by loops."""
    best: list[int] = []
    for center in points:
        members = [i for i, point in enumerate(points) if np.hypot(*(point - center)) <= radius]
        best = members if len(members) > len(best) else best
    spread = [sum(np.hypot(*(points[i] - points[j])) for j in best) for i in best]
    return len(best) / len(points), best[int(np.argmin(spread))] if best else 0


@pytest.mark.parametrize("seed", range(6))
def test_consensus_is_the_largest_cluster(seed):
    rng = np.random.default_rng(seed)
    points = (rng.normal(size=(8, 2)) + 4.0 * rng.integers(2, size=(8, 1))).astype(np.float32)
    share, medoid = search(points, 1.5)
    result = consensus(points, 1.5)
    assert float(result.share) == pytest.approx(share)
    assert int(result.medoid) == medoid


def futures(points):
    return {"xy": np.stack([np.zeros_like(points), points], axis=1), "index": np.arange(8, dtype=np.int32)}


def test_limits_of_the_threshold_are_majority_and_greedy():
    points = np.array([[0, 0]] * 3 + [[5, 5]] * 5, np.float32) + np.linspace(0, 0.1, 8, dtype=np.float32)[:, None]
    samples, greedy = futures(points), {"xy": np.full((2, 2), 9.0, np.float32), "index": np.int32(-1)}
    for threshold, expected in ((0.0, 5), (0.6, 5), (5 / 8, 5), (0.63, -1), (1.01, -1)):
        future, result = routed(samples, greedy, points, threshold, PARAMS)
        assert int(future["index"]) == expected
        assert float(result.share) == 5 / 8
    equal = np.zeros((8, 2), np.float32)
    assert int(routed(futures(equal), greedy, equal, 1.0, PARAMS)[0]["index"]) == 0
    assert int(routed(futures(equal), greedy, equal, 1.01, PARAMS)[0]["index"]) == -1


def test_futures_that_are_not_finite_are_never_executed():
    greedy = {"xy": np.zeros((2, 2), np.float32), "index": np.int32(-1)}
    points = np.full((8, 2), np.nan, np.float32)
    assert int(routed(futures(points), greedy, points, 0.0, PARAMS)[0]["index"]) == -1
    points[5:] = 1.0
    future, result = routed(futures(points), greedy, points, 0.0, PARAMS)
    assert int(future["index"]) == 5 and float(result.share) == 3 / 8


def test_threshold_separates_certain_decisions():
    share = np.array([0.25, 0.375, 0.875, 1.0])
    medoid_cost, greedy_cost = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 0.0])
    assert tune_threshold(share, medoid_cost, greedy_cost, (0.0, 0.5, 0.75, 1.0, 1.01)) == 0.75
    with pytest.raises(ValueError, match="finite"):
        tune_threshold(share, medoid_cost, np.full(4, np.nan), (0.5,))
    with pytest.raises(ValueError, match="finite"):
        tune_threshold(share[:0], share[:0], share[:0], (0.5,))
