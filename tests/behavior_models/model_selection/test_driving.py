"""Driving beds, the context ladder with its command, and the selector policy."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.baselines.kinematic import ConstantSpeed
from behavior_models.model_selection.batch_policy import FittedClasses
from behavior_models.model_selection.command import select, selection_table
from behavior_models.model_selection.context_ladder import ContextParams, complete_rows, neighbor_blocks
from behavior_models.model_selection.dataset_context import describe_context, run_method, set_context
from behavior_models.model_selection.decision_bed import (
    CROSSING,
    DecisionContexts,
    clearance_penalty,
    predict_agents,
    simulate_decisions,
)
from behavior_models.model_selection.decision_scene import DecisionParams, template_scenario
from behavior_models.model_selection.light_bed import LightBedParams, hat_functions, select_rung
from behavior_models.model_selection.linear import Ridge
from behavior_models.model_selection.selector import NUM_COLUMNS, Selector, member_columns, rung_masks
from behavior_models.offline.dataset import select_streams
from behavior_models.offline.stored_set import StoredSet
from behavior_models.offline.transitions import Transitions
from tests.scenes import scene
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.env.flat_view import FlatView
from waymax_sim.viz.selection import draw_selection


def test_hat_functions_interpolate():
    values = np.asarray(hat_functions(jnp.array([-1.0, 0.0, 1.0, 3.0, 9.0]), (0.0, 2.0, 4.0)))
    np.testing.assert_allclose(values, [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]])


@pytest.mark.slow
def test_a_ladder_with_lights_reaches_them_only_where_they_matter():
    choices = [
        int(jax.jit(lambda key, bed=bed: select_rung(key, bed, 2000).chosen)(jax.random.key(5)))
        for bed in (LightBedParams(), LightBedParams(lights_matter=False))
    ]
    assert choices[0] == 3 and choices[1] < 3


def test_the_simulator_moves_as_predicted_without_noise():
    params = dataclasses.replace(DecisionParams(), other_noise=0.0)
    contexts = DecisionContexts(
        situation=jnp.array([CROSSING, CROSSING]),
        site=jnp.array([0, 1]),
        distance=jnp.array([20.0, 20.0]),
        speed=jnp.array([10.0, 5.0]),
        other_position=jnp.array([-20.0, -30.0]),
        other_speed=jnp.array([10.0, 5.0]),
        yellow_time=jnp.full(2, jnp.inf),
    )
    rates = jnp.array([0.0, -2.0])
    outcome = simulate_decisions(template_scenario(params), contexts, rates, jax.random.key(0), params)
    # Both vehicles of the first context meet at the conflict; in the second the ego stops after 6.25 m.
    np.testing.assert_allclose(outcome, [40 / 40 - 0.5 - 1.0, 6.25 / 40 - 0.02 * 0.25], atol=2e-3)
    predicted = predict_agents(contexts, jnp.stack([rates, jnp.zeros(2)], axis=-1), params)
    np.testing.assert_allclose(predicted.xyz[:, -1, 0, 0], [20.0, -13.75], atol=1e-4)


def test_penalties_of_clearances():
    penalty = clearance_penalty(jnp.array([3.0, 1.0, 0.0, -1.0]), DecisionParams())
    np.testing.assert_allclose(penalty, [0.0, 0.25, 1.5, 1.5])


def transitions(has_effect: bool, rows: int = 60, streams: int = 40) -> Transitions:
    """Decisions whose reward depends on the first neighbor, or on the observer alone."""
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (rows, streams, 8)).astype(np.float32)
    action = rng.integers(0, 2, (rows, streams)).astype(np.int32)
    column = observation[..., 4 if has_effect else 0]
    reward = (column * (2 * action - 1) + 0.1 * rng.normal(size=column.shape)).astype(np.float32)
    ended = np.zeros(reward.shape, bool)
    ended[-1] = True
    active = np.ones(reward.shape, bool)
    task = np.zeros(streams, np.int32)
    return Transitions(observation, action, reward, ended, np.zeros_like(ended), active, task, reward)


# The observer and three neighbors of two values each.
BLOCKS = neighbor_blocks(4, 0, 2, (1, 2, 3), 8)
CONTEXT = ContextParams(discount=0.0, horizon=2, hidden=12)


def test_blocks_hold_each_column_once():
    assert [block.columns for block in BLOCKS] == [(0, 1, 2, 3), (4, 5), (6, 7)]
    with pytest.raises(ValueError, match="must ascend"):
        neighbor_blocks(4, 0, 2, (1, 4), 8)


def test_rows_without_a_next_observation_are_not_used():
    logged = transitions(True, 3, 1)
    truncated = np.array([[False], [True], [False]])
    logged = dataclasses.replace(logged, truncated=truncated, ended=np.zeros((3, 1), bool))
    # After the truncated row another episode begins, and nothing follows the last row.
    np.testing.assert_array_equal(complete_rows(logged)[:, 0], [True, False, False])


@pytest.mark.parametrize("has_effect", [True, False])
def test_the_context_that_rewards_depend_on_is_chosen(has_effect: bool, tmp_path):
    summary = run_method(transitions(has_effect), BLOCKS, "modbe", (1.0, 1.0), CONTEXT)
    assert summary["chosen_index"] == int(has_effect)
    draw_selection(summary, tmp_path / "selection.png")
    assert (tmp_path / "selection.png").stat().st_size > 1000
    assert selection_table(json.loads(json.dumps(summary))).row_count == 3


def test_rules_of_bandits_choose_the_context_of_returns(tmp_path):
    summary = run_method(transitions(True), BLOCKS, "holdout", (1.0, 0.1), CONTEXT)
    assert summary["chosen_index"] >= 1
    draw_selection(summary, tmp_path / "selection.png")


def test_a_selector_drives_by_the_member_of_the_largest_certificate():
    masks = rung_masks(2)
    size = masks.shape[-1]
    # Outcome 1 of the second member, 0 of the first, without uncertainty.
    weights = jnp.zeros(masks.shape).at[:, NUM_COLUMNS].set(1.0)
    fits = FittedClasses(Ridge(jnp.eye(size), jnp.asarray(masks)), weights, jnp.zeros(len(masks)), jnp.int32(10))
    still = dataclasses.replace(fits, weights=-weights)
    brake = _Braking()
    env = Env(config=EnvConfig(controlled="all", metrics=(), rewards=()))
    run = jax.jit(lambda policy, item: rollout(env, policy, item, jax.random.key(0), 10, record=("agents",)))
    item = scene()
    for own, chosen in ((fits, brake), (still, ConstantSpeed())):
        selected = run(Selector((ConstantSpeed(), brake), own, 5).check(), item)
        np.testing.assert_allclose(selected.agents.xyz, run(chosen, item).agents.xyz, atol=1e-3)


class _Braking(ConstantSpeed):
    """Brakes by 2 m/s^2."""

    dynamics = Bicycle()

    def act(self, observation, carry, key):
        action, carry = super().act(observation, carry, key)
        return dataclasses.replace(action, value=action.value.at[:, 0].set(-2.0)), carry


jax.tree_util.register_static(_Braking)


def test_columns_of_members_are_blocks():
    columns = np.asarray(member_columns(jnp.array([[1.0, 2.0]]), 2))
    np.testing.assert_array_equal(columns, [[[1, 2, 0, 0], [0, 0, 1, 2]]])


def test_sets_of_tasks_have_a_context(tmp_path, capsys):
    """ModBE over the tasks of the most frequent actions; None for sets that cannot be split."""
    view = FlatView("controlled", num_agents=4, num_polylines=1, route=False)
    logged, size = transitions(True, streams=20), view.spec().size
    rng = np.random.default_rng(3)
    observation = rng.uniform(-1, 1, (*logged.action.shape, size)).astype(np.float32)
    task = np.repeat(np.arange(2, dtype=np.int32), 10)
    stored = StoredSet(dataclasses.replace(logged, observation=observation, task=task), view, ("merge", "stopped_car"))
    summary = set_context(stored, CONTEXT)
    assert summary is not None and summary["tasks"] == ["merge"]
    assert summary["classes"] == ["1 neighbors", "2 neighbors", "3 neighbors"]
    assert "of 3 neighbors for the critic of merge" in describe_context(summary)
    alone = dataclasses.replace(stored, transitions=select_streams(stored.transitions, np.arange(20) < 1))
    assert set_context(alone, CONTEXT) is None
    assert "not applicable" in describe_context(None)
    stored.save(tmp_path / "data")
    assert select(tmp_path / "data", tmp_path / "out", classes=(1, 3)) == 0
    printed = capsys.readouterr()
    assert "chosen: " in printed.out and "3/3" in printed.err
    content = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert content["chosen"] in content["classes"] and content["method"] == "modbe"
    assert (tmp_path / "out" / "selection.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="must ascend"):
        select(tmp_path / "data", tmp_path / "out", classes=(1, 9))
