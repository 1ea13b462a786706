"""Sampling of logged transitions against a list of all decisions."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behavior_models.offline.transitions import Transitions, find_starts, returns_to_go, sample

NUM_ROWS, NUM_STREAMS, DISCOUNT, NUM_SAMPLES = 9, 4, 0.5, 64
FIND = jax.jit(find_starts, static_argnums=(1, 2))
SAMPLE = jax.jit(sample, static_argnums=(2, 3, 4), static_argnames=("balanced", "time_limit"))


def log(seed: int) -> Transitions:
    """Random rows whose observations are their row and stream; inactive rows follow truncated ones or are empty."""
    rng = np.random.default_rng(seed)
    shape = NUM_ROWS, NUM_STREAMS
    row, stream = np.meshgrid(np.arange(NUM_ROWS), np.arange(NUM_STREAMS), indexing="ij")
    active = rng.random(shape) < 0.85
    kind = rng.random(shape)
    reward = rng.normal(size=shape).astype(np.float32)
    ended, truncated = active & (kind < 0.15), active & (kind > 0.75)
    # An episode never ends without an end.
    truncated |= active & ~ended & ~np.concatenate([active[1:], active[:1]])
    return Transitions(
        np.stack([row, stream], axis=-1).astype(np.float16),
        (10 * row + stream).astype(np.int32),
        reward,
        ended,
        truncated,
        active,
        np.array([0, 2, 0, 2], np.int32),
        returns_to_go(reward, ended | truncated, active),
        num_tasks=3,
    )


def transition(rows: Transitions, row: int, stream: int, num_steps: int, terminal: bool):
    """Return, factor, next row (or None) and whether the next action exists; None if it cannot be sampled."""
    total, factor = 0.0, 1.0
    if not rows.active[row, stream]:
        return None
    for now in range(row, row + num_steps):
        if now >= NUM_ROWS or not rows.active[now, stream]:
            return None
        total += factor * rows.reward[now, stream]
        factor *= DISCOUNT
        if rows.ended[now, stream] or (terminal and rows.truncated[now, stream]):
            return total, 0.0, None, False
        if rows.truncated[now, stream]:
            has_final = now + 1 < NUM_ROWS and not rows.active[now + 1, stream]
            return (total, factor, now + 1, False) if has_final else None
    now = row + num_steps
    return (total, factor, now, True) if now < NUM_ROWS and rows.active[now, stream] else None


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), num_steps=st.sampled_from([1, 3]), terminal=st.booleans())
def test_samples_are_those_of_a_list_of_decisions(seed, num_steps, terminal):
    rows, mode = log(seed), "terminal" if terminal else "bootstrap"
    expected = {
        (row, stream): item
        for row in range(NUM_ROWS)
        for stream in range(NUM_STREAMS)
        if (item := transition(rows, row, stream, num_steps, terminal)) is not None
    }
    starts = jax.device_get(FIND(rows, num_steps, mode))
    found = [tuple(divmod(int(index), NUM_STREAMS)) for index in starts.index[: starts.count.sum()]]
    assert sorted(found) == sorted(expected)
    assert [rows.task[stream] for _, stream in found] == sorted(rows.task[stream] for _, stream in found)
    key = jax.random.key(seed)
    batch = jax.device_get(SAMPLE(rows, key, NUM_SAMPLES, num_steps, DISCOUNT, starts=starts, time_limit=mode))
    if not expected:
        assert np.isnan(batch.reward).all()
        return
    for index, (row, stream) in enumerate(batch.observation.astype(int)):
        total, factor, following, has_action = expected[int(row), int(stream)]
        assert batch.reward[index] == pytest.approx(total, abs=1e-5)
        assert batch.discount[index] == pytest.approx(factor)
        assert batch.action[index] == rows.action[row, stream]
        assert batch.task[index] == rows.task[stream]
        assert batch.return_to_go[index] == rows.return_to_go[row, stream]
        assert batch.has_next_action[index] == has_action
        if following is not None:
            assert tuple(batch.next_observation[index].astype(int)) == (following, stream)
        if has_action:
            assert batch.next_action[index] == rows.action[following, stream]


def test_balanced_samples_draw_tasks_with_equal_probability():
    rows = log(0)
    # Task 0 has the decisions of one stream, task 2 those of three.
    rows = dataclasses.replace(rows, task=np.array([0, 2, 2, 2], np.int32))
    for balanced in (False, True):
        batch = SAMPLE(rows, jax.random.key(1), 4000, 1, DISCOUNT, balanced=balanced)
        starts = FIND(rows, 1, "bootstrap")
        share = float(np.mean(batch.task == 0))
        expected = 0.5 if balanced else int(starts.count[0]) / int(starts.count.sum())
        assert share == pytest.approx(expected, abs=0.04)
        assert not np.any(batch.task == 1)


def test_returns_to_go_of_two_episodes():
    reward = np.array([[1.0], [2.0], [9.0], [3.0], [4.0]], np.float32)
    ends = np.array([[False], [True], [False], [False], [True]])
    active = np.array([[True], [True], [False], [True], [True]])
    np.testing.assert_array_equal(returns_to_go(reward, ends, active)[:, 0], [3.0, 2.0, 0.0, 7.0, 4.0])
