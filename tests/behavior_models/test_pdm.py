"""PDM: hand-checked outcomes, a slow copy of the proposals, and what their judgement says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import PDM
from behavior_models.planners.pdm import EMERGENCY, action_of_ego
from behavior_models.planners.prediction import NUM_STEPS, replayed, serve
from behavior_models.planners.proposals import FRACTIONS, OFFSETS, driver_of_ego
from behavior_models.planners.reference_path import BEHIND, NUM_POINTS, SPACING
from behavior_models.planners.scoring import Terms, score_of, terms_of
from behavior_models.traffic.car_following import Drivers
from tests.behavior_models.roads import LIMIT, RED, drive, observe, road
from waymax_sim.pytree import take

# Hand-made plans: go straight on, brake hard, go to the left.
STRAIGHT, BRAKE, LEFT = range(3)
BY_HAND = np.zeros((NUM_STEPS, 3, 2), np.float32)
BY_HAND[:, BRAKE, 0] = -6.0
BY_HAND[:, LEFT, 1] = 0.02


plan = jax.jit(PDM().plan)


def act(observation, carry, key):
    """As `PDM.act`, with one compiled program for these and for plans."""
    found = plan(observation, carry)
    return action_of_ego(observation, found.value), serve(found.outlook, carry)


@pytest.fixture(scope="module")
def driven():
    """The ego on any road, under PDM."""
    return lambda *others, **changes: drive(act, jnp.asarray(-1, jnp.int32), road(*others, **changes))


def look(*others, **changes):
    """What PDM has looked at first on any road."""
    observation = observe(road(*others, **changes))
    return observation, plan(observation, jnp.asarray(-1, jnp.int32))


@jax.jit
def judged_by_hand(observation, outlook):
    return terms_of(observation, outlook, replayed(outlook, jnp.asarray(BY_HAND)))


def speed(ego):
    return np.hypot(*np.moveaxis(np.asarray(ego.velocity), -1, 0))


def test_drives_at_the_limit_where_nothing_is_in_the_way(driven):
    ego, overlap = driven()
    assert not overlap and np.max(np.abs(ego.xyz[:, 1])) < 0.1
    assert 12.5 < speed(ego)[-1] <= LIMIT + 0.01 and np.all(np.diff(speed(ego)) > -0.01)


def test_stops_behind_who_stands(driven):
    ego, overlap = driven((35.0, 0.0, 0.0, 0.0))
    assert not overlap and speed(ego)[-1] < 1.5
    assert 24.0 < ego.xyz[-1, 0] < 35.0 - 4.0 - 0.5
    assert np.min(np.diff(speed(ego))) > -0.45  # no need to brake hard


def test_goes_round_what_stands_half_in_the_lane(driven):
    ego, overlap = driven((40.0, -2.0, 0.0, 0.0), width=3.5)
    beside = np.argmin(np.abs(np.asarray(ego.xyz[:, 0]) - 40.0))
    assert not overlap and ego.xyz[-1, 0] > 45.0
    assert 0.2 < ego.xyz[beside, 1] < 1.2


def test_stops_at_red(driven):
    ego, _ = driven(light=RED)
    assert speed(ego)[-1] < 1.5 and 33.0 < ego.xyz[-1, 0] < 38.0


def test_brakes_as_hard_as_it_can_when_it_is_cut_off(driven):
    observation, found = look((7.0, 0.0, 0.0, 0.0))
    assert np.all(found.terms.contact <= EMERGENCY)
    action, _ = act(observation, jnp.asarray(-1, jnp.int32), None)
    assert action.value[0, 0] == -8.0 and action.valid.tolist() == [True, False, False, False]


def test_keeps_to_the_lane_in_a_bend_and_to_a_comfortable_speed(driven):
    ego, _ = driven(radius=60.0)
    off = 60.0 - np.hypot(ego.xyz[:, 0], ego.xyz[:, 1] - 60.0)
    assert np.max(np.abs(off)) < 0.5
    assert speed(ego)[-1] == pytest.approx(np.sqrt(2.5 * 60.0), abs=0.5)


def test_the_judgement_of_plans_by_hand():
    """A car stands with its rear at 30 m: who goes straight on at 10 m/s touches it with the front after 2.8 s."""
    observation, found = look((32.0, 0.0, 0.0, 0.0))
    terms = judged_by_hand(observation, found.outlook)
    straight, brake, left = (take(terms, index) for index in range(3))
    assert straight.contact == pytest.approx(2.8, abs=0.21) and straight.progress == pytest.approx(40.0, abs=0.1)
    assert straight.time_to_collision == 0.0 and straight.off_road == 0.0
    # 10 m/s at 6 m/s^2: 8.3 m.
    assert np.isinf(brake.contact) and brake.progress == pytest.approx(8.33, abs=0.1)
    assert brake.discomfort > 1.0 and brake.time_to_collision > 1.0
    # On a circle of 50 m, to the left across the oncoming lane and off the road.
    assert left.off_road > 1.0 and left.against > 5.0 and left.speeding == 0.0
    # The proposal without offset at full speed brakes in time.
    assert np.isinf(found.terms.contact[0]) and found.terms.discomfort[0] <= 1.0
    assert found.outlook.arc_length == pytest.approx(BEHIND, abs=1e-3)
    assert found.rollouts.arc_length[-1, 0] - BEHIND < 32.0 - 4.0


def test_a_red_light_is_passed_by_who_goes_straight_on():
    observation, found = look(light=RED)
    assert found.outlook.halt == pytest.approx(40.0 + BEHIND, abs=0.1)
    assert judged_by_hand(observation, found.outlook).runs_line.tolist() == [True, False, False]
    assert not np.any(found.terms.runs_line)
    assert np.isinf(look()[1].outlook.halt)


def test_the_score_by_hand():
    """Weights of nuPlan: 5 time to collision, 5 progress, 4 speed, 2 comfort, and gates."""
    good = dict(contact=np.inf, time_to_collision=5.0, off_road=0.0, against=0.0, runs_line=False)
    good |= dict(progress=20.0, speeding=0.0, discomfort=0.5)
    changes = (
        ({}, 1.0),
        ({"progress": 10.0}, 1 - 2.5 / 16),
        ({"time_to_collision": 0.9}, 11 / 16),
        ({"speeding": 1.115}, 14 / 16),
        ({"discomfort": 1.1}, 14 / 16),
        ({"against": 3.0}, 0.5),
        ({"contact": 3.0}, 0.0),
        ({"off_road": 0.1}, 0.0),
        ({"runs_line": True}, 0.0),
    )
    rows = [good | change for change, _ in changes]
    dtype = {"runs_line": bool}
    terms = Terms(**{name: np.array([row[name] for row in rows], dtype.get(name, np.float32)) for name in good})
    np.testing.assert_allclose(score_of(terms), [value for _, value in changes], atol=2e-3)


@pytest.mark.parametrize("radius", [None, 40.0])
def test_proposals_equal_a_slow_copy(radius):
    others = ((30.0, 0.3, 0.1, 4.0), (25.0, 4.0, -1.2, 3.0), (60.0, -1.0, 0.0, 0.0))
    outlook, rollouts, *_ = jax.device_get(look(*others, y=0.7, radius=radius, light=RED, line=70.0)[1])
    for index, (offset, fraction) in enumerate((o, f) for f in FRACTIONS for o in OFFSETS):
        xy, yaw, fast = slow_proposal(outlook, offset, fraction)
        np.testing.assert_allclose(rollouts.agents.xyz[:, index, :2], xy, atol=0.05)
        np.testing.assert_allclose(rollouts.agents.yaw[:, index], yaw, atol=0.01)
        np.testing.assert_allclose(np.hypot(*rollouts.agents.velocity[:, index].T), fast, atol=0.05)


class SlowCourse:
    """The course, point by point."""

    def __init__(self, course):
        self.points = np.asarray(course.xyz[:, :2], float)
        self.limit, self.curvature = np.asarray(course.speed_limit), np.asarray(course.curvature)
        step = np.diff(self.points, axis=0)
        self.step = step / np.hypot(*step.T)[:, None]

    def at(self, arc):
        piece = int(np.clip(np.floor(arc / SPACING), 0, NUM_POINTS - 2))
        part = arc / SPACING - piece
        return self.points[piece] + part * (self.points[piece + 1] - self.points[piece]), self.step[piece]

    def project(self, xy):
        best = None
        for piece in range(NUM_POINTS - 1):
            off = xy - self.points[piece]
            ahead = off @ self.step[piece]
            ahead = max(ahead, 0.0) if piece else ahead
            ahead = min(ahead, SPACING) if piece < NUM_POINTS - 2 else ahead
            gap = np.hypot(*(off - ahead * self.step[piece]))
            if best is None or gap < best[0]:
                cross = self.step[piece][0] * off[1] - self.step[piece][1] * off[0]
                best = gap, piece * SPACING + ahead, cross, self.step[piece]
        return best[1:]


def slow_proposal(outlook, offset, fraction):
    """One proposal, one step and one other agent at a time."""
    course, driver = SlowCourse(outlook.course), jax.device_get(driver_of_ego())
    bends = np.sqrt(np.maximum(2.5 / np.maximum(np.abs(course.curvature), 1e-4), 2.0**2))
    suits = np.minimum(fraction * course.limit, bends)
    for point in reversed(range(NUM_POINTS - 1)):
        suits[point] = min(suits[point], np.sqrt(suits[point + 1] ** 2 + 2 * 3.0 * SPACING))
    xy, yaw = np.asarray(outlook.past.xyz[1, :2], float), float(outlook.past.yaw[1])
    fast = float(np.hypot(*outlook.past.velocity[1]))
    length, width = outlook.size[:2]
    last, found = (0.0, (float(outlook.past.yaw[1]) - float(outlook.past.yaw[0])) / (fast * 0.1)), []
    for step in range(NUM_STEPS):
        arc, beside, _ = course.project(xy)
        at = min(max((arc + 0.5 * fast) / SPACING, 0), NUM_POINTS - 1.001)
        desired = np.interp(at, np.arange(NUM_POINTS), suits)
        wanted = max(1.5 * (1 - (fast / desired) ** 4), -3.0)
        braking = slow_braking(fast, float(outlook.halt) - arc - length / 2 + 1.0, fast, driver, 0.5)
        for x, y, u, v, cos, sin, long, wide, present in zip(*outlook.others, strict=True):
            time = 0.1 * (step // 2 * 2)
            middle, lateral, way = course.project(np.array([x + time * u, y + time * v]))
            ahead, aside = abs(way[0] * cos + way[1] * sin), abs(way[0] * sin - way[1] * cos)
            inside = abs(lateral - offset) < width / 2 + aside * long + ahead * wide + 0.2
            if present and middle > arc and inside:
                gap = middle - ahead * long - aside * wide - arc - length / 2
                braking = max(braking, slow_braking(fast, gap, fast - way @ [u, v], driver))
        wanted = max(wanted - braking, -max(braking, 3.0))
        aim = min(max(0.9 * fast, 4.0), 20.0)
        target, way = course.at(arc + aim)
        target = target + (beside + np.clip(offset - beside, -1.0, 1.0)) * np.array([-way[1], way[0]]) - xy
        left = np.cos(yaw) * target[1] - np.sin(yaw) * target[0]
        limit = min(0.2, 4.0 / max(fast, 1.0) ** 2)
        bend = np.clip(2 * left / max(target @ target, 1.0), -limit, limit)
        low = -8.0 if wanted < -3.0 else last[0] - 0.35
        wanted = np.clip(wanted, low, min(max(last[0], -3.0) + 0.35, 3.0))
        bend = np.clip(bend, last[1] - 0.15 / max(fast, 2.0), last[1] + 0.15 / max(fast, 2.0))
        way = fast * 0.1 + wanted * 0.005 if fast + 0.1 * wanted > 0 else fast**2 / (-2 * wanted)
        xy = xy + way * np.array([np.cos(yaw), np.sin(yaw)])
        yaw, fast, last = yaw + bend * way, max(fast + 0.1 * wanted, 0.0), (wanted, bend)
        found.append((*xy, yaw, fast))
    found = np.array(found)
    return found[:, :2], found[:, 2], found[:, 3]


def slow_braking(fast, gap, closing, driver: Drivers, headway=1.5):
    if gap > 1e4:
        return 0.0
    wanted = driver.standstill + max(0.0, fast * headway + fast * closing / (2 * np.sqrt(1.5 * 3.0)))
    needed = max(closing, 0.0) ** 2 / (2 * max(0.8 * (gap - 0.5), 0.1))
    return min(1.5 * (wanted / max(gap, 0.1)) ** 2, 1.5 + max(3.0, 1.2 * needed))


def test_batches_with_vmap():
    observation = observe(road())
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), observation)
    carry = jnp.asarray([-1, -1], jnp.int32)
    policy, key = PDM(), jax.random.key(0)
    action, after = jax.eval_shape(jax.vmap(lambda seen, own: policy.act(seen, own, key)), both, carry)
    assert action.value.shape == (2, 4, 2) and after.shape == (2,)


@pytest.mark.slow
def test_each_of_a_batch_is_as_if_alone():
    policy, key = PDM(), jax.random.key(0)
    roads = [road((35.0, 0.0, 0.0, 0.0)), road(light=RED)]
    seen = [observe(item) for item in roads]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)
    together, _ = jax.jit(jax.vmap(lambda seen, own: policy.act(seen, own, key)))(
        both, jnp.asarray([-1, -1], jnp.int32)
    )
    alone = [jax.jit(policy.act)(item, jnp.asarray(-1, jnp.int32), key)[0].value for item in seen]
    np.testing.assert_allclose(together.value, np.stack(alone), atol=1e-4)
