"""Attacks in a row of three cars: the ego is the last one and keeps its speed."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from behavior_models import ConstantSpeed
from behavior_models.attack import command
from behavior_models.attack.attribution import find_causes
from behavior_models.attack.run import describe
from behavior_models.attack.search import Attack, Search, SearchParams
from behavior_models.attack.variant import VariantParams, change_log, nearest_adversaries
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario

pytestmark = pytest.mark.compile_heavy
PARAMS = VariantParams(num_adversaries=2)
ATTACK = Attack(50, PARAMS, SearchParams(generations=3, population=8))
# The first component of each adversary is its begin, the last one its speed.
NOTHING = np.zeros(6, np.float32)
FIRST_STOPS = np.array([-1, 1, -1, 0, 0, 0], np.float32)
changed = jax.jit(change_log, static_argnames="params")


@pytest.fixture(scope="module")
def scenario():
    return jax.device_put(to_scenario(raw_scene(num_steps=61, sdc_index=2)))


def test_adversaries_are_the_nearest_ones(scenario):
    assert nearest_adversaries(scenario, VariantParams()).tolist() == [1, 0, -1]


def test_no_change_reproduces_the_log(scenario):
    log = changed(scenario, np.array([1, -1]), NOTHING, PARAMS).log
    jax.tree.map(np.testing.assert_array_equal, log, scenario.log)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_log_that_ends_does_not_become_an_obstacle(scenario, ratio):
    log = jax.tree.map(np.array, jax.device_get(scenario.log))
    log.valid[40:, 1] = False
    for leaf in (log.xyz, log.yaw, log.velocity):
        leaf[40:, 1] = 0
    cut = dataclasses.replace(scenario, log=log)
    change = np.array([-1, 1, ratio, 0, 0, 0], np.float32)
    after = jax.device_get(changed(cut, np.array([1, -1]), change, PARAMS).log)
    if ratio == 0:
        jax.tree.map(np.testing.assert_array_equal, after, log)
    # A faster car ends earlier; it never brakes harder than the bound.
    valid = after.valid[:, 1]
    assert valid[:6].all() and not valid[40:].any() and (ratio == 0 or not valid[36:].any())
    speed = np.linalg.norm(after.velocity[:, 1], axis=-1)[valid]
    assert np.abs(np.diff(speed)).max() <= 0.4 + 1e-3 and not after.xyz[~valid, 1].any()


def test_a_car_stops_along_its_path_with_a_limited_deceleration(scenario):
    log = jax.device_get(changed(scenario, np.array([1, 0]), FIRST_STOPS, PARAMS).log)
    before = jax.device_get(scenario.log)
    np.testing.assert_array_equal(log.xyz[:, [0, 2]], before.xyz[:, [0, 2]])
    np.testing.assert_array_equal(log.xyz[:6], before.xyz[:6])
    # From 10 m/s with 4 m/s^2: 2.5 s, 12.5 m.
    speed = np.linalg.norm(log.velocity[:, 1], axis=-1)
    np.testing.assert_allclose(speed[5:31], 10 - 0.4 * np.arange(26), atol=1e-4)
    np.testing.assert_allclose(log.xyz[31:50, 1, 0] - log.xyz[5, 1, 0], 12.5, atol=0.6)
    np.testing.assert_allclose(log.xyz[:, 1, 1], before.xyz[:, 1, 1], atol=1e-6)


def test_outcomes_and_feasibility(scenario):
    policy, rows, key = ConstantSpeed(), np.array([1, 0]), jax.random.key(0)
    batch = np.stack([NOTHING, FIRST_STOPS] * 4)
    outcome = jax.device_get(ATTACK.outcomes(policy, scenario, rows, batch, key))
    assert outcome.failed[:2].tolist() == [False, True] and outcome.margin[1] < outcome.margin[0]
    assert ATTACK.is_feasible(scenario, rows, FIRST_STOPS, key)
    causes = find_causes(ATTACK, policy, scenario, rows, FIRST_STOPS)
    assert [cause["agent"] for cause in causes] == [101] and 0 < causes[0]["until_step"] <= 40
    # A wall 6 m ahead of an ego at 10 m/s cannot be avoided.
    log = jax.tree.map(np.array, scenario.log)
    log.xyz[:, 1, 0] = log.xyz[5, 2, 0] + 6.0
    log.velocity[:, 1] = 0.0
    blocked = jax.device_put(dataclasses.replace(scenario, log=log))
    assert ATTACK.outcomes(policy, blocked, rows, batch, key).failed[0]
    assert not ATTACK.is_feasible(blocked, rows, NOTHING, key)


@pytest.mark.parametrize("kind", ["random", "cross-entropy"])
def test_a_search_finds_a_small_feasible_failure(scenario, kind: Search):
    policy, rows = ConstantSpeed(), np.array([1, 0])
    result = ATTACK.search(kind, policy, scenario, rows, seed=0)
    assert result.change is not None and result.used <= 24
    small = ATTACK.shrink(policy, scenario, rows, result.change)
    assert np.abs(small[[2, 5]]).sum() < np.abs(result.change[[2, 5]]).sum()
    (one,) = describe(scenario, rows, small, PARAMS)
    assert one["agent"] == 101 and one["speed_ratio"] < 1
    # What a policy cannot be hit by is not result.
    alone = ATTACK.search(kind, policy, scenario, np.array([-1, -1]), seed=0)
    assert alone.change is None and alone.used == 24


def test_failures_of_the_original_are_no_result():
    rows = [{"fails_already": True, "found": False}, {"fails_already": False, "found": True}]
    assert command.summarize(rows) == {"scenes": 2, "fails_already": 1, "found": 1, "share_found": 1.0}
    assert command.summarize(rows[:1])["share_found"] is None


@pytest.mark.slow
@pytest.mark.max_programs(600)
def test_the_command_writes_rows_and_pages_and_resumes(tmp_path, capsys):
    for limit in (1, 2):
        assert command.attack("synthetic:101:2", "constant_speed", tmp_path, limit=limit) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    for row in rows:
        assert (row["page"] is not None) == row["found"]
        assert row["page"] is None or (tmp_path / row["page"]).stat().st_size > 1e4
    assert json.loads((tmp_path / "summary.json").read_text())["scenes"] == 2
    gradient = command.attack("synthetic:101:1", "constant_speed", tmp_path / "gradient", search="gradient", steps=20)
    assert gradient == 0
