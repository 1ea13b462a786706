"""The training core: advantages, the loop with logs and resumption, and stops at losses that are not finite."""

import csv
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.training.advantages import generalized_advantages
from behavior_models.training.devices import map_seeds
from behavior_models.training.log import half_width
from behavior_models.training.loop import LOG_FILE, LoopConfig, NonFiniteLossError, run_training
from behavior_models.training.saver import Saver
from tests.behavior_models.learned.walk import Walk, first, walk
from waymax_sim.datasets.encoding import protobuf
from waymax_sim.datasets.encoding.tfrecord import index_records, read_record

ROOT = Path(__file__).parents[3]


def advantages_by_loop(value, reward, ended, last, active=None):
    expected = np.zeros_like(value)
    for column in range(value.shape[1]):
        advantage, following = 0.0, last[column]
        for step in reversed(range(len(value))):
            alive = not ended[step, column]
            error = reward[step, column] + 0.9 * alive * following - value[step, column]
            advantage = error + 0.9 * 0.8 * alive * advantage
            if active is not None and not active[step, column]:
                advantage = 0.0
            expected[step, column], following = advantage, value[step, column]
    return expected


def test_advantages_against_a_loop():
    rng = np.random.default_rng(0)
    value, reward = rng.normal(size=(2, 7, 3)).astype(np.float32)
    ended, last = rng.random((7, 3)) < 0.3, rng.normal(size=3).astype(np.float32)
    active = rng.random((7, 3)) < 0.7
    arguments = tuple(map(jnp.asarray, (value, reward, ended, last)))
    for mask in (None, active):
        found = generalized_advantages(*arguments, 0.9, 0.8, None if mask is None else jnp.asarray(mask))
        np.testing.assert_allclose(found, advantages_by_loop(value, reward, ended, last, mask), rtol=1e-4, atol=1e-5)
    # What follows an action that is not valid has no influence on what precedes it.
    changed = tuple(map(jnp.asarray, (value, reward + np.arange(7)[:, None] // 4, ended, last)))
    cut = jnp.asarray(np.arange(7) != 3)[:, None] & np.ones((7, 3), bool)
    before, after = (generalized_advantages(*values, 0.9, 0.8, cut) for values in (arguments, changed))
    np.testing.assert_array_equal(before[:4], after[:4])


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path):
    config = LoopConfig(num_steps=12, log_every=2, save_every=4)
    whole = run_training(tmp_path / "whole", first(), walk, config)
    calls = []

    def interrupted(state):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return walk(state)

    with pytest.raises(KeyboardInterrupt):
        run_training(tmp_path / "parts", first(), interrupted, config)
    resumed = run_training(tmp_path / "parts", first(), walk, config)
    np.testing.assert_array_equal(resumed.position, whole.position)
    np.testing.assert_array_equal(jax.random.key_data(resumed.key), jax.random.key_data(whole.key))
    files = (tmp_path / name / LOG_FILE for name in ("whole", "parts"))
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert [line["step"] for line in lines[1]] == [2, 4, 6, 8, 10, 12]
    assert [line["loss"] for line in lines[1]] == [line["loss"] for line in lines[0]]


def test_a_killed_training_is_resumed_exactly(tmp_path):
    whole = run_training(tmp_path / "whole", first(), walk, LoopConfig(num_steps=12, log_every=2, save_every=4))
    child = (sys.executable, "-m", "tests.behavior_models.learned.walk", str(tmp_path / "parts"), "7")
    killed = subprocess.run(child, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert killed.returncode == -9, killed.stderr[-2000:]
    with (tmp_path / "parts" / LOG_FILE).open("a") as file:
        file.write('{"step": 8, "lo')  # a line that was not completed
    resumed_at = []

    def resumed_walk(state):
        resumed_at.append(int(state.count))
        return walk(state)

    resumed = run_training(
        tmp_path / "parts", first(), resumed_walk, LoopConfig(num_steps=12, log_every=2, save_every=4)
    )
    assert resumed_at == list(range(4, 12))
    for found, expected in zip(jax.tree.leaves(resumed.position), jax.tree.leaves(whole.position), strict=True):
        np.testing.assert_array_equal(found, expected)
    lines = [(tmp_path / name / LOG_FILE).read_text().splitlines() for name in ("whole", "parts")]
    losses = [[json.loads(line)["loss"] for line in part] for part in lines]
    assert losses[0] == losses[1]


def diverge(state: Walk):
    """A walk whose third step has an invalid loss."""
    following, scalars = walk(state)
    return following, scalars | {"policy_loss": jnp.where(state.count == 2, jnp.nan, 0.0)}


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"step 3: policy_loss not finite"):
        run_training(
            tmp_path,
            first(),
            jax.jit(diverge),
            LoopConfig(num_steps=8, log_every=4, save_every=4),
            inputs=lambda state: {"reward": jnp.asarray([1.0, jnp.inf]) * state.count},
        )
    assert not (tmp_path / LOG_FILE).exists()
    facts = json.loads((tmp_path / "diverged" / "diverged.json").read_text())
    assert facts == {"step": 3, "scalars": ["policy_loss"], "not_finite": ["reward"]}
    # The state before the step, and the inputs of the step.
    number, state, _ = Saver(tmp_path / "diverged").restore(first())
    expected = walk(walk(first())[0])[0]
    assert number == 2
    np.testing.assert_array_equal(state.position, expected.position)
    np.testing.assert_array_equal(np.load(tmp_path / "diverged" / "inputs.npz")["reward"], [2.0, np.inf])


def test_nothing_is_transferred_between_two_lines_of_the_log(tmp_path):
    step = jax.jit(lambda state, offset: walk(Walk(state.position + offset, state.key, state.count)))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run_training(tmp_path / "a", first(), lambda state: step(state, np.ones(3, np.float32)), LoopConfig(4))
    on_device = jax.device_put(np.ones(3, np.float32))
    run_training(tmp_path / "b", first(), lambda state: step(state, on_device), LoopConfig(4))


def test_the_log_as_table_and_event_file(tmp_path):
    for num_steps in (4, 6):  # the second run is a resumed one
        config = LoopConfig(num_steps, log_every=2, save_every=4, evaluate_every=4, tensorboard=True)
        run_training(tmp_path, first(), walk, config, lambda state: {"goal": float(state.count) / 10})
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [line.get("eval/goal") for line in lines] == [None, 0.4, 0.6]
    assert all(line["agent_steps_per_s"] > 0 for line in lines)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["eval/goal"] for row in rows] == ["", "0.4", "0.6"]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines]
    (events,) = (tmp_path / "tensorboard").iterdir()
    records = index_records(events)
    decoded = [protobuf.decode(read_record(records, index), "event") for index in range(len(records))]
    assert [record[2][0][1] for record in decoded[1:]] == [2, 4, 6]
    summary = protobuf.decode(decoded[-1][5][0][1], "summary")
    values = [protobuf.decode(value, "value") for _, value in summary[1]]
    found = {bytes(value[1][0][1]).decode(): value[2][0][1] for value in values}
    assert found.keys() == {name for name in lines[-1] if name != "step"}
    assert struct.pack("<f", 0.6) == _float_bytes(found["eval/goal"])


