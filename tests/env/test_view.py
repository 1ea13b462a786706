"""Agent-centric views against a sequential NumPy version, and edge cases of frames and validity."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle_view
from tests.data import recorded
from tests.scenes import busy_raw_scene, raw_scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env.env import Env, EnvConfig
from waymax_sim.env.observation import Observation
from waymax_sim.env.view import View, agent_centric_view, valid_agent_indices
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

LARGE = 2**24
# Sizes that hold all agents and the whole map.
EVERYTHING = dict(num_agents=12, num_polylines=160)


@functools.partial(jax.jit, static_argnames=("observers", "num_steps", "num_agents", "num_polylines"))
def compiled_look(scenario: Scenario, observers="all", num_steps=4, num_agents=6, num_polylines=20) -> View:
    observation = observe(scenario, num_steps)
    return agent_centric_view(observation, observers, num_agents=num_agents, num_polylines=num_polylines)


def look(scenario: Scenario, **options) -> View:
    """A view in NumPy arrays: each eager operation on JAX arrays would be a program of its own."""
    return jax.device_get(compiled_look(scenario, **options))


@jax.jit
def look_from(scenario: Scenario, rows: jax.Array) -> View:
    return agent_centric_view(observe(scenario), rows, num_agents=6, num_polylines=20)


@functools.partial(jax.jit, static_argnames="num_steps")
def observe(scenario: Scenario, num_steps: int = 4) -> Observation:
    """The observation of the current step, without metrics."""
    env = Env(config=EnvConfig(num_history_steps=num_steps, metrics=(), rewards=()))
    state = env.initial_state(scenario, jax.random.key(0))
    return env.observe(scenario, state)


def scenario_of(raw: RawScene) -> Scenario:
    return to_scenario(raw, pad_to_bucket=False)


def busy(seed: int = 0, **changes) -> Scenario:
    return scenario_of(dataclasses.replace(busy_raw_scene(seed), **changes))


def close(a: View, b: View, atol: float = 1e-4) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.mark.parametrize("seed", range(3))
def test_agents_are_those_of_the_slow_version(seed):
    scenario = busy(seed)
    history = jax.tree.map(np.asarray, observe(scenario).history)
    view = jax.tree.map(np.asarray, look(scenario))
    for observer in range(12):
        expected = oracle_view.agents_in_view(history.xyz[-1], history.valid[-1], observer, 6)
        index = view.agents.index[observer]
        assert index.tolist() == [*expected, *[-1] * (6 - len(expected))]
        for column, agent in enumerate(expected):
            for step, moment in enumerate(oracle_view.history_in_frame(history, observer, agent)):
                state = tree_index(view.agents.state, (observer, column, step))
                assert state.valid == (moment is not None)
                xyz, yaw, velocity = moment or (np.zeros(3), 0.0, np.zeros(2))
                np.testing.assert_allclose(state.xyz, xyz, atol=1e-4)
                np.testing.assert_allclose(state.velocity, velocity, atol=1e-4)
                assert abs((state.yaw - yaw + 1) % (2 * np.pi) - 1) < 1e-5
            assert view.agents.type[observer, column] == scenario.agents.type[agent]
            np.testing.assert_array_equal(view.agents.size[observer, column], scenario.agents.size[agent])


@pytest.mark.parametrize("seed", range(3))
def test_polylines_are_those_of_the_slow_version(seed):
    scenario = busy(seed)
    roadmap, now = jax.tree.map(np.asarray, (scenario.roadmap, tree_index(scenario.log, scenario.current_step)))
    runs = oracle_view.runs(roadmap.feature)
    view = jax.tree.map(np.asarray, look(scenario))
    for observer in np.flatnonzero(now.valid):
        origin, yaw = now.xyz[observer].astype(float), now.yaw[observer]
        in_frame = [np.array([oracle_view.in_frame(roadmap.xyz[point], origin, yaw) for point in run]) for run in runs]
        distances = []
        for xyz, valid, kind in zip(
            view.polylines.xyz[observer], view.polylines.valid[observer], view.polylines.type[observer], strict=True
        ):
            points = xyz[valid]
            # Each is a polyline of the map, with all of its points and the type of its feature.
            same = [
                run
                for run, position in zip(runs, in_frame, strict=True)
                if position.shape == points.shape and np.allclose(position, points, atol=1e-4)
            ]
            assert kind in roadmap.feature_type[roadmap.feature[[run[0] for run in same]]]
            assert not xyz[~valid].any()
            distances.append(np.hypot(*points[:, :2].T).min())
        nearest = oracle_view.nearest_distances(roadmap.xyz[:, :2].astype(float), runs, origin[:2], 20)
        np.testing.assert_allclose(np.sort(distances), nearest, atol=1e-4)


def test_roles_of_agents_in_views():
    scenario = busy(sdc_index=2)
    view = look(scenario, **EVERYTHING)
    is_valid = np.asarray(scenario.log.valid[5])
    assert is_valid[2] and not is_valid.all()
    np.testing.assert_array_equal(view.valid, is_valid)
    np.testing.assert_array_equal(view.agents.is_self, is_valid[:, None] & (np.arange(12) == 0)[None])
    assert view.agents.index[:, 0].tolist() == np.where(is_valid, np.arange(12), -1).tolist()
    # Each valid observer has the sdc in exactly one entry, that with the slot of the sdc.
    np.testing.assert_array_equal(view.agents.is_sdc, np.asarray(view.agents.index) == 2)
    np.testing.assert_array_equal(view.agents.is_sdc.sum(axis=-1), is_valid)


def test_the_view_of_the_sdc_is_its_row_of_all_views():
    scenario = busy(sdc_index=2)
    all_views, ego = look(scenario), look(scenario, observers="sdc")
    rows = jax.device_get(look_from(scenario, jnp.asarray([2, -1])))
    assert ego.valid.all() and ego.valid.shape == (1,)
    for one in (ego, rows):
        close(one.routes, all_views.routes, 1e-5)
        one, row = (dataclasses.replace(view, routes=None) for view in (one, all_views))
        close(tree_index(one, 0), tree_index(row, 2), 1e-5)


@pytest.mark.parametrize("max_agents", [3, 12, 20])
def test_slots_of_valid_agents(max_agents):
    scenario = busy()
    valid = np.arange(scenario.num_agents) % 3 != 1
    observation = observe(scenario)
    history = observation.history
    is_valid = dataclasses.replace(history, valid=jnp.broadcast_to(valid, history.valid.shape))
    rows = valid_agent_indices(dataclasses.replace(observation, history=is_valid), max_agents)
    expected = np.flatnonzero(valid)[:max_agents]
    np.testing.assert_array_equal(rows, np.append(expected, np.full(max_agents - len(expected), -1)))


def test_invalid_observers_have_empty_views():
    raw = busy_raw_scene()
    valid = raw.valid.copy()
    valid[5, [0, 4]] = False
    scenario = busy(valid=valid)
    ego, no_sdc = look(scenario, observers="sdc"), look(busy(sdc_index=-1), observers="sdc")
    rows = jax.device_get(look_from(scenario, jnp.asarray([5, -1])))
    assert rows.valid.tolist() == [True, False]
    for view, observer in ((look(scenario), 4), (ego, 0), (no_sdc, 0), (rows, 1)):
        view = tree_index(dataclasses.replace(view, routes=None), observer)
        assert (view.agents.index == -1).all() and (view.polylines.type == -1).all()
        leaves = jax.tree_util.tree_leaves_with_path(view)
        blank = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        del blank[".agents.index"], blank[".polylines.type"]
        assert not [name for name, leaf in blank.items() if np.any(np.asarray(leaf))]
    for one in (ego, no_sdc, rows):
        assert not one.routes.valid.any() and not one.routes.xyz.any() and not one.routes.on_route.any()


def test_views_may_have_more_entries_than_agents_and_polylines():
    scenario = scenario_of(raw_scene(num_agents=3))
    view = look(scenario, **EVERYTHING)
    assert view.agents.index.tolist() == [[0, 1, 2, *[-1] * 9], [1, 0, 2, *[-1] * 9], [2, 1, 0, *[-1] * 9]]
    # 804 points of 4 features of 201 points: 26 polylines each.
    assert (view.polylines.type >= 0).sum(axis=-1).tolist() == [104] * 3
    assert view.polylines.valid.sum(axis=(1, 2)).tolist() == [804] * 3
    least = look(scenario, num_agents=1, num_polylines=0)
    assert least.agents.index.tolist() == [[0], [1], [2]] and least.polylines.xyz.shape == (3, 0, 8, 3)


NO_MAP = dict(
    point_xyz=np.zeros((0, 3)),
    point_feature=np.zeros(0, int),
    feature_id=np.zeros(0, int),
    feature_type=np.zeros(0, int),
    speed_limit=np.zeros(0),
)


def test_a_scene_without_a_map():
    view = look(scenario_of(dataclasses.replace(busy_raw_scene(), **NO_MAP)))
    assert view.valid.sum() == 11 and not view.polylines.valid.any() and (view.polylines.type == -1).all()
    assert not view.polylines.light_valid.any()


def test_steps_before_the_record_are_invalid():
    view = look(scenario_of(raw_scene(current_step=1)), **EVERYTHING)
    assert view.agents.state.valid[:, :3].all(axis=(0, 1)).tolist() == [False] * 2 + [True] * 2
    assert not view.agents.state.xyz[:, :, :2].any()
    # At 10 m/s: the observer itself, one step ago.
    np.testing.assert_allclose(view.agents.state.xyz[0, 0, 2:, 0], [-1.0, 0.0], atol=1e-5)


def test_the_future_changes_nothing():
    raw, rng = busy_raw_scene(), np.random.default_rng(5)
    future = np.arange(21)[:, None, None] > 5
    other = dataclasses.replace(
        raw,
        xyz=np.where(future, rng.uniform(-40, 40, raw.xyz.shape), raw.xyz),
        valid=np.where(future[..., 0], ~raw.valid, raw.valid),
        signal_state=np.where(future[..., 0], 4, raw.signal_state),
        signal_valid=np.where(future[..., 0], False, raw.signal_valid),
    )
    jax.tree.map(np.testing.assert_array_equal, look(scenario_of(raw)), look(scenario_of(other)))


def test_headings_are_wrapped():
    yaw = np.broadcast_to(np.array([3.0, -3.0, 0.0]), (21, 3))
    view = look(scenario_of(raw_scene(yaw=yaw)), **EVERYTHING)
    np.testing.assert_allclose(view.agents.state.yaw[0, :3, -1], [0.0, 2 * np.pi - 6.0, -3.0], atol=1e-5)
    assert (view.agents.state.yaw < np.pi).all() and (view.agents.state.yaw >= -np.pi).all()


def test_lights_belong_to_their_lane_even_where_ids_are_large():
    # In float32 these ids would be the same number.
    raw = raw_scene(
        feature_id=np.array([LARGE, LARGE + 1, LARGE + 2, LARGE + 3]),
        signal_lane_id=np.array([LARGE + 1, 5, LARGE]),
        signal_state=np.broadcast_to([4, 6, 5], (21, 3)),
        signal_stop_point=np.zeros((21, 3, 3)),
        signal_valid=np.broadcast_to([True, True, False], (21, 3)),
    )
    polylines = look(scenario_of(raw), num_polylines=104).polylines
    # The lane of the agents at y = 0 has no valid light; the oncoming one at y = 3.5 has a red one.
    lane = np.asarray(polylines.type) == 2
    oncoming = lane & np.isclose(polylines.xyz[..., 0, 1], 3.5)
    assert oncoming.sum() == 3 * 26 and lane.sum() == 6 * 26
    np.testing.assert_array_equal(polylines.light, np.where(oncoming, 4, 0))
    np.testing.assert_array_equal(polylines.light_valid, oncoming)
    np.testing.assert_allclose(polylines.speed_limit, np.where(lane, 13.4, 0.0), atol=1e-5)


def test_routes_are_in_the_frame_of_the_sdc():
    yaw = np.full((21, 12), np.pi / 2)
    raw = busy_raw_scene()
    xyz = raw.xyz.copy()
    xyz[5, 0] = (10.0, 1.0, 0.75)
    valid = raw.valid.copy()
    valid[5, 0] = True
    scenario = busy(xyz=xyz, yaw=yaw, valid=valid)
    along = np.arange(-80.0, 80.0, 2.0)
    for observers in ("sdc", "all"):
        routes = look(scenario, observers=observers).routes
        assert routes.valid.all() and routes.on_route.tolist() == [True, False]
        # The sdc heads along y, so points ahead along x are to its right.
        for path, y in enumerate((0.0, 3.5)):
            expected = np.stack([np.full_like(along, y - 1.0), 10.0 - along, np.full_like(along, -0.75)], axis=-1)
            np.testing.assert_allclose(routes.xyz[path], expected, atol=1e-4)
    others = jax.device_get(look_from(scenario, jnp.asarray([1, 2]))).routes
    assert not others.valid.any()


def test_goals_are_in_the_frame_of_the_observer():
    scenario = busy(sdc_index=2)
    assert look(scenario).goals is None
    log = scenario.log
    position, yaw = np.asarray(log.xyz[5, :, :2], float), np.asarray(log.yaw[5], float)
    ahead, left = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1), np.stack([-np.sin(yaw), np.cos(yaw)], axis=-1)
    # 3 m ahead and 4 m to the left of each agent; the last one has none.
    has_goal = np.arange(12) < 11
    goals = Goals(xy=np.float32(position + 3 * ahead + 4 * left), valid=has_goal)
    view = look(dataclasses.replace(scenario, goals=goals)).goals
    is_valid = np.asarray(log.valid[5]) & has_goal
    np.testing.assert_array_equal(view.valid, is_valid)
    np.testing.assert_allclose(view.xy, is_valid[:, None] * np.array([[3.0, 4.0]]), atol=1e-4)


def test_heights_are_kept_apart():
    view = look(busy(), **EVERYTHING)
    z = np.asarray(view.polylines.xyz[..., 2])[np.asarray(view.polylines.valid)]
    # Agents are at 0.75 or 6.75, the road is at 0 and the bridge at 6.
    assert set(np.round(z, 3)) == {-0.75, -6.75, 5.25}


def test_far_from_the_origin_no_digits_are_lost():
    far = np.array([6000.0, -9000.0, 0.0])
    base = raw_scene()
    # The origin is at the sdc; the others and the map are 10 km away.
    xyz = base.xyz + far
    xyz[:, 0] -= far
    view = look(scenario_of(dataclasses.replace(base, xyz=xyz, point_xyz=base.point_xyz + far)), **EVERYTHING)
    np.testing.assert_allclose(view.agents.state.xyz[1, 1, -1], [-20.0, 0.0, 0.0], atol=2e-3)
    lanes = np.asarray(view.polylines.xyz[1, ..., 1])[np.asarray(view.polylines.valid[1])]
    assert np.abs(lanes[:, None] - np.array([-1.75, 0.0, 3.5, 5.25])).min(axis=-1).max() < 2e-3


@pytest.mark.parametrize(("angle", "shift"), [(0.7, (0, 0, 0)), (-2.4, (3000, -700, 40)), (np.pi, (0.3, 0.2, 0))])
def test_views_do_not_depend_on_the_frame_of_the_scene(angle, shift):
    raw = busy_raw_scene()
    cos, sin = np.cos(angle), np.sin(angle)

    def turn(vectors):
        x, y = vectors[..., 0], vectors[..., 1]
        return np.concatenate([np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1), vectors[..., 2:]], axis=-1)

    moved = dataclasses.replace(
        raw,
        xyz=turn(raw.xyz) + np.array(shift),
        yaw=raw.yaw + angle,
        velocity=turn(raw.velocity),
        point_xyz=turn(raw.point_xyz) + np.array(shift),
        routes=dataclasses.replace(raw.routes, xyz=turn(raw.routes.xyz) + np.array(shift)),
    )
    # Sizes hold the whole map; the order of the polylines is arbitrary, so it is removed by sorting.
    a, b = (look(scenario_of(one), **EVERYTHING) for one in (raw, moved))
    yaw = a.agents.state.yaw - b.agents.state.yaw
    assert np.abs(np.angle(np.exp(1j * np.asarray(yaw)))).max() < 1e-4

    def comparable(view: View) -> dict:
        polylines, points = view.polylines, view.polylines.xyz
        distance = np.where(polylines.valid, np.linalg.norm(points[..., :2], axis=-1), 0.0)
        return {
            "agents": (view.agents.index, view.agents.state.xyz, view.agents.state.velocity, view.agents.state.valid),
            "distances": np.sort(np.sum(distance, axis=-1), axis=-1),
            "positions": np.sum(points, axis=(1, 2)) / 100,
            "types": np.sort(polylines.type, axis=-1),
            "routes": view.routes,
            "speed": view.speed,
        }

    a, b = comparable(a), comparable(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=5e-3), a, b)


def test_a_batch_is_a_loop_and_padding_changes_nothing():
    small, empty = busy_raw_scene(0), dataclasses.replace(busy_raw_scene(2), **NO_MAP)
    scenarios = [to_scenario(raw, pad_to_bucket=False) for raw in (small, empty, busy_raw_scene(1, 15))]
    batch = jax.device_put(stack_scenarios(scenarios))
    together = jax.device_get(jax.vmap(compiled_look)(batch))
    for index, scenario in enumerate(scenarios[:2]):
        alone, row = look(jax.device_put(scenario)), tree_index(together, index)
        assert not row.valid[12:].any()
        close(alone.routes, row.routes)
        row = tree_index(dataclasses.replace(row, routes=None), slice(0, 12))
        close(dataclasses.replace(alone, routes=None), row)


def test_gradients_are_finite():
    scenario = busy()
    observation = observe(scenario)

    @jax.jit
    @jax.grad
    def slope(moved: tuple) -> jax.Array:
        xyz, yaw, velocity = moved
        history = dataclasses.replace(observation.history, xyz=xyz, yaw=yaw, velocity=velocity)
        view = agent_centric_view(
            dataclasses.replace(observation, history=history), "all", num_agents=6, num_polylines=20
        )
        numbers = [leaf for leaf in jax.tree.leaves(view) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sum(leaf**2) for leaf in numbers)

    history = observation.history
    slopes = slope((history.xyz, history.yaw, jnp.zeros_like(history.velocity)))
    assert all(np.isfinite(leaf).all() for leaf in slopes)
    assert np.abs(slopes[0]).max() > 1.0


@pytest.fixture(scope="module")
def real() -> Scenario:
    scenario = load(recorded("womd/tf_example_a3bb37c25ce56418.tfrecord"))[0]
    return jax.device_put(scenario)


def test_polylines_of_a_recorded_scene(real):
    view = jax.tree.map(np.asarray, look(real, num_steps=11, num_agents=16, num_polylines=64))
    now, roadmap = jax.tree.map(np.asarray, (tree_index(real.log, 10), real.roadmap))
    points = int(roadmap.valid.sum())
    starts = np.array([run[0] for run in oracle_view.runs(roadmap.feature[:points])])
    assert now.valid.sum() > 50
    for observer in np.flatnonzero(now.valid):
        offset = roadmap.xyz[:points, :2].astype(float) - now.xyz[observer, :2]
        expected = np.sort(np.minimum.reduceat(np.hypot(*offset.T), starts))[:64]
        distance = np.linalg.norm(view.polylines.xyz[observer, ..., :2], axis=-1)
        distance = np.where(view.polylines.valid[observer], distance, np.inf).min(axis=-1)
        np.testing.assert_allclose(np.sort(distance), expected, atol=1e-3)
    assert view.polylines.light_valid.any()


def test_no_view_needs_a_copy_of_the_map_per_agent(real):
    # 128 agents times 20,000 points would be 10 MB even as one number each.
    compiled = (
        jax.jit(lambda observation: agent_centric_view(observation, "all"))
        .lower(jax.eval_shape(lambda scenario: observe(scenario, 11), real))
        .compile()
    )
    memory = compiled.memory_analysis()
    assert real.num_agents == 128
    if memory is not None:
        assert memory.temp_size_in_bytes < 4e6
