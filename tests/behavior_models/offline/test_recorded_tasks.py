"""Driving tasks from scenarios: scenes that are known are found again in any frame, and other situations are not."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import waymax_sim as ws
from behavior_models.offline.recorded_tasks import find_following, find_red_light, recorded_scenes
from behavior_models.offline.task_scenes import CURRENT_STEP, TaskScene, build_scenario
from behavior_models.offline.tasks import TASKS
from waymax_sim.datatypes.scenario import Scenario

ANGLE, SHIFT = 0.7, np.array([120.0, -35.0])


def draw(task: str, index: int) -> tuple[TaskScene, Scenario]:
    """A synthetic scene, and its scenario in a rotated and shifted frame."""
    scene = TASKS[task].generate(np.random.default_rng(index))
    scenario = build_scenario(scene, "known")
    cos, sin = np.cos(ANGLE), np.sin(ANGLE)
    rotation = np.array([[cos, sin], [-sin, cos]])

    def move(xyz):
        return np.concatenate([np.asarray(xyz)[..., :2] @ rotation + SHIFT, np.asarray(xyz)[..., 2:]], axis=-1)

    log, signals = scenario.log, scenario.signals
    velocity = np.asarray(log.velocity) @ rotation
    log = dataclasses.replace(log, xyz=move(log.xyz), yaw=np.asarray(log.yaw) + ANGLE, velocity=velocity)
    signals = dataclasses.replace(signals, stop_point=move(signals.stop_point))
    return scene, dataclasses.replace(scenario, log=log, signals=signals)


def test_a_leader_is_found_in_any_frame():
    scene, scenario = draw("following", 3)
    found = find_following(scenario)
    assert found is not None and found.speed == pytest.approx(scene.speed, abs=1e-3)
    np.testing.assert_allclose(found.movers[0].track, scene.movers[0].track, atol=1e-2)
    assert np.abs(found.route[:, 1]).max() < 1e-2 and found.route[-1, 0] >= 238.0
    assert find_red_light(scenario) is None


@pytest.mark.parametrize("index", range(4))
def test_a_light_is_found_with_its_line_and_its_change(index):
    scene, scenario = draw("red_light", index)
    found = find_red_light(scenario)
    assert found is not None and scene.stop_line is not None
    assert found.stop_line == pytest.approx(scene.stop_line, abs=1e-2)
    assert 0.0 <= found.red_until - scene.red_until <= 0.1 + 1e-6
    assert found.goal == pytest.approx(scene.goal, abs=1e-2)


def test_agents_keep_their_velocity_outside_of_their_record():
    scene, scenario = draw("following", 3)
    valid = np.asarray(scenario.log.valid).copy()
    valid[CURRENT_STEP + 20 :, 1] = False
    cut = dataclasses.replace(scenario, log=dataclasses.replace(scenario.log, valid=valid))
    found = find_following(cut)
    assert found is not None
    track, last = found.movers[0].track, CURRENT_STEP + 19
    np.testing.assert_allclose(track[: last + 1], scene.movers[0].track[: last + 1], atol=1e-2)
    np.testing.assert_allclose(
        np.diff(track[last:], axis=0), np.diff(track, axis=0)[last - 1] + np.zeros((141 - 10, 2)), atol=1e-3
    )


def test_other_situations_are_left_out():
    _, behind = draw("following", 3)
    position = np.asarray(behind.log.xyz).copy()
    # The leader on another lane.
    position[:, 1, :2] += 3.5 * np.array([-np.sin(ANGLE), np.cos(ANGLE)])
    beside = dataclasses.replace(behind, log=dataclasses.replace(behind.log, xyz=position))
    at_rest = dataclasses.replace(behind.log, xyz=np.broadcast_to(np.asarray(behind.log.xyz)[:1], position.shape))
    for other in (beside, dataclasses.replace(behind, log=at_rest), dataclasses.replace(behind, time_step=0.2)):
        assert find_following(other) is None
    assert recorded_scenes("following", [beside]) is None
    scenes = recorded_scenes("following", [behind, beside, behind])
    assert scenes is not None and scenes.task.tolist() == [TASKS["following"].index] * 2
    with pytest.raises(ValueError, match="merge"):
        recorded_scenes("merge", [behind])


def test_a_recorded_light():
    folder = os.environ.get("WAYMAX_SIM_DATA")
    file = Path(folder or "") / "scenarionet" / "sd_waymo_v1.2_eb4b91b10ca94ff2.pkl"
    if not folder or not file.exists():
        pytest.skip("WAYMAX_SIM_DATA names no folder with this scene")
    scenes = recorded_scenes("red_light", ws.load(str(file), pad_to_bucket=False))
    assert scenes is not None and scenes.goal[0] > 45.0
    assert np.isfinite(np.asarray(scenes.scenario.log.xyz)).all()
