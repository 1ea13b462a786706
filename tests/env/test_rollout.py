"""Rollouts: control of agents, recorded fields, and determinism by key."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import (
    POLICIES,
    ConstantSpeed,
    ConstantVelocity,
    LogReplay,
    NoisyConstantVelocity,
    Random,
    Stationary,
)
from tests.programs import compiled_rollout, equal
from tests.scenes import raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.state import LOG, POLICY, Action
from waymax_sim.dynamics import Bicycle, Discrete, Teleport
from waymax_sim.env import Env, EnvConfig, Policy, rollout
from waymax_sim.metrics import METRICS
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

KEY = jax.random.key(7)
EVENTS = ("overlap", "offroad", "wrong_way", "kinematic_infeasibility")
ALL = Env(config=EnvConfig(controlled="all", metrics=(*EVENTS, "log_divergence", "off_route")))
JUDGED = Env(config=EnvConfig(controlled="all", metrics=tuple(METRICS)))
# All metrics take long to compile.
FEW_OR_ALL = pytest.mark.parametrize("env", [ALL, pytest.param(JUDGED, marks=pytest.mark.slow)], ids=["few", "all"])
EVERYTHING = ("agents", "metrics", "reward", "terminated", "actions")


def same(a, b):
    """Bit for bit equal trees, random keys included."""

    def plain(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(plain(x), plain(y)), a, b)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_policies(name):
    policy = POLICIES[name]()
    assert isinstance(policy, Policy)
    assert policy.privileged == name.startswith("log_")
    hash(policy)


def test_log_replay_is_exact():
    s = scene(num_agents=4)
    trace = compiled_rollout(ALL, LogReplay(), s, KEY, 15)
    logged = tree_index(s.log, slice(int(s.current_step) + 1, None))
    same(trace.agents, logged)
    assert not np.any(trace.metrics["log_divergence"].value)


def test_constant_velocity_and_stationary_by_hand():
    s = scene()
    moving = compiled_rollout(ALL, ConstantVelocity(), s, KEY, 10, record=("agents",)).agents
    start = s.log.xyz[int(s.current_step)]
    np.testing.assert_allclose(moving.xyz[:, 0, 0] - start[0, 0], np.arange(1, 11), atol=1e-4)
    standing = compiled_rollout(ALL, Stationary(), s, KEY, 10, record=("agents",)).agents
    np.testing.assert_array_equal(standing.xyz, np.broadcast_to(start, standing.xyz.shape))
    assert not np.any(standing.velocity)


def test_constant_speed_follows_the_heading():
    """An agent with lateral slip: the speed along the heading remains constant."""
    velocity = np.zeros((21, 3, 2))
    velocity[...] = (3.0, 4.0)
    agents = compiled_rollout(ALL, ConstantSpeed(), scene(velocity=velocity), KEY, 5, record=("agents",)).agents
    np.testing.assert_allclose(agents.velocity[-1, 0], [3.0, 0.0], atol=1e-6)


def test_noise_of_the_velocity_accumulates_and_that_of_the_position_does_not():
    s, keys = scene(), jax.random.split(KEY, 400)
    policy = NoisyConstantVelocity(velocity_noise=0.5, position_noise=0.2, yaw_noise=0.1)
    run = jax.jit(jax.vmap(lambda key: rollout(ALL, policy, s, key, 10, record=("agents",)).agents))
    noisy, exact = run(keys), compiled_rollout(ALL, ConstantVelocity(), s, KEY, 10, record=("agents",)).agents
    off = np.asarray(noisy.xyz[..., :2] - exact.xyz[None, ..., :2])
    seconds = 0.1 * np.arange(1, 11)
    np.testing.assert_allclose(off.mean(axis=(0, 2, 3)), 0, atol=0.1)
    np.testing.assert_allclose(off.std(axis=(0, 2, 3)), np.hypot(0.5 * seconds, 0.2), rtol=0.1)
    assert abs(np.corrcoef(off[:, -1, 0, 0], off[:, -1, 1, 0])[0, 1]) < 0.2
    np.testing.assert_allclose(np.asarray(noisy.yaw).std(axis=(0, 2)), 0.1 * np.sqrt(np.arange(1, 11)), rtol=0.1)
    np.testing.assert_array_equal(noisy.velocity, np.broadcast_to(exact.velocity[None], noisy.velocity.shape))


def test_random_stays_within_bounds_and_repeats():
    s = scene()
    traces = [compiled_rollout(ALL, Random(), s, key, 12, record=EVERYTHING) for key in (KEY, KEY, jax.random.key(8))]
    value = np.asarray(traces[0].actions[0].value)
    low, high = Bicycle().bounds
    assert (value >= low).all() and (value <= high).all()
    assert value[..., 0].std() > 2.0 and len(np.unique(value)) == value.size
    same(traces[0], traces[1])
    assert np.any(traces[0].actions[0].value != traces[2].actions[0].value)


def test_random_discrete_actions_cover_the_grid():
    grid = Discrete(Bicycle(), (2, 2))
    trace = compiled_rollout(ALL, Random(grid), scene(num_agents=8), KEY, 15, record=("actions",))
    assert set(np.unique(trace.actions[0].value)) == set(range(9))


def test_policies_share_a_scene_by_selector():
    s = scene()
    policies = [(Stationary(), "sdc"), (ConstantVelocity(), "others")]
    trace = compiled_rollout(ALL, policies, s, KEY, 10, record=("agents",))
    np.testing.assert_array_equal(trace.final.controller, [POLICY, POLICY + 1, POLICY + 1])
    assert np.all(trace.agents.velocity[:, 0] == 0) and np.all(trace.agents.velocity[:, 1:, 0] == 10)


def test_agents_without_a_policy_follow_the_log():
    policies = [(Stationary(), np.asarray([False, True, False])), (Stationary(), "none")]
    trace = compiled_rollout(ALL, policies, scene(), KEY, 10, record=("agents",))
    np.testing.assert_array_equal(trace.final.controller, [LOG, POLICY, LOG])


@pytest.mark.parametrize("spawn", ["log", "never"])
def test_a_policy_that_only_observes_changes_nothing(spawn):
    env = Env(config=EnvConfig(controlled="all", spawn=spawn))
    s = scene()
    come_and_go = np.random.default_rng(0).random(s.log.valid.shape) < 0.7
    s = dataclasses.replace(s, log=dataclasses.replace(s.log, valid=s.log.valid & come_and_go))
    watched, alone = (compiled_rollout(env, policies, s, KEY, 12) for policies in ([(ConstantVelocity(), "none")], []))
    # An empty mask runs the same program as a policy that controls agents.
    masked = compiled_rollout(env, [(ConstantVelocity(), np.zeros(s.num_agents, bool))], s, KEY, 12)
    assert not watched.agents.valid.all() and watched.agents.valid.any()
    for other in (alone, masked):
        same(watched.agents, other.agents)
        same(watched.metrics, other.metrics)


def test_one_policy_takes_the_controlled_agents():
    trace = compiled_rollout(Env(), Stationary(), scene(), KEY, 3, record=("agents",))
    np.testing.assert_array_equal(trace.final.controller, [POLICY, LOG, LOG])


def test_policies_must_not_share_agents():
    s = scene()
    with pytest.raises(ValueError, match=r"policies 0 and 1 both control agents \[0\]"):
        rollout(ALL, [(Stationary(), "sdc"), (Random(), "vehicle")], s, KEY, 3)
    with pytest.raises(ValueError, match="cannot be checked"):
        jax.jit(lambda s: rollout(ALL, [(Stationary(), "sdc"), (Random(), "vehicle")], s, KEY, 3))(s)
    jax.eval_shape(lambda s: rollout(ALL, [(Stationary(), "sdc"), (Random(), "others")], s, KEY, 3), s)


def test_invalid_arguments_are_rejected():
    with pytest.raises(ValueError, match="cannot record"):
        rollout(ALL, Stationary(), scene(), KEY, 3, record=("agent",))
    with pytest.raises(ValueError, match="num_steps=21 does not fit"):
        rollout(ALL, Stationary(), scene(), KEY, 21)


def test_only_requested_fields_are_recorded():
    trace = compiled_rollout(ALL, Stationary(), scene(), KEY, 4, record=())
    assert [trace.agents, trace.metrics, trace.reward, trace.terminated, trace.actions] == [None] * 5
    np.testing.assert_array_equal(trace.step, [6, 7, 8, 9])


def test_steps_after_the_record_are_marked():
    trace = compiled_rollout(ALL, Stationary(), scene(current_step=18), KEY, 10, record=("agents",))
    np.testing.assert_array_equal(trace.active, [True, True] + [False] * 8)
    np.testing.assert_array_equal(trace.step, [19] + [20] * 9)


@dataclasses.dataclass(frozen=True)
class Counter:
    """Moves one metre further at every step than at the one before: needs its own state."""

    privileged: bool = False
    dynamics: Teleport = Teleport()

    def init(self, observation, key):
        return jnp.zeros((), jnp.float32)

    def act(self, observation, carry, key):
        now = observation.agents
        xy = now.xyz[:, :2].at[:, 0].add(carry)
        return Action(jnp.concatenate([xy, now.yaw[:, None], now.velocity], axis=-1), now.valid), carry + 1


def test_stateful_policies_carry_their_state():
    x = np.asarray(compiled_rollout(ALL, Counter(), scene(), KEY, 6, record=("agents",)).agents.xyz[:, 0, 0])
    np.testing.assert_allclose(np.diff(x), [1, 2, 3, 4, 5], atol=1e-5)


def test_only_privileged_policies_see_the_log():
    s, env = scene(), Env()
    observe = jax.jit(
        lambda s, privileged: env.observe(s, env.initial_state(s, KEY), privileged=privileged), static_argnums=1
    )
    observation = observe(s, False)
    assert observation.log is None
    same(observe(s, True).log, s.log)
    signals = observation.signals
    assert signals.state.shape == (1,) and signals.stop_point.shape == (1, 3)


@FEW_OR_ALL
def test_sixty_steps_compile_once_and_repeat(env):
    chex.clear_trace_counter()
    s = scene(num_steps=91, current_step=10)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(scenario, key):
        return rollout(env, [(Random(), "sdc"), (ConstantSpeed(), "others")], scenario, key, 60, record=EVERYTHING)

    first, second = run(s, KEY), run(s, KEY)
    run(s, jax.random.key(8))
    same(first, second)


# Outside of jit each operation is a program.
@pytest.mark.max_programs(300)
@FEW_OR_ALL
def test_same_episode_under_jit_vmap_and_any_batch_size(env):
    """Batching may regroup float32 sums, so poses agree to round-off; events and draws agree exactly."""
    scenes = [scene(current_step=5), scene(current_step=6), scene(current_step=5, yaw=np.full((21, 3), 0.1))]
    keys = jax.random.split(KEY, 3)

    def run(scenario, key):
        return rollout(env, [(Random(), "sdc"), (LogReplay(Bicycle()), "others")], scenario, key, 12, record=EVERYTHING)

    # Outside of jit every call compiles again: one is enough.
    eager = run(scenes[0], keys[0])
    alone = [jax.jit(run)(s, key) for s, key in zip(scenes, keys, strict=True)]
    batch = jax.jit(jax.vmap(run))(stack_scenarios(scenes), keys)
    pair = jax.jit(jax.vmap(run))(stack_scenarios(scenes[:2]), keys[:2])
    eager, alone, batch, pair = jax.device_get((eager, alone, batch, pair))
    for index, one in enumerate(alone):
        others = [tree_index(group, index) for group in (batch, pair)[: 1 + (index < 2)]] + [eager] * (index == 0)
        for other in others:
            same(one.actions[0].value[:, :1], other.actions[0].value[:, :1])
            same(one.agents.valid, other.agents.valid)
            for event in EVENTS:
                same(one.metrics[event], other.metrics[event])
            chex.assert_trees_all_close(one.agents, other.agents, atol=1e-4)
            chex.assert_trees_all_close(one.metrics, other.metrics, atol=1e-4)


def test_rollouts_of_one_scene_share_it():
    keys = jax.random.split(KEY, 4)
    s = scene()

    def run(s, key):
        return rollout(ALL, Random(), s, key, 10, record=("agents",))

    together = jax.jit(jax.vmap(run, in_axes=(None, 0)))
    many = together(s, keys)
    assert many.agents.xyz.shape == (4, 10, 3, 3)
    same(tree_index(many, 2).agents.valid, jax.jit(run)(s, keys[2]).agents.valid)
    jaxpr = str(jax.make_jaxpr(together)(s, keys))
    points = s.roadmap.xyz.shape[0]
    assert f"f32[4,{points},3]" not in jaxpr, "the map must not be copied per rollout"


@FEW_OR_ALL
def test_padding_changes_nothing(env):
    raw = raw_scene()
    plain, padded = to_scenario(raw, pad_to_bucket=False), to_scenario(raw)
    assert padded.num_agents > plain.num_agents
    a, b = (compiled_rollout(env, Random(), s, KEY, 12, record=EVERYTHING) for s in (plain, padded))
    jax.tree.map(equal, a.agents, jax.tree.map(lambda leaf: leaf[:, :3], b.agents))
    for name, value in a.metrics.items():
        per_agent = METRICS[name].per == "agent"
        expected = jax.tree.map(lambda leaf: leaf[:, :3], b.metrics[name]) if per_agent else b.metrics[name]
        jax.tree.map(equal, value, expected)
    assert not np.any(b.agents.valid[:, 3:])


def test_gradients_through_a_policy_rollout():
    """A policy with a learned number: the loss of 60 closed-loop steps has a finite gradient in it."""

    @dataclasses.dataclass(frozen=True)
    class Push:
        push: jax.Array
        privileged: bool = False
        dynamics: Bicycle = Bicycle()

        def init(self, observation, key):
            return ()

        def act(self, observation, carry, key):
            now = observation.agents
            return Action(jnp.broadcast_to(self.push[None], (now.valid.shape[0], 2)), now.valid), carry

    s = scene(num_steps=91, current_step=10)

    def loss(push):
        trace = rollout(ALL, Push(push), s, KEY, 60, record=("agents",))
        return jnp.mean(trace.agents.xyz[-1, :, :2] ** 2)

    slope = jax.jit(jax.grad(loss))
    for push in ([0.0, 0.0], [-6.0, 0.0], [1.0, 0.02]):
        gradient = slope(jnp.asarray(push))
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)
