"""Non-finite actions: they are ignored and reported, earn nothing, and do not affect gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Bool, Float

from tests.env.short_episodes import (
    KEY,
    PER_AGENT,
    RECORD,
    REWARDED,
    ROWS,
    START,
    STEPS,
    N,
    coming_and_going,
    env_of,
    row_of_agents,
    run,
)
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Delta, Dynamics, Teleport
from waymax_sim.env import PRESETS, Assignment, Env, Policy, rollout
from waymax_sim.pytree import Array, pytree, static, tree_index

pytestmark = pytest.mark.compile_heavy


@pytest.fixture(scope="module")
def road():
    return row_of_agents()


@pytree
class Table(Policy):
    """Actions from a table over steps and agents, the weights; faults add NaN.

    Attributes:
      value: Actions, [T, N, A].
      noise: What is added to them.
      valid: Which are given.
    """

    value: Float[Array, "T N A"]
    noise: Float[Array, "T N A"]
    valid: Bool[Array, "T N"]
    dynamics: Dynamics = static(default=Bicycle())

    def act(self, observation, carry, key):
        step = observation.step - START
        return Action(self.value[step] + self.noise[step], self.valid[step]), carry


DYNAMICS = pytest.mark.parametrize(
    "dynamics", [Bicycle(), Delta("body"), Teleport()], ids=["bicycle", "delta", "teleport"]
)
# Steps and agents where an action is not finite.
FAULTS = np.zeros((6, N), bool)
FAULTS[[0, 1, 1, 4, 5], [0, 0, 1, 2, 3]] = True


def table(dynamics: Dynamics, bad: float | None, seed: int = 0) -> Table:
    """Random actions; in the faults one number is `bad`, or the action is not given."""
    rng, count = np.random.default_rng(seed), len(dynamics.bounds[0])
    value = rng.uniform(-0.2, 0.2, (6, N, count)).astype(np.float32)
    if isinstance(dynamics, Teleport):
        value[..., 0] -= 5.0 * np.arange(N)
    noise = np.zeros_like(value)
    if bad is not None:
        noise[FAULTS, rng.integers(count, size=FAULTS.sum())] = bad
    return Table(value, noise, ~FAULTS if bad is None else np.ones((6, N), bool), dynamics)


@DYNAMICS
def test_an_action_that_is_not_finite_counts_as_not_given(road, dynamics):
    env = env_of(**REWARDED)
    expected = run(env, Assignment.from_policies(table(dynamics, None)), road, KEY, 6, record=RECORD)
    assert not np.any(expected.invalid_action)
    for bad in (np.nan, np.inf, -np.inf):
        trace = run(env, Assignment.from_policies(table(dynamics, bad)), road, KEY, 6, record=RECORD)
        np.testing.assert_array_equal(trace.invalid_action, FAULTS)
        for leaf in jax.tree.leaves((trace.agents, trace.metrics, trace.reward, trace.final.history)):
            assert np.isfinite(leaf).all()
        # Bit for bit: it is the same program.
        jax.tree.map(np.testing.assert_array_equal, trace.agents, expected.agents)
        np.testing.assert_array_equal(trace.reward, np.where(FAULTS, np.minimum(expected.reward, 0), expected.reward))
    # Without a fault everything would be different, and some of the rewards that are lost are positive.
    assert (np.asarray(expected.reward)[FAULTS] > 0).any() and (np.asarray(expected.reward)[FAULTS] < 0).any()
    whole = run(env, Assignment.from_policies(table(dynamics, 0.0)), road, KEY, 6, record=RECORD)
    assert np.abs(whole.agents.xyz - expected.agents.xyz).max(axis=(0, 2)).min() > 1e-4


@DYNAMICS
def test_an_agent_without_a_finite_action_coasts(road, dynamics):
    agents = run(
        env_of(**REWARDED), Assignment.from_policies(table(dynamics, np.nan)), road, KEY, 6, record=RECORD
    ).agents
    for step, agent in np.argwhere(FAULTS):
        log = tree_index(road.log, START) if step == 0 else None
        before, after = log or tree_index(agents, step - 1), tree_index(agents, step)
        moved = before.xyz[agent, :2] + np.float32(0.1) * before.velocity[agent]
        np.testing.assert_allclose(after.xyz[agent, :2], moved, atol=1e-5)
        np.testing.assert_array_equal(after.velocity[agent], before.velocity[agent])
        np.testing.assert_array_equal(after.yaw[agent], before.yaw[agent])


def test_values_from_which_agents_would_coast_beyond_all_numbers_count_as_not_finite(road):
    weights = table(Teleport(), None)
    value = np.array(weights.value)
    value[0, 1] = [3e38, 0, 0, 3e38, 0]
    value[1, 1] = [1e12, 0, 0, 1e12, 0]
    value[2:, 1] = np.nan
    fast = dataclasses.replace(weights, value=value, valid=np.ones((6, N), bool))
    trace = run(env_of(**REWARDED), Assignment.from_policies(fast), road, KEY, 6, record=RECORD)
    for leaf in jax.tree.leaves((trace.agents, trace.metrics, trace.reward)):
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(np.asarray(trace.agents.xyz)[1:, 1, 0] / 1e12, [1.0, 1.1, 1.2, 1.3, 1.4], rtol=1e-6)
    assert np.argwhere(trace.invalid_action).tolist() == [[step, 1] for step in (0, 2, 3, 4, 5)]


class Diverging(Bicycle):
    """A model that gives no number for accelerations above 1 m/s^2."""

    preserves_finite = False

    def apply(self, agents, value, dt):
        moved = super().apply(agents, value, dt)
        return dataclasses.replace(moved, yaw=jnp.where(value[:, 0] > 1, jnp.nan, moved.yaw))


def test_dynamics_that_diverge_are_reported_and_do_not_enter_the_state(road):
    weights = table(Bicycle(), None)
    value = np.zeros_like(weights.value)
    value[2, 1] = [2.0, 0.0]
    policy = dataclasses.replace(weights, value=value, valid=np.ones((6, N), bool), dynamics=Diverging())
    trace = run(env_of(**REWARDED), Assignment.from_policies(policy), road, KEY, 6, record=RECORD)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((trace.agents, trace.reward)))
    assert np.argwhere(trace.invalid_action).tolist() == [[2, 1]]
    np.testing.assert_allclose(trace.agents.velocity[-1, 1], [10.0, 0.0], atol=1e-5)


def test_actions_of_absent_and_ended_agents_are_not_flagged():
    env, changing = env_of(**PER_AGENT, at_end="stay"), coming_and_going()
    weights = Table(*(np.full((6, 5, 2), number, np.float32) for number in (0, np.nan)), np.ones((6, 5), bool))
    trace = run(env, Assignment.from_policies(weights), changing, KEY, 6, record=("invalid_action", "ended"))
    np.testing.assert_array_equal(trace.invalid_action, ROWS >= 0)
    never = dataclasses.replace(weights, valid=np.zeros((6, 5), bool))
    trace = run(env, Assignment.from_policies(never), changing, KEY, 6, record=("invalid_action", "ended"))
    assert not np.any(trace.invalid_action)


def test_actions_after_the_end_of_the_record_are_not_flagged(road):
    late = dataclasses.replace(road, current_step=np.array(START + 1, np.int32))
    weights = Table(*(np.full((7, N, 2), number, np.float32) for number in (0, np.nan)), np.ones((7, N), bool))
    trace = run(env_of(**REWARDED), Assignment.from_policies(weights), late, KEY, 6, record=("invalid_action",))
    assert np.asarray(trace.invalid_action).all(axis=1).tolist() == [True] * 5 + [False]


def test_no_agent_is_paid_for_reaching_its_goal_without_a_usable_action():
    env = Env(config=PRESETS["goal"])
    raw = raw_scene(num_steps=STEPS, num_agents=N, current_step=START)
    xyz, velocity = raw.xyz * [2.0, 1.0, 1.0], raw.velocity * 2
    road = to_scenario(dataclasses.replace(raw, xyz=xyz, velocity=velocity), pad_to_bucket=False)
    drives = Table(*(np.zeros((6, N, 2), np.float32) for _ in range(2)), np.ones((6, N), bool))
    broken = dataclasses.replace(drives, noise=np.full((6, N, 2), np.nan, np.float32))
    paid, trace = (
        run(env, Assignment.from_policies(policy, "traveling"), road, KEY, 6, record=RECORD)
        for policy in (drives, broken)
    )
    acts = ~np.concatenate([np.zeros((1, N), bool), np.asarray(paid.ended)[:-1]])
    assert (np.asarray(paid.reward)[acts] > 0).all() and np.asarray(paid.reward).sum() > N
    np.testing.assert_array_equal(trace.invalid_action, acts)
    assert acts.sum() < acts.size, "the agents end at their goals before the end of the record"
    assert not np.any(trace.reward)
    # They coast to the same goals.
    np.testing.assert_array_equal(trace.ended, paid.ended)


@DYNAMICS
def test_gradients_of_weights_are_finite_next_to_actions_that_are_not(road, dynamics):
    env = env_of()

    @jax.jit
    @jax.grad
    def gradient(value, policy):
        policy = dataclasses.replace(policy, value=value)
        final = rollout(env, policy, road, KEY, 6, record=()).final.agents
        return jnp.sum(final.xyz[:, :2] * jnp.asarray([1.0, 2.0])[None])

    expected = np.asarray(gradient(table(dynamics, 0.0).value, table(dynamics, None)))
    assert np.isfinite(expected).all() and not np.any(expected[FAULTS])
    np.testing.assert_array_equal(np.abs(expected).sum(axis=-1)[-1] > 0, ~FAULTS[-1])
    for bad in (np.nan, np.inf):
        result = np.asarray(gradient(table(dynamics, 0.0).value, table(dynamics, bad)))
        np.testing.assert_array_equal(result, expected)
    # Not even where the rows that hold NaN are not given.
    hidden = dataclasses.replace(table(dynamics, np.nan), valid=~FAULTS)
    np.testing.assert_array_equal(gradient(hidden.value, hidden), expected)
