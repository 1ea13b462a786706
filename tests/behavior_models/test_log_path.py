"""Traffic on logged paths."""

import dataclasses

import jax
import numpy as np
import pytest

from behavior_models import LogPathIDM
from behavior_models.traffic.log_path import logged_path
from behavior_models.traffic.route_following import ROUTE_FOLLOWING
from tests.behavior_models.streets import AGENTS, GREEN, RED, STEPS, WALKER, Agent, boxes_overlap, road, street
from waymax_sim.datatypes.agents import PEDESTRIAN
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.env.bank import build_bank

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))
TIMES = 0.1 * np.arange(STEPS + 1)


def turning(speed: float = 8.0, radius: float = 15.0) -> np.ndarray:
    """20 m straight, a quarter circle to the left, and straight again."""
    arc = np.maximum(speed * TIMES - 20, 0)
    angle = np.minimum(arc / radius, np.pi / 2)
    rest = np.maximum(arc - radius * np.pi / 2, 0)
    x = np.minimum(speed * TIMES, 20) + radius * np.sin(angle)
    return np.stack([x, radius * (1 - np.cos(angle)) + rest], axis=-1)


@pytest.fixture(scope="module")
def simulate():
    @jax.jit
    def run(scenario, key, driven):
        return rollout(ENV, [(LogPathIDM(), driven)], scenario, key, STEPS, record=("agents",)).agents

    def run_scene(scenario, driven=(True,) * AGENTS):
        driven = np.array([*driven, *[False] * (AGENTS - len(driven))])
        agents = jax.device_get(run(scenario, jax.random.key(0), driven))
        return dataclasses.replace(agents, xyz=agents.xyz + scenario.origin)

    return run_scene


def test_a_logged_path_by_hand():
    red = [(0, (20.0, 0.0), [RED] * (STEPS + 1))]
    cars = [Agent(0, 0, track=turning()), Agent(5, -3, 0, 0)]
    scenario = jax.device_put(street([road()], cars, red))
    valid = scenario.log.valid.at[:3, 0].set(False).at[10:12, 0].set(False)
    log = dataclasses.replace(scenario.log, valid=valid)
    path, moves = jax.device_get(jax.jit(logged_path, static_argnums=3)(log, valid, scenario.graph, 0.1))
    assert moves[:2].tolist() == [True, False]
    # The log begins at its fourth step, at 2.4 m, and is 80 * 0.8 - 2.4 m long.
    origin = np.asarray(scenario.origin)[:2]
    np.testing.assert_allclose(path.xyz[0, 0, :2] + origin, [2.4, 0], atol=1e-3)
    assert path.length[0] == pytest.approx(64 - 2.4, abs=0.1)
    track = turning()
    inside = path.xyz[0, : int(path.length[0] / ROUTE_FOLLOWING.spacing) + 1, :2] + origin
    gaps = np.linalg.norm(inside[:, None] - track[None], axis=-1).min(axis=1)
    assert gaps.max() < 0.42 and path.curvature[0].max() == pytest.approx(1 / 15, rel=0.15)
    np.testing.assert_allclose(path.speed_limit[0], 8.0, rtol=0.02)
    # Beyond the log it is straight.
    np.testing.assert_allclose(path.yaw[0, -3:], np.pi / 2, atol=0.02)
    # The line at x = 20 is 17.6 m away.
    assert path.stop[0, 0] == pytest.approx(17.6, abs=0.1) and path.light[0, 0] == 0
    assert not np.isfinite(path.stop[0, 1:]).any() and not np.isfinite(path.stop[1]).any()


def test_logged_paths_are_followed_off_lanes(simulate):
    walk = np.stack([40 + 0 * TIMES, -4 + 1.2 * TIMES], axis=-1)
    people = [Agent(0, 0, track=turning()), Agent(60, -3, 0, 0), Agent(0, 0, 0, 1, PEDESTRIAN, WALKER, walk)]
    agents = simulate(street([road()], people))
    error = [np.linalg.norm(turning() - xy, axis=-1).min() for xy in agents.xyz[:, 0, :2]]
    assert max(error) < 0.8
    # It is slower in the curve: sqrt(1.8 * 15) to sqrt(2.6 * 15) m/s.
    assert agents.xyz[-1, 0, 1] > 15 and np.hypot(*agents.velocity[:, 0].T).min() > 4.5
    np.testing.assert_allclose(agents.xyz[:, 1], agents.xyz[:1, 1].repeat(STEPS, axis=0))
    np.testing.assert_allclose(agents.xyz[:, 2, 0], 40, atol=0.3)
    assert agents.xyz[-1, 2, 1] > 2


def test_speed_is_that_of_the_model(simulate):
    """In the log the second car passes a red light; here it waits, and the first car stops behind it."""
    states = [RED] * 60 + [GREEN] * (STEPS - 59)
    cars = [Agent(-40, 0, 0, 10), Agent(-12, 0, 0, 10)]
    scenario = street([road()], cars, [(0, (8.0, 0.0), states)])
    agents = simulate(scenario)
    assert agents.xyz[59, 1, 0] + 2 <= 8.0 and agents.xyz[-1, 1, 0] + 2 > 4
    assert not boxes_overlap(agents, scenario.agents.size, 0, 1).any()


def test_drivers_in_a_bank_of_scenarios_have_the_paths_of_the_scenario():
    red = [(0, (20.0, 0.0), [RED] * (STEPS + 1))]
    scenario = street([road()], [Agent(0, 0, track=turning()), Agent(5, -3, 0, 0)], red)
    bank = build_bank([scenario], ENV)

    def init(scenario):
        state = ENV.initial_state(scenario, jax.random.key(0))
        observation = ENV.observe(scenario, state, privileged=True)
        path = LogPathIDM().init(observation, jax.random.key(1)).path
        return path.xyz, path.stop, path.light

    expected = jax.jit(init)(jax.device_put(scenario))
    found = jax.jit(lambda bank: init(bank.scenario(np.asarray(0, np.int32))))(bank)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.isfinite(expected[1]).any()
