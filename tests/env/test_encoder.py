"""Observation encoders: specifications that checkpoints compare, and values of the flat view by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.empty_scenes import without_features
from tests.scenes import raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.goals import Goals
from waymax_sim.env import Env, EnvConfig
from waymax_sim.env.encoder import ObservationEncoder, ObservationFeature, ObservationSpec
from waymax_sim.env.flat_view import NUM_AGENT_VALUES, NUM_POLYLINE_VALUES, FlatView
from waymax_sim.env.observation import Observation

pytestmark = pytest.mark.compile_heavy

SPEC = ObservationSpec(
    "small",
    3,
    (
        ObservationFeature("speed", (), 0.0, 1.0, "10 m/s"),
        ObservationFeature("agents", (4, 2), -1.5, 1e10),
        ObservationFeature("id", (3,), 0.0, 9.0),
    ),
)
STEPS, N, START = 12, 4, 5
ENV = Env(config=EnvConfig(controlled="all", metrics=(), rewards=()))
K, E = 3, 2
ALL = FlatView("all", K, E)
# Where the features of a row begin.
GOAL = K * NUM_AGENT_VALUES + E * NUM_POLYLINE_VALUES
TIME, ROUTE = GOAL + 6, GOAL + 7
NOT_ENDED = np.zeros(N, bool)

encode = jax.jit(lambda encoder, observation: encoder(observation), static_argnums=0)


@jax.jit
def observe(scenario, ended=NOT_ENDED) -> Observation:
    state = ENV.initial_state(scenario, jax.random.key(0), ENV.controlled_mask(scenario).astype(jnp.int32))
    return ENV.observe(scenario, dataclasses.replace(state, ended=ended))


@pytest.fixture(scope="module")
def road():
    """Four agents at different headings, each with a goal; agent 2 is absent at the current step."""
    valid = np.ones((STEPS, N), bool)
    valid[START, 2] = False
    yaw = np.broadcast_to([0.0, np.pi / 2, 0.0, -2.0], (STEPS, N))
    made = scene(num_steps=STEPS, num_agents=N, current_step=START, valid=valid, yaw=yaw)
    xy = np.array([[3.0, 4.0], [-20.0, 30.0], [1.0, 1.0], [5.0, -700.0]], np.float32)
    return dataclasses.replace(made, goals=Goals(xy, np.ones(N, bool)))


@pytest.fixture(scope="module")
def observation(road):
    return observe(road)


def stored(spec: ObservationSpec) -> dict:
    """A specification as stored in a checkpoint."""
    return json.loads(json.dumps(spec.to_dict()))


def changed(**changes) -> ObservationSpec:
    """The specification with another second feature."""
    features = (SPEC.features[0], dataclasses.replace(SPEC.features[1], **changes), SPEC.features[2])
    return dataclasses.replace(SPEC, features=features)


@pytest.mark.parametrize("spec", [SPEC, FlatView().spec(), FlatView("all", 2, 3, 5.0).spec()])
def test_a_specification_equals_the_one_that_was_stored(spec):
    assert spec.difference(stored(spec)) is None
    assert spec.difference(spec.to_dict()) is None
    assert stored(spec)["features"][0]["shape"] == list(spec.features[0].shape)


def test_sizes_are_numbers_of_values_per_agent():
    assert [feature.size for feature in SPEC.features] == [1, 8, 3]
    assert SPEC.size == 12


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (dataclasses.replace(SPEC, encoder="large"), ["encoder is 'small'", "stored is 'large'"]),
        (dataclasses.replace(SPEC, version=2), ["version is 3", "stored is 2"]),
        (changed(name="cars"), ["feature 'agents'", "stored is None"]),
        (changed(shape=(5, 2)), ["feature 'agents'", "(4, 2)", "[5, 2]"]),
        (changed(shape=(8,)), ["feature 'agents'", "(4, 2)", "[8]"]),
        (changed(low=-1.0), ["feature 'agents'", "-1.5", "-1.0"]),
        (changed(high=2.0), ["feature 'agents'", "10000000000.0", "2.0"]),
        (changed(unit="m"), ["feature 'agents'", "'1'", "'m'"]),
        (dataclasses.replace(SPEC, features=SPEC.features[:2]), ["feature 'id'", "stored is None"]),
        (
            dataclasses.replace(SPEC, features=(*SPEC.features, ObservationFeature("lights", (2,), 0.0, 1.0))),
            ["stored features ['lights'] do not exist"],
        ),
        (
            dataclasses.replace(SPEC, features=SPEC.features[::-1]),
            ["['speed', 'agents', 'id']", "stored is ['id', 'agents', 'speed']"],
        ),
    ],
)
def test_the_first_difference_from_another_specification_is_named(other, parts):
    result = SPEC.difference(stored(other))
    assert result is not None and all(part in result for part in parts), result


def test_a_stored_specification_without_an_entry_differs():
    incomplete = stored(SPEC)
    del incomplete["features"][1]["unit"]
    assert "feature 'agents'" in (SPEC.difference(incomplete) or "")
    assert "encoder is 'small', stored is None" in (SPEC.difference({}) or "")
    assert "feature 'speed'" in (SPEC.difference({"encoder": "small", "version": 3}) or "")


def test_the_flat_view_is_an_encoder_that_can_be_hashed():
    assert isinstance(FlatView(), ObservationEncoder)
    assert not isinstance(lambda observation: observation, ObservationEncoder)
    assert hash(FlatView("all", 3, 4)) == hash(FlatView("all", 3, 4)) and FlatView() != FlatView(limit=5.0)
    assert FlatView(limit=5.0).limit == 5.0


@pytest.mark.parametrize("observers", ["controlled", "all"])
@pytest.mark.parametrize(("num_agents", "num_polylines"), [(1, 1), (2, 40), (9, 3), (16, 32)])
def test_the_size_of_the_specification_is_the_width_of_rows(observation, observers, num_agents, num_polylines):
    encoder = FlatView(observers, num_agents, num_polylines)
    for rows in (1, 2, N) if observers == "controlled" else (2,):
        widened = dataclasses.replace(observation, controlled=np.zeros(rows, np.int32))
        result = jax.eval_shape(encoder, widened)
        assert result.shape == (N if observers == "all" else rows, encoder.spec().size)
        assert result.dtype == jnp.float32
    names = [feature.name for feature in encoder.spec().features]
    assert names == ["agents", "elements", "goal", "remaining_time", "route"]


def test_values_are_finite_and_within_their_ranges_in_diverged_states(observation):
    encoder, rng = FlatView("all", K, E, limit=2.0), np.random.default_rng(0)
    assert {(feature.low, feature.high) for feature in encoder.spec().features} == {(-2.0, 2.0)}
    numbers = np.array([np.nan, np.inf, -np.inf, 1e30, -3e38, 1e-30, 0.0, 50.0], np.float32)

    def diverged(leaf):
        spoilt = np.array(leaf)
        if spoilt.dtype == np.float32:
            some = rng.random(spoilt.shape) < 0.2
            spoilt[some] = rng.choice(numbers, some.sum())
        return spoilt

    clipped = []
    for _ in range(20):
        parts = {name: jax.tree.map(diverged, getattr(observation, name)) for name in ("history", "goals", "routes")}
        time = np.array(rng.choice(numbers), np.float32)
        rows = np.asarray(encode(encoder, dataclasses.replace(observation, **parts, remaining_time=time)))
        assert np.isfinite(rows).all()
        assert (np.abs(rows) <= 2.0).all()
        clipped.append((np.abs(rows) == 2.0).sum())
    assert min(clipped) > 0


def test_rows_without_an_agent_are_zero(road, observation):
    rows = np.asarray(encode(ALL, observation))
    assert np.any(rows, axis=1).tolist() == [True, True, False, True]
    # The controlled agents: 2 is absent, and 3 does not act.
    assert observation.controlled.tolist() == [0, 1, -1, 3]
    ended = dataclasses.replace(observation, controlled=np.array([0, 1, -1, -1], np.int32))
    controlled = np.asarray(encode(FlatView("controlled", K, E), ended))
    assert np.any(controlled, axis=1).tolist() == [True, True, False, False]
    np.testing.assert_allclose(controlled[:2], rows[:2], atol=1e-6)
    # In any order, and twice.
    picked = dataclasses.replace(observation, controlled=np.array([3, -1, 0, 3], np.int32))
    np.testing.assert_allclose(
        encode(FlatView("controlled", K, E), picked), np.stack([rows[3], 0 * rows[0], rows[0], rows[3]]), atol=1e-6
    )


def test_the_remaining_time_is_that_to_the_end_of_the_record(road):
    for step, seconds in ((START, 0.6), (START + 1, 0.5), (STEPS - 1, 0.0), (0, 1.1)):
        moved = dataclasses.replace(road, current_step=np.array(step, np.int32))
        observation = observe(moved)
        assert float(observation.remaining_time) == pytest.approx(seconds, abs=1e-6)
        rows = np.asarray(encode(ALL, observation))
        np.testing.assert_allclose(rows[:, TIME], seconds / 10 * moved.log.valid[step], atol=1e-7)


def test_goals_are_in_the_frame_of_the_agent(observation):
    rows = np.asarray(encode(ALL, observation))[:, GOAL:TIME]
    # Agent 0 is at the origin and looks along x: 3 m ahead, 4 m to the left.
    np.testing.assert_allclose(rows[0], [1, 0.15, 0.2, 0.6, 0.8, np.log(6) / 4], atol=1e-6)
    # Agent 1 is at (-20, 0) and looks along y: 30 m ahead.
    np.testing.assert_allclose(rows[1], [1, 1.5, 0, 1, 0, np.log(31) / 4], atol=1e-6)
    assert not np.any(rows[2])
    # Agent 3 is at (-60, 0) and looks to -2 rad; positions are clipped to 10 units of 20 m, the direction is not.
    x, y = 65.0, -700.0
    ahead, left = np.cos(2) * x - np.sin(2) * y, np.sin(2) * x + np.cos(2) * y
    distance = np.hypot(x, y)
    expected = [1, min(ahead / 20, 10), min(left / 20, 10), ahead / distance, left / distance, np.log1p(distance) / 4]
    np.testing.assert_allclose(rows[3], expected, rtol=1e-5)
    assert ahead > 200 and left > 200


def test_a_goal_at_the_agent_has_no_direction(observation):
    here = dataclasses.replace(observation.goals, xy=observation.agents.xyz[:, :2])
    rows = np.asarray(encode(ALL, dataclasses.replace(observation, goals=here)))[:, GOAL:TIME]
    np.testing.assert_array_equal(rows[[0, 1, 3]], np.eye(6)[[0, 0, 0]])


def test_features_of_invalid_entries_are_zero(observation):
    valid = np.array([True, False, True, True])
    no_goal = dataclasses.replace(observation, goals=dataclasses.replace(observation.goals, valid=valid))
    rows = np.asarray(encode(ALL, no_goal))
    assert np.any(rows[:, GOAL:TIME], axis=1).tolist() == [True, False, False, True]
    # One agent alone in its view: the entries of the others are zero, and those of the other observers as a whole.
    alone = dataclasses.replace(
        observation, history=dataclasses.replace(observation.history, valid=np.arange(N)[None] == np.zeros((2, 1)))
    )
    rows = np.asarray(encode(ALL, alone))
    assert np.any(rows, axis=1).tolist() == [True, False, False, False]
    agents = rows[0, : K * NUM_AGENT_VALUES].reshape(K, NUM_AGENT_VALUES)
    assert np.any(agents, axis=1).tolist() == [True, False, False]
    assert agents[0].tolist() == pytest.approx([1, 0, 0, 0, 1, 0, 1, 0, 0.8, 0.4, 1, 0, 0])


def test_polylines_are_zero_without_a_map():
    raw = without_features(raw_scene(num_steps=STEPS, num_agents=N, current_step=START))
    rows = np.asarray(encode(ALL, observe(to_scenario(raw, pad_to_bucket=False))))
    assert not rows[:, K * NUM_AGENT_VALUES : GOAL].any() and rows[:, : K * NUM_AGENT_VALUES].any()


def test_a_route_that_ends_has_no_points_beyond_its_end(observation):
    """The route of the sdc along x: points that the next 50 m hold, and none behind the last valid one."""
    routes = observation.routes
    x, y = np.asarray(routes.xyz[0, :, 0]), np.asarray(routes.xyz[0, :, 1])
    assert np.ptp(y[np.asarray(routes.valid[0])]) < 1e-6
    for last in (40.0, 17.0, -200.0):
        valid = np.asarray(routes.valid) & (x <= last)[None]
        rows = np.asarray(
            encode(ALL, dataclasses.replace(observation, routes=dataclasses.replace(routes, valid=valid)))
        )
        assert not np.any(rows[1:, ROUTE:])
        points = rows[0, ROUTE:].reshape(-1, 3)
        if not valid.any():
            assert not np.any(points)
            continue
        reach = x[valid[0]].max()
        start = x[valid[0]][np.abs(x[valid[0]]).argmin()]
        expected = start + 5.0 * np.arange(1, 11) <= reach + 1e-4
        np.testing.assert_array_equal(points[:, 0], expected)
        assert not np.any(points[~expected]) and (np.diff(points[expected, 1]) > 0).all()
