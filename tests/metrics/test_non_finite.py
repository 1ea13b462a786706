"""States that are not finite have no valid metrics; distances do not hide NaN."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from tests.scenes import scene
from waymax_sim import geometry
from waymax_sim.metrics import METRICS, Snapshot, compute_metrics
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy
ENV = ws.Env(config=ws.EnvConfig(metrics=tuple(METRICS), rewards=()))


@pytest.fixture(scope="module")
def evaluate():
    scenario = ENV.prepare(scene())
    history = jax.device_get(ENV.initial_state(scenario, jax.random.key(0)).history)

    @jax.jit
    def compute(history):
        return compute_metrics(Snapshot(scenario, scenario.current_step, history), METRICS)

    return history, compute


def test_finite_states_have_valid_metrics(evaluate):
    history, compute = evaluate
    values = compute(history)
    assert {"overlap", "offroad", "log_divergence", "kinematic_infeasibility", "wrong_way"} <= {
        name for name, value in values.items() if np.all(value.valid)
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "index"), [("xyz", (-1, 0, 1)), ("yaw", (-1, 1)), ("velocity", (-2, 0, 0))])
def test_no_metric_is_valid_with_a_state_that_is_not_finite(evaluate, name, index, value):
    history, compute = evaluate
    array = getattr(history, name).copy()
    array[index] = value
    for metric, result in compute(dataclasses.replace(history, **{name: array})).items():
        assert not np.any(result.valid), metric
        assert not np.any(result.value), metric


def test_invalid_agents_may_hold_any_value(evaluate):
    history, compute = evaluate
    valid = history.valid.copy()
    valid[:, 2] = False
    absent = dataclasses.replace(history, valid=valid)
    xyz = history.xyz.copy()
    xyz[:, 2] = np.nan
    for name, (expected, found) in {
        name: (value, compute(dataclasses.replace(absent, xyz=xyz))[name]) for name, value in compute(absent).items()
    }.items():
        np.testing.assert_array_equal(expected.valid, found.valid, err_msg=name)
        np.testing.assert_array_equal(expected.value, found.value, err_msg=name)


def test_distances_and_angles_of_nan_are_nan():
    vector = jnp.asarray([[np.nan, 1.0], [3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(geometry.norm(vector), [np.nan, 5.0, 0.0])
    angle = geometry.heading_angle(vector, jnp.asarray([7.0, 7.0, 7.0]))
    assert np.isnan(angle[0]) and angle[2] == 7.0
    assert np.isnan(tree_index(jax.grad(lambda v: jnp.sum(geometry.norm(v)))(vector), 0)).all()
