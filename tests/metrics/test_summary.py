import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from waymax_sim.metrics import METRICS, Metric, summarize
from waymax_sim.metrics.metric import MetricValue, masked_value

KINDS = list(itertools.product(("mean", "max", "last", "onset"), ("mean", "max")))


def metric(over_time="mean", over_agents="mean", per="agent") -> Metric:
    return Metric("it", lambda snapshot: None, per=per, unit="m", over_time=over_time, over_agents=over_agents)


@pytest.mark.parametrize(("over_time", "over_agents"), KINDS)
def test_equals_the_oracle(over_time, over_agents):
    rng = np.random.default_rng(0)
    kinds = {"it": metric(over_time, over_agents)}
    summary = jax.jit(lambda values, active, evaluated: summarize({"it": values}, kinds, active, evaluated)["it"])
    for _ in range(20):
        valid = rng.random((9, 6)) < rng.choice([0.0, 0.2, 0.9])
        values = masked_value(jnp.asarray(rng.normal(0, 5, (9, 6)), jnp.float32), jnp.asarray(valid))
        active, evaluated = rng.random(9) < 0.7, rng.random(6) < 0.5
        found = summary(values, active, evaluated)
        value, is_valid = oracle.summary(np.asarray(values.value), valid, active, evaluated, over_time, over_agents)
        assert bool(found.valid) == is_valid
        np.testing.assert_allclose(found.value, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("over_time", "expected"), [("mean", 1.5), ("max", 2.0), ("last", 1.0)])
def test_metrics_per_scene_do_not_depend_on_the_evaluated_agents(over_time, expected):
    values = MetricValue(value=np.float32([2, 0, 1, 9]), valid=np.array([True, False, True, True]))
    kinds = {"it": metric(over_time, per="scene")}
    found = summarize({"it": values}, kinds, np.arange(4) < 3, np.zeros(5, bool))["it"]
    assert found.value == expected and found.valid
    assert not summarize({"it": values}, kinds, np.zeros(4, bool), np.ones(5, bool))["it"].valid


def test_agents_count_once_for_any_number_of_valid_steps():
    # One agent collides in 1 of its 2 steps, the other in none of 8: agents are averaged, not steps.
    value, valid = np.zeros((8, 2), np.float32), np.ones((8, 2), bool)
    value[0, 0], valid[2:, 0] = 1, False
    ever = summarize({"overlap": MetricValue(value, valid)}, METRICS, np.ones(8, bool), np.ones(2, bool))["overlap"]
    assert ever.value == 0.5


def test_without_evaluated_agents_there_is_no_value():
    values = MetricValue(value=np.ones((4, 3), np.float32), valid=np.ones((4, 3), bool))
    for over_time, over_agents in KINDS:
        kinds = {"it": metric(over_time, over_agents)}
        found = summarize({"it": values}, kinds, np.ones(4, bool), np.zeros(3, bool))["it"]
        assert found.value == 0 and not found.valid


def test_road_departures_by_hand():
    flags = {
        "stays on the road": ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1], 0.0),
        "leaves the road": ([0, 0, 1, 1, 0], [1, 1, 1, 1, 1], 1.0),
        "is parked off the road": ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1], None),
        "enters the road and leaves it again": ([1, 0, 0, 1, 1], [1, 1, 1, 1, 1], None),
        "appears on the road and leaves it": ([1, 1, 0, 1, 0], [0, 0, 1, 1, 1], 1.0),
        "appears off the road": ([0, 0, 1, 0, 0], [0, 0, 1, 1, 1], None),
        "is never valid": ([0, 1, 1, 0, 0], [0, 0, 0, 0, 0], None),
        "leaves the road when it is not valid": ([0, 1, 0, 0, 0], [1, 0, 1, 1, 1], 0.0),
    }
    off, valid = (np.array([case[i] for case in flags.values()]).T for i in range(2))
    values = {name: MetricValue(off.astype(np.float32) * valid, valid > 0) for name in ("road_departure", "offroad")}
    for agent, (name, (*_, expected)) in enumerate(flags.items()):
        single = summarize(values, METRICS, np.ones(5, bool), np.arange(8) == agent)["road_departure"]
        assert bool(single.valid) == (expected is not None), name
        assert float(single.value) == (expected or 0.0), name
    # Of the four agents that start on the road two leave it; five of seven are off the road at some step.
    found = summarize(values, METRICS, np.ones(5, bool), np.ones(8, bool))
    assert float(found["road_departure"].value) == 0.5
    assert float(found["offroad"].value) == pytest.approx(5 / 7)
    # Inactive steps do not count: from the third step on another agent starts on the road and leaves it.
    late = [summarize(values, METRICS, np.arange(5) >= 2, np.arange(8) == i)["road_departure"] for i in range(8)]
    assert [float(item.value) if item.valid else None for item in late] == [0, None, None, 1, 1, None, None, 0]
