"""Compilation in tests."""

import functools
import os
from collections.abc import Collection

import jax
import numpy as np

from tests.flags import fusion_emitters
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, Policies, Trace, rollout

# For results that depend on the last digit, such as the nearest of two segments at equal distance: full optimization,
# whatever the settings of the tests (see `conftest`).
jit_optimized = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3} | fusion_emitters(True)
)
# Whether all programs are fully optimized. Only then do programs of different shapes round alike.
FULLY_OPTIMIZED = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"


def equal(a, b):
    """Asserts equal arrays: bit for bit in fully optimized programs, otherwise up to rounding."""
    if FULLY_OPTIMIZED or not np.issubdtype(a.dtype, np.floating):
        np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


_rollout = jax.jit(rollout, static_argnames=("env", "num_steps", "record"))


def compiled_rollout(
    env: Env,
    policies: Policies,
    scenario: Scenario,
    key: jax.Array,
    num_steps: int,
    record: Collection[str] = ("agents", "metrics"),
) -> Trace:
    """`rollout` as one program, in NumPy arrays; outside of jit, every call and every index of its result compile.

    Args:
      env: As for `rollout`, like all arguments.
      policies: May be weights of one network or masks of one shape: they share the program.
      scenario: Scenarios of one shape share the program.
      key: Random key.
      num_steps: Number of steps.
      record: Fields of the trace.
    """
    assignment = Assignment.from_policies(policies, env.config.controlled)
    return jax.device_get(_rollout(env, assignment, scenario, key, num_steps, record))