def _float_bytes(value) -> bytes:
    """The bytes of a float field, which the decoder returns as a number or as bytes."""
    return struct.pack("<f", value) if isinstance(value, float) else bytes(value)


def test_seeds_in_one_program_equal_single_ones(tmp_path):
    keys = jnp.stack([jax.random.key(seed) for seed in (3, 4)])
    states = jax.vmap(lambda key: Walk(jnp.zeros(3), key, jnp.int32(0)))(keys)
    config = LoopConfig(num_steps=4, log_every=2, save_every=4)
    both = run_training(tmp_path / "both", states, jax.jit(map_seeds(walk)), config)
    for index in range(2):
        own = run_training(tmp_path / str(index), Walk(jnp.zeros(3), keys[index], jnp.int32(0)), walk, config)
        np.testing.assert_array_equal(both.position[index], own.position)
    line, *single = (
        json.loads((tmp_path / name / LOG_FILE).read_text().splitlines()[-1]) for name in ("both", "0", "1")
    )
    losses = [own["loss"] for own in single]
    assert line["seeds"]["loss"] == pytest.approx(losses) and line["loss"] == pytest.approx(np.mean(losses))
    # The t-quantile of one degree of freedom is 12.706.
    assert line["loss/ci95"] == pytest.approx(12.7062 * abs(losses[0] - losses[1]) / 2, rel=1e-4)
    assert half_width(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert half_width(np.array([1.0])) == np.inf
