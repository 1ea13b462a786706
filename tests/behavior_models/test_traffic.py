"""Traffic: mixtures of policies, gradients, and the report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import IDM, ConstantVelocity, LogReplay, Stationary
from tests.behavior_models.streets import RED, STEPS, WALKER, Agent, back, road, street
from waymax_sim.datatypes.agents import PEDESTRIAN
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.evaluation.traffic import summarize_reports, traffic_report

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))


def test_a_report_by_hand():
    """A car passes a red light and hits one that a policy stops; one is parked; the log moves a pedestrian."""
    red = [(0, (12.0, 0.0), [RED] * (STEPS + 1))]
    agents = [Agent(0, 0, 0, 10), Agent(60, 0, 0, 10), Agent(0, 3.5, 0, 0), Agent(0, -8, 0, 1, PEDESTRIAN, WALKER)]
    scenario, first = street([road(), back()], agents, red), np.arange(4)
    # Masks that are constants during tracing are checked to be disjoint.
    policies = [(ConstantVelocity(), first == 0), (Stationary(), first == 1), (LogReplay(), first == 2)]
    report = jax.jit(lambda scenario: traffic_report(policies, scenario, jax.random.key(0), STEPS))(scenario)
    assert float(report.vehicles) == 3 and float(report.reactive) == pytest.approx(3 / 4)
    # The first two of three; without road edges no vehicle is off the road.
    assert float(report.collided) == pytest.approx(2 / 3) and float(report.offroad) == 0
    assert float(report.red_lights) == 1 and float(report.parked_moved) == 0
    assert float(report.distance) == pytest.approx((80 + 0 + 0) / 3, abs=1e-2)
    assert float(report.strongest_braking) == pytest.approx(100, rel=1e-3)  # 10 m/s within one step
    both = summarize_reports([report, dataclasses.replace(report, vehicles=jnp.float32(1), collided=jnp.float32(0))])
    assert both["vehicles"] == 4 and both["collided"] == pytest.approx(3 / 4 * 2 / 3) and both["red_lights"] == 2


# Compiling the reverse of a rollout takes most of a minute.
@pytest.mark.slow
def test_gradients_through_traffic_are_finite():
    """Of final positions by initial speed and position, with a light, a pedestrian and oncoming traffic."""
    red = [(0, (40.0, 0.0), [RED] * (STEPS + 1))]
    agents = [
        Agent(0, 0, 0, 10),
        Agent(15, 0, 0, 6),
        Agent(50, 3.5, np.pi, 8),
        Agent(30, -4, 1.6, 1, PEDESTRIAN, WALKER),
    ]
    scenario = jax.device_put(street([road(), back()], agents, red))

    def final_position(change):
        log = scenario.log
        log = dataclasses.replace(
            log,
            velocity=log.velocity.at[:, 0, 0].add(change[0]),
            xyz=log.xyz.at[:, 0, 0].add(change[1]),
        )
        moved = dataclasses.replace(scenario, log=log)
        trace = rollout(ENV, [(IDM(), "all")], moved, jax.random.key(0), 20, record=())
        return jnp.sum(trace.final.history.xyz[-1, :, :2])

    value, gradient = jax.jit(jax.value_and_grad(final_position))(jnp.zeros(2))
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(gradient)).all()
    # A higher speed and a position further ahead lead to a position further ahead.
    assert float(gradient[0]) > 0 and float(gradient[1]) > 0
