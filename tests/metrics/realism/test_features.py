import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.realism import oracle
from tests.metrics.realism.scenes import NOW, STEPS, compare_jitted, log_of, score_features, world
from tests.scenes import raw_scene, segments
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.maps.nearest import signed_distance
from waymax_sim.metrics.realism import CONFIGS, RealismRollouts, RealismTracks, compare_generated
from waymax_sim.metrics.realism.interaction import distance_to_nearest, quads_distance, time_to_collision
from waymax_sim.metrics.realism.kinematics import speed
from waymax_sim.metrics.realism.red_light import runs_red_light
from waymax_sim.metrics.realism.road import road_edges

pytestmark = pytest.mark.compile_heavy

FUTURE = slice(NOW + 1, None)
red = jax.jit(runs_red_light, static_argnums=3)
nearest = jax.jit(distance_to_nearest, static_argnums=3)
collision = jax.jit(time_to_collision, static_argnums=3)


@dataclasses.dataclass
class Scene:
    """One log or rollout of all simulated agents in the world, float64."""

    ids: list[int]
    xyz: np.ndarray
    heading: np.ndarray
    valid: np.ndarray
    size: np.ndarray


def scenes_of(raw, scenario, rollouts) -> list[Scene]:
    """The log and the rollouts; only agents of the current step."""
    there = np.flatnonzero(raw.valid[NOW])
    found = [(raw.xyz, raw.yaw, raw.valid)]
    for xyz, yaw in zip(rollouts.xyz, rollouts.yaw, strict=True):
        future = np.asarray(xyz, float) + np.asarray(scenario.origin, float)
        valid = np.concatenate([raw.valid[: NOW + 1], np.ones(yaw.shape, bool)])
        found.append((np.concatenate([raw.xyz[: NOW + 1], future]), np.concatenate([raw.yaw[: NOW + 1], yaw]), valid))
    ids, size = raw.agent_id[there].tolist(), raw.size[NOW, there]
    return [Scene(ids, xyz[:, there], yaw[:, there], valid[:, there], size) for xyz, yaw, valid in found]


def evaluated(raw) -> list[int]:
    listed = raw.to_predict | (np.arange(len(raw.agent_id)) == raw.sdc_index)
    return sorted(raw.agent_id[listed].tolist())


@pytest.fixture(scope="module", params=range(3))
def case(request):
    raw, scenario, rollouts = world(request.param)
    found = compare_jitted(scenario, rollouts, log=log_of(raw, scenario))
    return raw, scenario, rollouts, jax.device_get(found), scenes_of(raw, scenario, rollouts)


@pytest.fixture(scope="module")
def corrections(case):
    raw, scenario, rollouts, *_ = case
    return jax.device_get(compare_jitted(scenario, rollouts, log=log_of(raw, scenario), parity=False))


def sides(found, name):
    """A feature of the log and of each rollout."""
    return [np.asarray(getattr(found.log, name)), *np.asarray(getattr(found.sim, name))]


def test_the_sdc_and_the_listed_are_scored_in_order_of_ids(case):
    raw, _, _, found, _ = case
    ids = evaluated(raw)
    np.testing.assert_array_equal(found.agents.exists, np.arange(len(found.agents.id)) < len(ids))
    assert found.agents.id[: len(ids)].tolist() == ids
    rows = [raw.agent_id.tolist().index(agent) for agent in ids]
    np.testing.assert_array_equal(found.agents.logged[:, : len(ids)], raw.valid[FUTURE][:, rows])


def test_motion_equals_the_oracle(case):
    raw, *_, found, scenes = case
    for e, agent in enumerate(evaluated(raw)):
        for k, scene in enumerate(scenes):
            i = scene.ids.index(agent)
            for name, expected in oracle.motion(scene.xyz[:, i], scene.heading[:, i]).items():
                value, expected = sides(found, name)[k][:, e], expected[FUTURE]
                np.testing.assert_array_equal(np.isnan(value), np.isnan(expected))
                # Across gaps of the log, speeds are those of a jump to the origin of the world.
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-2 if "acceleration" in name else 2e-4)


def test_corrected_motion_uses_valid_steps_only(case, corrections):
    raw, *_, scenes = case
    for e, agent in enumerate(evaluated(raw)):
        for k, scene in enumerate(scenes):
            i = scene.ids.index(agent)
            valid = scene.valid[:, i]
            has_speed = np.pad(valid[2:] & valid[:-2], 1)
            has_acceleration = np.pad(has_speed[2:] & has_speed[:-2], 1)
            for name, expected in oracle.motion(scene.xyz[:, i], scene.heading[:, i]).items():
                expected = np.where(has_acceleration if "acceleration" in name else has_speed, expected, np.nan)[FUTURE]
                value = sides(corrections, name)[k][:, e]
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-2 if "acceleration" in name else 2e-4)


