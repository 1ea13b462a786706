"""Traffic as a whole: mixtures, gradients, and the report."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import IDM, ConstantVelocity, LogReplay, Stationary
from tests.behavior_models.streets import RED, STEPS, WALKER, Agent, back, road, street
from waymax_sim.datatypes.agents import PEDESTRIAN
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.evaluation.traffic import over_scenes, traffic_report

ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))


def test_a_report_by_hand():
    """A car runs into one that a policy stops, after a red light; one is parked; a walker is moved by the log."""
    red = [(0, (12.0, 0.0), [RED] * (STEPS + 1))]
    agents = [Agent(0, 0, 0, 10), Agent(60, 0, 0, 10), Agent(0, 3.5, 0, 0), Agent(0, -8, 0, 1, PEDESTRIAN, WALKER)]
    scenario, first = street([road(), back()], agents, red), np.arange(4)
    # Masks that are known when it is traced are checked to be disjoint.
    policies = [(ConstantVelocity(), first == 0), (Stationary(), first == 1), (LogReplay(), first == 2)]
    found = jax.jit(lambda scenario: traffic_report(policies, scenario, jax.random.key(0), STEPS))(scenario)
    assert float(found.vehicles) == 3 and float(found.reactive) == pytest.approx(3 / 4)
    # The first two of three; there are no edges to judge who is off the road.
    assert float(found.collided) == pytest.approx(2 / 3) and float(found.offroad) == 0
    assert float(found.red_lights) == 1 and float(found.parked_moved) == 0
    assert float(found.distance) == pytest.approx((80 + 0 + 0) / 3, abs=1e-2)
    assert float(found.strongest_braking) == pytest.approx(100, rel=1e-3)  # 10 m/s are lost in one step
    both = over_scenes([found, dataclasses.replace(found, vehicles=jnp.float32(1), collided=jnp.float32(0))])
    assert both["vehicles"] == 4 and both["collided"] == pytest.approx(3 / 4 * 2 / 3) and both["red_lights"] == 2


# Compiling the reverse of a rollout takes most of a minute.
@pytest.mark.slow
def test_gradients_through_traffic_are_finite():
    """Of where all end, with respect to how fast and where one begins: past a light, a walker and oncoming traffic."""
    red = [(0, (40.0, 0.0), [RED] * (STEPS + 1))]
    agents = [
        Agent(0, 0, 0, 10),
        Agent(15, 0, 0, 6),
        Agent(50, 3.5, np.pi, 8),
        Agent(30, -4, 1.6, 1, PEDESTRIAN, WALKER),
    ]
    scenario = jax.device_put(street([road(), back()], agents, red))

    def end(change):
        log = scenario.log
        log = dataclasses.replace(
            log,
            velocity=log.velocity.at[:, 0, 0].add(change[0]),
            xyz=log.xyz.at[:, 0, 0].add(change[1]),
        )
        moved = dataclasses.replace(scenario, log=log)
        trace = rollout(ENV, [(IDM(), "all")], moved, jax.random.key(0), 20, record=())
        return jnp.sum(trace.final.history.xyz[-1, :, :2])

    value, slope = jax.jit(jax.value_and_grad(end))(jnp.zeros(2))
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(slope)).all()
    # Who begins faster, or further on, ends further on.
    assert float(slope[0]) > 0 and float(slope[1]) > 0
