import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import LogReplay, Random
from tests.scenes import busy_raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.evaluation import fit_chunk_size, map_scenes
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

if len(jax.devices()) < 2:
    pytest.skip("these tests compare one device with two", allow_module_level=True)

ENV = Env(config=EnvConfig(controlled="all", height_source="log", metrics=("overlap", "offroad", "log_divergence")))
# Most tests are not about maps: this compiles in a third of the time.
LIGHT = Env(config=EnvConfig(controlled="all", height_source="log", metrics=("overlap", "log_divergence"), rewards=()))
ONE, TWO = (jax.make_mesh((n,), ("any_name",), devices=jax.devices()[:n]) for n in (1, 2))
MANY = 5


def simulate(scenario, key):
    """A function that draws, moves and judges."""
    trace = rollout(LIGHT, Random(), scenario, key, num_steps=8)
    return trace.agents, trace.metrics


def nearest_point(scenario, key):
    """Compiles at once and takes memory."""
    xyz = scenario.roadmap.xyz
    return jnp.sort(jnp.linalg.norm(xyz[:, None] - xyz[None], axis=-1), axis=-1)[:, 1]


@functools.cache
def batch():
    scenes = [to_scenario(busy_raw_scene(seed), pad_to_bucket=False) for seed in range(MANY)]
    return stack_scenarios(scenes), jax.random.split(jax.random.key(0), MANY)


@functools.cache
def one_by_one():
    run, (scenarios, keys) = jax.jit(simulate), batch()
    return jax.device_get([run(tree_index(scenarios, index), keys[index]) for index in range(MANY)])


