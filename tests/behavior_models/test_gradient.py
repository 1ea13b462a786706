"""Gradient planner: finite gradients that are descent directions, and hand-checked outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import GradientPlanner
from behavior_models.planners.action_sequence import initial_planner_state
from behavior_models.planners.gradient import soft_cost
from behavior_models.planners.prediction import PREDICTION, planning_context
from tests.behavior_models.roads import RED, drive, observe, road

pytestmark = pytest.mark.compile_heavy

POLICY = GradientPlanner(num_steps=4)
act = jax.jit(POLICY.act)
ZERO_PLAN = np.zeros((PREDICTION.num_steps(0.1), 2), np.float32)


@jax.jit
def cost_and_gradient(observation, plan):
    """Soft cost of a plan and its gradient."""
    context = planning_context(observation, jnp.asarray(0), jnp.asarray(-1, jnp.int32))
    return jax.value_and_grad(lambda plan: soft_cost(observation, context, plan))(plan)


@pytest.mark.slow
def test_gradients_are_finite_and_descend():
    for case in (road(), road((20.0, 0.5, 0.0, 0.0)), road(light=RED), road(speed=0.0), road((1.0, 0.0, 0.0, 0.0))):
        observation = observe(case)
        cost, gradient = jax.device_get(cost_and_gradient(observation, ZERO_PLAN))
        assert np.isfinite(cost) and np.all(np.isfinite(gradient))
        step = -gradient / np.maximum(np.abs(gradient).max(axis=0, keepdims=True), 1e-6)
        assert cost_and_gradient(observation, step * np.array([[0.02, 1e-4]], np.float32))[0] < cost


def test_gradient_equals_central_differences():
    """Of accelerations behind a car, and of curvatures off the center of the lane."""
    behind_a_car, off_center = observe(road((30.0, 0.5, 0.0, 2.0))), observe(road(y=0.5))
    for observation, entry, size in (
        (behind_a_car, (3, 0), 0.05),
        (behind_a_car, (20, 0), 0.05),
        (off_center, (3, 1), 2e-4),
        (off_center, (20, 1), 2e-4),
    ):
        change = np.zeros_like(ZERO_PLAN)
        change[entry] = size
        above, below = (cost_and_gradient(observation, ZERO_PLAN + sign * change)[0] for sign in (1, -1))
        gradient = cost_and_gradient(observation, ZERO_PLAN)[1]
        np.testing.assert_allclose((above - below) / (2 * size), gradient[entry], rtol=0.1, atol=1e-3)


@pytest.mark.slow
def test_passes_obstacles_and_stops_at_blocked_lane_and_red_light():
    ego, overlap = drive(act, initial_planner_state(0.1), road((40.0, -2.0, 0.0, 0.0), width=3.5))
    assert not overlap and ego.xyz[-1, 0] > 45.0
    assert ego.xyz[np.argmin(np.abs(ego.xyz[:, 0] - 40.0)), 1] > 0.1
    ego, overlap = drive(act, initial_planner_state(0.1), road((35.0, 0.0, 0.0, 0.0)))
    assert not overlap and ego.velocity[-1, 0] < 2.0
    ego, _ = drive(act, initial_planner_state(0.1), road(light=RED))
    assert ego.velocity[-1, 0] < 2.0 and ego.xyz[-1, 0] + 2.0 < 40.0
