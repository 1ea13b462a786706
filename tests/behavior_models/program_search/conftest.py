"""Settings of the tests of program search."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def standard_promotion():
    """Optax multiplies integers by floats, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield
