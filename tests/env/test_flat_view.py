"""The flat view against a slow one that is easy to read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES, ROAD_LINE_TYPES
from waymax_sim.env.flat_view import FlatView, _route

K, E = 5, 9


@pytest.fixture(scope="module")
def observation():
    """Agents all around, a light at the lane, a bridge, an island and two paths."""
    scenario = to_scenario(busy_raw_scene(), bucketed=False)
    env = ws.Env()
    return env.observe(scenario, jax.jit(env.reset)(scenario, jax.random.key(0))[0])


@pytest.fixture(scope="module")
def seen(observation):
    """What looks, all rows, the row of the sdc, and what both are made of."""

    @jax.jit
    def look(observation):
        view = ws.view(observation, "all", num_agents=K, num_elements=E)
        return FlatView("all", K, E)(observation), FlatView("sdc", K, E)(observation), view

    return look, *look(observation)


def slow_row(view, row: int) -> np.ndarray:
    """Agents and elements of an observer, number by number."""
    numbers = []
    agents, elements = view.agents, view.elements
    for k in range(K):
        valid = agents.state.valid[row, k, -1]
        x, y, z = agents.state.xyz[row, k, -1] / 20
        yaw, (vx, vy) = agents.state.yaw[row, k, -1], agents.state.velocity[row, k, -1] / 10
        length, width, _ = agents.size[row, k] / 5
        kinds = [float(agents.type[row, k] == code) for code in (1, 2, 3)]
        turned = [np.cos(yaw), np.sin(yaw)] if valid else [0, 0]
        numbers += [float(valid), x, y, z, *turned, vx, vy, length, width, *kinds]
    for e in range(E):
        numbers += elements.valid[row, e].astype(float).tolist()
        numbers += (elements.xyz[row, e, :, :2] / 20).ravel().tolist()
        kind, light = int(elements.type[row, e]), int(elements.light[row, e])
        numbers += [float(kind in codes) for codes in (LANE_TYPES, ROAD_LINE_TYPES, ROAD_EDGE_TYPES, (18,), (17,))]
        lit = bool(elements.light_valid[row, e])
        numbers += [float(lit and light in codes) for codes in ((1, 4, 7), (2, 5, 8), (3, 6))]
    return np.clip(numbers, -10, 10)


def test_rows_are_what_the_view_holds(seen):
    _, flat, _, view = seen
    view = jax.tree.map(np.asarray, view)
    for row in range(len(flat)):
        np.testing.assert_allclose(flat[row], slow_row(view, row), atol=1e-5)
    # All kinds of agents and elements are there, and lights.
    assert (np.asarray(flat).max(axis=0) > 0).mean() > 0.6


def test_the_sdc_sees_the_same_and_its_route(observation, seen):
    _, flat, ego, _ = seen
    row = int(observation.info.is_sdc.argmax())
    route = np.asarray(ego[-3 * NUM_PLACES :]).reshape(NUM_PLACES, 3)
    np.testing.assert_allclose(ego[: -3 * NUM_PLACES], flat[row], atol=1e-6)
    # The on-route path is that along y = 0, with points every 2 m: 5 m ahead is at most 2 m further.
    now = jax.tree.map(np.asarray, observation.agents)
    assert now.valid[row]
    xyz = np.asarray(observation.routes.xyz[0])
    nearest = np.linalg.norm(xyz[:, :2] - now.xyz[row, :2], axis=-1).argmin()
    yaw = float(now.yaw[row])
    for index, (found, *xy) in enumerate(route):
        ahead = xyz[nearest, 0] + 5.0 * (index + 1)
        assert found == (ahead <= xyz[:, 0].max())
        if found:
            place = xyz[(xyz[:, 0] >= ahead - 1e-3).argmax(), :2] - now.xyz[row, :2]
            turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
            np.testing.assert_allclose(np.array(xy) * 20, turn @ place, atol=1e-3)


def test_what_diverged_is_zero_and_what_is_far_is_clipped(observation, seen):
    row = int(observation.info.is_sdc.argmax())
    velocity = observation.history.velocity.at[-1, row].set(jnp.array([jnp.nan, 1e6]))
    broken = observation.__class__(
        **{**observation.__dict__, "history": ws.AgentState(**{**observation.history.__dict__, "velocity": velocity})}
    )
    flat = np.asarray(seen[0](broken)[1])
    assert np.isfinite(flat).all() and np.abs(flat).max() <= 10


def test_scenes_without_routes_have_none_ahead():
    assert not np.asarray(_route(None)).any()
