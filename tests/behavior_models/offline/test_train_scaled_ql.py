"""The command `waymax-sim train scaled-ql`, from logged transitions to a policy."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models.networks.checkpoint import CheckpointError
from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.simulation import TASK_VIEW, TaskSimulator
from behavior_models.offline.stored_set import StoredSet, load_set
from behavior_models.offline.task_policy import TaskQPolicy, load_task_policy
from behavior_models.offline.tasks import draw_scenes
from behavior_models.offline.transitions import Transitions
from behavior_models.trainers.options import DR3Options, ScaledQLOptions
from behavior_models.trainers.scaled_ql import scaled_q_learner, train_scaled_ql
from waymax_sim.env import Assignment

TASK_NAMES = ("following", "narrow_passage")


def random_set(names=TASK_NAMES) -> StoredSet:
    rng, shape = np.random.default_rng(0), (12, 8)
    task = np.arange(8, dtype=np.int32) % len(names)
    action = rng.integers(0, ROUTE_ACTIONS.num_actions, shape).astype(np.int32)
    ended = rng.random(shape) < 0.1
    transitions = Transitions(
        observation=rng.normal(size=(*shape, TASK_VIEW.spec().size)).astype(np.float16),
        action=np.where(task == 0, ROUTE_ACTIONS.hold, action).astype(np.int32),
        reward=rng.normal(size=shape).astype(np.float32),
        ended=ended,
        truncated=np.zeros(shape, bool),
        active=np.ones(shape, bool),
        task=task,
        return_to_go=np.zeros(shape, np.float32),
        num_tasks=len(names),
    )
    return StoredSet(transitions, TASK_VIEW, names)


def test_a_stored_set_is_read_again(tmp_path):
    stored = random_set()
    stored.save(tmp_path)
    loaded = load_set(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.transitions, stored.transitions)
    assert loaded.tasks == TASK_NAMES and loaded.encoder == TASK_VIEW
    assert [sum(mask) for mask in loaded.masks] == [7, 35]
    with pytest.raises(ValueError, match="no dataset"):
        load_set(tmp_path / "other")


@pytest.mark.compile_heavy
def test_policies_are_trained_resumed_stored_and_fine_tuned(tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    random_set().save(data)
    options = ScaledQLOptions(out=out, data=str(data), preset="quick", steps=2, dr3=0.01)
    policy = train_scaled_ql(options)
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 2 and {"feature_dot", "effective_rank", "end_mass", "cql_gap"} <= line.keys()
    # The set is small: its critics are not compared, or the least context is enough.
    context = json.loads((out / "context.json").read_text())
    assert context is None or context["chosen"] in context["classes"]
    # The same command finds the finished training.
    again = train_scaled_ql(options)
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    loaded = load_task_policy(out / "policy")
    assert isinstance(loaded, TaskQPolicy) and loaded.model == policy.model and loaded.observes_goals
    jax.tree.map(np.testing.assert_array_equal, loaded.params, policy.params)
    file = out / "policy" / "policy.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"task": "narrow_passage"}))
    assert load_task_policy(out / "policy").model.task == 1
    file.write_text(json.dumps(stored | {"task": "parking"}))
    with pytest.raises(ValueError, match="parking"):
        load_task_policy(out / "policy")
    file.write_text(json.dumps(stored | {"version": 0}))
    with pytest.raises(CheckpointError):
        load_task_policy(out / "policy")
    file.write_text(json.dumps(stored))
    other = tmp_path / "other"
    random_set(("roundabout",)).save(other)
    tuned = train_scaled_ql(
        dataclasses.replace(options, out=tmp_path / "tuned", data=str(other), start=out / "policy", frozen=True)
    )
    pairs = zip(jax.tree.leaves(tuned.params["encoder"]), jax.tree.leaves(policy.params["encoder"]), strict=True)
    assert all(np.array_equal(first, second) for first, second in pairs)


def test_options():
    out = Path("runs")
    assert DR3Options(out=out).algorithm == "dr3" and ScaledQLOptions(out=out).algorithm == "scaled-ql"
    with pytest.raises(ValueError, match="scaled-ql has no option --held-out"):
        ScaledQLOptions(out=out, held_out="synthetic:0:1").check()


def test_a_policy_drives_the_ego_of_a_scenario():
    stored = random_set()
    model = scaled_q_learner(ScaledQLOptions(out=Path("runs"), preset="quick"), stored).model
    scenario = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], draw_scenes("following", 0, [0]).scenario)

    def drive(params):
        policy = TaskQPolicy(params, model, TASK_VIEW)
        return ws.rollout(TaskSimulator().env, Assignment([policy], ["sdc"]), scenario, jax.random.key(0), 6)

    trace = jax.eval_shape(drive, model.shapes)
    assert trace.metrics["overlap"].value.shape[0] == 6
