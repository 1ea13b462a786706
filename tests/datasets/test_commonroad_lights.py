"""CommonRoad: cycles of traffic lights."""

import numpy as np
import pytest

from tests.datasets.test_commonroad import lanelet, obstacle, points, scenario, write
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load


@pytest.fixture
def read(tmp_path):
    return lambda text: load(write(tmp_path, text)).read(0)


def light(light_id, durations, offset="", active="true"):
    elements = "".join(
        f"<cycleElement><duration>{steps}</duration><color>{color}</color></cycleElement>" for color, steps in durations
    )
    offset = f"<timeOffset>{offset}</timeOffset>" if offset else ""
    return f'<trafficLight id="{light_id}"><cycle>{elements}{offset}</cycle><active>{active}</active></trafficLight>'


def lit_scenario(*lights, reference="50", line=""):
    stop_line = f"<stopLine>{line}</stopLine>" if line else ""
    rest = f'{stop_line}<trafficLightRef ref="{reference}"/>'
    lanes = lanelet(1, [(0, 2), (10, 2)], [(0, 0), (10, 0)], rest), lanelet(2, [(0, 0), (9, 0)], [(0, -2), (9, -2)])
    return scenario(*lanes, *lights, obstacle(1, [(step, step, 0, 0, 5) for step in range(10)]))


CYCLE = [("red", 2), ("redYellow", 1), ("green", 3), ("yellow", 1)]


def test_lights_are_cycles_of_steps(read):
    raw = read(lit_scenario(light(50, CYCLE)))
    assert raw.signal_lane_id.tolist() == [1] and raw.signal_valid.all()
    assert raw.signal_state[:, 0].tolist() == [4, 4, 5, 6, 6, 6, 5, 4, 4, 5]
    # Without a stop line, vehicles stop at the end of the lane.
    np.testing.assert_array_equal(raw.signal_stop_point[:, 0], [[10, 1, 0]] * 10)
    assert "lights" not in raw.missing_fields


@pytest.mark.parametrize("offset", range(9))
def test_the_offset_shifts_the_cycle(read, offset):
    """Reference: step `offset` is the first one of the cycle."""
    colors = [4, 4, 5, 6, 6, 6, 5]
    raw = read(lit_scenario(light(50, CYCLE, offset=offset)))
    assert raw.signal_state[:, 0].tolist() == [colors[(step - offset) % 7] for step in range(10)]


def test_lights_have_the_stop_line_of_their_lane(read):
    raw = read(lit_scenario(light(50, CYCLE), line=points((7, 2), (7, 0))))
    assert raw.signal_stop_point[0, 0].tolist() == [7, 1, 0]
    inside = read(lit_scenario(light(50, CYCLE), reference="9", line='<trafficLightRef ref="50"/>'))
    assert inside.signal_lane_id.tolist() == [1]


def test_lights_that_do_not_work_are_unknown(read):
    for broken in (light(50, CYCLE, active="false"), light(50, [("inactive", 3)]), light(50, [])):
        assert not read(lit_scenario(broken)).signal_state.any()
    absent = read(lit_scenario(light(51, CYCLE)))
    assert not absent.signal_lane_id.size and "lights" in absent.missing_fields


@pytest.mark.parametrize(
    ("durations", "problem"),
    [([("purple", 1)], "'purple' is not a color"), ([("red", -1)], "not a nonnegative integer")],
)
def test_damaged_lights_are_named(read, durations, problem):
    with pytest.raises(DataError, match=problem):
        read(lit_scenario(light(50, durations)))