def test_distances_to_others_equal_the_oracle(case):
    raw, *_, found, scenes = case
    for k, scene in enumerate(scenes):
        for t in range(NOW + 1, STEPS, 3):
            boxes = [(*scene.xyz[t, i, :2], scene.heading[t, i], *scene.size[i, :2]) for i in range(len(scene.ids))]
            for e, agent in enumerate(evaluated(raw)):
                expected = oracle.nearest_object(boxes, scene.valid[t], scene.ids.index(agent))
                value = sides(found, "distance_to_nearest_object")[k][t - NOW - 1, e]
                assert value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("wrapped", [False, True])
def test_times_to_collision_equal_the_oracle(case, corrections, wrapped):
    raw, _, _, found, scenes = case
    found = corrections if wrapped else found
    hits = 0
    for k, scene in enumerate(scenes):
        speeds = np.array([oracle.speed(scene.xyz[:, i, :2]) for i in range(len(scene.ids))])
        if wrapped:
            known = scene.valid[2:] & scene.valid[:-2]
            speeds[:, 1:-1] = np.where(known.T, speeds[:, 1:-1], np.nan)
        for t in range(NOW + 1, STEPS):
            boxes = [(*scene.xyz[t, i, :2], scene.heading[t, i], *scene.size[i, :2]) for i in range(len(scene.ids))]
            for e, agent in enumerate(evaluated(raw)):
                i = scene.ids.index(agent)
                expected = oracle.time_to_collision(boxes, scene.valid[t], speeds[:, t], i, wrapped)
                value = sides(found, "time_to_collision")[k][t - NOW - 1, e]
                if scene.valid[t, i]:
                    assert value == pytest.approx(expected, abs=1e-3)
                    hits += expected < 5
    assert hits > 0


@pytest.mark.parametrize("all_loops", [False, True])
def test_distances_to_the_road_edge_equal_the_oracle(case, corrections, all_loops):
    raw, _, _, found, scenes = case
    found = corrections if all_loops else found
    edges = [raw.point_xyz[raw.point_feature == row] for row in np.flatnonzero(np.isin(raw.feature_type, (14, 15, 16)))]
    for k, scene in enumerate(scenes):
        for t in range(NOW + 1, STEPS, 5):
            for e, agent in enumerate(evaluated(raw)):
                i = scene.ids.index(agent)
                value = sides(found, "distance_to_road_edge")[k][t - NOW - 1, e]
                if not scene.valid[t, i]:
                    assert value == -1e10
                    continue
                at = [oracle.corners(*scene.xyz[t, i, :2], scene.heading[t, i], *scene.size[i, :2])]
                bottom = scene.xyz[t, i, 2] - scene.size[i, 2] / 2
                corner_distances = [oracle.road_edge(edges, np.array([*corner, bottom]), all_loops) for corner in at[0]]
                assert value == pytest.approx(max(corner_distances), abs=1e-3)


@pytest.mark.parametrize("as_official", [True, False])
def test_red_lights_equal_the_oracle(case, corrections, as_official):
    raw, *_, found, scenes = case
    found = found if as_official else corrections
    lanes = {
        int(raw.feature_id[row]): raw.point_xyz[raw.point_feature == row]
        for row in np.flatnonzero(raw.feature_type == 2)
    }
    lights = [
        {
            int(lane): (int(raw.signal_state[t, s]), raw.signal_stop_point[t, s, :2])
            for s, lane in enumerate(raw.signal_lane_id)
            if raw.signal_valid[t, s]
        }
        for t in range(STEPS)
    ]
    expect = oracle.RedLights(lanes, lights, as_official)
    for k, scene in enumerate(scenes):
        for e, agent in enumerate(evaluated(raw)):
            i = scene.ids.index(agent)
            expected = expect.run_by(scene.xyz[:, i, :2], scene.valid[:, i])
            np.testing.assert_array_equal(sides(found, "traffic_light_violation")[k][:, e], expected[FUTURE])


def test_displacement_counts_the_history_unless_corrected(case, corrections):
    raw, *_, found, scenes = case
    for e, agent in enumerate(evaluated(raw)):
        i = scenes[0].ids.index(agent)
        for k, scene in enumerate(scenes[1:]):
            away = np.linalg.norm(scene.xyz[:, i] - scenes[0].xyz[:, i], axis=-1)
            seen = scenes[0].valid[:, i]
            assert found.sim.displacement[k, e] == pytest.approx(away[seen].mean(), rel=1e-5, abs=1e-5)
            if seen[FUTURE].any():
                assert corrections.sim.displacement[k, e] == pytest.approx(away[FUTURE][seen[FUTURE]].mean(), abs=1e-4)


