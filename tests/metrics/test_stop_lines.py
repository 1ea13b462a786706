"""Crossings of stop lines in cases computed by hand. Values are those of the first agent."""

import dataclasses

import numpy as np
import pytest

from tests.metrics.rules import (
    AT,
    BRIDGE_Z,
    FAR_Y,
    GREEN,
    NUM_STEPS,
    RED,
    TIME,
    episode,
    evaluate_episode,
    first_values,
    make_case,
    total,
    track,
)

NORTH = np.pi / 2


def test_a_red_light_is_run_once():
    # The front bumper is over the line in step 8.
    crossing = track(x=10.5)
    ran = first_values("red_light_violation", [crossing])
    assert ran[AT[8]] == 1 and ran.sum() == 1


RED_LIGHTS = {
    "green": (track(x=10.5), dict(light=GREEN), 0),
    "yellow": (track(x=10.5), dict(light=5), 0),
    "red arrow": (track(x=10.5), dict(light=1), 1),
    "flashing": (track(x=10.5), dict(light=7), 0),
    "not observed": (track(x=10.5), dict(signal_valid=False), 0),
    "red when already over the line": (track(x=10.5), dict(light=np.where(np.arange(NUM_STEPS) < 9, GREEN, RED)), 0),
    "turns red in the step": (track(x=10.5), dict(light=np.where(np.arange(NUM_STEPS) < 8, GREEN, RED)), 0),
    "stops before": (track(x=15.5, speed=0), {}, 0),
    "stationary beyond it": (track(x=20.5, speed=0), {}, 0),
    "in the next lane": (track(x=10.5, y=3.5), {}, 0),
    "in the opposite direction": (track(x=28, yaw=np.pi), {}, 0),
    "backwards over it": (track(x=19.5, velocity=(-2, 0)), {}, 0),
    "leaving sideways": (track(x=10.5, velocity=(10, 1.2), yaw=np.arctan(0.12)), {}, 1),
    "across": (track(x=20.5, y=-10, yaw=NORTH), {}, 0),
    "on foot": (track(x=10.5), dict(types=2), None),
    "above": (track(x=10.5, z=BRIDGE_Z), {}, 0),
    "one of two lanes there is green": (track(x=10.5, y=FAR_Y), {}, 0),
}


@pytest.mark.parametrize(("one", "changes", "expected"), RED_LIGHTS.values(), ids=RED_LIGHTS)
def test_red_lights(one, changes, expected):
    found = episode([one], **changes)["red_light_violation"]
    assert found.valid[:, 0].all() == (expected is not None)
    assert found.value[:, 0].sum() == (expected or 0)


def stop_and_go(slowest: float, x: float = 33.0) -> dict:
    """Along the left lane, from 10 m/s down to a speed (m/s) at a position of the front bumper (m), and up again."""
    braking = (100 - slowest**2) / 2 / 12
    until = (10 - slowest) / braking
    speed = np.where(until > TIME, 10 - braking * TIME, slowest + 16 * (TIME - until))
    distance = np.where(until > TIME, (10 + speed) / 2 * TIME, 12 + (slowest + speed) / 2 * (TIME - until))
    front = x + distance - 12
    one = track(y=3.5)
    return one | {
        "xyz": np.column_stack([front - 2, one["xyz"][:, 1:]]),
        "velocity": np.column_stack([speed, 0 * speed]),
    }


def test_stop_signs():
    assert total("stop_sign_violation", [track(x=20, y=3.5)]) == 1
    # Stopped 2 m before the line at 40 m; rolling through at 1 m/s; stopped too early, 7 m before.
    assert total("stop_sign_violation", [stop_and_go(0.0, x=38)]) == 0
    assert total("stop_sign_violation", [stop_and_go(1.0, x=38)]) == 1
    assert total("stop_sign_violation", [stop_and_go(0.0, x=33)]) == 1
    # An agent within 5 m from the start may have stopped before; the next lane has no sign.
    assert total("stop_sign_violation", [track(x=37, y=3.5, speed=2)]) == 0
    assert total("stop_sign_violation", [track(x=20)]) == 0


def test_a_flashing_red_light_is_a_stop_sign():
    assert total("stop_sign_violation", [track(x=10.5)], light=7) == 1
    assert total("stop_sign_violation", [track(x=10.5)], light=RED) == 0


def test_stop_sign_violations_are_not_valid_where_a_sign_has_no_lane():
    scenario, agents = make_case([track(x=20, y=3.5)])
    for has_unassigned_sign in (False, True):
        graph = dataclasses.replace(scenario.graph, has_unassigned_sign=np.asarray(has_unassigned_sign))
        found = evaluate_episode(dataclasses.replace(scenario, graph=graph), agents)["stop_sign_violation"]
        assert found.valid[:, 0].all() != has_unassigned_sign
        assert float(found.value.sum()) == float(not has_unassigned_sign)
