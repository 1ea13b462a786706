"""Hypothesis strategies for whole arrays, so that one compiled call checks many examples."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

# Examples per array.
N = 16


def floats(low: float, high: float, *shape: int, count: int = N) -> st.SearchStrategy[np.ndarray]:
    """Float32 arrays [count, ...] within limits. Values below 1e-6 become zero, since XLA flushes subnormal ones."""
    values = arrays(np.float64, (count, *shape), elements=st.floats(low, high))
    return values.map(lambda array: np.where(np.abs(array) < 1e-6, 0, array).astype(np.float32))
