"""Time steps other than 0.1 s: the duration of a step is that of the scenario."""

import dataclasses

import jax
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models import IDM, PDM, ConstantVelocity
from tests.scenes import raw_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.resample import resample
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import crop_steps, pad_steps, stack_scenarios, step_class_length
from waymax_sim.datatypes.scenario import clock_time_step
from waymax_sim.env import rollout
from waymax_sim.evaluation.realism.evaluate import check_scene

pytestmark = pytest.mark.compile_heavy
TIME_STEPS = [0.1, 0.2, 0.5]


def timed_scene(time_step: float, duration: float, positions=(0.0, -20.0), speed: float = 10.0, **changes):
    """Agents in one lane at constant speed, at the time step, from 1 s before the current step."""
    before, steps = round(1.0 / time_step), round(duration / time_step)
    raw = raw_scene(num_steps=before + steps + 1, num_agents=len(positions), current_step=before)
    time = time_step * np.arange(before + steps + 1)
    xyz = raw.xyz.copy()
    xyz[..., 0] = np.asarray(positions) + speed * (time - time[before])[:, None]
    velocity = np.zeros_like(raw.velocity)
    velocity[..., 0] = speed
    return dataclasses.replace(raw, xyz=xyz, velocity=velocity, timestamps=time, **changes)


class OneDriver(IDM):
    """The same drivers for every record; otherwise they are drawn by its number of steps."""

    def init(self, observation, key):
        return super().init(observation, jax.random.key(0))


def simulate(policy, scenario, num_steps: int, metrics=("log_divergence",)):
    env = ws.Env(config=ws.EnvConfig(controlled="sdc", metrics=metrics, rewards=()))
    run = jax.jit(lambda scenario, key: rollout(env, policy, scenario, key, num_steps))
    return run(scenario, jax.random.key(0))


@pytest.mark.parametrize("time_step", TIME_STEPS)
def test_constant_velocity_follows_a_log_of_constant_velocity(time_step):
    scenario = to_scenario(timed_scene(time_step, 4.0))
    assert scenario.time_step == time_step
    trace = simulate(ConstantVelocity(), scenario, round(4.0 / time_step))
    divergence = trace.metrics["log_divergence"]
    assert np.all(divergence.valid[:, 0])
    np.testing.assert_allclose(divergence.value, 0.0, atol=1e-4)


@pytest.mark.slow
def test_the_steady_gap_of_idm_does_not_depend_on_the_time_step():
    gaps = []
    for time_step in TIME_STEPS:
        # The ego drives behind a leader of the log at 3 m/s.
        scenario = to_scenario(timed_scene(time_step, 48.0, positions=(-80.0, -62.0), speed=3.0))
        trace = simulate(OneDriver(), scenario, round(48.0 / time_step), metrics=())
        x = np.asarray(trace.agents.xyz)[..., 0]
        gaps.append(x[-1, 1] - x[-1, 0] - 4.0)
        assert abs(x[-1, 0] - x[-round(1.0 / time_step) - 1, 0] - 3.0) < 0.02
    np.testing.assert_allclose(gaps, gaps[0], rtol=0.02)


@pytest.mark.parametrize("time_step", [0.2, 0.5])
def test_planners_and_all_metrics_run_at_other_time_steps(time_step):
    scenario = to_scenario(timed_scene(time_step, 4.0, positions=(0.0, 12.0)))
    trace = jax.eval_shape(
        lambda scenario, key: simulate(PDM(), scenario, 4, metrics=tuple(ws.METRICS)), scenario, jax.random.key(0)
    )
    assert trace.step.shape == (4,)


def test_metrics_need_the_same_duration_of_history():
    env = ws.Env(config=ws.EnvConfig(metrics=("stop_sign_violation", "comfort_violation"), rewards=()))
    assert [env.num_history_steps(time_step) for time_step in TIME_STEPS] == [31, 16, 7]


def test_scenarios_of_different_time_steps_do_not_stack():
    scenarios = [to_scenario(timed_scene(time_step, 20 * time_step)) for time_step in (0.5, 0.25)]
    scenarios = [pad_steps(scenario, 32) for scenario in scenarios]
    with pytest.raises(ValueError, match="time steps of"):
        stack_scenarios(scenarios)


