import dataclasses

import jax
import numpy as np
import pytest

from behavior_models import ConstantVelocity, LogReplay
from tests import oracle_nuplan
from tests.data import recorded
from tests.scenes import raw_scene, scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.metrics import METRICS, NUPLAN_METRICS, MetricValue, nuplan_score
from waymax_sim.metrics.nuplan import MULTIPLIERS, WEIGHTS
from waymax_sim.metrics.progress import log_arc_length

NUM_STEPS, AGENTS, DT = 15, 3, 0.1
score = jax.jit(nuplan_score)


def values(**changes) -> dict[str, MetricValue]:
    """An uneventful episode; changes are values over time of agent 0."""
    found = {}
    for name in NUPLAN_METRICS:
        value, valid = np.zeros((NUM_STEPS, AGENTS), np.float32), np.ones((NUM_STEPS, AGENTS), bool)
        if name == "time_to_collision":
            value += 5
        if name == "log_progress":
            value += np.float32(1 / NUM_STEPS)
        if name in changes:
            value[:, 0] = changes[name]
        if changes.get("unknown") == name:
            value, valid = 0 * value, ~valid
        found[name] = MetricValue(value, valid)
    return found


def first_scores(**changes) -> dict[str, float]:
    """Score and parts of agent 0. The log moves 1 m per step."""
    found = score(values(**changes), scene(), np.ones(NUM_STEPS, bool))
    assert all(item.valid[0] or "unknown" in changes for item in found.values())
    return {name: float(item.value[0]) for name, item in found.items()}


def at(*steps: int, value: float = 1.0) -> np.ndarray:
    return np.where(np.isin(np.arange(NUM_STEPS), steps), value, 0)


