"""Random traffic where all rules apply: every metric equals its slow version."""

import math

import numpy as np
import pytest

from tests import oracle, oracle_rules
from tests.metrics.rules import (
    AGENTS,
    DT,
    GREEN,
    LEFT_LANE,
    LIGHT_X,
    LIMITS,
    NUM_STEPS,
    RED,
    SIGN_X,
    empty,
    evaluate_episode,
    lines,
    make_case,
    track,
)

SEEDS = 14
STEPS = (2, 9, 17, 33)
LANES = sorted(LIMITS)
EDGES = (3, 4, 6, 7)


def traffic(seed: int):
    """Six agents near each other, some of which break rules, with missing steps."""
    rng = np.random.default_rng(seed)
    tracks = []
    for index in range(AGENTS):
        y = rng.choice([0.0, 3.5, 7.0]) + rng.normal(0, 0.7)
        yaw = float(rng.choice([0.0, 0.0, 0.0, np.pi, np.pi / 2, rng.uniform(-3, 3)])) + rng.normal(0, 0.02)
        speed = rng.choice([0.0, rng.uniform(2, 22), -3.0])
        one = track(rng.uniform(-25, 25), y, speed, yaw, rng.choice([0.0, 0.0, 0.0, 6.0]), rng.normal(0, 1))
        if index % 2:
            one["xyz"] = one["xyz"] + rng.normal(0, [0.1, 0.1, 0.02], one["xyz"].shape)
            one["yaw"] = one["yaw"] + rng.normal(0, 0.01, NUM_STEPS)
        tracks.append(one)
    # The first one drives towards the light.
    tracks[0] = track(rng.uniform(-15, 5), rng.normal(0, 0.5), rng.uniform(5, 12))
    light = rng.choice([RED, GREEN, 7, 1], NUM_STEPS // 12).repeat(12)
    sizes = rng.uniform((1, 0.6, 1), (8, 2.5, 3), (AGENTS, 3))
    log = [track(rng.uniform(-15, 0), one["xyz"][0, 1], rng.choice([0, 8.0]), 0.1) for one in tracks]
    return dict(
        tracks=tracks,
        types=[1, *rng.choice([1, 1, 2, 3, 4], AGENTS - 1)],
        log=log,
        light=light,
        sizes=sizes,
        valid=rng.random((NUM_STEPS, AGENTS)) < 0.97,
    ), light


@pytest.fixture(scope="module", params=range(SEEDS))
def case(request):
    changes, light = traffic(request.param)
    scenario, agents = make_case(**changes)
    values = evaluate_episode(scenario, agents)
    size = np.asarray(scenario.agents.size, float)

    def pose(agent: int, step: int) -> tuple:
        position = np.asarray(agents.xyz[step, agent], float) + np.asarray(empty().origin, float)
        return (
            *position,
            float(agents.yaw[step, agent]),
            *np.asarray(agents.velocity[step, agent], float),
            *size[agent],
        )

    return (
        scenario,
        agents,
        {name: (np.asarray(v.value), np.asarray(v.valid)) for name, v in values.items()},
        pose,
        light,
    )


def is_wheeled(scenario, agent) -> bool:
    return int(scenario.agents.type[agent]) in (1, 3)


def climb(agents, a, b, step) -> float:
    def rate(agent):
        z = agents.xyz[:, agent, 2]
        return float(z[step] - z[step - 1]) / DT if agents.valid[step - 1, agent] else 0.0

    return rate(b) - rate(a)


def others(agents, agent, step):
    return [other for other in range(AGENTS) if other != agent and agents.valid[step, other]]


def present(agents):
    return [(step, agent) for step in STEPS for agent in range(AGENTS) if agents.valid[step, agent]]


def pieces(rows) -> list[tuple]:
    return [(a, b) for row in rows for a, b in zip(lines()[row][:-1], lines()[row][1:], strict=True)]


def test_time_to_collision(case):
    _, agents, values, pose, _ = case
    for step, agent in present(agents):
        lowest, certain = 5.0, 5.0
        for other in others(agents, agent, step):
            time, depth = oracle_rules.time_to_collision(
                pose(agent, step), pose(other, step), climb(agents, agent, other, step)
            )
            lowest = min(lowest, time)
            # Grazing contacts may be missed in float32.
            certain = min(certain, time if depth > 0.01 else 5.0)
        value = values["time_to_collision"][0][step - 1, agent]
        assert lowest - 0.01 <= value <= certain + 0.01, (step, agent)


def test_clearance_and_encroachment(case):
    _, agents, values, pose, _ = case
    for step, agent in present(agents):
        here = pose(agent, step)
        level = [
            other
            for other in others(agents, agent, step)
            if abs(here[2] - pose(other, step)[2]) <= (here[8] + pose(other, step)[8]) / 2 + 1e-4
        ]
        room = min((oracle_rules.clearance(here, pose(other, step)) for other in level), default=None)
        value, valid = (item[step - 1, agent] for item in values["clearance"])
        assert valid == (room is not None) and value == pytest.approx(room or 0.0, abs=2e-4)
        ages = [
            age * DT
            for age in range(min(step, 30) + 1)
            for other in others(agents, agent, step - age)
            if abs(oracle.wrap(here[3] - pose(other, step - age)[3])) > math.pi / 6
            and oracle_rules.share_space(here, pose(other, step - age))
        ]
        assert values["post_encroachment_time"][0][step - 1, agent] == pytest.approx(min([3.0, *ages]), abs=1e-4)


def is_straddling(here) -> bool:
    """On this map: beyond the border between the nearest lane that agrees and its neighbor."""
    bottom = np.array([here[0], here[1], here[2] - here[8] / 2])
    best = nearest_lane(bottom, here[3])
    if best not in (0, LEFT_LANE):
        return False
    reach = oracle.corners(here[0], here[1], here[3], *here[6:8])[:, 1]
    return bool(reach.max() > 1.75 + 0.2) if best == 0 else bool(reach.min() < 1.75 - 0.2)


def nearest_lane(bottom, yaw):
    distances = {row: oracle.distance_along(pieces([row]), bottom, yaw, math.pi / 3) for row in LANES}
    best = min(distances, key=distances.get)
    return best if math.isfinite(distances[best]) else None


def test_lanes(case):
    scenario, agents, values, pose, _ = case
    centers = [lines()[row] for row in LANES]
    for step, agent in present(agents):
        here, ok = pose(agent, step), is_wheeled(scenario, agent)
        bottom = np.array([here[0], here[1], here[2] - here[8] / 2])
        best = nearest_lane(bottom, here[3])
        near = best is not None and oracle.distance_along(pieces([best]), bottom, here[3], math.pi / 3) <= 3
        excess = max(0.0, math.hypot(here[4], here[5]) - LIMITS[best]) if near else 0.0
        value, valid = (item[step - 1, agent] for item in values["speeding"])
        assert valid == (ok and near) and value == pytest.approx(ok * excess, abs=1e-4)
        assert values["speeding_time"][0][step - 1, agent] == pytest.approx(DT if ok and excess > 0 else 0)
        value, valid = (item[step - 1, agent] for item in values["straddling"])
        assert valid == (ok and best is not None) and value == (ok and is_straddling(here)), (step, agent)
        value, valid = (item[step - 1, agent] for item in values["wrong_way_distance"])
        assert valid == (ok and agents.valid[step - 1, agent])
        if valid:
            before = pose(agent, step - 1)
            step_xy = (here[0] - before[0], here[1] - before[1])
            yaw = math.atan2(step_xy[1], step_xy[0])
            against = step_xy != (0, 0) and oracle.is_wrong_way(centers, bottom, yaw)
            assert value == pytest.approx(math.hypot(*step_xy) if against else 0, abs=1e-4)


def test_fault(case):
    scenario, agents, values, pose, _ = case
    names = ("at_fault_collision", "at_fault_vehicle_collision", "at_fault_vru_collision", "at_fault_object_collisions")
    edges = [lines()[row] for row in EDGES]
    for step in range(1, NUM_STEPS):
        for agent in range(AGENTS):
            valid = agents.valid[step - 1 : step + 1, agent].all()
            assert values["at_fault_collision"][1][step - 1, agent] == valid
            kinds = []
            for other in others(agents, agent, step) if valid else []:
                if not agents.valid[step - 1, other] or not oracle_rules.share_space(
                    pose(agent, step), pose(other, step)
                ):
                    continue
                if oracle_rules.share_space(pose(agent, step - 1), pose(other, step - 1)):
                    continue
                own, hit = (with_step_velocity(pose(row, step), pose(row, step - 1)) for row in (agent, other))
                if math.hypot(*own[4:6]) < 0.05:
                    continue
                cosine = oracle_rules.contact_cosine(own, hit, climb(agents, agent, other, step), 0.0)
                here = pose(agent, step)
                corners = oracle.corners(here[0], here[1], here[3], *here[6:8])
                off = max(oracle.signed_distance(edges, np.append(xy, here[2] - here[8] / 2)) for xy in corners) > 0
                is_out = (is_wheeled(scenario, agent) and is_straddling(here)) or off
                if math.hypot(*hit[4:6]) < 0.05 or cosine > 0.7071 or (abs(cosine) <= 0.7071 and is_out):
                    kinds.append(int(scenario.agents.type[other]))
            expected = [bool(kinds), 1 in kinds, 2 in kinds or 3 in kinds, kinds.count(4)]
            assert [values[name][0][step - 1, agent] for name in names] == expected, (step, agent)


def with_step_velocity(now: tuple, before: tuple) -> tuple:
    """With the velocity from its displacement in the step."""
    return (*now[:4], (now[0] - before[0]) / DT, (now[1] - before[1]) / DT, *now[6:])


def test_lines(case):
    scenario, agents, values, pose, light = case
    for step in range(1, NUM_STEPS):
        for agent in range(AGENTS):
            valid = is_wheeled(scenario, agent) and agents.valid[step - 1 : step + 1, agent].all()
            assert values["red_light_violation"][1][step - 1, agent] == valid
            assert values["stop_sign_violation"][1][step - 1, agent] == valid
            if not valid:
                continue
            before, now = pose(agent, step - 1), pose(agent, step)
            over_light = oracle_rules.crosses(before, now, LIGHT_X, 0.0, 0.0)
            over_sign = oracle_rules.crosses(before, now, SIGN_X, 3.5, 0.0)
            red = light[step] in (RED, 1) and light[step - 1] in (RED, 1)
            assert values["red_light_violation"][0][step - 1, agent] == (over_light and red), (step, agent)
            flashes = light[step] == 7 and light[step - 1] == 7
            ran = (over_sign and has_not_stopped(agents, pose, agent, step, SIGN_X)) or (
                over_light and flashes and has_not_stopped(agents, pose, agent, step, LIGHT_X)
            )
            assert values["stop_sign_violation"][0][step - 1, agent] == ran, (step, agent)


def has_not_stopped(agents, pose, agent, step, x) -> bool:
    """Approached from farther than 5 m and was never slow with the bumper in front of the line."""
    came, stopped = False, False
    for earlier in range(max(0, step - 30), step + 1):
        if agents.valid[earlier, agent]:
            one = pose(agent, earlier)
            ahead = one[0] + one[6] / 2 * math.cos(one[3]) - x
            came = came or ahead < -5
            stopped = stopped or (-5 <= ahead <= 0 and math.hypot(*one[4:6]) < 0.5)
    return came and not stopped


def test_comfort_and_progress(case):
    scenario, agents, values, pose, _ = case
    for step, agent in present(agents):
        value, valid = (item[step - 1, agent] for item in values["comfort_violation"])
        window = slice(step - 10, step + 1)
        assert valid == (step >= 10 and is_wheeled(scenario, agent) and agents.valid[window, agent].all())
        if valid:
            expected = oracle_rules.comfort_violation(agents.yaw[window, agent], agents.velocity[window, agent], DT)
            assert value == pytest.approx(expected, rel=1e-3, abs=2e-3)
        if not agents.valid[:, agent].all() or not agents.valid[step - 1, agent]:
            continue
        log = np.asarray(scenario.log.xyz[:, agent, :2], float) + np.asarray(empty().origin, float)[:2]
        poses = [(*pose(agent, at)[:2], pose(agent, at)[3]) for at in (step - 1, step)]
        expected = oracle_rules.log_progress(log, *poses)
        value, valid = (item[step - 1, agent] for item in values["log_progress"])
        assert valid == (expected is not None) and value == pytest.approx(expected or 0.0, abs=1e-4)
        end, radius = log[-1], math.dist(log[-1], poses[1][:2])
        assert values["goal_distance"][0][step - 1, agent] == pytest.approx(radius, abs=1e-3), end
        now = int(scenario.current_step)
        travels = bool(scenario.log.valid[now, agent]) and math.dist(log[now], log[-1]) > 2
        reached, known = (item[step - 1, agent] for item in values["goal_reached"])
        assert known == travels and reached == (travels and radius <= 2)
        nearer = math.dist(log[-1], poses[0][:2]) - radius
        assert values["goal_progress"][0][step - 1, agent] == pytest.approx(nearer, abs=1e-3)


def test_the_traffic_breaks_every_rule():
    total = dict.fromkeys(
        (
            "red_light_violation",
            "stop_sign_violation",
            "straddling",
            "speeding",
            "at_fault_collision",
            "comfort_violation",
        ),
        0.0,
    )
    total |= dict.fromkeys(("at_fault_vru_collision", "at_fault_object_collisions", "wrong_way_distance"), 0.0)
    for seed in range(SEEDS):
        values = evaluate_episode(*make_case(**traffic(seed)[0]))
        for name in total:
            total[name] += float(values[name].value.sum())
    assert all(total.values()), total
