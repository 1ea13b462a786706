import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from tests.data import recorded
from tests.scenes import agent_state, busy_raw_scene, measure, raw_scene, scene, segments
from waymax_sim import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.roadmap import DRIVEWAY
from waymax_sim.metrics.metric import Snapshot
from waymax_sim.metrics.offroad import offroad, offroad_outside_driveways, road_edge_distance
from waymax_sim.pytree import tree_index

# Boxes are 4 m by 2 m; the road spans y from -1.75 to 5.25.


def evaluate(agents, scenario=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance, whether it is positive, validity."""
    scenario = scene(num_agents=len(agents.yaw)) if scenario is None else scenario
    distance, off = (measure(metric, scenario, agents) for metric in (road_edge_distance, offroad))
    np.testing.assert_array_equal(distance.valid, off.valid)
    return np.asarray(distance.value), np.asarray(off.value), np.asarray(off.valid)


def test_the_most_off_road_corner_decides():
    diagonal_angle = np.arctan2(2, 4)
    half_diagonal = np.hypot(2, 1)
    agents = agent_state(
        [(0, 0, 0.75), (0, -0.8, 0.75), (0, 4.5, 0.75), (0, 1.75, 0.75)], [0, 0, np.pi, diagonal_angle - np.pi / 2]
    )
    distance, off, _ = evaluate(agents)
    np.testing.assert_allclose(distance, [-0.75, 0.05, 0.25, half_diagonal - 3.5], atol=1e-5)
    np.testing.assert_array_equal(off, [0, 1, 1, 0])


def test_on_the_edge_is_on_the_road():
    distance, off, valid = evaluate(agent_state([(0, -0.75, 0.75)]))
    assert distance[0] == off[0] == 0 and valid[0]


def test_only_valid_agents_on_maps_with_edges_have_values():
    agents = agent_state([(0, -50, 0.75), (0, -50, 0.75), (0, 0, 0.75)], valid=[True, False, True])
    for result, expected in zip(evaluate(agents), ([49.25, 0, -0.75], [1, 0, 0], [1, 0, 1]), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-5)
    no_edges = scene(feature_type=np.array([2, 2, 7, 7]))
    for result in evaluate(agents, no_edges):
        np.testing.assert_array_equal(result, 0)


def test_a_bridge_has_its_own_edges():
    edges = segments([(-100, -1.75, 0), (100, -1.75, 0)], [(-2, 50, 6), (-2, -50, 6)], [(2, -50, 6), (2, 50, 6)])
    scenario = dataclasses.replace(scene(num_agents=4), edges=edges)
    positions = [(0, 0, 0.75), (0, 0, 6.75), (3, 0, 0.75), (3, 0, 6.75)]
    _, off, _ = evaluate(agent_state(positions, np.pi / 2), scenario)
    # Below the bridge only the road counts: both cars face across it and extend beyond its edge by 0.25 m.
    np.testing.assert_array_equal(off, [1, 0, 1, 1])


@pytest.mark.parametrize("seed", range(3))
def test_random_agents_equal_the_oracle(seed):
    raw = busy_raw_scene(seed)
    scenario = to_scenario(raw, pad_to_bucket=False)
    agents = tree_index(scenario.log, 7)
    is_edge = np.isin(raw.feature_type, (14, 15, 16))
    points = np.asarray(scenario.roadmap.xyz, float)
    edges = [points[raw.point_feature == feature] for feature in np.flatnonzero(is_edge)]
    size = np.asarray(scenario.agents.size, float)
    expected = []
    for i, position in enumerate(np.asarray(agents.xyz, float)):
        corners = oracle.corners(*position[:2], agents.yaw[i], *size[i, :2])
        bottom = position[2] - size[i, 2] / 2
        expected.append(max(oracle.signed_distance(edges, np.array([*corner, bottom])) for corner in corners))
    distance, off, valid = evaluate(agents, scenario)
    np.testing.assert_allclose(distance, np.where(agents.valid, expected, 0), atol=1e-5)
    np.testing.assert_array_equal(off, np.where(agents.valid, np.array(expected) > 0, 0))
    np.testing.assert_array_equal(valid, agents.valid)


def test_gradients_are_finite_for_absent_agents_and_on_the_edge():
    scenario = to_scenario(raw_scene(), pad_to_bucket=True)
    agents = agent_state(np.zeros((8, 3)), valid=np.arange(8) < 3)
    agents = dataclasses.replace(agents, xyz=agents.xyz.at[1, 1].set(-0.75))

    def total(agents):
        return jnp.sum(measure(road_edge_distance, scenario, agents).value)

    gradient = jax.jit(jax.grad(total, allow_int=True))(agents)
    assert np.isfinite(gradient.xyz).all() and np.isfinite(gradient.yaw).all()
    np.testing.assert_array_equal(gradient.xyz[3:], 0)
    # The two right corners are nearest: the distance grows to the right.
    np.testing.assert_allclose(gradient.xyz[0], [0, -1, 0], atol=1e-6)


@jax.jit
def _log_distances(scenario):
    """Road edge distance of the log at steps 11 to 90, [80, N]."""

    def at(step):
        history = tree_index(scenario.log, step + jnp.arange(-1, 1))
        return road_edge_distance(Snapshot(scenario, step, history)).value

    return jax.lax.map(at, jnp.arange(11, 91))


@pytest.mark.parametrize("scene_id", ["637f20cafde22ff8", "2a1e44d405a6833f"])
def test_recorded_scenes_equal_the_official_numbers(scene_id):
    official = np.load(recorded(f"wosac/{scene_id}/features_log_oracle_cv.npz"))
    scenario = jax.device_put(load(recorded(f"womd/scenario_{scene_id}.tfrecord"), pad_to_bucket=False)[0])
    rows = [scenario.agents.id.tolist().index(agent) for agent in official["object_id"]]
    seen, expected = official["log_valid"][0], official["log_distance_to_road_edge"][0]
    np.testing.assert_array_equal(scenario.log.valid[11:, rows].T, seen)
    distance = np.asarray(_log_distances(scenario))[:, rows].T
    # The official numbers are float32 at thousands of metres from the origin, where one place in the last is 0.5 mm.
    difference = np.abs(distance - expected)[seen]
    assert difference.size > 300 and difference.max() < 2e-3 and np.median(difference) < 2e-4
    np.testing.assert_array_equal((distance > 0)[seen], (expected > 0)[seen])


def test_corners_in_driveways_are_not_off_the_road():
    """The right edge is at y = -1.75; a driveway from y = -2 to -12, at 0 < x < 6, with the edge 0.25 m before it."""
    driveway = np.array([(0, -2, 0), (6, -2, 0), (6, -12, 0), (0, -12, 0)], float)
    base = raw_scene(num_agents=6)
    scenario = to_scenario(
        dataclasses.replace(
            base,
            point_xyz=np.concatenate([base.point_xyz, driveway]),
            point_feature=np.append(base.point_feature, [4] * 4),
            feature_id=np.append(base.feature_id, 14),
            feature_type=np.append(base.feature_type, DRIVEWAY),
            speed_limit=np.append(base.speed_limit, 0.0),
        ),
        pad_to_bucket=False,
    )
    # On the driveway; across the gap; on the road; beside the driveway; half beside it; beyond its end.
    positions = np.array([(3, -7), (3, -2), (3, 0.5), (12, -7), (6, -7), (3, -12)]) - scenario.origin[:2]
    agents = agent_state(np.column_stack([positions, np.full(6, 0.5)]), np.pi / 2)
    np.testing.assert_array_equal(measure(offroad, scenario, agents).value, [1, 1, 0, 1, 1, 1])
    result = measure(offroad_outside_driveways, scenario, agents)
    np.testing.assert_array_equal(result.value, [0, 0, 0, 1, 1, 1])
    assert result.valid.all()
    without = measure(offroad_outside_driveways, scene(num_agents=6), agents)
    np.testing.assert_array_equal(without.value, [1, 1, 0, 1, 1, 1])
