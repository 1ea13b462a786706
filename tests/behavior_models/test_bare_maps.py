"""Planners and traffic models on maps that lack stop lines, lights, lanes, routes or any feature."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import IDM, MOBIL, MPPI, PDM, GradientPlanner, LogPathIDM
from behavior_models.planners.prediction import planning_context
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import RawRoutes, to_scenario
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.env import Env, EnvConfig, rollout

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(metrics=(), rewards=()))
KEY, NUM_STEPS = jax.random.key(0), 3
PLANNERS = [PDM(), MPPI(num_samples=4), GradientPlanner(num_steps=1)]


def unlit(**changes):
    """A straight road without lights and stop signs, so without stop lines; agents drive at 10 m/s."""
    no_lights = {
        "signal_lane_id": np.zeros(0, int),
        "signal_state": np.zeros((21, 0), int),
        "signal_stop_point": np.zeros((21, 0, 3)),
        "signal_valid": np.zeros((21, 0), bool),
    }
    return to_scenario(raw_scene(**no_lights | changes), pad_to_bucket=False)


def only(*types):
    """The features of the road that have some types."""
    base = raw_scene()
    rows = np.flatnonzero(np.isin(base.feature_type, types))
    points = np.isin(base.point_feature, rows)
    return {
        "point_xyz": base.point_xyz[points],
        "point_feature": np.searchsorted(rows, base.point_feature[points]),
        "feature_id": base.feature_id[rows],
        "feature_type": base.feature_type[rows],
        "speed_limit": base.speed_limit[rows],
    }


def routes(num_routes, num_points):
    shape = num_routes, num_points
    return RawRoutes(np.zeros((*shape, 3)), np.zeros(shape), np.zeros(shape, bool), np.ones(num_routes, bool))


@pytest.mark.parametrize(
    "planner",
    [PLANNERS[0], *(pytest.param(planner, marks=pytest.mark.slow) for planner in PLANNERS[1:])],
    ids=lambda planner: type(planner).__name__,
)
def test_planners_keep_driving_without_stop_lines(planner):
    scenario = unlit()
    assert axis_lengths(scenario)["graph.Z"] == 0
    run = jax.jit(lambda s: rollout(ENV, planner, s, KEY, NUM_STEPS, record=("agents", "actions")))
    trace = run(scenario)
    action = jax.device_get(trace.actions[0])
    np.testing.assert_array_equal(action.valid, np.broadcast_to([True, False, False], (NUM_STEPS, 3)))
    assert np.isfinite(action.value).all()
    assert (action.value[:, 0, 0] > -0.5).all() and np.abs(action.value[:, 0, 1]).max() < 0.05
    assert trace.agents.velocity[-1, 0, 0] > 9.8


def test_padding_of_stop_lines_leaves_the_planning_context_unchanged():
    @jax.jit
    def context(scenario):
        observation = ENV.observe(scenario, ENV.initial_state(scenario, KEY))
        return planning_context(observation, jnp.asarray(0), jnp.asarray(-1, jnp.int32))

    scenario = unlit()
    bare = context(scenario)
    padded = context(pad(scenario, axis_lengths(scenario) | {"graph.Z": 4}))
    assert bare.stop_line_index == -1 and np.isinf(bare.stop_line_s)
    assert bare.reference.stop.shape == (0,) and padded.reference.stop.shape == (4,)
    lines = {name: getattr(bare.reference, name) for name in ("stop", "light", "stop_sign")}
    padded = dataclasses.replace(padded, reference=dataclasses.replace(padded.reference, **lines))
    jax.tree.map(np.testing.assert_array_equal, bare, padded)


TRAFFIC = IDM(), MOBIL(), LogPathIDM()
BARE = {
    "no stop lines": (unlit, PLANNERS),
    "no features": (lambda: unlit(**only()), (PDM(), *TRAFFIC)),
    "no lanes": (lambda: unlit(**only(15)), (PDM(), *TRAFFIC)),
    "lights without lanes": (lambda: to_scenario(raw_scene(**only(15)), pad_to_bucket=False), (PDM(), *TRAFFIC)),
    "one agent": (lambda: unlit(num_agents=1), (PDM(), *TRAFFIC)),
    "no routes": (lambda: unlit(routes=routes(0, 0)), (PDM(),)),
    "routes of one point": (lambda: unlit(routes=routes(1, 1)), (PDM(),)),
}


@pytest.mark.parametrize("name", BARE)
def test_policies_trace_on_bare_maps(name):
    build, policies = BARE[name]
    scenario = build()
    for policy in policies:
        trace = jax.eval_shape(lambda s, own=policy: rollout(ENV, own, s, KEY, 1, record=("agents",)), scenario)
        assert trace.agents.xyz.shape == (1, scenario.num_agents, 3)
