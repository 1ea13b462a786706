"""MPPI: plans get better, the same key gives the same plan, and hand-checked outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import MPPI
from behavior_models.planners.action_sequence import KNOT, NUM_KNOTS, changes, no_plan
from behavior_models.planners.prediction import outlook_of, replayed
from behavior_models.planners.scoring import cost_of, terms_of
from tests.behavior_models.roads import LIMIT, RED, drive, observe, road

KEY = jax.random.key(3)
act = jax.jit(MPPI(num_samples=24).act)


@jax.jit
def costs(observation, *plans):
    """Costs of plans in comparison."""
    outlook = outlook_of(observation, jnp.asarray(0), jnp.asarray(-1, jnp.int32))
    rollouts = replayed(outlook, jnp.stack(plans, axis=1))
    return cost_of(terms_of(observation, outlook, rollouts), rollouts)


def test_plans_get_better():
    """To go straight on ends in the car ahead; after one search it does not, and another search costs no more."""
    observation, search = observe(road((28.0, 0.0, 0.0, 0.0))), no_plan()
    plans = [search.plan]
    for number in range(2):
        _, search = act(observation, search, jax.random.fold_in(KEY, number))
        plans.append(search.plan)
    nothing, first, second = costs(observation, *plans)
    assert nothing > 4.0 and first < 1.0 and second < first + 0.05


def test_the_same_key_gives_the_same_plan_and_another_one_another():
    observation = observe(road((28.0, 0.0, 0.0, 0.0)))
    one, same, other = (act(observation, no_plan(), key)[1].plan for key in (KEY, KEY, jax.random.key(4)))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_drives_on_and_stops_where_it_must():
    ego, overlap = drive(act, no_plan(), road(), num_steps=40)
    assert not overlap and 11.5 < ego.velocity[-1, 0] < LIMIT + 0.5 and np.max(np.abs(ego.xyz[:, 1])) < 0.7
    ego, overlap = drive(act, no_plan(), road((35.0, 0.0, 0.0, 0.0)))
    assert not overlap and ego.velocity[-1, 0] < 2.0
    ego, _ = drive(act, no_plan(), road(light=RED))
    assert ego.velocity[-1, 0] < 2.0 and ego.xyz[-1, 0] + 2.0 < 40.0


def test_changes_are_straight_between_knots():
    knots = np.zeros((NUM_KNOTS, 2), np.float32)
    knots[1] = 1.0
    found = changes(jnp.asarray(knots), jnp.asarray(10.0), 0.8, 0.5)
    rise = np.minimum(np.arange(2 * KNOT + 1), 2 * KNOT - np.arange(2 * KNOT + 1)) / KNOT
    np.testing.assert_allclose(found[: 2 * KNOT + 1, 0], 0.8 * rise, atol=1e-6)
    np.testing.assert_allclose(found[: 2 * KNOT + 1, 1], 0.5 / 100.0 * rise, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("num_elites", [0, 6])
def test_each_of_a_batch_is_as_if_alone(num_elites):
    policy = MPPI(num_samples=24, num_elites=num_elites)
    seen = [observe(item) for item in (road((35.0, 0.0, 0.0, 0.0)), road(light=RED))]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)
    together, _ = jax.jit(jax.vmap(lambda item: policy.act(item, no_plan(), KEY)))(both)
    alone = [jax.jit(policy.act)(item, no_plan(), KEY)[0].value for item in seen]
    np.testing.assert_allclose(together.value, np.stack(alone), atol=1e-3)
