"""One decision of all policies: the loop body of rollouts, held actions, recorded observations, controlled rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import ConstantSpeed, LogReplay, NoisyConstantVelocity, Random
from tests.env.short_episodes import (
    ALONG,
    BEYOND,
    KEY,
    PER_AGENT,
    RECORD,
    ROWS,
    START,
    N,
    along,
    close,
    coming_and_going,
    env_of,
    row_of_agents,
    run,
)
from waymax_sim.datatypes.state import CALLER, POLICY, Action
from waymax_sim.env import (
    Assignment,
    Env,
    Policy,
    begin_episode,
    combine_outputs,
    interact,
    rollout,
    scatter_actions,
)
from waymax_sim.env.flat_view import FlatView
from waymax_sim.metrics import Metric
from waymax_sim.metrics.metric import masked_value
from waymax_sim.pytree import static_record, tree_index

pytestmark = pytest.mark.compile_heavy

start = jax.jit(begin_episode, static_argnames="env")
decide = jax.jit(interact, static_argnames=("env", "evaluate"))
scatter = jax.jit(scatter_actions)


@functools.partial(jax.jit, static_argnames="env")
def observe(env, scenario):
    """The first observation."""
    return env.observe(scenario, env.initial_state(scenario, KEY))


def along_sdc(snapshot):
    sdc = jnp.argmax(snapshot.scenario.agents.is_sdc)
    return masked_value(snapshot.agents.xyz[sdc, 0], snapshot.agents.valid[sdc])


@static_record
class Follow(Policy):
    """Actions that depend on the observation, on the number of previous decisions, and on the random key.

    Attributes:
      hold: Number of calls with the same action.
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
    return row_of_agents()


PAIR = Assignment([Follow(), NoisyConstantVelocity()], ["sdc", "others"])


def test_interactions_one_by_one_are_a_rollout(road):
    env = env_of(metrics=(ALONG, BEYOND), rewards=(("along", 0.5), ("beyond", -1.0)), terminate_on=("beyond",))
    trace = run(env, PAIR, road, KEY, 6, record=RECORD)
    episode = start(env, road, PAIR, KEY)
    for index in range(6):
        episode, interaction = decide(env, road, episode, PAIR)
        out = combine_outputs(env, interaction)
        assert interaction.step.tolist() == [trace.step[index]] == [
            START + 1 + index
        ] and interaction.active.tolist() == [True]
        close(tree_index(interaction.agents, 0), tree_index(trace.agents, index))
        close(out.metrics, tree_index(trace.metrics, index))
        close(out.reward, trace.reward[index])
        close(interaction.actions, tree_index(trace.actions, index))
        np.testing.assert_array_equal(out.terminated, trace.terminated[index])
        np.testing.assert_array_equal(interaction.ended[0], trace.ended[index])
        assert bool(out.truncated) == (index == 5) and not np.any(out.invalid_action)
    close(episode.state.history, trace.final.history)
    # The recurrent state of the first policy has counted its decisions, and the sdc has ended the scenario.
    assert int(episode.carries[0][0]) == 6
    assert trace.terminated.tolist().count(True) == 1 and trace.ended[-1].all()
    assert np.ptp(trace.agents.xyz[-1, 1:, 1]) > 0.001


def test_actions_of_the_caller_apply_like_those_of_a_policy(road):
    """Recorded actions of a policy, given by the caller; the controllers of the traffic are shifted by one."""
    env, traffic = env_of(), Assignment([ConstantSpeed()], ["others"])
    both = Assignment([Follow(), ConstantSpeed()], ["sdc", "others"])
    trace = run(env, both, road, KEY, 4, record=("agents", "actions"))
    episode = start(env, road, traffic, KEY, road.agents.is_sdc)
    np.testing.assert_array_equal(episode.state.controller, [CALLER, *[POLICY + 1] * 3])
    for index in range(4):
        episode, _ = decide(env, road, episode, traffic, tree_index(trace.actions[0], index), evaluate=False)
        close(episode.state.agents, tree_index(trace.agents, index))


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
    return run(TWICE, Assignment.from_policies(Follow()), late, KEY, 6, record=RECORD)


@pytest.fixture(scope="module")
def repeated(late):
    return run(ONCE, Assignment.from_policies(Follow(hold=2)), late, KEY, 6, record=RECORD)


def test_an_action_is_held_as_if_the_policy_repeated_it(held, repeated):
    for name in ("agents", "metrics", "reward", "terminated", "ended", "invalid_action", "step", "active"):
        close(getattr(held, name), getattr(repeated, name))
    close(held.actions, tree_index(repeated.actions, slice(None, None, 2)))
    assert np.ptp(held.actions[0].value[..., 0], axis=0).min() > 0.01


