"""The replay buffer against a list of all decisions: no transition crosses an end, an absence or the write position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behavior_models.training.replay_buffer import ReplayBuffer, ReplayRows

NUM_ROWS = 7
NUM_STREAMS = 3
NUM_ADDED = 2
DISCOUNT = 0.5
NUM_SAMPLES = 64
BUFFERS = {steps: ReplayBuffer(NUM_ROWS, steps, DISCOUNT, alpha=0.5) for steps in (1, 3)}
ADD = {steps: jax.jit(buffer.add) for steps, buffer in BUFFERS.items()}
SAMPLE = {steps: jax.jit(buffer.sample, static_argnums=2) for steps, buffer in BUFFERS.items()}
UPDATE = jax.jit(BUFFERS[1].update_priorities)
ACTION = np.zeros(1, np.int32)


def log(seed: int, num_decisions: int) -> ReplayRows:
    """Decisions whose observations are their time and stream."""
    rng = np.random.default_rng(seed)
    shape = num_decisions, NUM_STREAMS
    time, stream = np.meshgrid(np.arange(num_decisions), np.arange(NUM_STREAMS), indexing="ij")
    active = rng.random(shape) < 0.8
    return ReplayRows(
        np.stack([time, stream], axis=-1).astype(np.float32),
        (10 * time + stream)[..., None].astype(np.int32),
        rng.normal(size=shape).astype(np.float32),
        active & (rng.random(shape) < 0.2),
        active,
    )


def fill(rows: ReplayRows, num_steps: int):
    state = jax.jit(functools.partial(BUFFERS[num_steps].init, NUM_STREAMS, 2))(ACTION)
    for begin in range(0, len(rows.reward), NUM_ADDED):
        part = jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + NUM_ADDED], rows)
        state = ADD[num_steps](state, part)
    return state


def transition(rows: ReplayRows, time: int, stream: int, num_steps: int):
    """The return, and the time of the observation after it or None after an end; None if it is incomplete."""
    total = 0.0
    for step in range(num_steps):
        now = time + step
        if now >= len(rows.reward) or not rows.active[now, stream]:
            return None
        total += DISCOUNT**step * rows.reward[now, stream]
        if rows.ended[now, stream]:
            return total, None
    now = time + num_steps
    return (total, now) if now < len(rows.reward) and rows.active[now, stream] else None


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), num_blocks=st.integers(0, 9), num_steps=st.sampled_from([1, 3]))
def test_samples_are_transitions_of_one_episode(seed, num_blocks, num_steps):
    rows = log(seed, NUM_ADDED * num_blocks)
    state = fill(rows, num_steps)
    oldest = max(0, len(rows.reward) - NUM_ROWS)
    expected = {
        (time, stream): item
        for time in range(oldest, len(rows.reward))
        for stream in range(NUM_STREAMS)
        if (item := transition(rows, time, stream, num_steps)) is not None
    }
    times, streams = np.nonzero(np.asarray(state.can_start))
    stored = np.asarray(state.rows.observation)[times, streams]
    assert {(int(time), int(stream)) for time, stream in stored} == set(expected)
    sample = jax.device_get(SAMPLE[num_steps](state, jax.random.key(seed), NUM_SAMPLES, 0.5))
    if not expected:
        assert not sample.weight.any()
        return
    # Priorities are equal: with more stratified samples than transitions, each is drawn.
    assert {(int(time), int(stream)) for time, stream in sample.observation} == set(expected)
    np.testing.assert_array_equal(sample.weight, 1.0)
    for index, (time, stream) in enumerate(sample.observation):
        total, following = expected[int(time), int(stream)]
        assert sample.reward[index] == pytest.approx(total, rel=1e-5, abs=1e-6)
        assert sample.action[index] == 10 * time + stream
        assert sample.discount[index] == (0.0 if following is None else DISCOUNT**num_steps)
        if following is not None:
            assert tuple(sample.next_observation[index]) == (following, stream)


def test_frequencies_are_proportional_to_priorities():
    buffer, state = BUFFERS[1], fill(log(3, 6), 1)
    rows, streams = map(np.asarray, np.nonzero(np.asarray(state.can_start)))
    errors = np.linspace(-2.0, 6.0, len(rows)).astype(np.float32)
    state = UPDATE(state, np.stack([rows, streams]).astype(np.int32), errors)
    sample = jax.device_get(SAMPLE[1](state, jax.random.key(0), 20_000, 0.4))
    counts = np.zeros(np.asarray(state.can_start).shape)
    np.add.at(counts, tuple(sample.index), 1)
    priority = (np.abs(errors) + buffer.min_error) ** buffer.alpha
    share = priority / priority.sum()
    np.testing.assert_allclose(counts[rows, streams] / 20_000, share, atol=1e-3)
    expected = np.zeros(counts.shape)
    expected[rows, streams] = (len(rows) * share) ** -0.4
    expected /= expected.max()
    np.testing.assert_allclose(sample.weight, expected[tuple(sample.index)], rtol=1e-4)
    # New transitions have the largest priority of all.
    state = ADD[1](state, log(3, NUM_ADDED))
    assert float(state.priority[6, 0]) == pytest.approx(priority.max(), rel=1e-5)


def test_errors_that_are_not_finite_leave_priorities():
    state = fill(log(3, 6), 1)
    rows, streams = np.nonzero(np.asarray(state.can_start))
    index = np.stack([rows, streams]).astype(np.int32)
    after = UPDATE(state, index, np.full(len(rows), np.nan, np.float32))
    np.testing.assert_array_equal(after.priority, state.priority)
    assert float(after.max_priority) == 1.0


def test_sums_of_many_priorities_select_no_entry_without_priority():
    buffer = ReplayBuffer(400, 1, alpha=1.0)
    rng = np.random.default_rng(0)
    shape = 400, 300
    active = rng.random(shape) < 0.05
    values = np.zeros((*shape, 1), np.float32), np.zeros((*shape, 1), np.int32), np.zeros(shape, np.float32)
    rows = ReplayRows(*values, active, active)

    @jax.jit
    def run(rows, priority, key):
        state = buffer.add(buffer.init(300, 1, ACTION), rows)
        index = jnp.stack(jnp.divmod(jnp.arange(priority.size, dtype=jnp.int32), 300))
        state = buffer.update_priorities(state, index, priority)
        sample = buffer.sample(state, key, 50_000, 1.0)
        return state.rows.active[tuple(sample.index)], sample.weight

    drawn, weight = run(rows, rng.exponential(size=active.size).astype(np.float32), jax.random.key(0))
    assert drawn.all() and (np.asarray(weight) > 0).all()


def test_a_buffer_must_hold_a_transition():
    with pytest.raises(ValueError, match="num_steps=3 must be"):
        ReplayBuffer(3, 3)
