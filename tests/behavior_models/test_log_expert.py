"""The log expert: exact recovery of simple motion, gaps and ends of the log, label noise, tracking error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import waymax_sim as ws
from behavior_models.baselines.log_expert import LogExpert, arc_action, smoothed_states, target_steps
from behavior_models.baselines.log_replay import LogReplay
from tests import oracle
from tests.scenes import agent_state, scene
from tests.strategies import N, floats
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Teleport
from waymax_sim.env import Env, EnvConfig, Policy, rollout

pytestmark = pytest.mark.compile_heavy

DT, HORIZON = 0.1, 5
CAR, REVERSING, NORMALIZED = Bicycle(), Bicycle(allow_reverse=True), Bicycle(normalized=True)
LEVELS = Discrete(
    CAR,
    levels=(
        (-5.0, -2.5, -1.0, 0.0, 1.0, 2.0, 3.5),
        (-0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2),
    ),
)
ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))
KEY = jax.random.key(0)


@jax.jit
def car_action(now, target, num_steps):
    return arc_action(CAR, now, target, num_steps, jnp.float32(DT)).value


def ahead(speed, xy, yaw=0.0):
    """Agents at the origin with a speed along `yaw`, and targets."""
    speed, yaw = np.broadcast_arrays(np.asarray(speed, float), np.asarray(yaw, float))
    velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    return agent_state(np.zeros((len(speed), 2)), yaw, velocity), agent_state(xy)


def simulated(speed, yaw, acceleration, curvature, num_steps=HORIZON):
    """Positions after steps of the NumPy oracle with a constant action."""
    ends = []
    for agent in range(len(speed)):
        pose = 0.0, 0.0, yaw[agent], speed[agent] * np.cos(yaw[agent]), speed[agent] * np.sin(yaw[agent])
        for _ in range(num_steps):
            pose = oracle.bicycle(*map(float, pose), float(acceleration[agent]), float(curvature[agent]), DT)
        ends.append(pose[:2])
    return np.array(ends)


def labels(scenario, *policies, num_steps=12):
    """Actions of policies on the logged states of a scene."""
    pairs = [(LogReplay(), "all"), *((policy, "none") for policy in policies)]
    return rollout(ENV, pairs, scenario, KEY, num_steps, record=("actions",)).actions[1:]


def test_actions_by_hand():
    """Over .5 s: 10 m/s and 5.25 m; stops from 2 m/s in .4 m; a target behind; at rest on the target; a left arc."""
    xy = [(5.25, 0.0), (0.4, 0.0), (-1.0, 0.0), (0.0, 0.0), (3.6, 1.5)]
    now, target = ahead([10.0, 2.0, 8.0, 0.0, 8.0], xy)
    value = np.asarray(car_action(now, target, jnp.full(5, HORIZON, jnp.int32)))
    np.testing.assert_allclose(value[:4], [[2.0, 0.0], [-5.0, 0.0], [-6.0, 0.0], [0.0, 0.0]], atol=1e-4)
    # Bearing .3948, chord 3.9, arc 5 * 3.9 sin(.0987) / sin(.4935) = 4.0563, curvature 2.5 * .3948 / 4.0563.
    np.testing.assert_allclose(value[4], [2 * (4.0563 - 4.0) / 0.25, 0.2433], atol=2e-3)


@given(floats(8, 30), floats(-3.1, 3.1), floats(-5.5, 5.5))
def test_constant_acceleration_is_recovered(speed, yaw, acceleration):
    xy = simulated(speed, yaw, acceleration, 0 * speed)
    value = car_action(*ahead(speed, xy, yaw), jnp.full(N, HORIZON, jnp.int32))
    np.testing.assert_allclose(value, np.stack([acceleration, 0 * speed], axis=-1), atol=2e-3)


@given(floats(3, 30), floats(-3.1, 3.1), floats(-1.0, 1.0))
def test_constant_curvature_is_recovered(speed, yaw, turn):
    """At constant speed, for turns of up to 1 rad within the horizon."""
    curvature = np.clip(turn / (0.5 * speed), -0.29, 0.29)
    xy = simulated(speed, yaw, 0 * speed, curvature)
    value = car_action(*ahead(speed, xy, yaw), jnp.full(N, HORIZON, jnp.int32))
    np.testing.assert_allclose(value, np.stack([0 * speed, curvature], axis=-1), atol=2e-3)


@given(floats(5, 20), floats(-3.1, 3.1), floats(-3, 3), floats(-0.5, 0.5))
def test_acceleration_and_curvature_are_recovered_nearly(speed, yaw, acceleration, turn):
    curvature = turn / (0.5 * speed)
    xy = simulated(speed, yaw, acceleration, curvature)
    value = car_action(*ahead(speed, xy, yaw), jnp.full(N, HORIZON, jnp.int32))
    np.testing.assert_allclose(value, np.stack([acceleration, curvature], axis=-1), atol=0.03)


def test_reverse_is_the_mirror_image():
    now, target = ahead([6.0, -6.0], [(2.9, 0.5), (-2.9, -0.5)])
    both = jax.jit(lambda a, b: arc_action(REVERSING, a, b, jnp.full(2, 5, jnp.int32), jnp.float32(DT)).value)
    value = np.asarray(both(now, target))
    np.testing.assert_allclose(value[0], -value[1], rtol=1e-6)
    expected = simulated(np.array([6.0]), np.zeros(1), value[:1, 0], value[:1, 1])
    np.testing.assert_allclose(expected, [(2.9, 0.5)], atol=2e-3)


def test_targets_skip_gaps_and_end_with_the_log():
    valid = np.zeros((20, 5), bool)
    valid[:, 0] = True
    valid[:8, 1] = True
    valid[:5, 2] = valid[14:16, 2] = True
    valid[:5, 3] = True
    valid[[4, 7], 4] = True
    row, exists = target_steps(jnp.asarray(valid), jnp.int32(4), HORIZON)
    assert exists.tolist() == [True, True, True, False, True]
    np.testing.assert_array_equal(np.asarray(row)[[0, 1, 2, 4]], [9, 7, 14, 7])
    assert target_steps(jnp.asarray(valid), jnp.int32(17), HORIZON)[0][0] == 19


@given(floats(-50, 50, 12, 2), floats(-0.1, 0.1, 12), floats(0, 1, 12, count=1))
def test_smoothing_equals_least_squares_lines(xy, yaw, gap):
    """Over the valid steps of a window of 5, which the ends of the log cut; yaw passes pi."""
    xy, yaw, valid = xy.swapaxes(0, 1), yaw.T + np.float32(3.1), gap[0] > 0.3
    xy, yaw = np.where(valid[:, None, None], xy, 0), np.where(valid[:, None], yaw, 0)
    log = agent_state(xy, yaw, xy, valid[:, None])
    for step in range(0, 12, 3):
        smoothed = _smooth(log, jnp.full(N, step, jnp.int32))
        assert np.asarray(smoothed.valid).tolist() == [valid[step]] * N
        near = np.flatnonzero(valid[max(step - 2, 0) : step + 3]) + max(step - 2, 0)
        expected = np.zeros((N, 3))
        if valid[step]:
            samples = np.concatenate([xy[near], yaw[near, :, None]], axis=-1).reshape(len(near), -1)
            line = np.polynomial.polynomial.polyfit(near - step, samples, min(1, len(near) - 1))
            expected = line[0].reshape(N, 3)
        np.testing.assert_allclose(smoothed.xyz[:, :2], expected[:, :2], atol=1e-4)
        np.testing.assert_allclose(smoothed.velocity, expected[:, :2], atol=1e-4)
        turned = np.asarray(smoothed.yaw) - expected[:, 2]
        np.testing.assert_allclose((turned + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-5)


_smooth = jax.jit(lambda log, row: smoothed_states(log, row, 5))


def test_without_look_ahead_and_smoothing_it_is_the_replay():
    noise = np.random.default_rng(0).normal(0, 0.3, (21, 3, 2))
    noisy = scene(velocity=np.array([10.0, 0.0]) + noise)
    pairs = [(LogExpert(model, 1, 1), LogReplay(model)) for model in (CAR, LEVELS, Teleport(), Delta())]
    values = labels(noisy, *(policy for pair in pairs for policy in pair))
    for expert, replay in zip(values[::2], values[1::2], strict=True):
        np.testing.assert_array_equal(expert.valid, replay.valid)
        np.testing.assert_array_equal(expert.value, replay.value)


def test_other_models_invert_one_step_and_bicycles_share_one_label():
    """The logged agents keep their velocity, which smoothing leaves as it is; the second one is lost after step 10."""
    valid = np.ones((21, 3), bool)
    valid[11:, 1] = False
    actions = labels(
        scene(valid=valid), LogExpert(Delta()), LogExpert(CAR), LogExpert(NORMALIZED), LogExpert(LEVELS), num_steps=8
    )
    delta, car, normalized, levels = actions
    np.testing.assert_allclose(delta.value[:, [0, 2]], np.broadcast_to([1.0, 0.0, 0.0], (8, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(np.asarray(normalized.value) * np.float32([6.0, 0.3]), car.value, atol=1e-6)
    np.testing.assert_array_equal(levels.value.reshape(-1), LEVELS.encode(car.value.reshape(-1, 2))[:, 0])
    for action in actions:
        np.testing.assert_array_equal(action.valid[:, 0], True)
        np.testing.assert_array_equal(action.valid[:, 1], np.arange(8) < 5)
        assert not np.any(np.asarray(car.value)[~np.asarray(car.valid)])


def test_gradients_are_finite_at_rest_and_on_the_target():
    speed = np.array([0.0, 1e-9, -1e-9, 0.0, 0.0, 5.0, -1.0, 0.3])
    xy = np.array([(0, 0), (0, 0), (1e-9, 0), (0, 1.0), (-1e-9, 0), (0, 0), (0, -1.0), (0.0, 1e-9)])
    now, target = ahead(speed, xy)
    steps = jnp.asarray([5, 1, 5, 2, 5, 5, 3, 1], jnp.int32)

    def total(now, target, model):
        log = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf, leaf]), target)
        smooth = smoothed_states(log, jnp.full(8, 1, jnp.int32), 3)
        return jnp.sum(arc_action(model, now, smooth, steps, jnp.float32(DT)).value)

    slope = jax.jit(jax.grad(total, argnums=(0, 1), allow_int=True), static_argnums=2)
    for model in (CAR, REVERSING):
        for agents in slope(now, target, model):
            assert all(np.isfinite(leaf).all() for leaf in (agents.xyz, agents.yaw, agents.velocity))


def test_settings_are_checked():
    assert isinstance(LogExpert(), Policy) and LogExpert().privileged and hash(LogExpert()) == hash(LogExpert(CAR))
    with pytest.raises(ValueError, match="horizon"):
        LogExpert(horizon=0)
    for smoothing in (0, 4, -3):
        with pytest.raises(ValueError, match="smoothing"):
            LogExpert(smoothing=smoothing)


@pytest.fixture(scope="module")
def synthetic():
    return ws.load("synthetic:0:1")[0]


@pytest.fixture(scope="module")
def moving(synthetic):
    """Vehicles that move at more than 2 m/s at the current step, and when they are logged afterwards."""
    now, log = int(synthetic.current_step), jax.device_get(synthetic.log)
    fast = (np.asarray(synthetic.agents.type) == 1) & (np.linalg.norm(log.velocity[now], axis=-1) > 2)
    assert fast.sum() == 5
    return log.valid[now + 1 : now + 81] & fast


@pytest.mark.parametrize(("model", "bound"), [(CAR, 0.1), (LEVELS, 0.15)], ids=["bicycle", "levels"])
def test_the_log_is_tracked(synthetic, moving, model, bound):
    """Measured over 8 s: at most .062 m with the bicycle, .098 m with 63 actions."""
    run = jax.jit(lambda s: rollout(ENV, [(LogExpert(model), "vehicle")], s, KEY, 80, record=("agents",)).agents.xyz)
    now = int(synthetic.current_step)
    error = np.asarray(run(synthetic))[..., :2] - np.asarray(synthetic.log.xyz)[now + 1 : now + 81, :, :2]
    assert np.linalg.norm(error, axis=-1)[moving].max() < bound


def test_labels_have_less_noise_than_one_step_inverses(synthetic, moving):
    """Median change of acceleration from step to step on logged states: measured .42 against 2.15 m/s^2."""
    actions = jax.jit(lambda s: labels(s, LogExpert(), LogReplay(CAR), num_steps=80))(synthetic)
    expert, replay = (np.asarray(action.value)[..., 0] for action in actions)
    both = np.asarray(actions[0].valid & actions[1].valid) & moving
    pairs = both[1:] & both[:-1]
    expert, replay = (np.median(np.abs(np.diff(values, axis=0))[pairs]) for values in (expert, replay))
    assert 4 * expert < replay and replay > 1.5
