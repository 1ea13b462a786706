"""The environment: motion of agents, their validity, and the evaluation of states."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scenes import raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.state import CALLER, LOG, Action
from waymax_sim.dynamics import Bicycle, Delta, Teleport
from waymax_sim.env import Env, EnvConfig

pytestmark = pytest.mark.compile_heavy

KEY = jax.random.key(0)
# No metrics, which take long to compile.
BARE = {"metrics": (), "rewards": ()}
PLAIN = Env(config=EnvConfig(**BARE))
reset, step = (jax.jit(method, static_argnums=0) for method in (Env.reset, Env.step))


def bicycle(*rows, valid=True) -> Action:
    value = jnp.asarray(rows, jnp.float32)
    return Action(value=value, valid=jnp.broadcast_to(jnp.asarray(valid), (len(rows),)))


def validity(now, following, num_agents=5):
    """A scene of the usual shape with the given validity of agents until step 1, the current one, and after it."""
    valid = np.stack([now, now, *[following] * 19])
    return scene(num_agents=num_agents, current_step=1, valid=valid)


@pytest.mark.parametrize(
    ("spawn", "expected"), [("log", [True, True, True, False, False]), ("never", [True, False, True, False, False])]
)
def test_spawn_and_despawn(spawn, expected):
    """Table by hand: controlled agents stay, others follow the validity of the log, agents spawn only if allowed."""
    s = validity([True, False, True, True, False], [True, True, False, False, False])
    env = Env(config=EnvConfig(spawn=spawn, **BARE))
    controller = jnp.where(jnp.asarray([True, True, True, False, True]), CALLER, LOG).astype(jnp.int32)
    state, _ = reset(env, s, KEY, controller)
    state, _ = step(env, s, state, bicycle(*[(0.0, 0.0)] * 5))
    np.testing.assert_array_equal(state.agents.valid, expected)


def test_despawn_with_the_log():
    s = validity([True, True, True], [True, False, True], num_agents=3)
    controller = jnp.full(3, CALLER, jnp.int32)
    for despawn, expected in (("never", [True, True, True]), ("log", [True, False, True])):
        env = Env(config=EnvConfig(despawn=despawn, **BARE))
        state, _ = reset(env, s, KEY, controller)
        state, _ = step(env, s, state, bicycle(*[(0.0, 0.0)] * 3))
        np.testing.assert_array_equal(state.agents.valid, expected)


def test_absent_agents_hold_zeros():
    s = validity([True, True, True], [True, False, True], num_agents=3)
    state, _ = reset(PLAIN, s, KEY)
    state, _ = step(PLAIN, s, state, bicycle(*[(0.0, 0.0)] * 3))
    assert not np.any(state.agents.xyz[1]) and not np.any(state.agents.velocity[1])


def test_late_controlled_agent_spawns_at_its_logged_pose():
    s = validity([True, False, True], [True, True, True], num_agents=3)
    state, _ = reset(PLAIN, s, KEY, jnp.full(3, CALLER, jnp.int32))
    state, _ = step(PLAIN, s, state, bicycle(*[(6.0, 0.3)] * 3))
    np.testing.assert_array_equal(state.agents.xyz[1], s.log.xyz[2, 1])
    np.testing.assert_array_equal(state.agents.velocity[1], s.log.velocity[2, 1])


def test_actions_apply_to_controlled_agents_only():
    s = scene()
    state, _ = reset(PLAIN, s, KEY)
    np.testing.assert_array_equal(state.controller, [CALLER, LOG, LOG])
    state, _ = step(PLAIN, s, state, bicycle(*[(6.0, 0.0)] * 3))
    now = int(s.current_step)
    np.testing.assert_allclose(state.agents.velocity[:, 0], [10.6, 10.0, 10.0], rtol=1e-6)
    np.testing.assert_array_equal(state.agents.xyz[1:], s.log.xyz[now + 1, 1:])


def test_agent_without_a_valid_action_coasts():
    s = scene()
    state, _ = reset(PLAIN, s, KEY)
    before = state.agents
    state, _ = step(PLAIN, s, state, bicycle(*[(6.0, 0.3)] * 3, valid=False))
    np.testing.assert_allclose(state.agents.xyz[0, :2], before.xyz[0, :2] + 0.1 * before.velocity[0], atol=1e-6)
    np.testing.assert_array_equal(state.agents.velocity[0], before.velocity[0])
    np.testing.assert_array_equal(state.agents.yaw[0], before.yaw[0])


def test_states_are_constant_after_the_end_of_the_record():
    s = scene(current_step=18)
    env = Env()
    state, out = reset(env, s, KEY)
    results = []
    for _ in range(4):
        state, out = step(env, s, state, bicycle(*[(-6.0, 0.0)] * 3))
        results.append((int(state.step), bool(out.truncated), float(state.agents.xyz[0, 0])))
    assert [step for step, _, _ in results] == [19, 20, 20, 20]
    assert [end for _, end, _ in results] == [False, True, True, True]
    assert results[1][2] == results[2][2] == results[3][2]
    assert not np.any(out.reward), "no reward after the end of the record"


def test_history_before_the_record_is_invalid():
    """A window before the first step must not wrap around to the end of the record."""
    s = scene(current_step=1)
    state, _ = reset(Env(config=EnvConfig(num_history_steps=4, **BARE)), s, KEY)
    np.testing.assert_array_equal(state.history.valid.any(axis=1), [False, False, True, True])
    np.testing.assert_array_equal(state.history.xyz[2:], s.log.xyz[:2])
    assert not np.any(state.history.xyz[:2])


def test_evaluation_follows_the_step():
    """The sdc jumps onto the agent behind it: that very step is penalized."""
    s = scene()
    env = Env(dynamics=Teleport(), config=EnvConfig(terminate_on=("overlap",)))
    state, out = reset(env, s, KEY)
    assert not out.terminated and float(out.reward[0]) == 0
    target = s.log.xyz[int(s.current_step) + 1, 1]
    pose = jnp.asarray([[target[0] + 1.0, target[1], 0.0, 10.0, 0.0]] * 3, jnp.float32)
    state, out = step(env, s, state, Action(value=pose, valid=jnp.ones(3, bool)))
    np.testing.assert_array_equal(out.metrics["overlap"].value, [1, 1, 0])
    np.testing.assert_array_equal(out.reward, [-1, 0, 0])
    np.testing.assert_array_equal(out.agent_terminated, [True, False, False])
    assert out.terminated and not out.truncated


def test_scene_metrics_reward_the_sdc():
    env = Env(config=EnvConfig(controlled="all", metrics=("route_progression",), rewards=(("route_progression", 2.0),)))
    s = scene()
    _, out = reset(env, dataclasses.replace(s, routes=None), KEY)
    assert not out.metrics["route_progression"].valid and not np.any(out.reward)


def test_rewards_and_termination_need_their_metrics():
    with pytest.raises(ValueError, match="unknown metric 'overlaps'"):
        EnvConfig(metrics=("overlaps",))
    with pytest.raises(ValueError, match="'offroad' is rewarded or terminates"):
        EnvConfig(metrics=("overlap",))
    with pytest.raises(ValueError, match="at least 2"):
        EnvConfig(num_history_steps=1)


def test_env_is_hashable_and_holds_no_arrays():
    assert hash(Env()) == hash(Env()) and Env() == Env()
    assert Env(dynamics=Delta()) != Env()


def sloped(grade: float, **changes):
    """The synthetic road with a slope along x; the boxes stand on the road."""
    raw = raw_scene(**changes)
    points, xyz = raw.point_xyz.copy(), raw.xyz.copy()
    points[:, 2] = grade * points[:, 0]
    xyz[..., 2] = grade * xyz[..., 0] + 0.75
    return to_scenario(raw_scene(**changes, point_xyz=points, xyz=xyz), pad_to_bucket=False)


def test_height_follows_the_map():
    s = sloped(0.08)
    env = Env(config=EnvConfig(controlled="all", **BARE))
    state, _ = reset(env, s, KEY)
    first = state.agents
    for _ in range(10):
        state, _ = step(env, s, state, bicycle(*[(2.0, 0.0)] * 3))
    driven = state.agents.xyz[:, 0] - first.xyz[:, 0]
    np.testing.assert_allclose(driven, 11.0, atol=1e-3)
    np.testing.assert_allclose(state.agents.xyz[:, 2] - first.xyz[:, 2], 0.08 * driven, atol=1e-3)


def test_height_may_follow_the_log():
    s = sloped(0.08)
    env = Env(config=EnvConfig(controlled="all", height_source="log", **BARE))
    state, _ = reset(env, s, KEY)
    state, _ = step(env, s, state, bicycle(*[(-6.0, 0.0)] * 3))
    np.testing.assert_array_equal(state.agents.xyz[:, 2], s.log.xyz[6, :, 2])


def test_height_of_replayed_agents_is_logged():
    s = sloped(0.08)
    state, _ = reset(PLAIN, s, KEY)
    state, _ = step(PLAIN, s, state, bicycle(*[(0.0, 0.0)] * 3))
    np.testing.assert_array_equal(state.agents.xyz[1:, 2], s.log.xyz[6, 1:, 2])


def test_scenes_of_a_batch_have_their_own_clocks():
    batch = stack_scenarios([scene(current_step=5), scene(current_step=18)])
    keys = jax.random.split(KEY, 2)
    state, out = jax.vmap(PLAIN.reset)(batch, keys)
    move = jax.jit(jax.vmap(PLAIN.step))
    action = Action(value=jnp.zeros((2, 3, 2)), valid=jnp.ones((2, 3), bool))
    ends = []
    for _ in range(3):
        state, out = move(batch, state, action)
        ends.append(out.truncated.tolist())
    assert state.step.tolist() == [8, 20]
    assert ends == [[False, False], [False, True], [False, True]]


def test_step_compiles_once():
    chex.clear_trace_counter()
    s, env = scene(), Env()
    begin = jax.jit(chex.assert_max_traces(env.reset, n=1))
    move = jax.jit(chex.assert_max_traces(env.step, n=1))
    state, _ = begin(s, KEY)
    for _ in range(5):
        state, _ = move(s, state, bicycle(*[(1.0, 0.0)] * 3))
    begin(s, jax.random.key(1))


def test_state_is_small():
    s = to_scenario(raw_scene(num_agents=128))
    state, _ = reset(Env(), s, KEY)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    assert size < 10_000


@pytest.mark.parametrize(
    "dynamics",
    [Bicycle(), Teleport(), *(pytest.param(Delta(frame=frame), marks=pytest.mark.slow) for frame in ("world", "body"))],
)
def test_gradients_through_an_episode_are_finite(dynamics):
    env = Env(
        dynamics=dynamics,
        config=EnvConfig(controlled="all", metrics=("log_divergence", "road_edge_distance"), rewards=()),
    )
    size = len(dynamics.bounds[0])

    def loss(values, s):
        def body(state, value):
            state, out = step(env, s, state, Action(value=value, valid=jnp.ones(3, bool)))
            return state, out.metrics["log_divergence"].value.sum() + out.metrics["road_edge_distance"].value.sum()

        _, costs = jax.lax.scan(body, reset(env, s, KEY)[0], values)
        return costs.sum()

    differentiate = jax.jit(jax.value_and_grad(loss))
    for speed in (0.0, 10.0):
        velocity = np.zeros((21, 3, 2))
        velocity[..., 0] = speed
        value, gradient = differentiate(jnp.zeros((12, 3, size)), scene(velocity=velocity))
        assert np.isfinite(value) and np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)
