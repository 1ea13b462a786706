"""Settings of the tests of learners."""

import jax
import pytest


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax multiplies integers by floats, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
