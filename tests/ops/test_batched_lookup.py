"""Batched map queries, loops over masked items, and equal results of the programs for CPUs and accelerators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scenes import busy_raw_scene
from waymax_sim.bench.cases import each_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.env import Env, EnvConfig, agent_centric_view
from waymax_sim.ops import backend
from waymax_sim.ops.batched_lookup import batch_over_maps, nonzero_padded, update_masked
from waymax_sim.pytree import tree_index

ENV = Env(config=EnvConfig(metrics=("overlap", "offroad", "wrong_way"), rewards=()))


@batch_over_maps
def query(one_map, index, x, y):
    return {"sum": jnp.sum(one_map["points"], axis=-1)[index] + x, "product": one_map["factor"][index] * x * y}


MAP = {"points": np.arange(6.0, dtype=np.float32), "factor": np.float32(3)}
MAPS = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1, leaf * 2]), MAP)
X = np.float32([[1, 7], [2, 8], [3, 9]])
Y = np.float32([[4, 1], [5, 2], [6, 3]])


def each(*arguments):
    """The results of single queries, outside of any batch."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[query(*tree_index(arguments, i)) for i in range(3)])


def same(result, expected):
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_batched_maps_and_queries():
    same(jax.vmap(query)(MAPS, X, Y), each(MAPS, X, Y))
    many = jax.tree.map(lambda leaf: np.stack([leaf] * 3), MAP)
    same(jax.vmap(query, in_axes=(None, 0, 0))(MAP, X, Y), each(many, X, Y))
    same(jax.vmap(query, in_axes=(None, 0, None))(MAP, X, Y[0]), each(many, X, Y[:1].repeat(3, 0)))
    same(jax.vmap(query, in_axes=(0, None, None))(MAPS, X[0], Y[0]), each(MAPS, X[:1].repeat(3, 0), Y[:1].repeat(3, 0)))
    # Part of a map may be shared.
    axes = ({"points": 0, "factor": None}, 0, 0)
    shared = MAPS | {"factor": MAP["factor"]}
    same(jax.vmap(query, in_axes=axes)(shared, X, Y), each(MAPS | {"factor": many["factor"]}, X, Y))


def test_nested_batches():
    result = jax.vmap(jax.vmap(query), in_axes=(None, 0, 0))(MAPS, np.stack([X, Y]), np.stack([Y, X]))
    for row, (x, y) in enumerate([(X, Y), (Y, X)]):
        same(tree_index(result, row), each(MAPS, x, y))


def test_only_masked_items_are_updated():
    mask = np.arange(10) % 3 == 0
    values = {"a": jnp.zeros(10), "b": jnp.zeros((10, 2), jnp.int32)}
    result = update_masked(
        values, mask, 3, lambda index: {"a": index.astype(jnp.float32) + 1, "b": jnp.stack([index, index], axis=-1)}
    )
    np.testing.assert_array_equal(result["a"], np.where(mask, np.arange(10) + 1, 0))
    np.testing.assert_array_equal(result["b"], np.where(mask, np.arange(10), 0)[:, None].repeat(2, 1))


def test_nonzero_padded_lists_masked_items():
    mask = np.random.default_rng(0).random((4, 20)) < [[0], [0.3], [0.7], [1]]
    items, count = jax.jit(jax.vmap(lambda mask: nonzero_padded(mask, 25)))(mask)
    for row, result, number in zip(mask, items, count, strict=True):
        expected = np.flatnonzero(row)
        assert number == len(expected)
        np.testing.assert_array_equal(result, np.append(expected, np.full(25 - len(expected), 20)))


@pytest.fixture
def accelerator(monkeypatch):
    """Selects the algorithms for accelerators, on the device of the tests."""
    jax.clear_caches()
    monkeypatch.setattr(backend, "on_cpu", lambda: False)
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def scenes():
    return stack_scenarios([to_scenario(busy_raw_scene(seed, num_agents=12)) for seed in range(3)])


def look(scenario):
    state, out = ENV.reset(scenario, jax.random.key(0))
    return out.metrics, agent_centric_view(ENV.observe(scenario, state), "all", num_agents=6, num_polylines=20)


@pytest.fixture(scope="module")
def cpu_result(scenes):
    return jax.jit(each_scene(look))(scenes)


def test_accelerator_algorithms_give_equal_results(scenes, cpu_result, accelerator):
    result = jax.jit(each_scene(look))(scenes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), result, cpu_result)


def test_vectorized_scenes_equal_sequential_ones(scenes, cpu_result):
    result = jax.jit(jax.vmap(look))(scenes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), result, cpu_result)
