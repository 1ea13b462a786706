"""Traffic in small scenes with a known outcome; all of them share one compiled program."""

import dataclasses

import jax
import numpy as np
import pytest

from behavior_models import IDM
from tests.behavior_models.streets import (
    AGENTS,
    GREEN,
    LIMIT,
    RED,
    STEPS,
    WALKER,
    YELLOW,
    Agent,
    back,
    bend,
    boxes_overlap,
    road,
    straight,
    street,
)
from waymax_sim.datatypes.agents import PEDESTRIAN
from waymax_sim.env import Env, EnvConfig, rollout

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))


@pytest.fixture(scope="module")
def simulate():
    """Simulates the masked agents of a scene; checks that none overlap and that accelerations are within limits."""

    @jax.jit
    def run(scenario, key, driven):
        return rollout(ENV, [(IDM(), driven)], scenario, key, STEPS, record=("agents",)).agents

    def checked(scenario, driven=(True,) * AGENTS, seed=0):
        driven = np.array([*driven, *[False] * (AGENTS - len(driven))])
        agents = jax.device_get(run(scenario, jax.random.key(seed), driven))
        agents = dataclasses.replace(agents, xyz=agents.xyz + scenario.origin)
        exists = scenario.agents.exists
        for i in np.flatnonzero(exists):
            for j in np.flatnonzero(exists)[i + 1 :]:
                assert not boxes_overlap(agents, scenario.agents.size, i, j).any(), (i, j)
        acceleration = np.diff(speeds(agents), axis=0) / 0.1
        assert acceleration[:, driven & exists].min(initial=0) > -8.01
        assert acceleration[:, driven & exists].max(initial=0) < 3.01
        return agents

    return checked


def speeds(agents) -> np.ndarray:
    """Along the heading, m/s, [T, N]."""
    return agents.velocity[..., 0] * np.cos(agents.yaw) + agents.velocity[..., 1] * np.sin(agents.yaw)


@pytest.mark.parametrize("seed", range(3))
def test_oncoming_cars_pass_without_braking(simulate, seed):
    agents = simulate(street([road(), back()], [Agent(0, 0, 0, 12), Agent(100, 3.5, np.pi, 12)]), seed=seed)
    speed = speeds(agents)[:, :2]
    assert speed.min() > 0.84 * LIMIT and speed.max() < 1.06 * LIMIT
    # They pass each other after about 4 s, each on its lane.
    assert agents.xyz[-1, 0, 0] > 85 and agents.xyz[-1, 1, 0] < 15
    np.testing.assert_allclose(agents.xyz[:, :2, 1], [[0, 3.5]] * STEPS, atol=0.05)


def test_car_on_the_wrong_side_returns_to_its_lane(simulate):
    agents = simulate(street([road(), back()], [Agent(0, 0, 0, 8), Agent(90, 1.2, np.pi, 8)]))
    assert agents.xyz[-1, 0, 0] > 45 and agents.xyz[-1, 1, 0] < 45
    assert agents.xyz[-1, 1, 1] == pytest.approx(3.5, abs=0.2)


def test_stops_before_a_stationary_car_that_faces_it(simulate):
    agents = simulate(street([road()], [Agent(0, 0, 0, 12), Agent(60, 0, np.pi, 0)]), driven=(True, False))
    # The gap approaches the minimum gap of the driver asymptotically.
    assert speeds(agents)[-1, 0] < 1.2
    assert 1.2 < 60 - 4 - agents.xyz[-1, 0, 0] < 5


def test_curve_is_driven_slowly_past_a_car_parked_behind_it(simulate):
    agents = simulate(street(bend(12.0), [Agent(-20, 0, 0, 10), Agent(12, -2.0, 0, 0)]))
    x, y = agents.xyz[:, 0, 0], agents.xyz[:, 0, 1]
    on_arc = (x > 1) & (y < 11)
    distance = np.hypot(x, y - 12)[on_arc]
    assert on_arc.sum() > 20 and np.abs(distance - 12).max() < 0.7
    # sqrt(2.6 m/s^2 * 12 m) = 5.6 m/s for the highest parameter, sqrt(1.8 * 12) = 4.6 for the lowest one.
    speed = speeds(agents)[:, 0]
    assert speed[on_arc].max() < 5.9 and speed.min() > 4.0
    assert x[-1] == pytest.approx(12, abs=0.5) and y[-1] > 13


def test_merging_cars_keep_a_gap(simulate):
    joining = straight((-75, -27), (0, 0), 2.0)
    lines = [straight((-80, 0), (0, 0), 2.0), joining, straight((0, 0), (150, 0), 2.0)]
    yaw = np.arctan2(27, 75)
    agents = simulate(street(lines, [Agent(-50, 0, 0, 10), Agent(-47, -16.92, yaw, 10)]))
    last = np.sort(agents.xyz[-1, :2, 0])
    assert last[0] > 5 and last[1] - last[0] > 4 + 2
    assert np.abs(agents.xyz[-1, :2, 1]).max() < 0.6


def test_later_car_yields_at_a_crossing_and_then_continues(simulate):
    lines = [road(), straight((0, -80), (0, 120), 2.0)]
    agents = simulate(street(lines, [Agent(-38, 0, 0, 10), Agent(0, -42, np.pi / 2, 10)]))
    first, second = agents.xyz[:, 0, 0], agents.xyz[:, 1, 1]
    crossing_step = np.argmax(first > 0)
    assert second[crossing_step] < -4 and speeds(agents)[:, 0].min() > 9.0
    assert speeds(agents)[:, 1].min() < 9.0 and second[-1] > 10


