"""The planner by gradients: finite slopes that lead downhill, and hand-checked outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import GradientPlanner
from behavior_models.planners.action_sequence import no_plan
from behavior_models.planners.gradient import soft_cost
from behavior_models.planners.prediction import NUM_STEPS, outlook_of
from tests.behavior_models.roads import RED, drive, observe, road

POLICY = GradientPlanner(num_steps=4)
act = jax.jit(POLICY.act)
STILL = np.zeros((NUM_STEPS, 2), np.float32)


@jax.jit
def slope(observation, plan):
    """Soft cost of a plan and its gradient."""
    outlook = outlook_of(observation, jnp.asarray(0), jnp.asarray(-1, jnp.int32))
    return jax.value_and_grad(lambda plan: soft_cost(observation, outlook, plan))(plan)


def test_gradients_are_finite_and_lead_downhill():
    for case in (road(), road((20.0, 0.5, 0.0, 0.0)), road(light=RED), road(speed=0.0), road((1.0, 0.0, 0.0, 0.0))):
        observation = observe(case)
        cost, gradient = jax.device_get(slope(observation, STILL))
        assert np.isfinite(cost) and np.all(np.isfinite(gradient))
        downhill = -gradient / np.maximum(np.abs(gradient).max(axis=0, keepdims=True), 1e-6)
        assert slope(observation, downhill * np.array([[0.02, 1e-4]], np.float32))[0] < cost


def test_the_gradient_is_the_slope():
    """Central differences: accelerations with a car ahead, curvatures beside the middle of the lane."""
    behind_a_car, beside = observe(road((30.0, 0.5, 0.0, 2.0))), observe(road(y=0.5))
    for observation, place, size in (
        (behind_a_car, (3, 0), 0.05),
        (behind_a_car, (20, 0), 0.05),
        (beside, (3, 1), 2e-4),
        (beside, (20, 1), 2e-4),
    ):
        change = np.zeros_like(STILL)
        change[place] = size
        ahead, behind = slope(observation, STILL + change)[0], slope(observation, STILL - change)[0]
        gradient = slope(observation, STILL)[1]
        np.testing.assert_allclose((ahead - behind) / (2 * size), gradient[place], rtol=0.1, atol=1e-3)


@pytest.mark.slow
def test_goes_round_an_obstacle_and_stops_where_it_must():
    ego, overlap = drive(act, no_plan(), road((40.0, -2.0, 0.0, 0.0), width=3.5))
    assert not overlap and ego.xyz[-1, 0] > 45.0
    assert ego.xyz[np.argmin(np.abs(ego.xyz[:, 0] - 40.0)), 1] > 0.1
    ego, overlap = drive(act, no_plan(), road((35.0, 0.0, 0.0, 0.0)))
    assert not overlap and ego.velocity[-1, 0] < 2.0
    ego, _ = drive(act, no_plan(), road(light=RED))
    assert ego.velocity[-1, 0] < 2.0 and ego.xyz[-1, 0] + 2.0 < 40.0
