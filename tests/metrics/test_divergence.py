import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tests.scenes import agent_state, measure, scene
from waymax_sim.metrics import divergence
from waymax_sim.metrics.metric import MetricValue
from waymax_sim.pytree import tree_index

LOG = tree_index(scene().log, 5)


def test_distance_in_the_plane_to_the_log_of_the_same_step():
    moved = dataclasses.replace(LOG, xyz=LOG.xyz + np.float32([(3, 4, 9), (0, 0, 5), (-1, 0, 0)]))
    result = measure(divergence.log_divergence, scene(), moved)
    np.testing.assert_allclose(result.value, [5, 0, 1], atol=1e-6)
    # One step later the log is 1 m further.
    later = measure(divergence.log_divergence, scene(), LOG, step=6)
    np.testing.assert_allclose(later.value, [1, 1, 1], atol=1e-5)


def test_valid_where_both_are_valid():
    absent = scene(valid=np.broadcast_to([True, False, True], (21, 3)))
    agents = agent_state(np.full((3, 3), 9.0), valid=[True, True, False])
    result = measure(divergence.log_divergence, absent, agents)
    np.testing.assert_array_equal(result.valid, [True, False, False])
    np.testing.assert_array_equal(result.value[1:], 0)


def test_gradients_are_finite_at_the_log_and_for_absent_agents():
    moved = dataclasses.replace(LOG, xyz=LOG.xyz + np.float32([(0, 0, 0), (3, -4, 0), (1, 1, 1)]))
    moved = dataclasses.replace(moved, valid=np.arange(3) < 2)

    def total(agents):
        return jnp.sum(measure(divergence.log_divergence, scene(), agents).value)

    gradient = jax.grad(total, allow_int=True)(moved).xyz
    np.testing.assert_allclose(gradient, [(0, 0, 0), (0.6, -0.8, 0), (0, 0, 0)], atol=1e-6)


def test_displacement_errors_equal_loops():
    rng = np.random.default_rng(0)
    valid = (rng.random((2, 12, 5)) < 0.5) & (np.arange(5) < 4)
    simulated, logged = (agent_state(rng.normal(0, 9, (12, 5, 3)), valid=mask) for mask in valid)
    ade = divergence.average_displacement_error(simulated, logged)
    fde = divergence.final_displacement_error(simulated, logged)
    for agent in range(5):
        both = np.flatnonzero(simulated.valid[:, agent] & logged.valid[:, agent])
        errors = [np.linalg.norm((simulated.xyz - logged.xyz)[step, agent, :2]) for step in both]
        assert bool(ade.valid[agent]) == bool(fde.valid[agent]) == bool(errors)
        np.testing.assert_allclose(ade.value[agent], np.mean(errors) if errors else 0, rtol=1e-5)
        np.testing.assert_allclose(fde.value[agent], errors[-1] if errors else 0, rtol=1e-5)


def test_the_best_rollout_is_a_valid_one():
    errors = MetricValue(
        value=np.float32([[3, 0, 0], [2, 0, 5]]), valid=np.array([[True, False, False], [True, False, True]])
    )
    best = divergence.min_over_rollouts(errors)
    np.testing.assert_array_equal(best.value, [2, 0, 5])
    np.testing.assert_array_equal(best.valid, [True, False, True])
