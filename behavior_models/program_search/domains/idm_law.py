"""Symbolic regression of the acceleration of the Intelligent Driver Model, whose evaluation takes microseconds.

A bed for the search itself: the optimum is known, and 20 seeds of thousands of evaluations take minutes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from behavior_models.program_search.domain import NUM_IDENTITY_PROBES, Domain
from behavior_models.program_search.operators import ARITHMETIC
from behavior_models.program_search.program import Program, ProgramSpace, interpret
from waymax_sim.pytree import Array

# Speed (m/s), speed difference to the leader (m/s), gap (m), desired speed (m/s), and two numbers.
INPUTS = ("v", "dv", "gap", "v0", "one", "two")
SPACE = ProgramSpace(INPUTS, ARITHMETIC, num_nodes=14)
NUM_IDM_STATES = 200
NUM_DESCRIPTION_PROBES = 32
# Parameters of the model.
ACCELERATION = 2.0  # m/s^2
TIME_HEADWAY = 1.5  # s
MIN_GAP = 2.0  # m
BRAKING_SCALE = 4.0  # 2 sqrt(a b), m/s^2
ACCELERATION_LIMITS = (-6.0, 3.0)  # m/s^2
# Outputs that vary less than this are constant, m/s^2.
MIN_SPREAD = 1e-4


def sample_states(seed: int, count: int) -> Float[np.ndarray, "6 n"]:
    """Random values of the inputs.

    Args:
      seed: Seed.
      count: Number of states.
    """
    rng = np.random.default_rng(seed)
    ranges = ((0.0, 20.0), (-5.0, 5.0), (3.0, 60.0), (10.0, 25.0))
    values = [rng.uniform(low, high, count) for low, high in ranges]
    return np.stack([*values, np.ones(count), np.full(count, 2.0)]).astype(np.float32)


def idm_acceleration(states: Float[np.ndarray, "6 n"]) -> Float[np.ndarray, " n"]:
    """Acceleration of the model, m/s^2."""
    speed, difference, gap, desired = states[:4]
    desired_gap = MIN_GAP + np.maximum(0.0, speed * TIME_HEADWAY + speed * difference / BRAKING_SCALE)
    acceleration = ACCELERATION * (1.0 - np.square(speed / desired) - np.square(desired_gap / gap))
    return np.clip(acceleration, *ACCELERATION_LIMITS)


def squared_correlation(values: Float[Array, " n"], target: Float[Array, " n"]) -> Float[Array, ""]:
    """Squared correlation with a target; 0 for constant values.

    Args:
      values: Values.
      target: Target, not constant.
    """
    centered, target = values - jnp.mean(values), target - jnp.mean(target)
    norm = jnp.sqrt(jnp.sum(jnp.square(centered)))
    scale = jnp.where(norm > MIN_SPREAD, norm, 1.0) * jnp.sqrt(jnp.sum(jnp.square(target)))
    return jnp.where(norm > MIN_SPREAD, jnp.square(jnp.sum(centered * target) / scale), 0.0)


def idm_law_domain(seed: int = 0) -> Domain:
    """The domain with states of a seed."""
    states = sample_states(seed, NUM_IDM_STATES)
    target = idm_acceleration(states)

    def fitness(program: Program) -> Float[Array, ""]:
        return squared_correlation(interpret(SPACE, program, jnp.asarray(states))[0], jnp.asarray(target))

    return Domain("idm_law", SPACE, fitness, states[:, : NUM_IDENTITY_PROBES + NUM_DESCRIPTION_PROBES])
