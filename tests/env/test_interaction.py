"""One decision of all policies: the loop body of rollouts, held actions, recorded observations, unusable actions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Bool, Float

from behavior_models import ConstantSpeed, NoisyConstantVelocity, Random
from tests.scenes import raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.state import CALLER, POLICY, Action
from waymax_sim.dynamics import Bicycle, Delta, Dynamics, Teleport
from waymax_sim.env import (
    PRESETS,
    Assignment,
    Env,
    EnvConfig,
    Policy,
    begin_episode,
    combine_outputs,
    interact,
    rollout,
    scatter_actions,
)
from waymax_sim.env.flat_view import FlatView
from waymax_sim.metrics import Metric
from waymax_sim.metrics.metric import flag, masked_value
from waymax_sim.pytree import Array, pytree, static, static_record, take

KEY = jax.random.key(11)
STEPS, N, START = 12, 4, 5
# Small metrics that compile at once: where an agent is along the road, and whether it is beyond a line.
BEYOND = 3.5


def along(snapshot):
    return masked_value(snapshot.subjects.xyz[:, 0], snapshot.subjects.valid)


def along_sdc(snapshot):
    sdc = jnp.argmax(snapshot.scenario.agents.is_sdc)
    return masked_value(snapshot.agents.xyz[sdc, 0], snapshot.agents.valid[sdc])


def beyond(snapshot):
    return flag(snapshot.subjects.xyz[:, 0] > BEYOND, snapshot.subjects.valid)


ALONG = Metric("along", along, per="agent", unit="m", over_time="mean")
ENDS = Metric("beyond", beyond, per="agent", unit="1", over_time="max")
REWARDED = {"metrics": (ALONG,), "rewards": (("along", 1.0),)}


def env_of(dynamics: Dynamics = Bicycle(), **changes) -> Env:
    return Env(dynamics, EnvConfig(**({"controlled": "all", "metrics": (), "rewards": ()} | changes)))


run = jax.jit(rollout, static_argnames=("env", "num_steps", "record"))
start = jax.jit(begin_episode, static_argnames="env")
decide = jax.jit(interact, static_argnames=("env", "evaluate"))


def close(ours, theirs) -> None:
    """Equal but for rounding: the programs are different ones."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6), ours, theirs)


@static_record
class Follow(Policy):
    """Accelerates and turns by what it sees, by how many decisions it has made, and at random.

    Attributes:
      hold: Calls for which an action is repeated.
    """

    hold: int = 1

    def init(self, observation, key):
        return jnp.int32(0), jnp.zeros((observation.agents.valid.shape[0], 2))

    def act(self, observation, carry, key):
        count, last = carry
        now, step = observation.agents, observation.step.astype(jnp.float32)
        drawn = jax.random.uniform(key, (), jnp.float32, -0.5, 0.5)
        acceleration = 2.0 - 0.3 * now.velocity[:, 0] + 0.05 * now.xyz[:, 0] + jnp.sin(step) + drawn
        decided = jnp.stack([acceleration, 0.01 * jnp.cos(now.xyz[:, 0])], axis=-1)
        value = jnp.where(count % self.hold == 0, decided, last)
        return Action(value, now.valid), (count + 1, value)


@pytest.fixture(scope="module")
def road():
    """Four agents in a row; the log of the last ends with step 8."""
    valid = np.ones((STEPS, N), bool)
    valid[9:, 3] = False
    return scene(num_steps=STEPS, num_agents=N, current_step=START, valid=valid)


PAIR = Assignment([Follow(), NoisyConstantVelocity()], ["sdc", "others"])
RECORD = ("agents", "metrics", "reward", "terminated", "actions", "ended", "invalid_action")


