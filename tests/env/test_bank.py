"""Scenario banks: scenarios of a bank equal separate ones, and are replaced without a change of shape."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from behavior_models import IDM, ConstantSpeed
from tests.scenes import busy_raw_scene, raw_scene
from waymax_sim import Env, EnvConfig, agent_centric_view, rollout, stack_scenarios
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.state import CALLER
from waymax_sim.env import PRESETS
from waymax_sim.env.auto_reset import draw_scenario, reset_where
from waymax_sim.env.bank import build_bank
from waymax_sim.env.bank_loader import BankLoader
from waymax_sim.maps.nearest import is_on_right_side, nearest_segment, signed_distance
from waymax_sim.maps.nearest_polylines import nearest_polylines
from waymax_sim.maps.paths import nearest_lane, segment_frenet
from waymax_sim.ops.bank import BankArray
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy


def scenes() -> list:
    """Scenarios of different sizes: a plain road, roads with a bridge and an island, more and fewer agents."""
    raw = [raw_scene(num_agents=4), busy_raw_scene(1, 12), busy_raw_scene(2, 5), raw_scene(num_agents=2)]
    return [to_scenario(one, pad_to_bucket=False) for one in raw]


SCENES = scenes()
BARE = EnvConfig(controlled="all", metrics=("overlap", "offroad", "wrong_way", "log_divergence"))


@pytest.fixture(scope="module")
def bank():
    return build_bank(SCENES, Env(config=BARE))


ROWS = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@pytest.mark.max_programs(600)  # the shapes of each example are its own
@given(lengths=ROWS, data=st.data())
def test_a_row_of_a_bank_is_the_padded_array(lengths, data):
    """Arrays of different lengths: any index gives the values of the padded and stacked array."""
    longest = max(*lengths, 1)
    arrays = [np.arange(3 * n, dtype=np.float32).reshape(n, 3) + 100 * i for i, n in enumerate(lengths)]
    padded = np.stack([np.pad(a, ((0, longest - len(a)), (0, 0)), constant_values=-1) for a in arrays])
    values = np.concatenate([*arrays, np.zeros((1, 3), np.float32)])
    counts = np.array(lengths, np.int32)
    banked = BankArray(values, (np.cumsum(counts) - counts).astype(np.int32), counts, longest, -1)
    index = data.draw(st.integers(0, len(lengths) - 1))
    row, expected = banked.row(jnp.asarray(index, jnp.int32)), padded[index]
    assert (row.shape, row.ndim, row.size, row.dtype) == (expected.shape, 2, expected.size, expected.dtype)
    np.testing.assert_array_equal(row.materialize(), expected)
    np.testing.assert_array_equal(row[:, 1], expected[:, 1])
    np.testing.assert_array_equal(row[:, np.array([2, 0])], expected[:, [2, 0]])
    np.testing.assert_array_equal(row[..., :2], expected[..., :2])
    np.testing.assert_array_equal(row.reshape(-1), expected.reshape(-1))
    np.testing.assert_array_equal((row + 1) * 2 - (1 - row), (expected + 1) * 2 - (1 - expected))
    np.testing.assert_array_equal(row > 4, expected > 4)
    if lengths[index]:
        at = np.array(data.draw(st.lists(st.integers(0, lengths[index] - 1), min_size=1, max_size=3)))
        np.testing.assert_array_equal(row[jnp.asarray(at)], expected[at])
        np.testing.assert_array_equal(row[int(at[0]), 2], expected[at[0], 2])
        np.testing.assert_array_equal(tree_index({"a": row}, at)["a"], expected[at])


def everything(scenario, key, policy):
    """Queries of all kinds, at random points in the map and far from it, and a rollout with views."""
    xyz = jax.random.uniform(key, (40, 3), minval=-60.0, maxval=60.0) * jnp.array([[1.0, 0.2, 0.05]])
    far = jnp.array([[9000.0, 5.0, 0.0], [0.0, 0.0, 400.0]])
    points, mask = jnp.concatenate([xyz, far]), jnp.ones(42, bool)
    yaw = jax.random.uniform(jax.random.fold_in(key, 1), (42,), minval=-3.0, maxval=3.0)
    lane, exists = nearest_lane(scenario.lanes, scenario.graph, points, yaw, mask, mask)
    poses = segment_frenet(scenario.lanes, scenario.graph, lane, points[:, :2], yaw)
    nearest, _ = nearest_segment(scenario.edges, points, mask)
    edge = jnp.asarray(scenario.edges.endpoints)[nearest // 8, :, nearest % 8]
    polylines, has_polyline = nearest_polylines(scenario.polylines, points[:, :2], mask, 16)
    first = jnp.asarray(scenario.polylines.first_point).reshape(-1)[polylines]
    env = Env(config=BARE)
    trace = rollout(env, policy, scenario, key, 5)
    observation = env.observe(scenario, trace.final)
    return {
        "edge": edge,
        "right": is_on_right_side(scenario.edges, points, mask),
        "distance": signed_distance(scenario.edges, points, mask),
        "lane": jnp.where(exists, lane, -1),
        "frenet": jax.tree.map(lambda x: jnp.where(exists, x, 0), poses),
        "polylines": jnp.where(has_polyline, first, -1),
        "view": agent_centric_view(observation, jnp.arange(2, dtype=jnp.int32), num_agents=3, num_polylines=9),
        "agents": tree_index(trace.agents, (slice(None), slice(2))),
        "metrics": tree_index(trace.metrics, (slice(None), slice(2))),
    }


@pytest.mark.parametrize("policy", [ConstantSpeed(), pytest.param(IDM(), marks=pytest.mark.slow)])
def test_a_scenario_in_a_bank_equals_the_scenario(bank, policy):
    """All kinds of queries and rollouts, batched over environments that partly share a scenario."""
    index = jnp.array([0, 1, 2, 3, 1], jnp.int32)
    keys = jax.random.split(jax.random.key(0), len(index))
    in_bank = jax.jit(lambda bank: jax.vmap(lambda i, key: everything(bank.scenario(i), key, policy))(index, keys))(
        bank
    )
    padded = tree_index(stacked(), np.asarray(index))
    alone = jax.jit(jax.vmap(lambda *args: everything(*args, policy)))(padded, keys)
    for (path, ours), other in zip(jax.tree_util.tree_leaves_with_path(in_bank), jax.tree.leaves(alone), strict=True):
        if np.issubdtype(ours.dtype, np.floating):
            np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))
        else:
            np.testing.assert_array_equal(ours, other, err_msg=jax.tree_util.keystr(path))


@functools.cache
def stacked():
    return stack_scenarios(SCENES)


def test_maps_are_not_padded(bank):
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(scene)) for scene in SCENES]
    assert bank.nbytes < 1.25 * sum(sizes)
    assert len(bank) == 4 and bank.num_agents == 12


def test_goals_and_controlled_agents_are_part_of_the_bank():
    env = Env(config=PRESETS["goal"])
    bank = build_bank(SCENES, env)
    # Nothing spawns: absent agents take no slot.
    present = [int(scene.log.valid[5].sum()) for scene in SCENES]
    assert bank.num_agents == max(present)
    scenario_at = jax.jit(lambda bank, index: bank.scenario(index))
    mask_and_goals = jax.jit(lambda scenario: (env.controlled_mask(scenario), env.prepare(scenario).goals.xy))
    for index, scene in enumerate(SCENES):
        rows = np.flatnonzero(scene.log.valid[5])
        mask, goals = jax.device_get(mask_and_goals(scene))
        np.testing.assert_array_equal(bank.controlled[index, : len(rows)], mask[rows])
        one = jax.device_get(scenario_at(bank, index))
        np.testing.assert_allclose(one.goals.xy[: len(rows)], goals[rows], atol=1e-5)
    chosen = [np.arange(scene.num_agents) == 1 for scene in SCENES]
    bank = build_bank(SCENES, env, controlled=chosen)
    assert bank.controlled.sum() == sum(bool(scene.log.valid[5][1]) for scene in SCENES)
    # At most as many agents as rows.
    few = Env(config=dataclasses.replace(BARE, max_controlled=2))
    bank = build_bank(SCENES, few, controlled=[np.ones(scene.num_agents, bool) for scene in SCENES])
    np.testing.assert_array_equal(bank.controlled, np.broadcast_to(np.arange(12) < 2, (4, 12)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.array([1.0, np.nan, 1, 1])}, "weights must be 4 finite"),
        ({"weights": np.zeros(4)}, "not all zero"),
        ({"order": np.array([4])}, "indices below 4"),
        ({"controlled": [np.ones(3, bool)] * 4}, "one entry per agent slot"),
    ],
)
def test_bad_banks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build_bank(SCENES, Env(config=BARE), **changes)


def test_banks_need_scenarios_of_one_kind():
    with pytest.raises(ValueError, match="no scenarios"):
        build_bank([], Env())
    short = to_scenario(raw_scene(num_steps=12), pad_to_bucket=False)
    with pytest.raises(ValueError, match="different numbers of steps"):
        build_bank([SCENES[0], short], Env())
    with pytest.raises(ValueError, match="with routes"):
        build_bank([SCENES[0], dataclasses.replace(SCENES[3], routes=None)], Env())


def test_draws_follow_the_weights_and_never_repeat(bank):
    weighted = dataclasses.replace(bank, weights=jnp.array([1.0, 2.0, 0.0, 1.0]))

    @jax.jit
    def draw(current):
        keys = jax.random.split(jax.random.key(1), 2000)
        return jax.vmap(lambda key: draw_scenario(weighted, key, current))(keys)

    counts = np.bincount(draw(jnp.int32(-1)), minlength=4) / 2000
    np.testing.assert_allclose(counts, [0.25, 0.5, 0, 0.25], atol=0.04)
    counts = np.bincount(draw(jnp.int32(1)), minlength=4) / 2000
    np.testing.assert_allclose(counts, [0.5, 0, 0, 0.5], atol=0.04)
    # Where no other scenario has a weight, the same one follows.
    alone = dataclasses.replace(bank, weights=jnp.array([0.0, 0.0, 1.0, 0.0]))
    assert int(draw_scenario(alone, jax.random.key(0), jnp.int32(2))) == 2


@pytest.mark.parametrize("size", [1, 5, 70])
def test_only_the_environments_that_ended_start_again(size):
    """Batched or not, the result is that of a choice, and no gradient flows into a start."""

    def start(shared, own):
        return {"a": shared * own["x"], "b": own["n"] + 1}

    rng = np.random.default_rng(size)
    own = {"x": jnp.asarray(rng.normal(size=size), jnp.float32), "n": jnp.arange(size)}
    current = {"a": jnp.zeros(size), "b": jnp.full(size, -5)}
    done = jnp.asarray(rng.random(size) < 0.4)
    shared = jnp.float32(3.0)
    batched = jax.jit(jax.vmap(lambda *args: reset_where(start, *args), in_axes=(None, 0, 0, 0)))
    result = batched(shared, own, done, current)
    np.testing.assert_array_equal(result["a"], np.where(done, 3.0 * np.asarray(own["x"]), 0.0))
    np.testing.assert_array_equal(result["b"], np.where(done, np.arange(size) + 1, -5))
    one = reset_where(start, shared, tree_index(own, 0), done[0], tree_index(current, 0))
    jax.tree.map(np.testing.assert_array_equal, one, tree_index(result, 0))
    slope = jax.grad(lambda current: jnp.sum(batched(shared, own, done, {**current, "b": own["n"]})["a"]))(
        {"a": jnp.zeros(size)}
    )
    np.testing.assert_array_equal(slope["a"], np.where(done, 0.0, 1.0))


class Source(list):
    """Scenarios, one of them unreadable."""

    def __getitem__(self, index):
        if index == 2:
            raise DataError("damaged", field="x")
        return super().__getitem__(index)


def test_part_of_a_bank_is_replaced_without_a_new_shape():
    sized = [to_scenario(raw_scene(num_agents=3, scenario_id=f"road-{i}"), pad_to_bucket=False) for i in range(9)]
    large = to_scenario(busy_raw_scene(0, 30), pad_to_bucket=False)
    env = Env(config=EnvConfig(metrics=("overlap",), rewards=()))
    loader = BankLoader(Source([*sized[:8], large]), env, 4, seed=3)

    def described(bank):
        return jax.tree.structure(bank), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(bank)]

    traces = []

    @jax.jit
    def ids(bank):
        traces.append(1)
        return jax.vmap(lambda i: bank.scenario(i).id_bytes)(jnp.arange(4))

    first, shapes = np.asarray(ids(loader.bank)), described(loader.bank)
    loader.refresh(2)
    assert loader.poll(wait=True) and not loader.poll()
    second = np.asarray(ids(loader.bank))
    np.testing.assert_array_equal(loader.bank.version, [1, 1, 0, 0])
    np.testing.assert_array_equal((first != second).any(axis=1), [True, True, False, False])
    for _ in range(4):
        loader.refresh(4)
        loader.poll(wait=True)
    assert described(loader.bank) == shapes and len(traces) == 1
    assert set(loader.problems) == {2, 8} and "damaged" in loader.problems[2]
    assert "larger" in loader.problems[8]
    loader.close()
    with pytest.raises(ValueError, match="the source has 7"):
        BankLoader(Source(sized[:8]), env, 8)


def test_a_controller_is_not_changed_by_the_bank(bank):
    env = Env(config=BARE)
    state = jax.jit(lambda: env.initial_state(bank.scenario(jnp.int32(0)), jax.random.key(0)))()
    assert (np.asarray(state.controller)[:4] == CALLER).all() and not np.asarray(state.controller)[4:].any()