def test_micro_distances_between_rounded_boxes():
    others = [(3, 0.5, 0), (5.8, 0, 0), (0, 0, 0), (2, 0, np.pi / 2), (4.8, 2.0, 0)]
    tracks = RealismTracks(
        xyz=np.array([[(0, 0, 0), (x, y, 0)] for x, y, _ in others], np.float32),
        yaw=np.array([[0, yaw] for *_, yaw in others], np.float32),
        valid=np.ones((5, 2), bool),
        size=np.array([[4.8, 2.0, 1.5]] * 2, np.float32),
        type=np.ones(2, np.int32),
    )
    for parity in (True, False):
        found = nearest(tracks, np.array([0]), np.zeros(3, np.float32), parity)
        np.testing.assert_allclose(found[:, 0], [-1.5, 1.0, -2.0, -1.4, 0.5799], atol=1e-4)


def test_quads_equal_the_oracle():
    rng = np.random.default_rng(0)
    a, b = (
        np.array([oracle.corners(*rng.normal(0, 3, 2), *rng.uniform(0.5, 5, 3)) for _ in range(200)]) for _ in range(2)
    )
    found = jax.jit(quads_distance)(a.astype(np.float32), b.astype(np.float32))
    expected = [oracle.polygons_apart(*pair) for pair in zip(a, b, strict=True)]
    assert (np.array(expected) < 0).any() and (np.array(expected) > 0).any()
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Two 4 x 2 m boxes; the one behind drives at 10 m/s along x. Other: x, y, heading, speed; heading of the one behind.
@pytest.mark.parametrize(
    ("x", "y", "heading", "other_speed", "own_heading", "expected"),
    [
        (14, 0, 0, 5, 0, 1.9),
        (14, 0, np.radians(74), 0, 0, 0.94875),
        (14, 0, np.radians(76), 0, 0, 5.0),
        (14, 1.9, np.radians(9), 0, 0, 0.88682),
        (14, 1.9, np.radians(11), 0, 0, 5.0),
        (-14, 0, -3.1, 0, 3.1, 5.0),
    ],
)
def test_a6_times_to_collision_by_hand(x, y, heading, other_speed, own_heading, expected):
    clock = np.array([0, 0.1, 0.2])
    forward = np.cos(own_heading)
    xyz = np.zeros((3, 2, 3), np.float32)
    xyz[:, 0, 0], xyz[:, 1, 0], xyz[:, 1, 1] = 10 * clock * forward, x + other_speed * clock, y
    tracks = RealismTracks(
        xyz=jnp.asarray(xyz),
        yaw=jnp.broadcast_to(jnp.asarray([own_heading, heading], jnp.float32), (3, 2)),
        valid=jnp.ones((3, 2), bool),
        size=jnp.asarray([[4.0, 2.0, 1.5]] * 2),
        type=jnp.ones(2, jnp.int32),
    )
    found = collision(tracks, jnp.array([0]), speed(tracks.xyz[..., :2], 0.1), True)
    assert found[1, 0] == pytest.approx(expected, abs=1e-5)
    if own_heading:
        wrapped = collision(tracks, jnp.array([0]), speed(tracks.xyz[..., :2], 0.1), False)
        assert wrapped[1, 0] < 2


def wedge(x: float, per_side: int) -> np.ndarray:
    """A closed wedge, counter-clockwise, that begins at its tip."""
    tips = np.array([(0, 0, 0), (10, -1, 0), (10, 1, 0), (0, 0, 0)]) + (x, 0, 0)
    sides = [np.linspace(a, b, per_side)[:-1] for a, b in itertools.pairwise(tips)]
    return np.concatenate([*sides, tips[-1:]])


@pytest.mark.parametrize(("parity", "third"), [(True, -1.0440), (False, 1.0440)])
def test_a4_only_the_longest_line_is_closed(parity, third):
    lines = [wedge(0, 5), wedge(100, 3)]
    raw = raw_scene(
        point_xyz=np.concatenate(lines),
        point_feature=np.repeat([0, 1], [len(line) for line in lines]),
        feature_id=np.array([1, 2]),
        feature_type=np.array([15, 15]),
        speed_limit=np.zeros(2),
    )
    scenario = jax.device_put(to_scenario(raw, pad_to_bucket=False))
    points = np.array([(-1, 0.3, 0), (-1, -0.3, 0), (99, 0.3, 0), (99, -0.3, 0)]) - np.asarray(scenario.origin)
    found, _ = signed_distance(road_edges(scenario, parity), points.astype(np.float32), np.ones(4, bool))
    np.testing.assert_allclose(found, [1.0440, 1.0440, third, 1.0440], atol=1e-4)


def test_a5_the_edge_of_the_same_height_is_nearest():
    edges = segments([(-50, 0, 0), (50, 0, 0)], [(2, -50, 6), (2, 50, 6)])
    points = np.array([(0.5, 3, 0.5), (0.5, 3, 5.5)], np.float32)
    found, _ = signed_distance(edges, points, np.ones(2, bool))
    np.testing.assert_allclose(found, [-3.0, -1.5], atol=1e-5)


