import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.data import recorded
from tests.scenes import busy_raw_scene
from waymax_sim.bench.baseline import PLAIN, plain_metrics, whole_map
from waymax_sim.bench.cases import one_by_one
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics import METRICS, Snapshot
from waymax_sim.pytree import stack, take


def compared(scenario: Scenario, seed: int = 0, num_moments: int = 3) -> None:
    """Judges moments of the log, pushed about at random, by both."""
    steps = np.linspace(1, scenario.num_steps - 1, num_moments).astype(np.int32)
    rng = np.random.default_rng(seed)
    agents = [pushed(take(scenario.log, int(step)), rng) for step in steps]

    @jax.jit
    def judged(scenario, whole, steps, agents):
        def judge(item):
            step, agents = item
            twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), agents)
            snapshot = Snapshot(scenario, step, twice, 0.1)
            plain = plain_metrics(whole)
            return [{name: known[name].compute(snapshot) for name in PLAIN} for known in (METRICS, plain)]

        return jax.lax.map(judge, (steps, agents))

    ours, plain = judged(scenario, whole_map(scenario.roadmap), steps, stack(agents))
    for name in PLAIN:
        np.testing.assert_array_equal(ours[name].valid, plain[name].valid, err_msg=name)
    for name in ("road_edge_distance", "log_divergence"):
        np.testing.assert_allclose(ours[name].value, plain[name].value, atol=1e-4, err_msg=name)
    # Within rounding of an edge the side is a matter of taste.
    clear = np.abs(plain["road_edge_distance"].value) > 1e-4
    np.testing.assert_array_equal(ours["offroad"].value[clear], plain["offroad"].value[clear])
    np.testing.assert_array_equal(ours["overlap"].value, plain["overlap"].value)
    assert plain["road_edge_distance"].valid.any()


def pushed(agents: AgentState, rng: np.random.Generator) -> AgentState:
    place = agents.xyz + rng.normal(0, [4, 4, 0.2], agents.xyz.shape).astype(np.float32)
    return dataclasses.replace(agents, xyz=np.where(agents.valid[:, None], place, agents.xyz))


@pytest.mark.parametrize("index", range(3))
def test_both_judge_made_up_scenes_alike(index):
    compared(load("synthetic:3:3")[index])


def test_both_judge_bridges_islands_and_crowds_alike():
    raw = busy_raw_scene(num_agents=24)
    repeated = np.repeat(raw.point_xyz, 1 + (np.arange(len(raw.point_xyz)) % 5 == 0), axis=0)
    feature = np.repeat(raw.point_feature, 1 + (np.arange(len(raw.point_xyz)) % 5 == 0))
    compared(to_scenario(dataclasses.replace(raw, point_xyz=repeated, point_feature=feature)), num_moments=8)


def test_both_judge_a_recorded_scene_alike():
    compared(load(recorded("womd/tf_example_a3bb37c25ce56418.tfrecord"))[0])


def test_without_road_edges_nothing_is_off_the_road():
    raw = busy_raw_scene()
    scenario = to_scenario(dataclasses.replace(raw, feature_type=np.full(7, 2)))
    whole, scenario = jax.device_put((whole_map(scenario.roadmap), scenario))
    snapshot = Snapshot(scenario, jnp.asarray(3), take(scenario.log, slice(2, 4)), 0.1)
    assert not plain_metrics(whole)["offroad"].compute(snapshot).valid.any()


def test_the_whole_map_has_a_segment_per_pair_of_points():
    scenario = load("synthetic:0:1")[0]
    whole = whole_map(scenario.roadmap)
    assert len(whole.valid) == len(scenario.roadmap.valid) - 1
    assert whole.valid.sum() == scenario.edges.valid.sum()
    np.testing.assert_array_equal(whole.end[:-1], whole.start[1:])


def test_one_by_one_is_vmap():
    x, y = jnp.arange(6.0).reshape(3, 2), jnp.arange(3.0)
    np.testing.assert_array_equal(one_by_one(lambda x, y: x * y)(x, y), jax.vmap(lambda x, y: x * y)(x, y))