PERFECT = {name: 1.0 for name in (*MULTIPLIERS, *WEIGHTS, "nuplan_score")}
CASES = {
    "nothing happens": ({}, {}),
    "hits a car": ({"at_fault_vehicle_collision": at(3)}, {"no_ego_at_fault_collisions": 0, "nuplan_score": 0}),
    "hits a pedestrian": ({"at_fault_vru_collision": at(3)}, {"no_ego_at_fault_collisions": 0, "nuplan_score": 0}),
    "hits a cone": ({"at_fault_object_collisions": at(3)}, {"no_ego_at_fault_collisions": 0.5, "nuplan_score": 0.5}),
    "hits two cones, one after the other": (
        {"at_fault_object_collisions": at(3, 5)},
        {"no_ego_at_fault_collisions": 0, "nuplan_score": 0},
    ),
    "hits two cones in one step": (
        {"at_fault_object_collisions": at(3, value=2)},
        {"no_ego_at_fault_collisions": 0, "nuplan_score": 0},
    ),
    "a corner just over the edge": ({"road_edge_distance": at(2, value=0.29)}, {}),
    "a corner off the road": ({"road_edge_distance": at(2, value=0.31)}, {"drivable_area_compliance": 0}),
    "1.9 m in a second against the lane": ({"wrong_way_distance": np.append(np.full(10, 0.19), np.zeros(5))}, {}),
    # 0.18 m in each of 15 steps is 2.7 m in all, but no more than 1.98 m in the 11 samples of a second.
    "2.7 m in one and a half": ({"wrong_way_distance": np.full(15, 0.18)}, {}),
    "2.09 m in a second": ({"wrong_way_distance": np.full(15, 0.19)}, {"driving_direction_compliance": 0.5}),
    "4 m in a second": ({"wrong_way_distance": np.full(15, 0.4)}, {"driving_direction_compliance": 0.5}),
    "7 m in a second": ({"wrong_way_distance": np.full(15, 0.7)}, {"driving_direction_compliance": 0}),
    # 15 m are to be made: 6 of 15 steps of them are 0.4 (5 points of 16), 2 are less than 0.2.
    "gets 6 m far": (
        {"log_progress": at(*range(6), value=1 / 15)},
        {"ego_progress_along_expert_route": 0.4, "nuplan_score": (5 + 5 * 0.4 + 4 + 2) / 16},
    ),
    "gets 2 m far": (
        {"log_progress": at(0, 1, value=1 / 15)},
        {"ego_progress_along_expert_route": 2 / 15, "ego_is_making_progress": 0, "nuplan_score": 0},
    ),
    "2 m backwards": (
        {"log_progress": at(0, 1, value=-0.99 / 15)},
        {"ego_progress_along_expert_route": 2 / 15, "ego_is_making_progress": 0, "nuplan_score": 0},
    ),
    "3 m backwards": (
        {"log_progress": at(0, 1, 2, value=-1 / 15)},
        {"ego_progress_along_expert_route": 0, "ego_is_making_progress": 0, "nuplan_score": 0},
    ),
    "0.9 s from a collision": (
        {"time_to_collision": 5 - at(4, value=4.1)},
        {"time_to_collision_within_bound": 0, "nuplan_score": 11 / 16},
    ),
    # On average 1/3 of 2.23 m/s too fast.
    "too fast for a third of the time": (
        {"speeding": at(*range(5), value=2.23)},
        {"speed_limit_compliance": 2 / 3, "nuplan_score": (12 + 4 * 2 / 3) / 16},
    ),
    "much too fast": ({"speeding": at(*range(15), value=9.0)}, {"speed_limit_compliance": 0, "nuplan_score": 12 / 16}),
    "a jerk": ({"comfort_violation": at(7, value=1.01)}, {"ego_is_comfortable": 0, "nuplan_score": 14 / 16}),
    "uncomfortable and with a cone": (
        {"comfort_violation": at(7, value=1.01), "at_fault_object_collisions": at(7)},
        {"ego_is_comfortable": 0, "no_ego_at_fault_collisions": 0.5, "nuplan_score": 7 / 16},
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
def test_hand_computed(changes, expected):
    expected = PERFECT | expected
    for name in MULTIPLIERS:
        if expected[name] < 1 and expected["nuplan_score"] == 1:
            expected = expected | {"nuplan_score": expected[name]}
    assert first_scores(**changes) == pytest.approx(expected, abs=1e-5)


def test_parts_without_values_are_left_out():
    for name, part in (
        ("speeding", "speed_limit_compliance"),
        ("comfort_violation", "ego_is_comfortable"),
        ("road_edge_distance", "drivable_area_compliance"),
        ("wrong_way_distance", "driving_direction_compliance"),
    ):
        found = score(values(unknown=name, time_to_collision=0.5), scene(), np.ones(NUM_STEPS, bool))
        assert not found[part].valid.any()
        remaining = 16 - WEIGHTS.get(part, 0)
        assert float(found["nuplan_score"].value[0]) == pytest.approx((remaining - 5) / remaining)


def test_random_episodes_equal_the_oracle():
    scenario, rng = scene(), np.random.default_rng(0)
    for _ in range(60):
        found, active = {}, np.arange(NUM_STEPS) < rng.integers(1, NUM_STEPS + 1)
        exists = rng.random((NUM_STEPS, AGENTS)) < rng.choice([0.0, 0.3, 1.0], p=[0.1, 0.2, 0.7])
        for name in NUPLAN_METRICS:
            kind = (NUM_STEPS, AGENTS)
            value = {
                "road_edge_distance": rng.normal(-1, 0.4, kind),
                "time_to_collision": rng.uniform(0.8, 5, kind),
                "log_progress": rng.normal(rng.choice([0.6, -0.3]), 0.5, kind) / NUM_STEPS,
                "wrong_way_distance": rng.uniform(0, 1, kind) * rng.integers(0, 2),
                "speeding": rng.uniform(0, 1, kind),
                "comfort_violation": rng.uniform(0, 1.03, kind),
            }.get(name, (rng.random(kind) < 0.02).astype(float))
            valid = exists & (rng.random(kind) < rng.choice([0.0, 0.8, 1.0])) if name != "time_to_collision" else exists
            found[name] = MetricValue(np.where(valid, value, 0).astype(np.float32), valid)
        result = score(found, scenario, active)
        for agent in range(AGENTS):

            def valid_values(name, agent=agent, found=found, active=active):
                return found[name].value[active & found[name].valid[:, agent], agent].astype(float).tolist()

            if not valid_values("time_to_collision"):
                assert not any(item.valid[agent] for item in result.values())
                continue
            # Steps without a value count as no distance against the lane.
            against = np.where(found["wrong_way_distance"].valid, found["wrong_way_distance"].value, 0)[active, agent]
            users = valid_values("at_fault_vehicle_collision") and (
                valid_values("at_fault_vehicle_collision") + valid_values("at_fault_vru_collision")
            )
            expected = oracle_nuplan.parts(
                road_users=users,
                objects=valid_values("at_fault_object_collisions"),
                edge=valid_values("road_edge_distance"),
                against=against.tolist() if valid_values("wrong_way_distance") else [],
                times=valid_values("time_to_collision"),
                # The log drives 15 m in the remaining 15 steps of the record.
                covered=15 * sum(valid_values("log_progress")),
                expert=float(active.sum()),
                excess=valid_values("speeding"),
                comfort_violation=valid_values("comfort_violation"),
                dt=DT,
            )
            for name, value in expected.items():
                assert bool(result[name].valid[agent]) == (value is not None), name
                assert float(result[name].value[agent]) == pytest.approx(value or 0.0, abs=1e-5), name
            total = float(result["nuplan_score"].value[agent])
            assert total == pytest.approx(oracle_nuplan.score(expected), abs=1e-5)


def test_a_short_episode_is_compared_with_the_same_part_of_the_log():
    active = np.arange(NUM_STEPS) < 6
    found = score(values(), scene(), active)
    assert float(found["ego_progress_along_expert_route"].value[0]) == pytest.approx(1.0)


def test_a_parked_log_gives_full_progress():
    raw = raw_scene()
    parked = dataclasses.replace(raw, xyz=np.broadcast_to(raw.xyz[:1], raw.xyz.shape))
    found = score(values(unknown="log_progress"), to_scenario(parked, pad_to_bucket=False), np.ones(NUM_STEPS, bool))
    assert found["nuplan_score"].value.tolist() == [1, 1, 1]


def test_the_arc_length_of_the_log():
    raw = raw_scene()
    valid = raw.valid.copy()
    valid[10, 1] = False
    arc_length = np.asarray(log_arc_length(to_scenario(dataclasses.replace(raw, valid=valid), pad_to_bucket=False)))
    np.testing.assert_allclose(arc_length[:, 0], np.maximum(np.arange(21) - 5, 0), atol=1e-4)
    # An invalid step is a gap of two steps.
    assert arc_length[9, 1] == pytest.approx(4, abs=1e-4) and arc_length[-1, 1] == pytest.approx(13, abs=1e-4)


def test_names_are_known_and_weights_those_of_the_paper():
    assert set(NUPLAN_METRICS) <= set(METRICS)
    assert sum(WEIGHTS.values()) == 16


@pytest.mark.compile_heavy
def test_from_a_rollout():
    """The logged velocity is perfect: below the limit of 13.4 m/s, in the lane, 16 m behind the next car."""
    env = Env(config=EnvConfig(metrics=NUPLAN_METRICS, rewards=(), evaluated="sdc"))

    @jax.jit
    def run(scenario):
        trace = rollout(env, ConstantVelocity(), scenario, jax.random.key(0), 15, record=("metrics",))
        return nuplan_score(trace.metrics, scenario, trace.active)

    found = run(scene())
    assert {name: float(item.value[0]) for name, item in found.items()} == pytest.approx(PERFECT)
    assert np.asarray(found["nuplan_score"].valid).tolist() == [True, False, False]


@pytest.mark.slow
def test_on_recorded_scenes():
    path = str(recorded("womd") / "*.tfrecord")
    env = Env(config=EnvConfig(metrics=NUPLAN_METRICS, rewards=(), evaluated="sdc"))
    totals = {}
    for policy in (LogReplay(), ConstantVelocity()):

        @jax.jit
        def run(scenario, policy=policy):
            trace = rollout(env, policy, scenario, jax.random.key(0), 80, record=("metrics",))
            return nuplan_score(trace.metrics, scenario, trace.active)

        scores = []
        for scenario in load(path):
            found = run(jax.device_put(scenario))
            sdc = int(np.argmax(scenario.agents.is_sdc))
            scores.append({name: (float(item.value[sdc]), bool(item.valid[sdc])) for name, item in found.items()})
        totals[type(policy).__name__] = np.mean([item["nuplan_score"][0] for item in scores])
        print(type(policy).__name__, *scores, sep="\n")
        if isinstance(policy, LogReplay):
            assert min(value for item in scores for value, valid in item.values() if valid) > 0.99
    assert totals["LogReplay"] > totals["ConstantVelocity"]
