import dataclasses

import jax
import numpy as np
import pytest

from tests import oracle
from tests.scenes import agent_state, measure, scene
from waymax_sim.datasets.scene import RawRoutes
from waymax_sim.metrics.route import off_route, project_on_routes, route_progression


def routes(*paths, on_route=None) -> RawRoutes:
    """Paths [n, 2], padded to the longest with invalid samples."""
    longest = max(len(path) for path in paths)
    xyz = np.zeros((len(paths), longest, 3))
    arc, valid = np.zeros((len(paths), longest)), np.zeros((len(paths), longest), bool)
    for i, path in enumerate(paths):
        xyz[i, : len(path), :2], valid[i, : len(path)] = path, True
        arc[i, 1 : len(path)] = np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=-1))
    return RawRoutes(xyz, arc, valid, np.array([True, *[False] * (len(paths) - 1)] if on_route is None else on_route))


STRAIGHT = [(-100, 0), (0, 0), (100, 0)]
PARALLEL = [(-100, 10), (100, 10)]


def evaluate(metric, x, y, paths, *, valid=True, logged=None, sdc_index=0) -> tuple[float, bool]:
    """The metric with the sdc at (x, y). In the log it drives from (0, 0) at step 5 to (15, 0) at step 20."""
    scenario = scene(routes=paths, sdc_index=sdc_index, valid=np.ones((21, 3), bool) if logged is None else logged)
    if paths is None:
        scenario = dataclasses.replace(scenario, routes=None)
    agents = agent_state([(x, y), (0, 0), (0, 0)], valid=[valid, True, True])
    result = measure(metric, scenario, agents)
    return float(result.value), bool(result.valid)


def test_projection_equals_the_oracle():
    rng = np.random.default_rng(0)
    paths = [np.cumsum(rng.uniform(-2, 5, (count, 2)), axis=0) for count in (2, 9, 30)]
    local = scene(routes=routes(*paths)).routes
    for xy in np.float32(rng.uniform(-10, 60, (30, 2))):
        distance, arc, usable = project_on_routes(local, xy)
        expected = np.array([oracle.project(np.float32(path).astype(float), xy.astype(float)) for path in paths])
        np.testing.assert_allclose(distance, expected[:, 0], atol=1e-4)
        np.testing.assert_allclose(arc, expected[:, 1], atol=1e-4)
        assert np.asarray(usable).all()


@pytest.mark.parametrize(
    ("y", "expected"),
    # The other path is 10 m to the left: nearer than the route by 2 m from y = 6 on, but 5 m is too far already.
    [(0, 0), (-4.9, 0), (4.9, 0), (5.1, 5.1), (-5.1, 5.1), (12, 12)],
)
def test_off_route_is_the_distance_to_the_route(y, expected):
    assert evaluate(off_route, 3, y, routes(STRAIGHT, PARALLEL)) == (pytest.approx(expected), True)


def test_another_path_that_is_nearer_by_two_meters_is_a_detour():
    near = [(-100, 4), (100, 4)]
    for y, expected in ((2.9, 0), (3.1, 3.1), (4.5, 4.5)):
        assert evaluate(off_route, 0, y, routes(STRAIGHT, near)) == (pytest.approx(expected), True)


@pytest.mark.parametrize(("x", "expected"), [(0, 0), (15, 1), (7.5, 0.5), (30, 2), (-15, -1)])
def test_progression_runs_from_now_to_the_end_of_the_log(x, expected):
    paths = routes(PARALLEL, STRAIGHT, on_route=[True, True])
    assert evaluate(route_progression, x, 1, paths) == (pytest.approx(expected, abs=1e-6), True)


def test_progression_ends_at_the_last_logged_position():
    logged = np.ones((21, 3), bool)
    logged[16:, 0] = False
    assert evaluate(route_progression, 5, 0, routes(STRAIGHT), logged=logged) == (pytest.approx(0.5), True)
    logged[5, 0] = False
    assert evaluate(route_progression, 5, 0, routes(STRAIGHT), logged=logged) == (0, False)


def test_a_stationary_log_has_full_progression():
    paths = routes([(-5, 0), (0, 0)])
    assert evaluate(route_progression, -3, 0, paths) == (1, True)


@pytest.mark.parametrize("metric", [off_route, route_progression])
@pytest.mark.parametrize(
    "paths",
    [
        None,
        routes(STRAIGHT, on_route=[False]),
        routes([(0, 0)]),
        routes([(0, 0)], [(0, 0), (1, 0)]),
        RawRoutes(np.zeros((0, 0, 3)), np.zeros((0, 0)), np.zeros((0, 0), bool), np.zeros(0, bool)),
        RawRoutes(np.zeros((0, 9, 3)), np.zeros((0, 9)), np.zeros((0, 9), bool), np.zeros(0, bool)),
        RawRoutes(np.zeros((2, 9, 3)), np.zeros((2, 9)), np.zeros((2, 9), bool), np.ones(2, bool)),
    ],
    ids=["none", "off", "point", "no segment on", "no path", "no paths of 9", "padding"],
)
def test_without_a_route_there_is_no_value(metric, paths):
    assert evaluate(metric, 7, 7, paths) == (0, False)


@pytest.mark.parametrize("metric", [off_route, route_progression])
def test_only_a_valid_sdc_has_a_value(metric):
    assert evaluate(metric, 7, 7, routes(STRAIGHT), valid=False) == (0, False)
    assert evaluate(metric, 7, 7, routes(STRAIGHT), sdc_index=-1) == (0, False)
    assert evaluate(metric, 7, 7, routes(STRAIGHT))[1]


@pytest.mark.parametrize("metric", [off_route, route_progression])
def test_gradients_are_finite_on_the_route_and_for_absent_agents(metric):
    scenario = scene(routes=routes(STRAIGHT, PARALLEL, [(0, 0)]))
    gradient = jax.grad(lambda agents: measure(metric, scenario, agents).value, allow_int=True)
    for valid in (True, False):
        assert np.isfinite(gradient(agent_state([(0, 0), (0, 0), (0, 0)], valid=valid)).xyz).all()