def test_interactions_one_by_one_are_a_rollout(road):
    env = env_of(metrics=(ALONG, ENDS), rewards=(("along", 0.5), ("beyond", -1.0)), terminate_on=("beyond",))
    trace = run(env, PAIR, road, KEY, 6, record=RECORD)
    episode = start(env, road, PAIR, KEY)
    for index in range(6):
        episode, seen = decide(env, road, episode, PAIR)
        out = combine_outputs(env, seen)
        assert seen.step.tolist() == [trace.step[index]] == [START + 1 + index] and seen.active.tolist() == [True]
        close(take(seen.agents, 0), take(trace.agents, index))
        close(out.metrics, take(trace.metrics, index))
        close(out.reward, trace.reward[index])
        close(seen.actions, take(trace.actions, index))
        np.testing.assert_array_equal(out.terminated, trace.terminated[index])
        np.testing.assert_array_equal(seen.ended[0], trace.ended[index])
        assert bool(out.truncated) == (index == 5) and not np.any(out.invalid_action)
    close(episode.state.history, trace.final.history)
    # The recurrent state of the first policy has counted its decisions, and the sdc has ended the scenario.
    assert int(episode.carries[0][0]) == 6
    assert trace.terminated.tolist().count(True) == 1 and trace.ended[-1].all()
    assert np.ptp(trace.agents.xyz[-1, 1:, 1]) > 0.001


def test_what_the_caller_decides_moves_its_agents_like_a_policy(road):
    """The actions of a recorded policy, given from outside; the traffic has other numbers of controllers then."""
    env, traffic = env_of(), Assignment([ConstantSpeed()], ["others"])
    trace = run(env, [(Follow(), "sdc"), (ConstantSpeed(), "others")], road, KEY, 4, record=("agents", "actions"))
    episode = start(env, road, traffic, KEY, road.agents.is_sdc)
    np.testing.assert_array_equal(episode.state.controller, [CALLER, *[POLICY + 1] * 3])
    for index in range(4):
        episode, _ = decide(env, road, episode, traffic, take(trace.actions[0], index), evaluate=False)
        close(episode.state.agents, take(trace.agents, index))


OVER_TIME = ("mean", "sum", "min", "max", "last")
RULES = (
    *(Metric(f"agent_{rule}", along, per="agent", unit="m", over_time=rule) for rule in OVER_TIME),
    *(Metric(f"scene_{rule}", along_sdc, per="scene", unit="m", over_time=rule) for rule in OVER_TIME),
)
HELD = {"metrics": RULES, "rewards": (("agent_sum", 1.0), ("scene_max", -0.25)), "despawn": "log"}
TWICE, ONCE = env_of(**HELD, steps_per_action=2), env_of(**HELD)


@pytest.fixture(scope="module")
def late(road):
    """Five steps are left, so that the last of three decisions holds for one."""
    return dataclasses.replace(road, current_step=np.array(START + 1, np.int32))


@pytest.fixture(scope="module")
def held(late):
    return run(TWICE, Assignment.of(Follow()), late, KEY, 6, record=RECORD)


@pytest.fixture(scope="module")
def repeated(late):
    return run(ONCE, Assignment.of(Follow(hold=2)), late, KEY, 6, record=RECORD)


def test_an_action_is_held_as_if_the_policy_repeated_it(held, repeated):
    for name in ("agents", "metrics", "reward", "terminated", "ended", "invalid_action", "step", "active"):
        close(getattr(held, name), getattr(repeated, name))
    close(held.actions, take(repeated.actions, slice(None, None, 2)))
    assert np.ptp(held.actions[0].value[..., 0], axis=0).min() > 0.01


def test_a_trace_has_an_entry_per_simulated_step_and_an_action_per_decision(held):
    assert held.step.tolist() == [7, 8, 9, 10, 11, 11]
    assert held.active.tolist() == [True] * 5 + [False]
    assert held.agents.xyz.shape == (6, N, 3) and held.reward.shape == (6, N)
    assert held.actions[0].value.shape == (3, N, 2)


def test_holding_an_action_differs_from_deciding_anew(late, held):
    anew = run(ONCE, Assignment.of(Follow()), late, KEY, 6, record=RECORD)
    close(take(anew.agents, 0), take(held.agents, 0))
    assert np.abs(anew.agents.xyz[-1] - held.agents.xyz[-1]).max() > 1e-3


