import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from waymax_sim.metrics import METRICS, Metric, summarize
from waymax_sim.metrics.metric import MetricValue, masked_value

KINDS = list(itertools.product(("mean", "max", "last"), ("mean", "max")))


def metric(over_time="mean", over_agents="mean", per="agent") -> Metric:
    return Metric("it", lambda snapshot: None, per=per, unit="m", over_time=over_time, over_agents=over_agents)


@pytest.mark.parametrize(("over_time", "over_agents"), KINDS)
def test_equals_the_oracle(over_time, over_agents):
    rng = np.random.default_rng(0)
    kinds = {"it": metric(over_time, over_agents)}
    summary = jax.jit(lambda values, active, judged: summarize({"it": values}, kinds, active, judged)["it"])
    for _ in range(20):
        valid = rng.random((9, 6)) < rng.choice([0.0, 0.2, 0.9])
        values = masked_value(jnp.asarray(rng.normal(0, 5, (9, 6)), jnp.float32), jnp.asarray(valid))
        active, judged = rng.random(9) < 0.7, rng.random(6) < 0.5
        found = summary(values, active, judged)
        value, is_valid = oracle.summary(np.asarray(values.value), valid, active, judged, over_time, over_agents)
        assert bool(found.valid) == is_valid
        np.testing.assert_allclose(found.value, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("over_time", "expected"), [("mean", 1.5), ("max", 2.0), ("last", 1.0)])
def test_what_is_about_the_scene_does_not_depend_on_who_is_judged(over_time, expected):
    values = MetricValue(value=np.float32([2, 0, 1, 9]), valid=np.array([True, False, True, True]))
    kinds = {"it": metric(over_time, per="scene")}
    found = summarize({"it": values}, kinds, np.arange(4) < 3, np.zeros(5, bool))["it"]
    assert found.value == expected and found.valid
    assert not summarize({"it": values}, kinds, np.zeros(4, bool), np.ones(5, bool))["it"].valid


def test_agents_count_once_however_long_they_are_there():
    # One agent collides in 1 of 2 steps, the other is safe for 8: agents are averaged, not steps.
    value, valid = np.zeros((8, 2), np.float32), np.ones((8, 2), bool)
    value[0, 0], valid[2:, 0] = 1, False
    ever = summarize({"overlap": MetricValue(value, valid)}, METRICS, np.ones(8, bool), np.ones(2, bool))["overlap"]
    assert ever.value == 0.5


def test_nobody_judged_is_no_result():
    values = MetricValue(value=np.ones((4, 3), np.float32), valid=np.ones((4, 3), bool))
    for over_time, over_agents in KINDS:
        kinds = {"it": metric(over_time, over_agents)}
        found = summarize({"it": values}, kinds, np.ones(4, bool), np.zeros(3, bool))["it"]
        assert found.value == 0 and not found.valid
