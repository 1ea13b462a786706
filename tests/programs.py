"""How tests compile."""

import functools
import os

import jax
import numpy as np

from tests.flags import fusion_emitters

# For what depends on the last digit, such as which of two segments is nearest that are equally far: as programs are
# compiled for users, whatever the settings of the tests (see `conftest`).
jit_for_users = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3} | fusion_emitters(True)
)
# Whether all programs are compiled so. Only then do programs of different shapes round alike.
AS_FOR_USERS = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"


def equal(a, b):
    """Equal numbers: bit for bit in programs that are compiled as for users, otherwise but for rounding."""
    if AS_FOR_USERS or not np.issubdtype(a.dtype, np.floating):
        np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