def slow_over_time(rule: str, values: list[float]) -> float:
    if not values:
        return 0.0
    results = {"mean": np.mean(values), "sum": np.sum(values), "min": min(values), "max": max(values)}
    return results.get(rule, values[-1])


def test_the_results_of_an_interaction_are_combined_by_the_rules_of_metrics(late, repeated):
    episode, whole = start(TWICE, late, Assignment.of(Follow()), KEY), repeated
    for index in range(3):
        episode, seen = decide(TWICE, late, episode, Assignment.of(Follow()))
        out, steps = combine_outputs(TWICE, seen), slice(2 * index, 2 * index + 2)
        np.testing.assert_allclose(out.reward, np.sum(whole.reward[steps], axis=0), atol=1e-5)
        for name, found in out.metrics.items():
            rule, value, valid = name.split("_")[1], *(
                np.asarray(leaf[steps]).reshape(2, -1)
                for leaf in (whole.metrics[name].value, whole.metrics[name].valid & whole.active[:, None])
            )
            counted = [[v for v, ok in zip(*column, strict=True) if ok] for column in zip(value.T, valid.T, strict=True)]
            expected = [slow_over_time(rule, column) for column in counted]
            np.testing.assert_allclose(np.reshape(found.value, -1), expected, atol=1e-5, err_msg=f"{name}, {index}")
            np.testing.assert_array_equal(np.reshape(found.valid, -1), [len(column) > 0 for column in counted])
        assert bool(out.truncated) == (index == 2)
    # The last agent vanishes between the steps of an action; time ends between those of the last one.
    assert whole.metrics["agent_last"].valid[:, 3].tolist() == [True, True, False, False, False, False]
    assert np.any(whole.reward[4]) and not np.any(whole.reward[5])


def test_steps_must_be_a_multiple_of_those_per_action(road):
    with pytest.raises(ValueError, match="num_steps=5 is no multiple of steps_per_action=2"):
        rollout(TWICE, ConstantSpeed(), road, KEY, 5)


VIEW = FlatView("controlled", 3, 4)


def test_recorded_observations_are_encoded_states(late, held):
    trace = jax.jit(lambda key: rollout(TWICE, Follow(), late, key, 6, record={"view": VIEW, "metrics": True}))(KEY)
    assert set(trace.observations) == {"view"} and trace.agents is None
    assert trace.observations["view"].shape == (3, N, VIEW.spec().size)
    close(trace.metrics, held.metrics)
    encode = jax.jit(lambda state: VIEW(TWICE.observe(late, state)))
    episode = start(TWICE, late, Assignment.of(Follow()), KEY)
    for index in range(3):
        np.testing.assert_allclose(trace.observations["view"][index], encode(episode.state), atol=1e-5)
        episode, _ = decide(TWICE, late, episode, Assignment.of(Follow()))
    # The encoded values change, and the row of the agent that vanished becomes zero.
    assert np.ptp(trace.observations["view"], axis=0).max() > 0.1
    assert np.any(trace.observations["view"][0, 3]) and not np.any(trace.observations["view"][2, 3])


def test_names_of_records_are_checked_in_mappings_too(road):
    with pytest.raises(ValueError, match="cannot record"):
        rollout(env_of(), ConstantSpeed(), road, KEY, 3, record={"agent": True})


def rows_of(env: Env, scenario, policies) -> np.ndarray:
    record = {"rows": lambda observation: observation.controlled}
    trace = jax.jit(lambda s: rollout(env, policies, s, KEY, 6, record=record))(scenario)
    return np.asarray(trace.observations["rows"])


@pytest.fixture(scope="module")
def coming_and_going():
    """Five agents at 10 m/s: the sdc passes the line at step 9; 1 appears at step 7; 3 is never there; 4 leaves."""
    valid = np.ones((STEPS, 5), bool)
    valid[:7, 1] = valid[:, 3] = valid[9:, 4] = False
    return scene(num_steps=STEPS, num_agents=5, current_step=START, valid=valid)