@pytest.mark.parametrize(
    ("times", "expected"),
    [([0.0], 0.1), ([0.0, 0.1005, 0.2], 0.1), ([5.0, 5.2, 5.4], 0.2), ([0, 1 / 30, 2 / 30], 0.0333)],
)
def test_time_step_by_hand(times, expected):
    assert clock_time_step(np.asarray(times, np.float32)) == expected


@pytest.mark.parametrize(
    ("times", "problem"),
    [([0, 0.1, 0.1], "do not increase"), ([0, 0.1, 0.2, 0.4], "not equal"), ([0, 5.0, 10.0], "not within")],
)
def test_clocks_that_cannot_be_simulated_are_refused(times, problem):
    raw = raw_scene(num_steps=len(times), current_step=0)
    with pytest.raises(DataError, match=problem) as caught:
        to_scenario(dataclasses.replace(raw, timestamps=np.asarray(times, float)))
    assert caught.value.field == "timestamps" and caught.value.remedy


def test_realism_is_defined_for_ten_hertz():
    with pytest.raises(DataError, match=r"time steps of 0.1 s, not 0.2 s"):
        check_scene(to_scenario(timed_scene(0.2, 4.0)))


def test_resampling_by_hand():
    raw = timed_scene(0.5, 2.0, positions=(0.0, -20.0))
    valid = raw.valid.copy()
    valid[3, 1] = False
    yaw = raw.yaw.copy()
    yaw[2, 0], yaw[3, 0] = 3.0, -3.0
    # An invalid state may hold any value.
    xyz = raw.xyz.copy()
    xyz[3, 1] = np.nan
    signal_state = raw.signal_state.copy()
    signal_state[3:] = 4
    changed = dataclasses.replace(raw, valid=valid, yaw=yaw, xyz=xyz, signal_state=signal_state)
    found = resample(changed, 0.1)
    assert (len(found.timestamps), found.current_step) == (31, 10)
    # Twelve tenths of a second after the first step: two fifths from the third recorded step to the fourth.
    assert found.xyz[12, 0, 0] == pytest.approx(raw.xyz[2, 0, 0] + 2.0)
    assert found.yaw[12, 0] % (2 * np.pi) == pytest.approx(3.0 + 0.4 * (2 * np.pi - 6.0))
    assert found.valid[:, 1].tolist() == [True] * 11 + [False] * 9 + [True] * 11
    assert np.isfinite(found.xyz[found.valid]).all()
    assert found.signal_state[:, 0].tolist() == [6] * 15 + [4] * 16
    np.testing.assert_array_equal(found.xyz[::5][[0, 1, 2, 4]], raw.xyz[[0, 1, 2, 4]])


def test_resampling_to_the_recorded_time_step_changes_nothing():
    raw = raw_scene()
    found = resample(raw, 0.1)
    assert len(found.timestamps) == len(raw.timestamps)
    for name in ("xyz", "yaw", "velocity", "valid", "signal_state"):
        np.testing.assert_array_equal(getattr(found, name), getattr(raw, name), err_msg=name)


def test_numbers_of_steps_are_rounded_up_to_few():
    lengths = [step_class_length(steps) for steps in range(1, 300)]
    assert all(length >= steps for steps, length in enumerate(lengths, start=1))
    assert step_class_length(91) == 91 and step_class_length(5) == step_class_length(16) == 16
    assert len(set(lengths)) <= 22


def test_padding_steps_changes_no_result():
    scenario = to_scenario(raw_scene())
    padded = pad_steps(scenario, 28)
    assert padded.num_steps == 28 and padded.last_step == 20
    expected, found = (
        simulate(ConstantVelocity(), item, item.num_steps - 1 - 5, metrics=("overlap", "log_divergence"))
        for item in (scenario, padded)
    )
    assert np.all(found.active[:15]) and not np.any(found.active[15:])
    for name, value in expected.metrics.items():
        np.testing.assert_array_equal(found.metrics[name].value[:15], value.value)
    np.testing.assert_array_equal(found.agents.xyz[:15], expected.agents.xyz)
    cropped = crop_steps(padded)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(cropped), jax.tree.leaves(scenario), strict=True))
