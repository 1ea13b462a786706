"""Programs for CPUs and for accelerators differ in how they go through batches, not in what they find."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scenes import busy_raw_scene
from waymax_sim.bench.cases import each_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.env import Env, EnvConfig, view
from waymax_sim.ops.batched_lookup import batch_over_maps, nonzero_padded, update_masked
from waymax_sim.pytree import take

ENV = Env(config=EnvConfig(metrics=("overlap", "offroad", "wrong_way"), rewards=()))


@batch_over_maps
def ask(road, which, x, y):
    return {"sum": jnp.sum(road["points"], axis=-1)[which] + x, "product": road["factor"][which] * x * y}


ROAD = {"points": np.arange(6.0, dtype=np.float32), "factor": np.float32(3)}
ROADS = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1, leaf * 2]), ROAD)
X, Y = np.float32([[1, 7], [2, 8], [3, 9]]), np.float32([[4, 1], [5, 2], [6, 3]])


def each(*arguments):
    """The answers to one after another, outside of any batch."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[ask(*take(arguments, i)) for i in range(3)])


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_batches_of_maps_and_of_questions():
    same(jax.vmap(ask)(ROADS, X, Y), each(ROADS, X, Y))
    many = jax.tree.map(lambda leaf: np.stack([leaf] * 3), ROAD)
    same(jax.vmap(ask, in_axes=(None, 0, 0))(ROAD, X, Y), each(many, X, Y))
    same(jax.vmap(ask, in_axes=(None, 0, None))(ROAD, X, Y[0]), each(many, X, Y[:1].repeat(3, 0)))
    same(jax.vmap(ask, in_axes=(0, None, None))(ROADS, X[0], Y[0]), each(ROADS, X[:1].repeat(3, 0), Y[:1].repeat(3, 0)))
    # Part of a map may be shared.
    axes = ({"points": 0, "factor": None}, 0, 0)
    shared = ROADS | {"factor": ROAD["factor"]}
    same(jax.vmap(ask, in_axes=axes)(shared, X, Y), each(ROADS | {"factor": many["factor"]}, X, Y))


def test_batches_of_batches():
    found = jax.vmap(jax.vmap(ask), in_axes=(None, 0, 0))(ROADS, np.stack([X, Y]), np.stack([Y, X]))
    for row, (x, y) in enumerate([(X, Y), (Y, X)]):
        same(take(found, row), each(ROADS, x, y))


def test_only_what_is_left_is_worked_off():
    left = np.arange(10) % 3 == 0
    answers = {"a": jnp.zeros(10), "b": jnp.zeros((10, 2), jnp.int32)}
    found = update_masked(
        answers, left, 3, lambda which: {"a": which.astype(jnp.float32) + 1, "b": jnp.stack([which, which], axis=-1)}
    )
    np.testing.assert_array_equal(found["a"], np.where(left, np.arange(10) + 1, 0))
    np.testing.assert_array_equal(found["b"], np.where(left, np.arange(10), 0)[:, None].repeat(2, 1))


def test_what_is_left_is_listed():
    left = np.random.default_rng(0).random((4, 20)) < [[0], [0.3], [0.7], [1]]
    items, count = jax.jit(jax.vmap(lambda left: nonzero_padded(left, 25)))(left)
    for row, found, number in zip(left, items, count, strict=True):
        expected = np.flatnonzero(row)
        assert number == len(expected)
        np.testing.assert_array_equal(found, np.append(expected, np.full(25 - len(expected), 20)))


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Takes the branches that are compiled for accelerators, on whatever device the tests run."""
    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arguments, default, **_: default(*arguments))
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def scenes():
    return stack_scenarios([to_scenario(busy_raw_scene(seed, num_agents=12)) for seed in range(3)])


def look(scenario):
    state, out = ENV.reset(scenario, jax.random.key(0))
    return out.metrics, view(ENV.observe(scenario, state), "all", num_agents=6, num_elements=20)


@pytest.fixture(scope="module")
def seen_by_a_cpu(scenes):
    return jax.jit(each_scene(look))(scenes)


def test_accelerators_find_the_same(scenes, seen_by_a_cpu, on_an_accelerator):
    found = jax.jit(each_scene(look))(scenes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, seen_by_a_cpu)


def test_at_once_is_one_after_another(scenes, seen_by_a_cpu):
    found = jax.jit(jax.vmap(look))(scenes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, seen_by_a_cpu)