PER_AGENT = dict(metrics=(ENDS,), terminate_on=("beyond",), ends="agent", despawn="log")
ROWS = [
    [0, -1, 2, -1, 4],
    [0, -1, 2, -1, 4],
    [0, 1, 2, -1, 4],
    [0, 1, 2, -1, 4],
    [-1, 1, 2, -1, -1],
    [-1, 1, 2, -1, -1],
]


@pytest.mark.parametrize("at_end", ["stay", "remove"])
def test_an_agent_keeps_its_row_and_has_none_while_it_does_not_act(coming_and_going, at_end):
    env = env_of(**PER_AGENT, at_end=at_end)
    np.testing.assert_array_equal(rows_of(env, coming_and_going, ConstantSpeed()), ROWS)


def test_the_rows_are_those_of_the_first_policy_and_the_first_agents_of_it(coming_and_going):
    env = env_of(**PER_AGENT, max_controlled=2)
    # Padding takes no row; agents that are absent now do.
    np.testing.assert_array_equal(rows_of(env, coming_and_going, ConstantSpeed()), np.array(ROWS)[:, :2])
    policies = [(ConstantSpeed(), np.array([False, False, True, False, True])), (ConstantSpeed(), "sdc")]
    np.testing.assert_array_equal(rows_of(env, coming_and_going, policies), np.array(ROWS)[:, [2, 4]])


def test_the_sdc_has_one_row(coming_and_going):
    env = env_of(**PER_AGENT, controlled="sdc")
    np.testing.assert_array_equal(rows_of(env, coming_and_going, ConstantSpeed()), np.array(ROWS)[:, :1])


def test_policies_observe_the_rows_of_their_own_agents(coming_and_going):
    seen = {}

    @static_record
    class Look(Policy):
        name: str = ""

        def act(self, observation, carry, key):
            seen[self.name] = observation.controlled.shape
            rows = jnp.zeros(5, bool).at[observation.controlled].set(observation.controlled >= 0, mode="drop")
            return Action(jnp.stack([rows.astype(jnp.float32)] * 2, axis=-1), observation.agents.valid), carry

    pairs = [(Look("ego"), "sdc"), (Look("others"), "others"), (Look("nobody"), "none")]
    trace = jax.jit(lambda s: rollout(env_of(), pairs, s, KEY, 3, record=("actions",)))(coming_and_going)
    assert seen == {"ego": (1,), "others": (5,), "nobody": (5,)}
    first = [np.flatnonzero(action.value[0, :, 0]).tolist() for action in trace.actions]
    assert first == [[0], [2, 4], []]


def test_actions_of_rows_are_scattered_to_their_agents(road):
    env = env_of()
    observation = env.observe(road, env.initial_state(road, KEY))
    for rows, count in (([2, -1, 0], 3), ([-1, -1], 2), ([3], 1), ([0, 1, 2, 3], 4)):
        value = np.arange(1.0, 2 * count + 1, dtype=np.float32).reshape(count, 2)
        action = scatter_actions(dataclasses.replace(observation, controlled=np.array(rows, np.int32)), value)
        expected, valid = np.zeros((N, 2)), np.zeros(N, bool)
        for row, own in zip(rows, value, strict=True):
            if row >= 0:
                expected[row], valid[row] = own, True
        np.testing.assert_array_equal(action.value, expected)
        np.testing.assert_array_equal(action.valid, valid)
    whole = scatter_actions(dataclasses.replace(observation, controlled=np.array([1], np.int32)), np.ones((1, 1), int))
    assert whole.value.dtype == jnp.int32


@static_record
class Braking(Policy):
    """Brakes by the speed, for all agents or for the controlled rows alone.

    Attributes:
      by_rows: Whether the actions are those of the rows.
    """

    by_rows: bool = False

    def act(self, observation, carry, key):
        now = observation.agents
        if not self.by_rows:
            return Action(self._values(now), now.valid), carry
        own = take(now, jnp.maximum(observation.controlled, 0))
        return scatter_actions(observation, self._values(own)), carry

    def _values(self, agents):
        return jnp.stack([-0.2 * agents.velocity[:, 0], 0.002 * agents.xyz[:, 0]], axis=-1)


