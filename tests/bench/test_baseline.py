import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import recorded
from tests.scenes import busy_raw_scene
from waymax_sim.bench.baseline import BASELINE_METRICS, baseline_metrics, flat_map
from waymax_sim.bench.cases import map_sequentially
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics import METRICS, Snapshot
from waymax_sim.pytree import stack, tree_index


def compared(scenario: Scenario, seed: int = 0, num_states: int = 3) -> None:
    """Compares both implementations on randomly shifted states of the log."""
    steps = np.linspace(1, scenario.num_steps - 1, num_states).astype(np.int32)
    rng = np.random.default_rng(seed)
    agents = [shifted(tree_index(scenario.log, int(step)), rng) for step in steps]

    @jax.jit
    def evaluate(scenario, flat, steps, agents):
        def compute(item):
            step, agents = item
            twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), agents)
            snapshot = Snapshot(scenario, step, twice)
            baseline = baseline_metrics(flat)
            return [{name: known[name].compute(snapshot) for name in BASELINE_METRICS} for known in (METRICS, baseline)]

        return jax.lax.map(compute, (steps, agents))

    indexed, expected = evaluate(scenario, flat_map(scenario.roadmap), steps, stack(agents))
    for name in BASELINE_METRICS:
        np.testing.assert_array_equal(indexed[name].valid, expected[name].valid, err_msg=name)
    for name in ("road_edge_distance", "log_divergence"):
        np.testing.assert_allclose(indexed[name].value, expected[name].value, atol=1e-4, err_msg=name)
    # The side of a corner on an edge depends on rounding.
    clear = np.abs(expected["road_edge_distance"].value) > 1e-4
    np.testing.assert_array_equal(indexed["offroad"].value[clear], expected["offroad"].value[clear])
    np.testing.assert_array_equal(indexed["overlap"].value, expected["overlap"].value)
    assert expected["road_edge_distance"].valid.any()


def shifted(agents: AgentState, rng: np.random.Generator) -> AgentState:
    xyz = agents.xyz + rng.normal(0, [4, 4, 0.2], agents.xyz.shape).astype(np.float32)
    return dataclasses.replace(agents, xyz=np.where(agents.valid[:, None], xyz, agents.xyz))


@pytest.mark.parametrize("index", range(3))
def test_both_agree_on_synthetic_scenes(index):
    compared(load("synthetic:3:3")[index])


def test_both_agree_on_bridges_islands_and_crowds():
    raw = busy_raw_scene(num_agents=24)
    repeated = np.repeat(raw.point_xyz, 1 + (np.arange(len(raw.point_xyz)) % 5 == 0), axis=0)
    feature = np.repeat(raw.point_feature, 1 + (np.arange(len(raw.point_xyz)) % 5 == 0))
    compared(to_scenario(dataclasses.replace(raw, point_xyz=repeated, point_feature=feature)), num_states=8)


def test_both_agree_on_a_recorded_scene():
    compared(load(recorded("womd/tf_example_a3bb37c25ce56418.tfrecord"))[0])


def test_offroad_is_invalid_without_road_edges():
    raw = busy_raw_scene()
    scenario = to_scenario(dataclasses.replace(raw, feature_type=np.full(7, 2)))
    flat, scenario = jax.device_put((flat_map(scenario.roadmap), scenario))
    snapshot = Snapshot(scenario, jnp.asarray(3), tree_index(scenario.log, slice(2, 4)))
    assert not baseline_metrics(flat)["offroad"].compute(snapshot).valid.any()


def test_the_flat_map_has_a_segment_per_pair_of_points():
    scenario = load("synthetic:0:1")[0]
    flat = flat_map(scenario.roadmap)
    assert len(flat.valid) == len(scenario.roadmap.valid) - 1
    assert flat.valid.sum() == scenario.edges.valid.sum()
    np.testing.assert_array_equal(flat.end[:-1], flat.start[1:])


def test_map_sequentially_is_vmap():
    x, y = jnp.arange(6.0).reshape(3, 2), jnp.arange(3.0)
    np.testing.assert_array_equal(map_sequentially(lambda x, y: x * y)(x, y), jax.vmap(lambda x, y: x * y)(x, y))
