"""Studies of driving policies: outcomes by hand on a straight road, resumption and summaries."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.baselines.kinematic import ConstantSpeed
from behavior_models.study.episodes import at_common_interval, make_driver
from behavior_models.study.report import interval_text, results_csv, study_tables, summarize_study
from behavior_models.study.run import Study, StudyArm, StudyConfig, parse_arm, prepare_scenes
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Policy
from waymax_sim.pytree import Array, pytree

pytestmark = pytest.mark.compile_heavy
SPEED = 9.5


@pytree
class ConstantAcceleration(Policy):
    """Accelerates straight ahead."""

    acceleration: Array
    dynamics = Bicycle()

    def act(self, observation, carry, key):
        valid = observation.agents.valid
        value = jnp.stack([jnp.broadcast_to(self.acceleration, valid.shape), jnp.zeros(valid.shape)], axis=-1)
        return Action(value=value, valid=valid), carry


def column():
    """Three vehicles of 4 m in a row, 2 m apart, at 9.5 m/s for 1.5 s; the first is the sdc."""
    raw = raw_scene()
    xyz = raw.xyz * np.array([SPEED / 10, 1, 1])
    xyz[..., 0] += (20.0 * SPEED / 10 - 6.0) * np.arange(3)
    return to_scenario(dataclasses.replace(raw, xyz=xyz, velocity=raw.velocity * SPEED / 10), pad_to_bucket=False)


def arms(**accelerations: float) -> list[StudyArm]:
    return [StudyArm(name, {name: ConstantAcceleration(np.float32(value))}) for name, value in accelerations.items()]


@pytest.fixture(scope="module")
def scenes():
    return prepare_scenes([column()])


def run(tmp_path, scenes, given, **changes) -> dict:
    """Rows by arm, setting, traffic and vehicle, the first in the row is 0."""
    config = StudyConfig(given, num_rollouts=0, **changes)
    study = Study(tmp_path, "column", scenes, config)
    study.open()
    list(study.run())
    rows = study.rows()
    json.dumps(rows, allow_nan=False)
    return {(row["arm"], row["setting"], row["traffic"], row["agent"] - 100): row for row in rows}


def test_outcomes_by_hand(tmp_path, scenes):
    rows = run(tmp_path, scenes, arms(keep=0.0, speed_up=6.0, brake=-6.0))
    kept = rows["keep", "alone", "log", 1]
    assert kept["goal"] and not (kept["collision"] or kept["offroad"] or kept["at_fault"])
    # 1.9 m before the end of the log after 13 of 15 steps; then the log drives on for two steps of 0.95 m.
    assert kept["arrival"] == pytest.approx(1.3)
    assert kept["displacement"] == pytest.approx((0.95 + 1.9) / 15, abs=1e-3)
    assert kept["progress"] == pytest.approx(13 / 15, abs=1e-3) and kept["infeasible"] == 0
    # 2 m of gap are closed at 6 m/s^2 within the record.
    fast = rows["speed_up", "alone", "log", 1]
    assert fast["collision"] and fast["at_fault"] and not fast["goal"] and fast["arrival"] is None
    # The vehicle behind follows the log and does not brake.
    slow = rows["brake", "alone", "log", 1]
    assert slow["collision"] and not slow["at_fault"] and not slow["goal"]
    # The last vehicle has none behind it, and the first none ahead.
    assert not rows["brake", "alone", "log", 2]["collision"] and rows["speed_up", "alone", "log", 0]["goal"]
    # All together keep their distances.
    for arm in ("speed_up", "brake"):
        assert not any(rows[arm, "all", "log", vehicle]["collision"] for vehicle in range(3))


@pytest.mark.slow
def test_traffic_of_a_policy_replaces_the_log(tmp_path, scenes):
    rows = run(tmp_path, scenes, arms(brake=-6.0), traffic=("self",), all_driven=False)
    # The vehicle behind brakes as well.
    assert not rows["brake", "alone", "self", 1]["collision"]


@pytest.mark.slow
def test_vehicles_that_stop_are_obstacles(tmp_path, scenes):
    """The first vehicle brakes and is hit by the second; the third meets them only if they remain."""
    pile_up = [StudyArm("pile_up", {"pile_up": ConstantAcceleration(np.float32([-6.0, 0.0, 0.0]))})]
    outcomes = {}
    for at_end in ("remove", "stop"):
        rows = run(tmp_path / at_end, scenes, pile_up, alone=False, at_end=at_end)
        outcomes[at_end] = [rows["pile_up", "all", "log", vehicle]["collision"] for vehicle in range(3)]
    assert outcomes == {"remove": [True, True, False], "stop": [True, True, True]}


def test_a_study_is_resumed_and_extended(tmp_path, scenes):
    first = run(tmp_path, scenes, arms(keep=0.0), all_driven=False)
    content = (tmp_path / "rows.jsonl").read_text()
    both = run(tmp_path, scenes, arms(keep=0.0, speed_up=6.0), all_driven=False)
    assert (tmp_path / "rows.jsonl").read_text().startswith(content) and len(both) == 2 * len(first)
    with pytest.raises(ValueError, match="another run"):
        run(tmp_path, scenes, arms(keep=0.0), max_steps=3)
    changed = run(tmp_path, scenes, [StudyArm("keep", arms(keep=6.0)[0].policies)], all_driven=False)
    assert changed["keep", "alone", "log", 1]["collision"], "other weights of the same name are evaluated again"


def row(arm: str, policy: str, scene: int, agent: int, goal: bool) -> dict:
    values = {"collision": not goal, "offroad": False, "at_fault": not goal, "displacement": 1.0}
    values |= {"arrival": 2.0 if goal else None, "infeasible": 0.0, "progress": 1.0, "goal": goal}
    return {"arm": arm, "policy": policy, "setting": "alone", "traffic": "log", "scene": scene, "agent": agent} | values


def test_summaries_pair_arms_of_several_seeds(scenes):
    scenarios = [scenes.host[0]] * 4
    cells = [(scene, vehicle) for scene in range(4) for vehicle in range(3)]
    rows = [row("a", f"a{seed}", scene, 100 + vehicle, True) for seed in (0, 1) for scene, vehicle in cells]
    rows += [row("b", "b0", scene, 100 + vehicle, vehicle > 0) for scene, vehicle in cells]
    summary = summarize_study(rows, scenarios, "a")
    a, b = summary["results"]
    assert (a["num_seeds"], a["num_scenes"], a["num_rows"]) == (2, 4, 24) and b["num_seeds"] == 1
    assert b["columns"]["goal"] == pytest.approx({"value": 2 / 3, "low": 2 / 3, "high": 2 / 3})
    (difference,) = summary["differences"]
    assert difference["columns"]["at_fault"]["difference"]["value"] == pytest.approx(1 / 3)
    assert b["columns"]["arrival"]["value"] == 2.0 and a["seeds"]["a1"]["goal"] == 1.0
    assert b["slices"]["all"]["value"] == pytest.approx(1 / 3)
    assert a["learned_difficulty"] is None and b["learned_difficulty"] is not None
    lines = results_csv(summary).splitlines()
    assert "b,alone,log,1,4,12,at_fault,0.333" in results_csv(summary) and len(lines) == 1 + 2 * 8
    assert len(study_tables(summary)) == 2


def test_intervals_as_text():
    assert interval_text("goal", {"value": 0.5, "low": 0.25, "high": 0.75}) == "50.0\n[25.0, 75.0]"
    assert interval_text("displacement", {"value": -1.0, "low": None, "high": None}, signed=True) == "-1.00"
    assert interval_text("realism", {"value": None, "low": None, "high": None}) == "-"


def test_arms_by_text():
    arm = parse_arm("pair=constant_speed,idm")
    assert arm.name == "pair" and list(arm.policies) == ["constant_speed", "idm"]
    assert parse_arm("constant_speed").name == "constant_speed"


def test_policies_decide_at_a_common_interval():
    @dataclasses.dataclass(frozen=True)
    class Held:
        interval: int

    assert at_common_interval(Held(4), Held(6)) == ([Held(2), Held(3)], 2)
    assert at_common_interval(Held(2), ConstantSpeed()) == ([Held(2), ConstantSpeed()], 1)
    driver, interval = make_driver(ConstantSpeed(), None)
    assert interval == 1 and len(driver.traffic) == 0 and not jax.tree.leaves(driver)