def test_cars_yield_to_pedestrians(simulate):
    agents = simulate(
        street([road()], [Agent(0, 0, 0, 10), Agent(32, -5, np.pi / 2, 1.4, PEDESTRIAN, WALKER)]), driven=(True, False)
    )
    crossed_step = np.argmax(agents.xyz[:, 1, 1] > 1.3)
    assert agents.xyz[crossed_step, 0, 0] < 32 - 2 and agents.xyz[-1, 0, 0] > 36


def test_vehicle_that_cuts_in_is_followed(simulate):
    times = 0.1 * np.arange(STEPS + 1)
    part = np.clip((times - 0.5) / 2.0, 0, 1)
    track = np.stack([14 + 8 * times, 3.5 * (1 - part**2 * (3 - 2 * part))], axis=-1)
    cars = [Agent(0, 0, 0, 12), Agent(14, 3.5, 0, 8, track=track)]
    agents = simulate(street([road(), road(y=3.5)], cars), driven=(True, False))
    gap = agents.xyz[:, 1, 0] - agents.xyz[:, 0, 0] - 4
    assert gap.min() > 1.5 and speeds(agents)[-1, 0] == pytest.approx(8, abs=1.0)
    # 8 m/s times 1 to 1.8 s plus 1.5 to 2.5 m; slightly less while the gap still grows.
    assert 6 < gap[-1] < 17
    # It brakes once and then releases: the expected return of the other car to its lane causes no second braking.
    acceleration = np.diff(speeds(agents)[:, 0]) / 0.1
    hardest = acceleration.argmin()
    assert hardest < 20 and np.diff(acceleration[hardest:]).min() > -0.2


def test_stops_comfortably_behind_a_stationary_car(simulate):
    agents = simulate(street([road()], [Agent(0, 0, 0, 13), Agent(60, 0, 0, 0)]))
    assert speeds(agents)[-1, 0] < 1.2 and 1.2 < 60 - 4 - agents.xyz[-1, 0, 0] < 5
    # 13^2 / (2 * 54) = 1.6 m/s^2 would suffice.
    assert (np.diff(speeds(agents)[:, 0]) / 0.1).min() > -4.0
    np.testing.assert_array_equal(agents.xyz[:, 1], agents.xyz[:1, 1].repeat(STEPS, axis=0))


def lights(*changes) -> list:
    """A light of the first lane with its line at x = 0, from pairs of a first step and a state."""
    states = np.zeros(STEPS + 1, int)
    for step, state in changes:
        states[step:] = state
    return [(0, (0.0, 0.0), states)]


def test_stops_at_a_light_that_turns_red_far_ahead(simulate):
    scenario = street([road()], [Agent(-55, 0, 0, 12)], lights((0, GREEN), (5, YELLOW), (30, RED)))
    agents = simulate(scenario)
    assert speeds(agents)[-1, 0] < 1.2 and -4.5 < agents.xyz[-1, 0, 0] + 2 <= 0


def test_passes_a_light_that_turns_yellow_just_ahead(simulate):
    scenario = street([road()], [Agent(-18, 0, 0, 12)], lights((0, GREEN), (5, YELLOW), (30, RED)))
    agents = simulate(scenario)
    # At 12 m/s the line is 12 m ahead when the light turns yellow; 10 m would suffice at 7 m/s^2.
    assert speeds(agents)[:, 0].min() > 9 and agents.xyz[29, 0, 0] > 2


def test_queue_waits_at_red_and_starts_at_green(simulate):
    agents = simulate(street([road()], [Agent(-5, 0, 0, 0), Agent(-12, 0, 0, 0)], lights((0, RED), (30, GREEN))))
    np.testing.assert_array_equal(agents.xyz[:29, :2, 0], [[-5, -12]] * 29)
    assert (agents.xyz[-1, :2, 0] > -2).all() and agents.xyz[-1, 0, 0] - agents.xyz[-1, 1, 0] > 5


def test_cars_stop_once_at_a_stop_sign(simulate):
    lines = [straight((-60, 0), (0, 0), 2.0), straight((0, 0), (200, 0), 2.0)]
    agents = simulate(street(lines, [Agent(-20, 0, 0, 8)], signs=[((0, -3), 1)]))
    x, speed = agents.xyz[:, 0, 0], speeds(agents)[:, 0]
    halts = speed < 0.3
    assert halts.any() and (x[halts] + 2 > -4).all() and (x[halts] + 2 <= 0).all() and x[-1] > 0


def test_parked_cars_stay(simulate):
    cars = [Agent(0, -2.4, 0, 0), Agent(40, 0, 0, 0.0), Agent(100, 2.0, 0.3, 0.1), Agent(-20, 3.5, np.pi, 5)]
    agents = simulate(street([road(), back()], cars))
    assert np.abs(agents.xyz[-1, :3, :2] - [[0, -2.4], [40, 0], [100, 2.0]]).max() < 0.1
    assert agents.xyz[-1, 3, 0] < -50


def test_cars_reach_their_desired_speed_on_a_free_road(simulate):
    agents = simulate(street([road()], [Agent(0, 0, 0, 6)]))
    speed = speeds(agents)[:, 0]
    assert (np.diff(speed) > -1e-3).all() and 0.8 * LIMIT < speed[-1] < 1.06 * LIMIT
    # a (1 - (v / v0)^4) with a of 1.2 to 2.0 and v0 of 0.85 to 1.05 times the limit.
    assert 1.2 * (1 - (6 / 11.39) ** 4) - 0.01 < (speed[1] - speed[0]) / 0.1 < 2.0
