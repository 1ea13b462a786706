"""Driving tasks: one simulation of all families with a planner and constant speed, and its logs."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

from behavior_models.offline import command, task_log
from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.behaviors import rule_actor, stack_actors
from behavior_models.offline.dataset import (
    DATASET_FILE,
    concatenate,
    load_transitions,
    pack_episodes,
    read_description,
    stream_transitions,
    write_dataset,
    write_shards,
)
from behavior_models.offline.evaluation import TaskEvaluation
from behavior_models.offline.route_frame import RouteFrame
from behavior_models.offline.simulation import TASK_VIEW, TaskEpisodes, TaskSimulator, step_reward
from behavior_models.offline.task_scenes import RECORD_STEPS, drive, straight_line
from behavior_models.offline.tasks import TASKS, RewardParams, concatenate_scenes, draw_scenes
from waymax_sim.datasets.errors import DataError
from waymax_sim.env.flat_view import FlatView

NAMES = [name for name in TASKS for _ in range(2)]


def scalar(value) -> np.ndarray:
    """A number as an array without axes."""
    return np.array(value, np.float32)


def frame(arc_length=0.0, lateral=0.0, speed=10.0, red_line=np.inf, others=()) -> RouteFrame:
    """An ego on a straight route along x."""
    points = np.stack([np.arange(0.0, 40.0, 2.0), np.zeros(20)], axis=-1).astype(np.float32)
    rows = np.zeros((2, 8), np.float32)
    for index, other in enumerate(others):
        rows[index] = other
    size = np.array([4.6, 1.9], np.float32)
    values = (scalar(arc_length), scalar(lateral), scalar(0.0), scalar(speed))
    x, y, yaw, v = values
    is_other = np.arange(2) < len(others)
    return RouteFrame(points, points[:, 0], x, y, yaw, v, size, x, y, scalar(red_line), rows, is_other)


@pytest.fixture(scope="module")
def episodes() -> TaskEpisodes:
    """The first two scenes of each task, driven by the planner and at constant speed."""
    parts = [draw_scenes(name, 5, [index]) for name in TASKS for index in (0, 0)]
    actors = stack_actors([rule_actor(), rule_actor(holds_speed=1.0)] * len(TASKS))
    return jax.device_get(TaskSimulator().run(actors, concatenate_scenes(parts), jax.random.key(0)))


def test_episodes_end_once_and_earn_nothing_afterwards(episodes):
    active, ends = episodes.active, episodes.ended | episodes.truncated
    assert np.all(active[1:] <= active[:-1]) and active[0].all()
    assert np.array_equal(ends.sum(axis=0), np.ones(len(NAMES)))
    last = active.sum(axis=0) - 1
    assert ends[last, np.arange(len(NAMES))].all()
    assert not np.any(episodes.ended & episodes.truncated)
    assert not np.any(episodes.reward[~active])
    assert np.isfinite(episodes.observation).all()


def test_the_planner_fails_less_and_earns_more_than_constant_speed(episodes):
    returns, failed = episodes.reward.sum(axis=0), episodes.failed
    planner, constant = returns[::2], returns[1::2]
    assert np.mean(planner) > np.mean(constant) + 0.3
    assert np.mean(failed[::2]) <= 0.25 < np.mean(failed[1::2])
    # A parked vehicle is in the way of the route in each of these scenes.
    blocked = [list(TASKS).index(name) for name in ("narrow_passage", "stopped_car")]
    assert failed[1::2][blocked].all()
    assert np.all((returns > -2.0) & (returns < 1.1))


@pytest.mark.slow
def test_decisions_in_programs_of_their_own_are_those_of_one_program(episodes):
    parts = [draw_scenes(name, 5, [index]) for name in TASKS for index in (0, 0)]
    actors = stack_actors([rule_actor(), rule_actor(holds_speed=1.0)] * len(TASKS))
    stepwise = TaskSimulator().run_stepwise(actors, concatenate_scenes(parts), jax.random.key(0))
    for name in ("action", "ended", "truncated", "active", "failed", "steps"):
        np.testing.assert_array_equal(getattr(stepwise, name), getattr(episodes, name))
    np.testing.assert_allclose(stepwise.reward, episodes.reward, atol=1e-5)
    np.testing.assert_allclose(stepwise.observation, episodes.observation, atol=1e-2)


def test_longitudinal_tasks_have_no_lateral_actions(episodes):
    offset = np.asarray(ROUTE_ACTIONS.levels()[1])[episodes.action]
    is_lateral = np.array([TASKS[name].is_lateral for name in NAMES])
    assert not offset[:, ~is_lateral].any()
    assert offset[:, is_lateral][:, ::2].any()


def test_packed_streams_hold_the_decisions_of_all_episodes(episodes):
    packed = pack_episodes(episodes, 3, len(TASKS), num_rows=64)
    assert packed.count == episodes.active.sum()
    assert sorted(packed.reward[packed.active]) == sorted(episodes.reward[episodes.active])
    # Each truncated decision is followed by the last observation of its episode.
    rows, streams = np.nonzero(packed.truncated)
    stored = packed.observation[rows + 1, streams]
    assert len(rows) and not packed.active[rows + 1, streams].any()
    finals = episodes.observation[-1][episodes.truncated[-1]]
    assert sorted(map(tuple, stored[:, :40])) == sorted(map(tuple, finals[:, :40]))
    starts = packed.active & ~np.concatenate([np.zeros((1, packed.active.shape[1]), bool), packed.active[:-1]])
    returns = episodes.reward.sum(axis=0)
    for row, stream in zip(*np.nonzero(starts), strict=True):
        assert np.isclose(returns, packed.return_to_go[row, stream], atol=1e-5).any()


def test_datasets_are_restored_and_checked(episodes, tmp_path):
    packed = pack_episodes(episodes, 3, len(TASKS), num_rows=64)
    both = concatenate([packed, dataclasses.replace(packed, task=np.full_like(packed.task, 1))])
    files = write_shards(tmp_path, both, "all")
    write_dataset(tmp_path, TASK_VIEW, list(TASKS), files, note=1)
    restored = load_transitions(tmp_path, TASK_VIEW.spec())
    for name in ("observation", "action", "reward", "ended", "truncated", "active", "task", "return_to_go"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(both, name))
    assert restored.num_tasks == len(TASKS)
    assert read_description(tmp_path)["facts"] == {"note": 1}
    with pytest.raises(DataError, match="other observations"):
        load_transitions(tmp_path, FlatView(num_agents=2).spec())
    (tmp_path / files[0]).write_bytes((tmp_path / files[0]).read_bytes()[:-200])
    with pytest.raises(DataError):
        load_transitions(tmp_path)
    with pytest.raises(DataError, match="no dataset"):
        load_transitions(tmp_path / "none")


def test_streamed_sets_visit_every_stream_once_per_pass(episodes, tmp_path):
    packed = pack_episodes(episodes, 0, len(TASKS), num_rows=64)
    count = packed.task.shape[0]
    # Streams are distinguished by their task.
    packed = dataclasses.replace(packed, task=np.arange(count, dtype=np.int32) % len(TASKS))
    files = [file for part in range(2) for file in write_shards(tmp_path, packed, f"part{part}")]
    write_dataset(tmp_path, TASK_VIEW, list(TASKS), files)
    reader = stream_transitions(tmp_path, jax.random.key(0), 1)
    seen = [int(next(reader).task[0]) for _ in range(2 * count)]
    reader.close()
    assert sorted(seen) == sorted([*packed.task, *packed.task])


@pytest.mark.slow
def test_the_command_logs_a_graded_set_and_resumes(tmp_path, monkeypatch, capsys):
    # The size of the simulation above, so that its program is used again.
    monkeypatch.setattr(task_log, "BATCH_SIZE", len(NAMES))
    arguments: dict[str, Any] = {
        "policies": ("lookahead:0.3", "random"),
        "tasks": ("narrow_passage",),
        "transitions": 200,
        "scenes": 18,
    }
    assert command.log(tmp_path, **arguments) == 0
    printed = capsys.readouterr().out
    assert "narrow_passage: 2" in printed and "normalized return" in printed
    transitions = load_transitions(tmp_path, TASK_VIEW.spec())
    assert 200 <= transitions.count < 328
    facts = read_description(tmp_path)["facts"]["logs"]["narrow_passage"]
    assert facts["random_return"] < 0 < facts["reference_return"]
    assert -0.5 < facts["normalized_return"] < 1.0
    before = (tmp_path / DATASET_FILE).read_text()
    monkeypatch.setattr(task_log, "log_task", lambda *_: pytest.fail("a complete task is logged again"))
    command.log(tmp_path, **arguments)
    assert (tmp_path / DATASET_FILE).read_text() == before
    with pytest.raises(SystemExit, match="other transitions"):
        command.log(tmp_path, **{**arguments, "transitions": 300})
    with pytest.raises(SystemExit, match="no driving tasks: parking"):
        command.log(tmp_path / "other", **{**arguments, "tasks": ("parking",)})
    assert json.loads(before)["tasks"] == list(TASKS)


def test_normalized_returns_of_policies_in_closed_loop():
    # As many scenes as in the simulation above, so that its program is used again.
    evaluation = TaskEvaluation(["narrow_passage"], len(NAMES))
    planner = evaluation.evaluate(stack_actors([rule_actor()] * len(NAMES)), seed=3).intervals()["narrow_passage"]
    constant = evaluation.evaluate(stack_actors([rule_actor(holds_speed=1.0)] * len(NAMES)))
    # The planner is deterministic.
    assert planner["value"] == pytest.approx(1.0, abs=1e-5)
    assert planner["low"] <= planner["value"] <= planner["high"]
    assert constant.intervals()["narrow_passage"]["high"] < 0.5
    assert constant.failed["narrow_passage"] > 0.9


def test_reward_of_a_step_by_hand():
    params = RewardParams(progress_distance=100.0, time=0.2, acceleration=0.1, headway=0.5, min_headway=2.0)
    leader = (11.0 + 4.6, 0.0, 5.0, 2.3, 0.95, 0.0, 0.0, 0.0)
    before, after = frame(0.0), frame(1.0, others=[leader])
    reward, ended, failed = step_reward(params, before, after, scalar(3.0), np.array(False), scalar(50.0), scalar(8.0))
    # A gap of 10 m at 10 m/s is half of the smallest headway; 2 m/s above the limit.
    expected = 1.0 / 100.0 - 0.1 * (0.2 + 0.1 + 0.5 * 0.5 + 0.05 * 2.0)
    assert float(reward) == pytest.approx(expected, abs=1e-6)
    assert not ended and not failed


@pytest.mark.parametrize(
    ("before", "after", "collision", "failure", "end"),
    [
        (frame(10.0), frame(11.0), True, True, True),
        (frame(10.0, red_line=10.5), frame(11.0), False, True, True),
        (frame(10.0, red_line=11.5), frame(11.0, red_line=11.5), False, False, False),
        (frame(10.0), frame(11.0, lateral=2.0), False, True, True),
        (frame(19.5), frame(20.5), False, False, True),
        (frame(10.0), frame(np.nan), False, True, True),
    ],
    ids=["collision", "red light", "before the line", "off the corridor", "goal", "not finite"],
)
def test_ends_of_episodes(before, after, collision, failure, end):
    values = scalar(0.0), np.array(collision), scalar(20.0), scalar(13.0)
    reward, ended, failed = step_reward(RewardParams(), before, after, *values)
    assert (bool(failed), bool(ended)) == (failure, end)
    assert np.isfinite(reward) and (float(reward) < -0.9) == failure


def test_controls_pursue_the_route_and_never_roll_backwards():
    index = ROUTE_ACTIONS.accelerations.index(-5.0) * len(ROUTE_ACTIONS.offsets) + 1
    acceleration, curvature = ROUTE_ACTIONS.control(frame(4.0, speed=0.2), np.array(index, np.int32))
    assert float(acceleration) == pytest.approx(-2.0) and float(curvature) == 0.0
    # From 1 m to the left, the arc to a point 9 m ahead on the route.
    acceleration, curvature = ROUTE_ACTIONS.control(frame(4.0, lateral=1.0), np.array(ROUTE_ACTIONS.hold, np.int32))
    assert float(curvature) == pytest.approx(-2.0 / (9.0**2 + 1.0), abs=1e-6)


def test_tracks_start_at_the_present_and_continue_beyond_the_path():
    track = drive(straight_line(0.0, 10.0), 4.0, np.full(RECORD_STEPS, 2.0))
    np.testing.assert_allclose(track[[0, 10, 60], 0], [2.0, 4.0, 14.0])
    assert not track[:, 1].any()


def test_scenes_are_determined_by_seed_and_index():
    first, again, other = (draw_scenes("merge", 5, [index]) for index in (1, 1, 2))
    for name in ("scenario", "task", "mask", "goal"):
        jax.tree.map(np.testing.assert_array_equal, getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.scenario.log.xyz, other.scenario.log.xyz)
    with pytest.raises(ValueError, match="no driving task"):
        draw_scenes("parking", 0, [0])