def num_bytes(tree) -> int:
    leaves = [
        jax.eval_shape(jax.random.key_data, x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def memory(function, scenarios, keys, **options):
    mapped = jax.jit(lambda *arguments: map_scenes(function, *arguments, **options))
    return mapped.lower(scenarios, keys).compile().memory_analysis()


def assert_same_world(results, expected):
    """Events and masks are identical, numbers are the same up to round-off in float32."""
    for ours, theirs in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        if ours.dtype == bool:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-5)
    for name in {"overlap", "offroad"} & expected[1].keys():
        np.testing.assert_array_equal(results[1][name].value, expected[1][name].value)


@pytest.mark.parametrize(
    ("num", "mesh"), [(5, ONE), (1, TWO), (5, None)], ids=["5 on one device", "1 on two", "5 on all"]
)
def test_scenes_come_out_as_if_simulated_alone(num, mesh):
    scenarios, keys = batch()
    results = jax.device_get(map_scenes(simulate, tree_index(scenarios, slice(num)), keys[:num], mesh=mesh))
    assert all(len(leaf) == num for leaf in jax.tree.leaves(results))
    for index in range(num):
        assert_same_world(tree_index(results, index), one_by_one()[index])


@pytest.mark.slow
def test_one_and_two_devices_give_the_same_events():
    def simulate_metrics(scenario, key):
        trace = rollout(ENV, Random(), scenario, key, num_steps=8)
        return trace.agents, trace.metrics

    one, two = (jax.device_get(map_scenes(simulate_metrics, *batch(), mesh=mesh)) for mesh in (ONE, TWO))
    assert_same_world(two, one)
    for name in ("overlap", "offroad"):
        assert set(np.unique(one[1][name].value)) == {0.0, 1.0}


def test_the_batch_lies_on_all_devices():
    scenarios, keys = batch()
    results = map_scenes(nearest_point, tree_index(scenarios, slice(4)), keys[:4], mesh=TWO)
    for leaf in jax.tree.leaves(results):
        assert [(shard.device, len(shard.data)) for shard in leaf.addressable_shards] == [
            (device, 2) for device in jax.devices()[:2]
        ]


def repeated():
    """The batch three times."""
    scenarios, keys = batch()
    return tree_index(scenarios, np.arange(3 * MANY) % MANY), jnp.tile(keys, 3)


def test_chunks_stay_within_the_memory_budget():
    (scenarios, keys), (many, more_keys) = batch(), repeated()
    whole = memory(nearest_point, scenarios, keys, mesh=ONE)
    budget = whole.temp_size_in_bytes
    stats = memory(nearest_point, many, more_keys, mesh=ONE, memory_budget=budget)
    assert stats.argument_size_in_bytes > 2.9 * whole.argument_size_in_bytes
    assert stats.temp_size_in_bytes <= budget
    assert 1 <= fit_chunk_size(nearest_point, many, more_keys, budget, mesh=ONE) <= MANY
    chunked = map_scenes(nearest_point, many, more_keys, mesh=ONE, memory_budget=budget)
    alone = jax.vmap(nearest_point)(jax.device_put(scenarios), keys)
    np.testing.assert_allclose(chunked, jnp.tile(alone, (3, 1)), rtol=1e-6)


@pytest.mark.slow
def test_rollouts_in_equal_chunks_have_the_same_bits_on_one_and_two_devices():
    # Enough for one scene at a time, and a little for counting chunks.
    budget = memory(simulate, *batch(), mesh=ONE).temp_size_in_bytes + 1000
    at_once = [fit_chunk_size(simulate, *repeated(), budget, mesh=mesh) for mesh in (ONE, TWO)]
    assert at_once[0] == at_once[1] < MANY
    one, two = (
        jax.device_get(map_scenes(simulate, *repeated(), mesh=mesh, memory_budget=budget)) for mesh in (ONE, TWO)
    )
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for index in range(3 * MANY):
        assert_same_world(tree_index(one, index), one_by_one()[index % MANY])


def test_a_budget_for_everything_needs_one_chunk():
    scenarios, keys = batch()
    assert fit_chunk_size(nearest_point, scenarios, keys, 2**40, mesh=ONE) == MANY
    assert fit_chunk_size(nearest_point, scenarios, keys, 2**40, mesh=TWO) == 3


def test_a_budget_too_small_for_one_scene_is_refused():
    scenarios, keys = batch()
    with pytest.raises(ValueError, match=r"memory_budget=10 is too small: one scene takes \d{4,} bytes"):
        map_scenes(nearest_point, scenarios, keys, memory_budget=10)


def test_scenes_and_keys_must_match():
    scenarios, keys = batch()
    with pytest.raises(ValueError, match="3 keys for 5 scenarios"):
        map_scenes(nearest_point, scenarios, keys[:3])
    with pytest.raises(ValueError, match="no scenes"):
        map_scenes(nearest_point, tree_index(scenarios, slice(0)), keys[:0])


def test_a_program_is_made_once():
    traced = []

    def count(scenario, key):
        traced.append(scenario)
        return scenario.log.xyz.sum()

    scenarios, keys = batch()
    first = map_scenes(count, scenarios, keys, memory_budget=2**30)
    times = len(traced)
    assert jnp.array_equal(map_scenes(count, scenarios, keys, memory_budget=2**30), first)
    assert len(traced) == times


def test_results_may_hold_random_keys():
    scenarios, keys = batch()
    results = map_scenes(lambda scenario, key: {"key": key}, scenarios, keys, mesh=TWO)
    assert jnp.array_equal(jax.random.key_data(results["key"]), jax.random.key_data(keys))


def coast(scenario, key):
    """A rollout that looks at nothing of the map."""
    return rollout(LIGHT, Random(), scenario, key, num_steps=4, record=("metrics",)).metrics


@pytest.mark.slow
def test_rollouts_of_one_scene_share_it():
    one = jax.device_put(scene(num_steps=12))
    keys = jax.random.split(jax.random.key(3), 64)
    stats = memory(coast, one, keys, mesh=TWO)
    assert stats.argument_size_in_bytes <= num_bytes((one, keys))
    assert stats.temp_size_in_bytes < num_bytes(one)
    results = map_scenes(coast, one, keys, mesh=TWO)["log_divergence"].value
    assert results.shape[0] == 64
    alone = jax.jit(coast)(one, keys[63])["log_divergence"].value
    np.testing.assert_allclose(results[63], alone, rtol=1e-6)
    assert not jnp.array_equal(results[0], results[63])


def test_no_array_of_a_rollout_holds_the_map_once_per_key():
    one, keys = scene(), jax.random.split(jax.random.key(3), 7)
    lengths = {one.roadmap.valid.shape[0], one.edges.valid.shape[0], one.lanes.valid.shape[0]}
    mapped = jax.make_jaxpr(lambda *arguments: map_scenes(coast, *arguments, mesh=ONE))
    shapes = re.findall(r":\w+\[([\d,]+)\]", str(mapped(one, keys)))
    shapes = [tuple(map(int, shape.split(","))) for shape in shapes]
    assert any(shape[0] in lengths for shape in shapes)
    assert any(shape[0] == 7 for shape in shapes)
    assert not [shape for shape in shapes if shape[0] == 7 and lengths & set(shape[1:])]


def test_the_trace_of_a_scene_is_small():
    crowd = scene(num_steps=91, num_agents=128, current_step=10)
    trace = jax.eval_shape(lambda s, key: rollout(ENV, LogReplay(), s, key, num_steps=80), crowd, jax.random.key(0))
    assert num_bytes(trace.agents) == 80 * 128 * (12 + 4 + 8 + 1)
    assert num_bytes(trace.metrics) == 80 * 128 * 3 * (4 + 1)
    assert num_bytes(trace) < 450_000
