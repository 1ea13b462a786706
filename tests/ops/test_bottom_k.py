"""Selection of the smallest values, against a stable sort."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.ops.bottom_k import bottom_k

SIZES = [(20, 136, 16), (3, 128, 15), (5, 7, 2), (2, 4, 4), (2, 300, 5), (1, 2, 1)]
smallest = functools.cache(lambda k: jax.jit(functools.partial(bottom_k, k=k)))


def assert_smallest(values, k):
    result, column = map(np.asarray, smallest(k)(values))
    expected = np.argsort(values, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(result, np.take_along_axis(values, expected, axis=-1))
    is_finite = np.isfinite(result)
    np.testing.assert_array_equal(column[is_finite], expected[is_finite])


# Distinct, equal, mostly infinite, equal except for their last bits, tiny and zero values.
KINDS = {
    "any": lambda values: values,
    "equal": np.round,
    "absent": lambda values: np.where(values < 9, values, np.inf),
    "close": lambda values: 1 + np.round(values) * 1e-7,
    "tiny": lambda values: np.maximum(values - 50, 0) * 1e-30,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns", "k"), SIZES)
def test_equals_a_stable_sort(kind, rows, columns, k):
    values = np.random.default_rng(columns).uniform(0, 100, (rows, columns))
    assert_smallest(KINDS[kind](values).astype(np.float32), k)


@given(st.lists(st.floats(0, np.inf, width=32, allow_subnormal=False), min_size=7, max_size=7))
def test_any_numbers(row):
    assert_smallest(np.array([row], np.float32), 2)


def test_batched_rows_equal_more_rows():
    values = np.random.default_rng(0).uniform(0, 9, (3, 4, 40)).astype(np.float32)
    result, column = jax.jit(jax.vmap(lambda rows: bottom_k(rows, 6)))(values)
    np.testing.assert_array_equal(column, np.argsort(values, axis=-1)[..., :6])
    np.testing.assert_array_equal(result, np.sort(values, axis=-1)[..., :6])
