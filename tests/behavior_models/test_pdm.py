"""PDM: hand-checked outcomes, a NumPy oracle of the proposals, and score terms by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import PDM
from behavior_models.planners.ego_action import EMERGENCY_TIME, ego_action
from behavior_models.planners.prediction import PREDICTION, simulate_actions, update_cleared_stop_line
from behavior_models.planners.proposals import PDM_PARAMS, ego_idm_params
from behavior_models.planners.reference_path import REFERENCE_PATH
from behavior_models.planners.scoring import ScoreTerms, closed_loop_score, score_terms
from behavior_models.traffic.car_following import IDMParams
from tests.behavior_models.roads import LIMIT, RED, drive, observe, road
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

# Plans by hand: straight on, braking hard, and to the left.
STRAIGHT, BRAKE, LEFT = range(3)
PLANS_BY_HAND = np.zeros((PREDICTION.num_steps(0.1), 3, 2), np.float32)
PLANS_BY_HAND[:, BRAKE, 0] = -6.0
PLANS_BY_HAND[:, LEFT, 1] = 0.02


make_plan = jax.jit(PDM().plan)


def act(observation, carry, key):
    """As `PDM.act`, with one compiled program for actions and plans."""
    plan = make_plan(observation, carry)
    return ego_action(observation, plan.action), update_cleared_stop_line(plan.context, carry)


@pytest.fixture(scope="module")
def simulate():
    """Trajectory of the ego on a road, controlled by PDM."""
    return lambda *others, **changes: drive(act, jnp.asarray(-1, jnp.int32), road(*others, **changes))


def plan_on(*others, **changes):
    """The first observation on a road, and the plan of PDM."""
    observation = observe(road(*others, **changes))
    return observation, make_plan(observation, jnp.asarray(-1, jnp.int32))


@jax.jit
def terms_by_hand(observation, context):
    """Score terms of the plans by hand."""
    return score_terms(observation, context, simulate_actions(context, jnp.asarray(PLANS_BY_HAND)))


def speed(ego):
    return np.hypot(*np.moveaxis(np.asarray(ego.velocity), -1, 0))


def test_free_road_is_driven_at_the_speed_limit(simulate):
    ego, overlap = simulate()
    assert not overlap and np.max(np.abs(ego.xyz[:, 1])) < 0.1
    assert 12.5 < speed(ego)[-1] <= LIMIT + 0.01 and np.all(np.diff(speed(ego)) > -0.01)


def test_stops_behind_a_stationary_vehicle(simulate):
    ego, overlap = simulate((35.0, 0.0, 0.0, 0.0))
    assert not overlap and speed(ego)[-1] < 1.5
    assert 24.0 < ego.xyz[-1, 0] < 35.0 - 4.0 - 0.5
    assert np.min(np.diff(speed(ego))) > -0.45  # no need to brake hard


def test_passes_an_obstacle_that_covers_half_the_lane(simulate):
    ego, overlap = simulate((40.0, -2.0, 0.0, 0.0), width=3.5)
    passing_step = np.argmin(np.abs(np.asarray(ego.xyz[:, 0]) - 40.0))
    assert not overlap and ego.xyz[-1, 0] > 45.0
    assert 0.2 < ego.xyz[passing_step, 1] < 1.2


def test_stops_at_red(simulate):
    ego, _ = simulate(light=RED)
    assert speed(ego)[-1] < 1.5 and 33.0 < ego.xyz[-1, 0] < 38.0


def test_emergency_brake_behind_a_vehicle_that_cuts_in(simulate):
    observation, plan = plan_on((7.0, 0.0, 0.0, 0.0))
    assert np.all(plan.terms.contact_time <= EMERGENCY_TIME)
    action, _ = act(observation, jnp.asarray(-1, jnp.int32), None)
    assert action.value[0, 0] == -8.0 and action.valid.tolist() == [True, False, False, False]


def test_curve_is_driven_in_its_lane_at_a_comfortable_speed(simulate):
    ego, _ = simulate(radius=60.0)
    offset = 60.0 - np.hypot(ego.xyz[:, 0], ego.xyz[:, 1] - 60.0)
    assert np.max(np.abs(offset)) < 0.5
    assert speed(ego)[-1] == pytest.approx(np.sqrt(2.5 * 60.0), abs=0.5)


def test_score_terms_by_hand():
    """A stationary car has its rear at 30 m: straight on at 10 m/s, the front of the ego reaches it after 2.8 s."""
    observation, plan = plan_on((32.0, 0.0, 0.0, 0.0))
    terms = terms_by_hand(observation, plan.context)
    straight, brake, left = (tree_index(terms, index) for index in range(3))
    assert straight.contact_time == pytest.approx(2.8, abs=0.21) and straight.progress == pytest.approx(40.0, abs=0.1)
    assert straight.time_to_collision == 0.0 and straight.off_road_distance == 0.0
    # 10 m/s at 6 m/s^2: 8.3 m.
    assert np.isinf(brake.contact_time) and brake.progress == pytest.approx(8.33, abs=0.1)
    assert brake.comfort_ratio > 1.0 and brake.time_to_collision > 1.0
    # On a circle of 50 m radius to the left, across the oncoming lane and off the road.
    assert left.off_road_distance > 1.0 and left.wrong_way_distance > 5.0 and left.speeding == 0.0
    # The proposal without offset at the speed limit brakes in time.
    assert np.isinf(plan.terms.contact_time[0]) and plan.terms.comfort_ratio[0] <= 1.0
    assert plan.context.arc_length == pytest.approx(REFERENCE_PATH.length_behind, abs=1e-3)
    assert plan.rollouts.arc_length[-1, 0] - REFERENCE_PATH.length_behind < 32.0 - 4.0


def test_crossing_the_stop_line_of_a_red_light():
    observation, plan = plan_on(light=RED)
    assert plan.context.stop_line_s == pytest.approx(40.0 + REFERENCE_PATH.length_behind, abs=0.1)
    assert terms_by_hand(observation, plan.context).crosses_stop_line.tolist() == [True, False, False]
    assert not np.any(plan.terms.crosses_stop_line)
    assert np.isinf(plan_on()[1].context.stop_line_s)


def test_closed_loop_score_by_hand():
    """Weights of nuPlan: 5 time to collision, 5 progress, 4 speed, 2 comfort, and multipliers."""
    best = dict(contact_time=np.inf, time_to_collision=5.0, off_road_distance=0.0, wrong_way_distance=0.0)
    best |= dict(crosses_stop_line=False, progress=20.0, speeding=0.0, comfort_ratio=0.5)
    changes = (
        ({}, 1.0),
        ({"progress": 10.0}, 1 - 2.5 / 16),
        ({"time_to_collision": 0.9}, 11 / 16),
        ({"speeding": 1.115}, 14 / 16),
        ({"comfort_ratio": 1.1}, 14 / 16),
        ({"wrong_way_distance": 3.0}, 0.5),
        ({"contact_time": 3.0}, 0.0),
        ({"off_road_distance": 0.1}, 0.0),
        ({"crosses_stop_line": True}, 0.0),
    )
    rows = [best | change for change, _ in changes]
    dtype = {"crosses_stop_line": bool}
    terms = ScoreTerms(**{name: np.array([row[name] for row in rows], dtype.get(name, np.float32)) for name in best})
    np.testing.assert_allclose(closed_loop_score(terms), [value for _, value in changes], atol=2e-3)


@pytest.mark.parametrize("radius", [None, 40.0])
def test_proposals_equal_the_oracle(radius):
    others = ((30.0, 0.3, 0.1, 4.0), (25.0, 4.0, -1.2, 3.0), (60.0, -1.0, 0.0, 0.0))
    context, rollouts, *_ = jax.device_get(plan_on(*others, y=0.7, radius=radius, light=RED, line=70.0)[1])
    fractions, offsets = PDM_PARAMS.speed_fractions, PDM_PARAMS.lateral_offsets
    for index, (fraction, offset) in enumerate(itertools.product(fractions, offsets)):
        xy, yaw, speeds = oracle_proposal(context, offset, fraction)
        np.testing.assert_allclose(rollouts.agents.xyz[:, index, :2], xy, atol=0.05)
        np.testing.assert_allclose(rollouts.agents.yaw[:, index], yaw, atol=0.01)
        np.testing.assert_allclose(np.hypot(*rollouts.agents.velocity[:, index].T), speeds, atol=0.05)


class OraclePath:
    """The reference path, point by point."""

    def __init__(self, reference):
        self.points = np.asarray(reference.xyz[:, :2], float)
        self.limit, self.curvature = np.asarray(reference.speed_limit), np.asarray(reference.curvature)
        step = np.diff(self.points, axis=0)
        self.step = step / np.hypot(*step.T)[:, None]

    def at(self, arc):
        """Point and direction at an arc length."""
        piece = int(np.clip(np.floor(arc / REFERENCE_PATH.spacing), 0, REFERENCE_PATH.num_points - 2))
        fraction = arc / REFERENCE_PATH.spacing - piece
        return self.points[piece] + fraction * (self.points[piece + 1] - self.points[piece]), self.step[piece]

    def project(self, xy):
        """Arc length, lateral offset and direction of the nearest point."""
        best = None
        for piece in range(REFERENCE_PATH.num_points - 1):
            offset = xy - self.points[piece]
            ahead = offset @ self.step[piece]
            ahead = max(ahead, 0.0) if piece else ahead
            ahead = min(ahead, REFERENCE_PATH.spacing) if piece < REFERENCE_PATH.num_points - 2 else ahead
            gap = np.hypot(*(offset - ahead * self.step[piece]))
            if best is None or gap < best[0]:
                lateral = self.step[piece][0] * offset[1] - self.step[piece][1] * offset[0]
                best = gap, piece * REFERENCE_PATH.spacing + ahead, lateral, self.step[piece]
        return best[1:]


def oracle_proposal(context, offset, fraction):
    """One proposal, one step and one other agent at a time; positions, headings and speeds."""
    path, idm = OraclePath(context.reference), jax.device_get(ego_idm_params())
    profile = speed_profile(path, fraction)
    previous, now = (tree_index(context.history, index) for index in range(2))
    xy, yaw, speed = np.asarray(now.xyz[:2], float), float(now.yaw), float(np.hypot(*now.velocity))
    last, states = (0.0, (yaw - float(previous.yaw)) / (speed * 0.1)), []
    for step in range(PREDICTION.num_steps(0.1)):
        arc, own_lateral, _ = path.project(xy)
        position = min(max((arc + 0.5 * speed) / REFERENCE_PATH.spacing, 0), REFERENCE_PATH.num_points - 1.001)
        desired = np.interp(position, np.arange(REFERENCE_PATH.num_points), profile)
        acceleration = max(1.5 * (1 - (speed / desired) ** 4), -3.0)
        deceleration = oracle_stop(context, path, arc, speed, 0.1 * (step // 2 * 2), offset, idm)
        acceleration = max(acceleration - deceleration, -max(deceleration, 3.0))
        target, direction = path.at(arc + min(max(0.9 * speed, 4.0), 20.0))
        lateral = own_lateral + np.clip(offset - own_lateral, -1.0, 1.0)
        target = target + lateral * np.array([-direction[1], direction[0]]) - xy
        left = np.cos(yaw) * target[1] - np.sin(yaw) * target[0]
        limit = min(0.2, 4.0 / max(speed, 1.0) ** 2)
        curvature = np.clip(2 * left / max(target @ target, 1.0), -limit, limit)
        low = -8.0 if acceleration < -3.0 else last[0] - 0.35
        acceleration = np.clip(acceleration, low, min(max(last[0], -3.0) + 0.35, 3.0))
        max_turn = 0.15 / max(speed, 2.0)
        curvature = np.clip(curvature, last[1] - max_turn, last[1] + max_turn)
        is_moving = speed + 0.1 * acceleration > 0
        distance = speed * 0.1 + acceleration * 0.005 if is_moving else speed**2 / (-2 * acceleration)
        xy = xy + distance * np.array([np.cos(yaw), np.sin(yaw)])
        yaw, speed = yaw + curvature * distance, max(speed + 0.1 * acceleration, 0.0)
        last = acceleration, curvature
        states.append((*xy, yaw, speed))
    states = np.array(states)
    return states[:, :2], states[:, 2], states[:, 3]


def speed_profile(path, fraction):
    """Desired speeds at the points, by a backward pass."""
    curve_speed = np.sqrt(np.maximum(2.5 / np.maximum(np.abs(path.curvature), 1e-4), 2.0**2))
    speed = np.minimum(fraction * path.limit, curve_speed)
    for point in reversed(range(REFERENCE_PATH.num_points - 1)):
        speed[point] = min(speed[point], np.sqrt(speed[point + 1] ** 2 + 2 * 3.0 * REFERENCE_PATH.spacing))
    return speed


def oracle_stop(context, path, arc, speed, time, offset, idm: IDMParams) -> float:
    """The largest deceleration for the stop line and for agents at a time."""
    length, width = context.size[:2]
    line_gap = float(context.stop_line_s) - arc - length / 2 + 1.0
    deceleration = oracle_deceleration(speed, line_gap, speed, idm, 0.5)
    for x, y, cos, sin, half_length, half_width, u, v, valid in zip(*jax.tree.leaves(context.agents), strict=True):
        center, lateral, direction = path.project(np.array([x + time * u, y + time * v]))
        parallel = abs(direction[0] * cos + direction[1] * sin)
        perpendicular = abs(direction[0] * sin - direction[1] * cos)
        reach = width / 2 + perpendicular * half_length + parallel * half_width + 0.2
        if valid and center > arc and abs(lateral - offset) < reach:
            gap = center - parallel * half_length - perpendicular * half_width - arc - length / 2
            approach_rate = speed - direction @ [u, v]
            deceleration = max(deceleration, oracle_deceleration(speed, gap, approach_rate, idm))
    return deceleration


def oracle_deceleration(speed, gap, approach_rate, idm: IDMParams, headway=1.5) -> float:
    if gap > 1e4:
        return 0.0
    desired_gap = idm.min_gap + max(0.0, speed * headway + speed * approach_rate / (2 * np.sqrt(1.5 * 3.0)))
    necessary = max(approach_rate, 0.0) ** 2 / (2 * max(0.8 * (gap - 0.5), 0.1))
    return min(1.5 * (desired_gap / max(gap, 0.1)) ** 2, 1.5 + max(3.0, 1.2 * necessary))


def test_batches_with_vmap():
    observation = observe(road())
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), observation)
    carry = jnp.asarray([-1, -1], jnp.int32)
    policy, key = PDM(), jax.random.key(0)
    action, after = jax.eval_shape(jax.vmap(lambda item, own: policy.act(item, own, key)), batch, carry)
    assert action.value.shape == (2, 4, 2) and after.shape == (2,)


@pytest.mark.slow
def test_batched_actions_equal_single_ones():
    policy, key = PDM(), jax.random.key(0)
    roads = [road((35.0, 0.0, 0.0, 0.0)), road(light=RED)]
    observations = [observe(item) for item in roads]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)
    batched, _ = jax.jit(jax.vmap(lambda item, own: policy.act(item, own, key)))(
        batch, jnp.asarray([-1, -1], jnp.int32)
    )
    single = [jax.jit(policy.act)(item, jnp.asarray(-1, jnp.int32), key)[0].value for item in observations]
    np.testing.assert_allclose(batched.value, np.stack(single), atol=1e-4)
