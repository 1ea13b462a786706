"""Logs moved in time, and records cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.edit.same import assert_sound, assert_unchanged, crossing
from tests.scenes import scene
from waymax_sim.datasets import edit


@pytest.mark.parametrize("steps", [7, -7])
def test_agents_come_later_or_earlier(steps):
    scenario = scene(num_steps=21)
    found = edit.delay_agents(scenario, [101], steps)
    assert_unchanged(found, scenario, "log")
    # 10 m/s: so many metres behind or ahead of where it was.
    seen = found.log.valid[:, 1]
    assert seen.tolist() == [0 <= step - steps < 21 for step in range(21)]
    np.testing.assert_allclose((found.log.xyz - scenario.log.xyz)[seen, 1, 0], -steps, atol=1e-5)
    for values in (found.log.xyz, found.log.velocity, found.log.yaw):
        assert not values[~seen, 1].any()
    np.testing.assert_array_equal(found.log.xyz[:, [0, 2]], scenario.log.xyz[:, [0, 2]])
    assert found.log.valid[:, [0, 2]].all()


@settings(max_examples=10)
@given(st.integers(-9, 9))
def test_delayed_scenes_are_sound(steps):
    who = crossing().agents.type == 2
    assert_sound(edit.delay_agents(crossing(), who, steps))


@pytest.mark.parametrize("steps", [40, -10, 0])
def test_the_start_is_moved(steps):
    scenario = crossing()
    found = edit.shift_start(scenario, steps)
    assert_sound(found)
    assert_unchanged(found, scenario, "current_step")
    assert found.current_step == 10 + steps


@pytest.mark.parametrize("steps", [-11, 81])
def test_there_is_no_start_outside_the_record(steps):
    with pytest.raises(ValueError, match=r"is not one of 0\.\.90"):
        edit.shift_start(crossing(), steps)


@settings(max_examples=10)
@given(st.integers(0, 10), st.integers(11, 91))
def test_records_are_cut(start, stop):
    scenario = crossing()
    found = edit.slice_steps(scenario, start, stop)
    assert_sound(found)
    assert found.num_steps == stop - start and found.current_step == 10 - start
    assert_unchanged(found, scenario, "timestamps", "current_step", "last_step", "agents", "log", "signals")
    np.testing.assert_array_equal(found.log.xyz, scenario.log.xyz[start:stop])
    np.testing.assert_array_equal(found.signals.state, scenario.signals.state[start:stop])
    np.testing.assert_allclose(found.timestamps, np.arange(stop - start) * 0.1, atol=1e-5)
    seen = scenario.log.valid[start:stop].any(axis=0)
    assert (found.agents.exists == seen).all()
    np.testing.assert_array_equal(found.agents.id[seen], scenario.agents.id[seen])


@pytest.mark.parametrize(("start", "stop"), [(11, 91), (0, 10), (-1, 91), (0, 92), (5, 5)])
def test_a_cut_holds_the_current_step(start, stop):
    with pytest.raises(ValueError, match="do not contain the current step 10"):
        edit.slice_steps(crossing(), start, stop)
