"""Records cut to a window."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.encode import message, scenario_of, small_scene
from tests.datasets.same import assert_same
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.window import Window, cut_window
from waymax_sim.datatypes.padding import stack_scenarios

STEPS = 5  # of the small scene; agent 1 is seen from step 2 on, agent 2 until step 2


def slow_window(raw, start, num_steps, current_step):
    """One step and one agent at a time."""
    agents = [
        agent
        for agent in range(len(raw.agent_id))
        if agent == raw.sdc_index or any(raw.valid[t, agent] for t in range(start, min(start + num_steps, STEPS)))
    ]

    def steps(values, columns):
        return np.array(
            [
                [values[t, c] if t < STEPS else 0 * values[0, c] for c in columns]
                for t in range(start, start + num_steps)
            ]
        )

    lights = range(len(raw.signal_lane_id))
    states = {name: steps(getattr(raw, name), agents) for name in ("xyz", "yaw", "velocity", "size", "valid")}
    signals = {
        name: steps(getattr(raw, name), lights) for name in ("signal_state", "signal_stop_point", "signal_valid")
    }
    rows = {name: getattr(raw, name)[agents] for name in ("agent_id", "agent_type", "to_predict", "of_interest")}
    states["valid"], signals["signal_valid"] = states["valid"].astype(bool), signals["signal_valid"].astype(bool)
    return dataclasses.replace(
        raw,
        timestamps=np.array([0.125 * t for t in range(start, start + num_steps)]),
        current_step=current_step,
        sdc_index=agents.index(raw.sdc_index) if raw.sdc_index >= 0 else -1,
        **states,
        **signals,
        **rows,
    )


@given(st.integers(0, STEPS - 1), st.integers(1, 9), st.integers(0, 8), st.integers(-1, 2))
def test_windows_are_those_of_the_slow_version(start, num_steps, current_step, sdc_index):
    raw = dataclasses.replace(small_scene(), sdc_index=sdc_index)
    if current_step >= num_steps:
        with pytest.raises(ValueError, match="current_step < num_steps"):
            cut_window(raw, start=start, num_steps=num_steps, current_step=current_step)
    elif start + current_step >= STEPS:
        with pytest.raises(
            DataError, match=f"has 5 steps, but the current step of the window is step {start + current_step}"
        ):
            cut_window(raw, start=start, num_steps=num_steps, current_step=current_step)
    else:
        found = cut_window(raw, start=start, num_steps=num_steps, current_step=current_step)
        assert_same(found, slow_window(raw, start, num_steps, current_step))
        assert to_scenario(found, pad_to_bucket=False).num_steps == num_steps


def test_the_whole_is_a_window():
    raw = small_scene()
    assert_same(cut_window(raw, start=0, num_steps=STEPS, current_step=raw.current_step), raw)


def test_masks_and_the_sdc_follow_their_agents():
    raw = dataclasses.replace(small_scene(), sdc_index=2)
    early = cut_window(raw, start=0, num_steps=2, current_step=0)
    assert early.agent_id.tolist() == [3, 2**24 + 2] and early.sdc_index == 1
    assert early.to_predict.tolist() == [False, False] and early.of_interest.tolist() == [False, True]
    late = cut_window(raw, start=3, num_steps=2, current_step=0)
    assert late.agent_id.tolist() == raw.agent_id.tolist() and not late.valid[:, late.sdc_index].any()


def test_times_go_on_by_the_median_step():
    raw = dataclasses.replace(small_scene(), timestamps=np.array([7.0, 7.1, 7.3, 7.4, 7.5]))
    times = cut_window(raw, start=3, num_steps=4, current_step=1).timestamps
    np.testing.assert_allclose(times, [7.4, 7.5, 7.6, 7.7])
    only = cut_window(raw, start=0, num_steps=1, current_step=0)
    np.testing.assert_allclose(cut_window(only, start=0, num_steps=3, current_step=0).timestamps, [7.0, 7.1, 7.2])


def test_an_sdc_that_is_no_agent_is_not_made_one():
    for index in (3, 99, -7):
        raw = cut_window(dataclasses.replace(small_scene(), sdc_index=index), start=0, num_steps=2, current_step=0)
        with pytest.raises(DataError, match="sdc_index"):
            to_scenario(raw)


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"current_step": 91}, {"current_step": -1}, {"start": -1}])
def test_windows_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="must have start >= 0"):
        Window(**options)
    with pytest.raises(ValueError, match="must have start >= 0"):
        cut_window(small_scene(), **({"start": 0, "num_steps": 91, "current_step": 10} | options))


def test_records_of_different_lengths_stack(tmp_path):
    raw = small_scene()
    short = cut_window(raw, start=1, num_steps=3, current_step=1)
    tfrecord.write_records(tmp_path / "scenes", [message(scenario_of(each)) for each in (raw, short)])
    scenarios = load(tmp_path / "scenes", window=Window(num_steps=4, current_step=1, start=1))
    assert stack_scenarios(list(scenarios)).log.valid.shape == (2, 4, 8)
    assert_same(scenarios.read(0), cut_window(raw, start=1, num_steps=4, current_step=1))
    assert scenarios[1:].read(0).timestamps.shape == (4,)
    assert load(tmp_path / "scenes").read(1).timestamps.shape == (3,)


def test_a_record_that_ends_too_early_is_named(tmp_path):
    tfrecord.write_records(tmp_path / "scenes", [message(scenario_of(small_scene()))])
    (outcome,) = load(tmp_path / "scenes", window=Window()).iter_results()
    assert (outcome[1].file, outcome[1].record, outcome[1].field) == (str(tmp_path / "scenes"), 0, "timestamps")
    assert load("synthetic:0:1", window=Window(50, 20, 5))[0].num_steps == 50