@pytest.mark.parametrize(
    "changes",
    [
        dict(PER_AGENT, at_end="remove"),
        dict(PER_AGENT, at_end="stop"),
        dict(PER_AGENT, at_end="remove", max_controlled=5, despawn="never"),
    ],
    ids=["remove", "stop", "limited"],
)
def test_a_policy_that_acts_for_its_rows_drives_like_one_that_acts_for_all(coming_and_going, changes):
    env, pairs = env_of(**changes), ("sdc", "others")
    traces = [
        run(env, Assignment([Braking(by_rows)] * 2, pairs), coming_and_going, KEY, 6, record=RECORD)
        for by_rows in (False, True)
    ]
    # What is decided for agents that do not act is nobody's business.
    close(*(dataclasses.replace(trace, actions=None) for trace in (_plain(trace) for trace in traces)))
    assert traces[0].ended[-1].any() and not traces[0].ended[-1].all()
    assert np.asarray(traces[0].agents.velocity[-1, 2, 0]) < 9.5


def _plain(trace):
    return dataclasses.replace(trace, final=dataclasses.replace(trace.final, key=jax.random.key_data(trace.final.key)))


@pytree
class Table(Policy):
    """Actions from a table over steps and agents, which are its weights; some have no number added but NaN.

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
# Where an action is not finite: agents 0 and 1 in the first steps, one of them later; agent 3 never.
FAULTS = np.zeros((6, N), bool)
FAULTS[[0, 1, 1, 4], [0, 0, 1, 2]] = True


def table(dynamics: Dynamics, bad: float | None, seed: int = 0) -> Table:
    """Random actions; in the faults one number is `bad`, or the action is not given."""
    rng, count = np.random.default_rng(seed), len(dynamics.bounds[0])
    value = rng.uniform(-0.2, 0.2, (6, N, count)).astype(np.float32)
    noise = np.zeros_like(value)
    if bad is not None:
        noise[FAULTS, rng.integers(count, size=FAULTS.sum())] = bad
    return Table(value, noise, ~FAULTS if bad is None else np.ones((6, N), bool), dynamics)


@DYNAMICS
def test_an_action_that_is_not_finite_counts_as_not_given(road, dynamics):
    env = env_of(**REWARDED)
    expected = run(env, Assignment.of(table(dynamics, None)), road, KEY, 6, record=RECORD)
    assert not np.any(expected.invalid_action)
    for bad in (np.nan, np.inf, -np.inf):
        trace = run(env, Assignment.of(table(dynamics, bad)), road, KEY, 6, record=RECORD)
        np.testing.assert_array_equal(trace.invalid_action, FAULTS)
        for leaf in jax.tree.leaves((trace.agents, trace.metrics, trace.reward, trace.final.history)):
            assert np.isfinite(leaf).all()
        # Bit for bit: it is the same program.
        jax.tree.map(np.testing.assert_array_equal, trace.agents, expected.agents)
        np.testing.assert_array_equal(trace.reward, np.where(FAULTS, np.minimum(expected.reward, 0), expected.reward))
    # Without a fault everything would be different, and some of the rewards that are lost are positive.
    assert (np.asarray(expected.reward)[FAULTS] > 0).any() and (np.asarray(expected.reward)[FAULTS] < 0).any()
    whole = run(env, Assignment.of(table(dynamics, 0.0)), road, KEY, 6, record=RECORD)
    assert np.abs(whole.agents.xyz[-1, :3] - expected.agents.xyz[-1, :3]).max(axis=-1).min() > 1e-4


@DYNAMICS
def test_an_agent_without_a_finite_action_coasts(road, dynamics):
    agents = run(env_of(**REWARDED), Assignment.of(table(dynamics, np.nan)), road, KEY, 6, record=RECORD).agents
    for step, agent in np.argwhere(FAULTS):
        log = take(road.log, START) if step == 0 else None
        before, after = log or take(agents, step - 1), take(agents, step)
        moved = before.xyz[agent, :2] + np.float32(0.1) * before.velocity[agent]
        np.testing.assert_allclose(after.xyz[agent, :2], moved, atol=1e-5)
        np.testing.assert_array_equal(after.velocity[agent], before.velocity[agent])
        np.testing.assert_array_equal(after.yaw[agent], before.yaw[agent])


def test_an_agent_that_would_coast_beyond_all_numbers_stays(road):
    """A finite pose with the largest speed: the next one is not finite, and no action is at fault."""
    weights = table(Teleport(), None)
    value = np.array(weights.value)
    value[0, 1] = [3e38, 0, 0, 3e38, 0]
    value[1, 1] = np.nan
    fast = dataclasses.replace(weights, value=value, valid=np.ones((6, N), bool))
    trace = run(env_of(**REWARDED), Assignment.of(fast), road, KEY, 6, record=RECORD)
    for leaf in jax.tree.leaves((trace.agents, trace.metrics, trace.reward)):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(trace.agents.xyz[1, 1, 0], np.float32(3e38))
    assert np.argwhere(trace.invalid_action).tolist() == [[1, 1]]


def test_actions_of_absent_and_ended_agents_are_not_flagged(coming_and_going):
    env = env_of(**PER_AGENT, at_end="stay")
    weights = Table(*(np.full((6, 5, 2), number, np.float32) for number in (0, np.nan)), np.ones((6, 5), bool))
    trace = run(env, Assignment.of(weights), coming_and_going, KEY, 6, record=("invalid_action", "ended"))
    np.testing.assert_array_equal(trace.invalid_action, np.array(ROWS) >= 0)
    never = dataclasses.replace(weights, valid=np.zeros((6, 5), bool))
    trace = run(env, Assignment.of(never), coming_and_going, KEY, 6, record=("invalid_action", "ended"))
    assert not np.any(trace.invalid_action)


def test_actions_after_the_end_of_the_record_are_not_flagged(late):
    weights = Table(*(np.full((7, N, 2), number, np.float32) for number in (0, np.nan)), np.ones((7, N), bool))
    trace = run(env_of(**REWARDED), Assignment.of(weights), late, KEY, 6, record=("invalid_action",))
    assert np.asarray(trace.invalid_action).all(axis=1).tolist() == [True] * 5 + [False]


def test_no_agent_is_paid_for_reaching_its_goal_without_a_usable_action():
    env = Env(config=PRESETS["goal"])
    raw = raw_scene(num_steps=STEPS, num_agents=N, current_step=START)
    road = to_scenario(dataclasses.replace(raw, xyz=raw.xyz * [2.0, 1.0, 1.0], velocity=raw.velocity * 2), bucketed=False)
    drives = Table(*(np.zeros((6, N, 2), np.float32) for _ in range(2)), np.ones((6, N), bool))
    broken = dataclasses.replace(drives, noise=np.full((6, N, 2), np.nan, np.float32))
    paid, trace = (
        run(env, Assignment.of(policy, "travelling"), road, KEY, 6, record=RECORD) for policy in (drives, broken)
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
    assert (np.abs(expected).sum(axis=-1) > 0)[-2][[0, 1, 3]].all()
    for bad in (np.nan, np.inf):
        found = np.asarray(gradient(table(dynamics, 0.0).value, table(dynamics, bad)))
        np.testing.assert_array_equal(found, expected)
    # Not even where the rows that hold NaN are not given.
    hidden = dataclasses.replace(table(dynamics, np.nan), valid=~FAULTS)
    np.testing.assert_array_equal(gradient(hidden.value, hidden), expected)


def test_random_policies_draw_from_the_key_of_the_step_and_of_their_index(road):
    """The key is that of the state: the draw of a step does not depend on how the step was reached."""
    env, policies = env_of(), Assignment([Random(), Random()], ["sdc", "others"])
    trace = run(env, policies, road, KEY, 3, record=("actions",))
    observation = env.observe(road, env.initial_state(road, KEY))
    for step in range(3):
        for index in range(2):
            key = jax.random.fold_in(jax.random.fold_in(KEY, START + step), index)
            expected, _ = Random().act(observation, (), key)
            np.testing.assert_array_equal(trace.actions[index].value[step], expected.value)
