"""A domain of the search: a space of programs with their fitness."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt

from behavior_models.program_search.mutation import MutationParams
from behavior_models.program_search.program import Program, ProgramSpace, interpret
from waymax_sim.pytree import Array

# Probe values whose rounded outputs identify the function of a program, and those that describe it.
NUM_IDENTITY_PROBES = 10
# Outputs are equal if they agree to this (the fourth decimal).
PROBE_RESOLUTION = 1e-4
# Multipliers and offsets of the two polynomial hashes (large odd numbers).
HASH_MULTIPLIERS = (0x9E3779B1, 0x85EBCA6B)


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    """Programs to search, with their fitness.

    Attributes:
      name: Name.
      space: The programs.
      fitness: Fitness of a program, larger is better; pure. Values that are not finite count as `worst`.
      probes: Fixed inputs [I, P, *shape] with P > 10: outputs at the first 10 identify the function of a program, and
        those at the others describe it to the discriminator.
      mutation: Probabilities of mutations.
      worst: Fitness of programs whose fitness is not finite.
      in_sequence: Evaluate the programs of a step one after the other instead of in a batch: a branch that a program
        does not take, such as the second part of a hurdle, then costs nothing.
      first: Programs that a search begins with, before random ones.
    """

    name: str
    space: ProgramSpace
    fitness: Callable[[Program], Float[Array, ""]]
    probes: np.ndarray
    mutation: MutationParams = MutationParams()
    worst: float = 0.0
    in_sequence: bool = False
    first: tuple[Program, ...] = ()

    def evaluate(self, programs: Program) -> Float[Array, " B"]:
        """Finite fitness of a batch of programs."""
        fitness = jax.lax.map(self.fitness, programs) if self.in_sequence else jax.vmap(self.fitness)(programs)
        return jnp.where(jnp.isfinite(fitness), fitness, self.worst)

    def probe(self, program: Program) -> tuple[UInt[Array, "2"], Float[Array, " F"]]:
        """Identity of the function of a program, equal for equal functions, and its description.

        Args:
          program: One program.
        """
        outputs = interpret(self.space, program, jnp.asarray(self.probes, jnp.float32))
        rows = jnp.moveaxis(outputs, 1, 0)
        return hash_outputs(rows[:NUM_IDENTITY_PROBES]), describe_outputs(rows[NUM_IDENTITY_PROBES:])

    @property
    def num_features(self) -> int:
        """Number F of values of a description."""
        shape = np.shape(self.probes)
        return (shape[1] - NUM_IDENTITY_PROBES) * self.space.num_outputs * int(np.prod(shape[2:], dtype=int))


def hash_outputs(outputs: Float[Array, "P *shape"]) -> UInt[Array, "2"]:
    """Two hashes of rounded outputs, which depend on their order.

    Args:
      outputs: Outputs of a program.
    """
    rounded = jnp.round(outputs.reshape(-1) / PROBE_RESOLUTION).astype(jnp.int32).astype(jnp.uint32)

    def combine(multiplier: int) -> Array:
        def step(state: Array, value: Array) -> tuple[Array, None]:
            mixed = (state ^ value) * jnp.uint32(multiplier)
            return mixed ^ (mixed >> 15), None

        return jax.lax.scan(step, jnp.uint32(1), rounded)[0]

    return jnp.stack([combine(multiplier) for multiplier in HASH_MULTIPLIERS])


def describe_outputs(outputs: Float[Array, "P *shape"]) -> Float[Array, " F"]:
    """Signed logarithms of outputs, standardized over the probes; 0 for constant ones.

    Args:
      outputs: Outputs of a program.
    """
    values = outputs.reshape(-1)
    values = jnp.sign(values) * jnp.log1p(jnp.abs(values))
    spread = jnp.std(values)
    return jnp.where(spread > 1e-6, (values - jnp.mean(values)) / (spread + 1e-6), 0.0)
