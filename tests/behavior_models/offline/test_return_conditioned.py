"""Cloning given returns: levels, contexts and attention by hand, and problems whose best actions are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.networks.return_conditioned import Context, ReturnConditionedModel, causal_mask
from behavior_models.networks.return_conditioned_policy import ReturnConditionedPolicy
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.offline.return_conditioned import (
    ConditionedActions,
    ReturnConditionedCloning,
    ReturnConditionedConfig,
    condition_transitions,
    sample_contexts,
)
from behavior_models.offline.transitions import Transitions, returns_to_go
from tests.behavior_models.learned.problems import (
    ACTIONS,
    SIZE,
    VIEW,
    contexts,
    encode,
)
from tests.scenes import scene
from waymax_sim.datatypes.goals import Goals
from waymax_sim.env import Env, EnvConfig, rollout

NUM_LEVELS, SCENE = 5, scene(num_steps=16)
MODEL = ReturnConditionedModel(
    VIEW.spec(), ACTIONS.num_actions, NUM_LEVELS, config=NetworkConfig(width=16, trunk=32, num_layers=1, num_heads=2)
)
TRANSFORMER = dataclasses.replace(MODEL, context=3)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax multiplies integers by floats, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def log(reward, ended, truncated, task=None, num_tasks: int = 1, **fields) -> Transitions:
    reward, shape = np.asarray(reward, np.float32), np.shape(reward)
    row, stream = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    active = fields.pop("active", np.ones(shape, bool))
    values = {
        "observation": np.stack([row, stream], -1).astype(np.float16),
        "action": (10 * row + stream).astype(np.int32),
    }
    values |= fields
    to_go = returns_to_go(reward, ended | truncated, active)
    task = np.zeros(shape[1], np.int32) if task is None else task
    return Transitions(
        reward=reward,
        ended=ended,
        truncated=truncated,
        active=active,
        task=task,
        return_to_go=to_go,
        num_tasks=num_tasks,
        **values,
    )


@pytest.fixture(scope="module")
def hand_made() -> Transitions:
    """Stream 0: episodes of rows 0 to 2 and 3 to 4; stream 1: rows 0 to 3, whose last one has no decision."""
    reward = np.array([[1, 0], [1, 4], [1, 0], [2, 0], [0, 0]], float)
    ended, truncated = np.zeros((5, 2), bool), np.zeros((5, 2), bool)
    ended[[2, 4], 0], truncated[3, 1] = True, True
    active = np.ones((5, 2), bool)
    active[4, 1] = False
    return log(reward, ended, truncated, active=active)


def test_levels_are_quantiles_of_returns(hand_made):
    data = condition_transitions(hand_made, 3, "return")
    # Returns to go: 3, 2, 1, 2, 0 and 4, 4, 0, 0; sorted 0 0 0 1 2 2 3 4 4.
    np.testing.assert_array_equal(data.edges, [[0, 2]])
    np.testing.assert_array_equal(data.level, [[2, 2], [1, 2], [1, 0], [1, 0], [0, 0]])
    assert data.highest.tolist() == [2]
    np.testing.assert_array_equal(data.age, [[0, 0], [1, 1], [2, 2], [0, 3], [1, 0]])
    np.testing.assert_array_equal(data.index, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    # Means: 1, 1, 1, 1, 0 and 1, 4/3, 0, 0; sorted 0 0 0 1 1 1 1 1 4/3.
    mean = condition_transitions(hand_made, 9, "mean_return")
    np.testing.assert_allclose(mean.edges, [[0, 0, 0, 1, 1, 1, 1, 1]], rtol=1e-6)
    assert mean.level[1, 1] == 8 and mean.level[0, 0] == 3 and mean.level[4, 0] == 0
    constant = condition_transitions(dataclasses.replace(hand_made, return_to_go=np.ones((5, 2), np.float32)))
    assert not constant.level.any() and constant.highest.tolist() == [0]


def test_levels_of_tasks_are_their_own(hand_made):
    two = dataclasses.replace(hand_made, task=np.array([1, 0], np.int32), num_tasks=2)
    data = condition_transitions(two, 2)
    np.testing.assert_array_equal(data.edges, [[0], [2]])
    np.testing.assert_array_equal(data.level, [[1, 1], [0, 1], [0, 0], [0, 0], [0, 0]])
    with pytest.raises(ValueError, match="task 1 has no decision"):
        condition_transitions(dataclasses.replace(hand_made, num_tasks=2))


def test_contexts_do_not_cross_episodes(hand_made):
    data = condition_transitions(hand_made, 3)
    batch = jax.device_get(jax.jit(lambda key: sample_contexts(data, key, 64, 3))(jax.random.key(0)))
    seen_rows = set()
    for observation, action, level, valid in zip(
        batch.observation, batch.action, batch.level, batch.valid, strict=True
    ):
        row, stream = observation[-1].astype(int)
        seen_rows.add((row, stream))
        age = data.age[row, stream]
        np.testing.assert_array_equal(valid, [age >= 2, age >= 1, True])
        for back in range(min(age, 2) + 1):
            assert observation[-1 - back].tolist() == [row - back, stream]
            assert action[-1 - back] == 10 * (row - back) + stream
            assert level[-1 - back] == data.level[row - back, stream]
    assert seen_rows == {(row, stream) for row, stream in np.argwhere(hand_made.active)}


def test_attention_is_causal():
    """Logits depend on no later token, on no action now, and on nothing before the episode."""
    mask = np.asarray(causal_mask(jnp.array([[False, True, True]])))[0]
    assert mask[5].tolist() == [False] * 3 + [True] * 3 + [False] * 3 and mask[8, 3:].all() and not mask[8, :3].any()
    keys = jax.random.split(jax.random.key(0), 3)
    observation = jax.random.normal(keys[0], (2, 3, VIEW.spec().size))
    valid = jnp.array([[False, True, True]] * 2)
    whole = Context(observation, jnp.array([[1, 2, 3]] * 2), jnp.array([[0, 1, 2]] * 2), valid, jnp.zeros(2, jnp.int32))
    params = jax.jit(TRANSFORMER.init)(keys[1])
    logits = jax.jit(lambda context: TRANSFORMER.logits(params, context))
    expected = logits(whole)
    later = dataclasses.replace(whole, observation=observation.at[:, 2].set(5.0), level=whole.level.at[:, 2].set(0))
    np.testing.assert_allclose(logits(later)[:, 1], expected[:, 1], atol=1e-5)
    assert np.abs(logits(later)[:, 2] - expected[:, 2]).max() > 1e-3
    now = dataclasses.replace(whole, action=whole.action.at[:, 2].set(7))
    np.testing.assert_allclose(logits(now)[:, 2], expected[:, 2], atol=1e-5)
    before = dataclasses.replace(whole, observation=observation.at[:, 0].set(5.0), action=whole.action.at[:, 0].set(7))
    np.testing.assert_allclose(logits(before)[:, 1:], expected[:, 1:], atol=1e-5)
    earlier = dataclasses.replace(whole, action=whole.action.at[:, 1].set(7))
    assert np.abs(logits(earlier)[:, 2] - expected[:, 2]).max() > 1e-3


def train(model, transitions, num_steps: int):
    data = condition_transitions(transitions, NUM_LEVELS)
    config = ReturnConditionedConfig(num_gradient_steps=num_steps, minibatch=64, learning_rate=3e-3)
    learner = ReturnConditionedCloning(model, config)
    state, scalars = jax.jit(learner.train_step)(jax.jit(learner.init)(jax.random.key(0)), jax.device_put(data))
    assert np.isfinite(scalars["loss"]) and 0 <= scalars["accuracy"] <= 1
    return state.params, data


def choose(model, params, rows, level: int) -> np.ndarray:
    """Most likely first actions of episodes."""
    count, length = len(rows), model.context
    context = Context(
        jnp.zeros((count, length, rows.shape[1])).at[:, -1].set(rows),
        jnp.zeros((count, length), jnp.int32),
        jnp.full((count, length), level, jnp.int32),
        jnp.zeros((count, length), bool).at[:, -1].set(True),
        jnp.zeros(count, jnp.int32),
    )
    return np.asarray(jnp.argmax(model.logits(params, context)[:, -1], axis=-1))


def test_a_bandit_is_solved_with_the_highest_return_only():
    """The action that equals the context is rewarded."""
    rng, shape = np.random.default_rng(0), (40, 100)
    context, rows = contexts(jax.random.key(1), shape[0] * shape[1])
    action = rng.integers(0, ACTIONS.num_actions, shape)
    reward = (action.reshape(-1) == np.asarray(context)).astype(np.float32).reshape(shape)
    ended = np.ones(shape, bool)
    observation = np.asarray(rows).reshape(*shape, -1)
    params, data = train(
        MODEL, log(reward, ended, ~ended, observation=observation, action=action.astype(np.int32)), 300
    )
    assert (data.level[reward > 0] == NUM_LEVELS - 1).all()
    every = encode(jnp.arange(9))
    np.testing.assert_array_equal(choose(MODEL, params, every, NUM_LEVELS - 1), np.arange(9))
    assert not (choose(MODEL, params, every, 0) == np.arange(9)).any()
    # As an actor of the second of two tasks of its caller, whose first context does not permit the best action.
    act, tasks, mask = ConditionedActions(MODEL, (0, 0)), np.ones(9, np.int32), np.ones((9, 9), bool)
    mask[0, 0] = False
    highest = np.array([NUM_LEVELS - 1], np.int32)
    chosen = np.asarray(act((params, highest), every, tasks, mask, jax.random.key(0)))
    np.testing.assert_array_equal(chosen[1:], np.arange(1, 9))
    assert chosen[0] != 0


@pytest.mark.slow
def test_a_transformer_remembers_the_number_of_the_last_observation():
    """Episodes of two decisions: a number is shown, then rewarded as action. A third of the drivers know that."""
    rng, shape = np.random.default_rng(0), (80, 100)
    number, rows = contexts(jax.random.key(1), 40 * shape[1])
    number = np.asarray(number).reshape(40, shape[1])
    observation = np.array(encode(np.zeros(shape[0] * shape[1], int))).reshape(*shape, -1)
    observation[::2] = np.asarray(rows).reshape(40, shape[1], -1)
    action = rng.integers(0, ACTIONS.num_actions, shape).astype(np.int32)
    action[1::2] = np.where(rng.random(number.shape) < 1 / 3, number, action[1::2])
    reward, ended = np.zeros(shape), np.zeros(shape, bool)
    reward[1::2], ended[1::2] = action[1::2] == number, True
    transitions = log(reward, ended, np.zeros(shape, bool), observation=observation, action=action)
    params, data = train(TRANSFORMER, transitions, 300)
    highest = int(data.highest[0])
    assert 0 < highest < NUM_LEVELS - 1, "the largest return is frequent"
    every = np.stack([np.zeros((9, SIZE)), encode(np.arange(9)), encode(np.zeros(9, int))], axis=1)
    valid, other = np.broadcast_to([False, True, True], (9, 3)), np.zeros((9, 3), np.int32)
    chosen = {}
    for level in (0, highest):
        context = Context(every.astype(np.float32), other, np.full((9, 3), level, np.int32), valid, other[:, 0])
        chosen[level] = np.argmax(np.asarray(TRANSFORMER.logits(params, context))[:, -1], axis=-1)
    # Without the rewarded action all others are equally likely, so the level 0 decides by chance.
    assert (chosen[highest] == np.arange(9)).sum() >= 8 and (chosen[0] == np.arange(9)).sum() <= 3


def test_levels_share_a_program_in_closed_loop():
    """Actions are held, those of the memory are the ones that were taken, and another level acts otherwise."""
    goals = Goals(np.full((SCENE.num_agents, 2), 1e3, np.float32), np.ones(SCENE.num_agents, bool))
    env, made = Env(ACTIONS, EnvConfig(metrics=(), rewards=())), dataclasses.replace(SCENE, goals=goals)
    params = jax.tree.map(lambda leaf: 3.0 * leaf, jax.jit(TRANSFORMER.init)(jax.random.key(3)))
    traced = []

    @jax.jit
    def drive(policy):
        traced.append(1)
        return rollout(env, policy, made, jax.random.key(0), 8, record=("actions",))

    sdc, actions = int(np.argmax(SCENE.agents.is_sdc)), []
    for level in range(NUM_LEVELS):
        policy = ReturnConditionedPolicy(params, jnp.int32(level), jnp.int32(0), TRANSFORMER, VIEW, ACTIONS, interval=2)
        actions.append(np.asarray(drive(policy).actions[0].value)[:, sdc, 0])
    actions = np.stack(actions)
    assert len(traced) == 1 and (actions[:, ::2] == actions[:, 1::2]).all()
    assert (actions != actions[:1]).any()


def test_the_memory_holds_the_last_decisions():
    policy = ReturnConditionedPolicy(
        jax.jit(TRANSFORMER.init)(jax.random.key(0)), jnp.int32(2), jnp.int32(0), TRANSFORMER, VIEW, ACTIONS
    )
    env = Env(ACTIONS, EnvConfig(metrics=(), rewards=(), goals="end_of_log"))
    observation = jax.jit(lambda scenario: env.observe(scenario, env.initial_state(scenario, jax.random.key(0))))(
        env.prepare(SCENE)
    )
    memory, act = policy.init(observation, jax.random.key(0)), jax.jit(policy.act)
    taken = []
    for _ in range(4):
        action, memory = act(observation, memory, jax.random.key(0))
        taken.append(int(action.value[0, 0]))
    assert memory.valid.all() and memory.action[0].tolist() == taken[-3:]
    np.testing.assert_allclose(memory.observation[0, -1], jax.jit(VIEW)(observation)[0], atol=1e-5)
    bare = dataclasses.replace(observation, goals=None)
    with pytest.raises(ValueError, match="observes goals"):
        policy.act(bare, memory, jax.random.key(0))