def test_a_trace_has_an_entry_per_simulated_step_and_an_action_per_decision(held):
    assert held.step.tolist() == [7, 8, 9, 10, 11, 11]
    assert held.active.tolist() == [True] * 5 + [False]
    assert held.agents.xyz.shape == (6, N, 3) and held.reward.shape == (6, N)
    assert held.actions[0].value.shape == (3, N, 2)


def test_holding_an_action_differs_from_a_new_decision(late, held):
    renewed = run(ONCE, Assignment.from_policies(Follow()), late, KEY, 6, record=RECORD)
    close(tree_index(renewed.agents, 0), tree_index(held.agents, 0))
    assert np.abs(renewed.agents.xyz[-1] - held.agents.xyz[-1]).max() > 1e-3


def slow_over_time(rule: str, values: list[float]) -> float:
    if not values:
        return 0.0
    results = {"mean": np.mean(values), "sum": np.sum(values), "min": min(values), "max": max(values)}
    return results.get(rule, values[-1])


def test_the_results_of_an_interaction_are_combined_by_the_rules_of_metrics(late, repeated):
    episode, whole = start(TWICE, late, Assignment.from_policies(Follow()), KEY), repeated
    for index in range(3):
        episode, interaction = decide(TWICE, late, episode, Assignment.from_policies(Follow()))
        out, steps = combine_outputs(TWICE, interaction), slice(2 * index, 2 * index + 2)
        np.testing.assert_allclose(out.reward, np.sum(whole.reward[steps], axis=0), atol=1e-5)
        for name, combined in out.metrics.items():
            value = np.asarray(whole.metrics[name].value[steps]).reshape(2, -1)
            valid = np.asarray(whole.metrics[name].valid[steps]).reshape(2, -1) & whole.active[steps, None]
            counted = [column[ok].tolist() for column, ok in zip(value.T, np.asarray(valid).T, strict=True)]
            expected = [slow_over_time(name.split("_")[1], column) for column in counted]
            np.testing.assert_allclose(np.reshape(combined.value, -1), expected, atol=1e-5, err_msg=f"{name}, {index}")
            np.testing.assert_array_equal(np.reshape(combined.valid, -1), [len(column) > 0 for column in counted])
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
    episode = start(TWICE, late, Assignment.from_policies(Follow()), KEY)
    for index in range(3):
        np.testing.assert_allclose(trace.observations["view"][index], encode(episode.state), atol=1e-5)
        episode, _ = decide(TWICE, late, episode, Assignment.from_policies(Follow()))
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
def changing():
    return coming_and_going()


@pytest.mark.parametrize("at_end", ["stop", "remove"])
def test_an_agent_keeps_its_row_and_has_none_while_it_does_not_act(changing, at_end):
    env = env_of(**PER_AGENT, at_end=at_end)
    np.testing.assert_array_equal(rows_of(env, changing, ConstantSpeed()), ROWS)


def test_an_agent_that_stays_after_its_end_still_acts(changing):
    rows = rows_of(env_of(**PER_AGENT, at_end="stay"), changing, ConstantSpeed())
    np.testing.assert_array_equal(rows, np.where(np.arange(5)[None] == 0, 0, ROWS))


def test_privileged_policies_are_recorded_with_the_log(changing):
    record = {"log": lambda observation: observation.log.xyz}
    trace = jax.jit(lambda s: rollout(env_of(), LogReplay(), s, KEY, 3, record=record))(changing)
    np.testing.assert_array_equal(trace.observations["log"][2], changing.log.xyz)


def test_the_limit_of_controlled_agents_holds_for_the_first_policy(changing):
    env = env_of(max_controlled=2)
    state = jax.jit(lambda s: rollout(env, ConstantSpeed(), s, KEY, 3).final)(changing)
    np.testing.assert_array_equal(state.controller, [2, 2, 0, 0, 0])
    pairs = [(ConstantSpeed(), "sdc"), (ConstantSpeed(), "others")]
    state = jax.jit(lambda s: rollout(env, pairs, s, KEY, 3).final)(changing)
    np.testing.assert_array_equal(state.controller, [2, 3, 3, 3, 3])


def test_only_the_first_policys_agents_can_be_evaluated_alone(changing):
    env = env_of(controlled="sdc", evaluated="controlled")
    with pytest.raises(ValueError, match="agents of the first policy"):
        rollout(env, [(ConstantSpeed(), np.arange(5) == 0)], changing, KEY, 3)


