"""MPPI: decreasing cost, reproducible plans, and hand-checked outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import MPPI
from behavior_models.planners.action_sequence import initial_planner_state, interpolate_knots, num_knots
from behavior_models.planners.prediction import planning_context, simulate_actions
from behavior_models.planners.scoring import rollout_cost, score_terms
from tests.behavior_models.roads import LIMIT, RED, drive, observe, road

pytestmark = pytest.mark.compile_heavy

KEY = jax.random.key(3)
act = jax.jit(MPPI(num_samples=24).act)


@jax.jit
def costs(observation, *plans):
    """Costs of plans, relative to the best progress among them."""
    context = planning_context(observation, jnp.asarray(0), jnp.asarray(-1, jnp.int32))
    rollouts = simulate_actions(context, jnp.stack(plans, axis=1))
    return rollout_cost(score_terms(observation, context, rollouts), rollouts)


def test_improvement_lowers_the_cost():
    """Zero actions end in the car ahead; one improvement avoids it, and a second one costs no more."""
    observation, state = observe(road((28.0, 0.0, 0.0, 0.0))), initial_planner_state(0.1)
    plans = [state.plan]
    for number in range(2):
        _, state = act(observation, state, jax.random.fold_in(KEY, number))
        plans.append(state.plan)
    initial, first, second = costs(observation, *plans)
    assert initial > 4.0 and first < 1.0 and second < first + 0.05


def test_plans_depend_on_the_key_alone():
    observation = observe(road((28.0, 0.0, 0.0, 0.0)))
    one, same, other = (
        act(observation, initial_planner_state(0.1), key)[1].plan for key in (KEY, KEY, jax.random.key(4))
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_free_road_obstacle_and_red_light():
    ego, overlap = drive(act, initial_planner_state(0.1), road(), num_steps=40)
    assert not overlap and 11.5 < ego.velocity[-1, 0] < LIMIT + 0.5 and np.max(np.abs(ego.xyz[:, 1])) < 0.7
    ego, overlap = drive(act, initial_planner_state(0.1), road((35.0, 0.0, 0.0, 0.0)))
    assert not overlap and ego.velocity[-1, 0] < 2.0
    ego, _ = drive(act, initial_planner_state(0.1), road(light=RED))
    assert ego.velocity[-1, 0] < 2.0 and ego.xyz[-1, 0] + 2.0 < 40.0


def test_perturbations_are_linear_between_knots():
    knots = np.zeros((num_knots(0.1), 2), np.float32)
    knots[1] = 1.0
    values = interpolate_knots(jnp.asarray(knots), 0.1, jnp.asarray(10.0), 0.8, 0.5)
    step = np.arange(2 * 5 + 1)
    rise = np.minimum(step, 2 * 5 - step) / 5
    np.testing.assert_allclose(values[: 2 * 5 + 1, 0], 0.8 * rise, atol=1e-6)
    np.testing.assert_allclose(values[: 2 * 5 + 1, 1], 0.5 / 100.0 * rise, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("num_elites", [0, 6])
def test_batched_actions_equal_single_ones(num_elites):
    policy = MPPI(num_samples=24, num_elites=num_elites)
    observations = [observe(item) for item in (road((35.0, 0.0, 0.0, 0.0)), road(light=RED))]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)
    batched, _ = jax.jit(jax.vmap(lambda item: policy.act(item, initial_planner_state(0.1), KEY)))(batch)
    single = [jax.jit(policy.act)(item, initial_planner_state(0.1), KEY)[0].value for item in observations]
    np.testing.assert_allclose(batched.value, np.stack(single), atol=1e-3)
