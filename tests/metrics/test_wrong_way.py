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
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics import Snapshot
from waymax_sim.metrics.wrong_way import wrong_way, wrong_way_distance
from waymax_sim.pytree import tree_index

# Height of box centers on the road: the local origin is an integer, 0.25 m above them.
Z = -0.25


def evaluate(positions, yaw, types=1, lanes=None) -> tuple[np.ndarray, np.ndarray]:
    """Lanes run along x: forward at y = 0, backward at y = 3.5."""
    scenario = scene(num_agents=len(positions), agent_type=np.broadcast_to(types, len(positions)).astype(int))
    if lanes is not None:
        scenario = dataclasses.replace(scenario, lanes=lanes)
    result = measure(wrong_way, scenario, agent_state(positions, yaw))
    return np.asarray(result.value), np.asarray(result.valid)


def test_a_lane_along_the_heading_may_be_followed():
    positions = [(0, y, Z) for y in (0, 3.5, 0, 3.5, 1.9, 2.1, 5.6, -2.1)]
    value, valid = evaluate(positions, [0, 0, np.pi, -np.pi, 0, 0, 0, np.pi])
    np.testing.assert_array_equal(value, [0, 1, 1, 0, 0, 1, 0, 0])
    assert valid.all()


def test_crossing_a_lane_is_not_wrong_way():
    angles = np.radians([90, -90, 119, -119, 121, -121])
    value, _ = evaluate([(0, 0, Z)] * 6, angles)
    np.testing.assert_array_equal(value, [0, 0, 0, 0, 1, 1])


def test_of_overlapping_lanes_any_along_the_heading_may_be_followed():
    """The second lane runs back, 0 to 2.5 m beside the first one; a third of them is nearer to the first."""
    lanes = segments([(-50, 0), (50, 0)], [(50, 2.5), (-50, 0)])
    value, _ = evaluate([(-45, 0.3, 0.75), (25, 1.7, 0.75), (40, 2.2, 0.75), (40, -0.1, 0.75)], [0] * 4, lanes=lanes)
    np.testing.assert_array_equal(value, [0, 0, 1, 0])


def junction(*, left_turn: bool) -> Scenario:
    """Two-way roads along x and y that cross at the origin; lanes over the junction begin and end 10 m from it.

    The oncoming lane is y = 3.5. Without its lane, a left turn from y = 0 leads through the oncoming lanes only.
    """

    def line(start, end):
        return np.linspace((*start, 0), (*end, 0), 21)

    angle = np.linspace(-np.pi / 2, 0, 15)
    turn = np.stack([-10 + 13.5 * np.cos(angle), 13.5 + 13.5 * np.sin(angle), 0 * angle], axis=-1)
    lines = [
        *(line((-40, 0), (-10, 0)), line((-10, 0), (10, 0)), line((10, 0), (40, 0))),
        *(line((40, 3.5), (10, 3.5)), line((10, 3.5), (-10, 3.5)), line((-10, 3.5), (-40, 3.5))),
        *(line((3.5, -40), (3.5, -10)), line((3.5, -10), (3.5, 13.5)), line((3.5, 13.5), (3.5, 40))),
        *([turn] if left_turn else []),
    ]
    raw = raw_scene(
        num_agents=2,
        point_xyz=np.concatenate(lines),
        point_feature=np.repeat(np.arange(len(lines)), [len(one) for one in lines]),
        feature_id=np.arange(len(lines)) + 10,
        feature_type=np.full(len(lines), 2),
        speed_limit=np.zeros(len(lines)),
    )
    return to_scenario(raw, pad_to_bucket=False)


@pytest.mark.parametrize("left_turn", [True, False])
def test_a_legal_turn_over_the_oncoming_lanes_of_a_junction_is_right(left_turn):
    scenario = junction(left_turn=left_turn)
    origin = np.asarray(scenario.origin)
    # In the oncoming lane of the junction, turned by 50 degrees; and in the oncoming lane 20 m before the junction.
    here = agent_state(np.array([(1.0, 3.4, 0.75), (-20.0, 3.4, 0.75)]) - origin, np.radians([50, 5]))
    result = measure(wrong_way, scenario, here)
    np.testing.assert_array_equal(result.value, [0, 1])
    before = agent_state(np.array([(0.5, 2.8, 0.75), (-20.8, 3.4, 0.75)]) - origin, np.radians([50, 5]))
    driven = measure(wrong_way_distance, scenario, here, before)
    np.testing.assert_allclose(driven.value, [0, 0.8], atol=1e-5)


def test_a_lane_on_a_bridge_does_not_affect_the_road_below():
    lanes = segments([(50, 0, 6), (-50, 0, 6)], [(50, 0.5, 0), (49, 0.5, 0)])
    value, _ = evaluate([(0, 0, 0.75), (0, 0, 6.75)], [0, 0], lanes=lanes)
    np.testing.assert_array_equal(value, [0, 1])


def test_only_vehicles_and_cyclists_on_maps_with_lanes_have_values():
    value, valid = evaluate([(0, 3.5, Z)] * 5, [0] * 5, types=np.arange(5))
    np.testing.assert_array_equal(valid, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(value, valid)
    for result in evaluate([(0, 3.5, Z)], [0], lanes=segments(np.zeros((0, 2)))):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_agents_equal_the_oracle(seed):
    raw = busy_raw_scene(seed, num_agents=40)
    scenario = to_scenario(raw, pad_to_bucket=False)
    agents = tree_index(scenario.log, 7)
    points = np.asarray(scenario.roadmap.xyz, float)
    lanes = [points[raw.point_feature == feature] for feature in np.flatnonzero(raw.feature_type == 2)]
    bottom = np.asarray(agents.xyz, float) - np.asarray(scenario.agents.size, float) * (0, 0, 0.5)
    expected = [oracle.is_wrong_way(lanes, bottom[i], float(agents.yaw[i])) for i in range(40)]
    result = measure(wrong_way, scenario, agents)
    np.testing.assert_array_equal(result.valid, agents.valid & np.isin(raw.agent_type, (1, 3)))
    assert np.asarray(result.value).any()
    np.testing.assert_array_equal(result.value, result.valid & np.array(expected))


# The only vehicle of recorded scenes that drives in an oncoming lane: it leaves a parking lot on the left side.
ON_THE_LEFT = {"scenario_637f20cafde22ff8": [42]}


@pytest.mark.compile_heavy
@pytest.mark.parametrize("name", ["tf_example_a3bb37c25ce56418", "scenario_637f20cafde22ff8"])
def test_recorded_vehicles_drive_along_their_lanes(name):
    """At more than 2 m/s none is flagged; the sdc of the first scene turns left over lanes of a junction."""
    scenario = load(recorded(f"womd/{name}.tfrecord"), pad_to_bucket=False)[0]

    @jax.jit
    def evaluate_log(scenario):
        def at(step):
            history = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, step - 1, 2), scenario.log)
            snapshot = Snapshot(scenario, step, history)
            return wrong_way(snapshot), wrong_way_distance(snapshot)

        return jax.lax.map(at, jnp.arange(1, scenario.num_steps))

    is_wrong, distance = evaluate_log(scenario)
    speed = np.linalg.norm(scenario.log.velocity[1:], axis=-1)
    flagged = np.flatnonzero(((np.asarray(is_wrong.value) > 0) & (speed > 2)).any(axis=0))
    assert flagged.tolist() == ON_THE_LEFT.get(name, [])
    assert np.asarray(distance.value)[:, scenario.agents.is_sdc].sum() < 0.01