def drive(state, seen=True, y=0.0, start=-2.0, parity=True):
    """Steps at which an agent runs a light that jumps over the stop point of the first lane at step 7."""
    raw = raw_scene(
        num_agents=1,
        signal_state=np.full((21, 1), state),
        signal_valid=np.broadcast_to(seen, (21,))[:, None] & True,
        signal_stop_point=np.full((21, 1, 3), 0.25),
    )
    scenario = jax.device_put(to_scenario(raw, pad_to_bucket=False))
    clock = np.arange(21)
    xy = np.stack([np.where(clock < 7, start, 2.0) + 0.01 * clock, np.full(21, y)], axis=-1)[None, :, None]
    xy = xy - np.asarray(scenario.origin)[:2]
    return np.flatnonzero(red(scenario, xy.astype(np.float32), np.ones((1, 21, 1), bool), parity))


def test_a7_red_lights_by_hand():
    assert drive(4).tolist() == drive(1).tolist() == [7]
    for state in (0, 2, 3, 5, 6, 7, 8):
        assert drive(state).size == 0
    # On the other lane, and when it does not cross.
    assert drive(4, y=3.5).size == 0
    assert drive(4, start=1.0).size == 0
    # The light is first observed while the agent crosses: its official stop point was the origin of the world.
    assert drive(4, seen=np.arange(21) >= 7).tolist() == [7]
    assert drive(4, seen=np.arange(21) >= 7, parity=False).size == 0
    assert drive(4, parity=False).tolist() == drive(4, seen=np.arange(21) >= 6, parity=False).tolist() == [7]
    assert drive(4, seen=np.arange(21) < 7).size == 0


def test_generated_scenes_are_compared():
    raw, scenario, rollouts = world(0)
    future = STEPS - 1 - NOW
    log = jax.device_put(log_of(raw, scenario))
    there = np.asarray(scenario.log.valid)[NOW]
    whole = RealismTracks(
        xyz=jnp.concatenate([jnp.broadcast_to(log.xyz[None, : NOW + 1], (2, NOW + 1, 14, 3)), rollouts.xyz], axis=1),
        yaw=jnp.concatenate([jnp.broadcast_to(log.yaw[None, : NOW + 1], (2, NOW + 1, 14)), rollouts.yaw], axis=1),
        valid=jnp.broadcast_to(there[None, None], (2, STEPS, 14)),
        size=jnp.broadcast_to(scenario.agents.size[None], (2, 14, 3)),
        type=jnp.broadcast_to(scenario.agents.type[None], (2, 14)),
    )
    found = jax.jit(compare_generated, static_argnames=("num_future", "max_evaluated"))(
        scenario, whole, num_future=future, log=log, max_evaluated=14
    )
    assert sorted(found.agents.id[found.agents.exists].tolist()) == sorted(raw.agent_id[there].tolist())
    listed = compare_jitted(scenario, rollouts, log=log)
    row_of = {int(agent): e for e, agent in enumerate(found.agents.id)}
    rows = [row_of[agent] for agent in evaluated(raw)]
    for name in ("linear_speed", "distance_to_nearest_object", "time_to_collision", "distance_to_road_edge"):
        value = getattr(found.sim, name)[..., rows]
        np.testing.assert_allclose(value, getattr(listed.sim, name)[..., : len(rows)], atol=1e-4)

    # All agents share one distribution, and there is no displacement.
    result = score_features(found, config=CONFIGS["2025_scenario_generation"])
    assert result.ade == result.min_ade == 0
    there, seen = np.asarray(found.agents.exists), np.asarray(found.agents.logged)
    pool = np.asarray(found.sim.distance_to_nearest_object)[..., there]
    expected = oracle.histogram(found.log.distance_to_nearest_object, pool, -5, 40, 10, 0.1).reshape(seen.shape)
    likelihood = np.exp(expected[seen].mean())
    assert result.likelihoods["distance_to_nearest_object"] == pytest.approx(likelihood, abs=1e-5)
    hits = np.stack([((side < 0) & seen).any(axis=0) for side in sides(found, "distance_to_nearest_object")])
    yes, total = hits[1:, there].sum(), hits[1:, there].size
    p = np.where(hits[0, there], yes + 0.001, total - yes + 0.001) / (total + 0.002)
    assert result.likelihoods["collision_indication"] == pytest.approx(np.exp(np.log(p).mean()), abs=1e-5)
    assert result.simulated_rates["collision"] == pytest.approx(yes / total)


def test_shapes_of_rollouts_are_checked():
    *_, rollouts = world(0)
    with pytest.raises(Exception, match="yaw"):
        RealismRollouts(rollouts.xyz, rollouts.yaw[..., :-1])
