"""The flat view against a sequential NumPy version."""

import dataclasses

import jax
import numpy as np
import pytest

import waymax_sim as ws
from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES, ROAD_LINE_TYPES
from waymax_sim.env.flat_view import NUM_ROUTE_POINTS, FlatView

K, E = 5, 9
# Where the features of a row end: agents, elements, goal, remaining time, and the route to the end of the row.
AGENTS, ELEMENTS = 13 * K, 13 * K + 32 * E
GOAL, TIME = ELEMENTS + 6, ELEMENTS + 7


@pytest.fixture(scope="module")
def observation():
    """Agents all around, a light at the lane, a bridge, an island and two paths; the caller controls the sdc."""
    scenario = to_scenario(busy_raw_scene(), pad_to_bucket=False)
    env = ws.Env(config=ws.EnvConfig(metrics=(), rewards=()))
    return jax.jit(lambda scenario: env.observe(scenario, env.initial_state(scenario, jax.random.key(0))))(scenario)


@pytest.fixture(scope="module")
def encoded(observation):
    """A function that encodes, the rows of all agents, the rows of the controlled agents, and the view behind both."""

    @jax.jit
    def look(observation):
        view = ws.agent_centric_view(observation, "all", num_agents=K, num_polylines=E)
        return FlatView("all", K, E)(observation), FlatView("controlled", K, E)(observation), view

    return look, *look(observation)


def slow_row(view, row: int) -> np.ndarray:
    """Agents and polylines of an observer, value by value."""
    numbers = []
    agents, polylines = view.agents, view.polylines
    for k in range(K):
        valid = agents.state.valid[row, k, -1]
        x, y, z = agents.state.xyz[row, k, -1] / 20
        yaw, (vx, vy) = agents.state.yaw[row, k, -1], agents.state.velocity[row, k, -1] / 10
        length, width, _ = agents.size[row, k] / 5
        kinds = [float(agents.type[row, k] == code) for code in (1, 2, 3)]
        turned = [np.cos(yaw), np.sin(yaw)] if valid else [0, 0]
        numbers += [float(valid), x, y, z, *turned, vx, vy, length, width, *kinds]
    for e in range(E):
        numbers += polylines.valid[row, e].astype(float).tolist()
        numbers += (polylines.xyz[row, e, :, :2] / 20).ravel().tolist()
        kind, light = int(polylines.type[row, e]), int(polylines.light[row, e])
        numbers += [float(kind in codes) for codes in (LANE_TYPES, ROAD_LINE_TYPES, ROAD_EDGE_TYPES, (18,), (17,))]
        lit = bool(polylines.light_valid[row, e])
        numbers += [float(lit and light in codes) for codes in ((1, 4, 7), (2, 5, 8), (3, 6))]
    return np.clip(numbers, -10, 10)


def test_rows_hold_the_agents_and_polylines_of_the_view(encoded):
    _, flat, _, view = encoded
    view = jax.tree.map(np.asarray, view)
    for row in range(len(flat)):
        np.testing.assert_allclose(flat[row, :ELEMENTS], slow_row(view, row), atol=1e-5)
    # All types of agents and polylines occur, and lights.
    assert (np.asarray(flat[:, :ELEMENTS]).max(axis=0) > 0).mean() > 0.6


def test_rows_hold_the_time_and_no_goal_where_the_scenario_has_none(observation, encoded):
    _, flat, _, view = encoded
    valid = np.asarray(view.valid)
    assert observation.goals is None and not np.any(flat[:, ELEMENTS:GOAL])
    # 15 steps of 0.1 s are left of 21, in units of 10 s.
    np.testing.assert_allclose(flat[:, GOAL], 0.15 * valid, atol=1e-6)
    assert valid.any() and not valid.all()


def test_the_controlled_agent_has_the_row_that_it_has_among_all(observation, encoded):
    _, flat, ego, _ = encoded
    row = int(observation.info.is_sdc.argmax())
    assert observation.controlled.tolist() == [row]
    np.testing.assert_allclose(ego, flat[row][None], atol=1e-6)


def test_only_the_sdc_observes_its_route(observation, encoded):
    _, flat, _, _ = encoded
    row = int(observation.info.is_sdc.argmax())
    assert not np.any(np.delete(np.asarray(flat[:, TIME:]), row, axis=0))
    route = np.asarray(flat[row, TIME:]).reshape(NUM_ROUTE_POINTS, 3)
    # The on-route path is that along y = 0, with points every 2 m: 5 m ahead is at most 2 m further.
    now = jax.tree.map(np.asarray, observation.agents)
    assert now.valid[row]
    xyz = np.asarray(observation.routes.xyz[0])
    nearest = np.linalg.norm(xyz[:, :2] - now.xyz[row, :2], axis=-1).argmin()
    yaw = float(now.yaw[row])
    for index, (exists, *xy) in enumerate(route):
        ahead = xyz[nearest, 0] + 5.0 * (index + 1)
        assert exists == (ahead <= xyz[:, 0].max())
        if exists:
            point = xyz[(xyz[:, 0] >= ahead - 1e-3).argmax(), :2] - now.xyz[row, :2]
            turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
            np.testing.assert_allclose(np.array(xy) * 20, turn @ point, atol=1e-3)
    assert route[:, 0].sum() > 0


@pytest.mark.parametrize(("speed", "largest"), [(np.nan, 0.0), (1e6, 10.0)])
def test_a_value_that_is_not_finite_is_zero_and_a_large_one_is_clipped(observation, encoded, speed, largest):
    look, _, ego, _ = encoded
    row = int(observation.info.is_sdc.argmax())
    velocity = observation.history.velocity.at[-1, row].set(speed)
    broken = dataclasses.replace(observation, history=dataclasses.replace(observation.history, velocity=velocity))
    changed = np.asarray(look(broken)[1])[0]
    # The velocity of the sdc in its own frame; the rest of the row is as it was.
    np.testing.assert_allclose(np.abs(changed[6:8]).max(), largest)
    np.testing.assert_array_equal(changed[8:], ego[0, 8:])


def test_a_scenario_without_routes_has_none_ahead(observation, encoded):
    flat = np.asarray(encoded[0](dataclasses.replace(observation, routes=None))[0])
    assert not flat[:, TIME:].any()
    np.testing.assert_allclose(flat[:, :TIME], encoded[1][:, :TIME], atol=1e-6)
