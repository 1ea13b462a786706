"""Planners on maps without stop lines; all policies on scenes without other content are in `tests.field`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import MPPI, PDM, GradientPlanner
from behavior_models.planners.prediction import planning_context
from tests.empty_scenes import without_lights
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.env import Env, EnvConfig, rollout

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(metrics=(), rewards=()))
KEY, NUM_STEPS = jax.random.key(0), 3
PLANNERS = [PDM(), MPPI(num_samples=4), GradientPlanner(num_steps=1)]


def unlit():
    """A straight road without lights and stop signs, so without stop lines; agents drive at 10 m/s."""
    return to_scenario(without_lights(raw_scene()), pad_to_bucket=False)


@pytest.mark.parametrize(
    "planner",
    [PLANNERS[0], *(pytest.param(planner, marks=pytest.mark.slow) for planner in PLANNERS[1:])],
    ids=lambda planner: type(planner).__name__,
)
def test_planners_keep_driving_without_stop_lines(planner):
    scenario = unlit()
    assert not (scenario.graph.stop_lines.lane >= 0).any()
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
    assert bare.reference.stop.shape == (1,) and padded.reference.stop.shape == (4,)
    assert np.isinf(bare.reference.stop).all() and np.isinf(padded.reference.stop).all()
    lines = {name: getattr(bare.reference, name) for name in ("stop", "light", "stop_sign")}
    padded = dataclasses.replace(padded, reference=dataclasses.replace(padded.reference, **lines))
    jax.tree.map(np.testing.assert_array_equal, bare, padded)