def test_the_rows_are_those_of_the_first_policy_and_the_first_agents_of_it(changing):
    env = env_of(**PER_AGENT, at_end="stop", max_controlled=2)
    # Padding takes no row; agents that are absent now do.
    np.testing.assert_array_equal(rows_of(env, changing, ConstantSpeed()), ROWS[:, :2])
    masks = np.array([[False, False, True, False, True], [True, False, False, False, False]])
    policies = Assignment([ConstantSpeed()] * 2, list(masks))
    np.testing.assert_array_equal(rows_of(env, changing, policies), ROWS[:, [2, 4]])


def test_the_sdc_has_one_row(changing):
    env = env_of(**PER_AGENT, at_end="stop", controlled="sdc")
    np.testing.assert_array_equal(rows_of(env, changing, ConstantSpeed()), ROWS[:, :1])


def test_policies_observe_the_rows_of_their_own_agents(changing):
    row_shapes = {}

    @static_record
    class Look(Policy):
        name: str = ""

        def act(self, observation, carry, key):
            row_shapes[self.name] = observation.controlled.shape
            is_own = jnp.any(observation.controlled[:, None] == jnp.arange(5)[None], axis=0)
            return Action(jnp.stack([is_own.astype(jnp.float32)] * 2, axis=-1), observation.agents.valid), carry

    pairs = [(Look("ego"), "sdc"), (Look("others"), "others"), (Look("none"), "none")]
    trace = jax.jit(lambda s: rollout(env_of(), pairs, s, KEY, 3, record=("actions",)))(changing)
    assert row_shapes == {"ego": (1,), "others": (5,), "none": (5,)}
    first = [np.flatnonzero(action.value[0, :, 0]).tolist() for action in trace.actions]
    assert first == [[0], [2, 4], []]


def test_actions_of_rows_are_scattered_to_their_agents(road):
    env = env_of()
    observation = observe(env, road)
    for rows, count in (([2, -1, 0], 3), ([-1, -1], 2), ([3], 1), ([0, 1, 2, 3], 4)):
        value = np.arange(1.0, 2 * count + 1, dtype=np.float32).reshape(count, 2)
        action = scatter(dataclasses.replace(observation, controlled=np.array(rows, np.int32)), value)
        expected, valid = np.zeros((N, 2)), np.zeros(N, bool)
        for row, own in zip(rows, value, strict=True):
            if row >= 0:
                expected[row], valid[row] = own, True
        np.testing.assert_array_equal(action.value, expected)
        np.testing.assert_array_equal(action.valid, valid)
    discrete = dataclasses.replace(observation, controlled=np.array([1], np.int32))
    whole = scatter(discrete, np.ones((1, 1), np.int32))
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
        own = tree_index(now, jnp.maximum(observation.controlled, 0))
        return scatter_actions(observation, self._values(own)), carry

    def _values(self, agents):
        return jnp.stack([-0.2 * agents.velocity[:, 0], 0.002 * agents.xyz[:, 0]], axis=-1)


@pytest.mark.parametrize(
    "changes",
    [
        dict(PER_AGENT, at_end="remove"),
        dict(PER_AGENT, at_end="stop"),
        dict(PER_AGENT, at_end="stay"),
        dict(PER_AGENT, at_end="remove", max_controlled=5, despawn="never"),
    ],
    ids=["remove", "stop", "stay", "limited"],
)
def test_a_policy_that_acts_for_its_rows_drives_like_one_that_acts_for_all(changing, changes):
    env, pairs = env_of(**changes), ("sdc", "others")
    traces = [
        run(env, Assignment([Braking(by_rows)] * 2, pairs), changing, KEY, 6, record=RECORD)
        for by_rows in (False, True)
    ]
    for name in ("agents", "metrics", "reward", "terminated", "ended", "invalid_action"):
        close(*(getattr(trace, name) for trace in traces))
    close(*(trace.final.history for trace in traces))
    assert traces[0].ended[-1].any() and not traces[0].ended[-1].all()
    assert np.asarray(traces[0].agents.velocity[-1, 2, 0]) < 9.5


def test_random_policies_draw_from_the_key_of_the_step_and_of_their_index(road):
    """The key is that of the state: the draw of a step does not depend on how the step was reached."""
    env, policies = env_of(), Assignment([Random(), Random()], ["sdc", "others"])
    trace = run(env, policies, road, KEY, 3, record=("actions",))
    observation = observe(env, road)
    for step in range(3):
        for index in range(2):
            key = jax.random.fold_in(jax.random.fold_in(KEY, START + step), index)
            expected, _ = Random().act(observation, (), key)
            np.testing.assert_array_equal(trace.actions[index].value[step], expected.value)
