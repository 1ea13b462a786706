"""Random programs and mutations, which are valid by construction."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from behavior_models.program_search.program import Program, ProgramSpace, live_nodes
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class MutationParams:
    """Probabilities of mutations.

    Attributes:
      second_change: Probability of a second change of the same program.
      fresh: Probability of a random program instead of a mutation (AutoRL: 0.05).
      constant: Probability that a change is one of a constant, if the space has constants that may change.
      constant_scale: Standard deviation of the logarithm of the factor of a changed constant.
      negation: Probability that a changed constant changes its sign.
    """

    second_change: float = 0.3
    fresh: float = 0.0
    constant: float = 0.0
    constant_scale: float = 0.3
    negation: float = 0.05


def random_program(space: ProgramSpace, key: Key[Array, ""]) -> Program:
    """A program of random operators and arguments; constants have their initial values.

    Args:
      space: The space of the program.
      key: Random key.
    """
    nodes = jnp.zeros(space.num_nodes, jnp.int32)
    program = Program(nodes, jnp.zeros((space.num_nodes, 2), jnp.int32), jnp.asarray(space.constants, jnp.float32))
    all_nodes = jnp.ones(space.num_nodes, bool)
    return complete(space, program, all_nodes, jnp.ones((space.num_nodes, 2), bool), key)


def complete(
    space: ProgramSpace,
    program: Program,
    new_operator: Bool[Array, " L"],
    new_argument: Bool[Array, "L 2"],
    key: Key[Array, ""],
) -> Program:
    """The program with some parts drawn, and with all parts drawn that are invalid then.

    Args:
      space: The space of the program.
      program: A program; where parts are drawn its content is arbitrary.
      new_operator: Nodes whose operator is drawn.
      new_argument: Arguments that are drawn.
      key: Random key.
    """
    results, needed = jnp.asarray(space.result_types), jnp.asarray(space.argument_types)
    values = jnp.arange(space.num_values)
    output_type = space.types.index(space.output_type)
    types = jnp.zeros(space.num_values, jnp.int32).at[: space.num_leaves].set(jnp.asarray(space.leaf_types))

    def step(types: Array, node: tuple) -> tuple[Array, tuple[Array, Array]]:
        index, operator, pair, draw_operator, draw_pair, key = node
        keys = jax.random.split(key, 3)
        # [type, value]: earlier values by type.
        available = (types[None] == jnp.arange(len(space.types))[:, None]) & (values < index)[None]
        exists = jnp.any(available, axis=1)
        feasible = jnp.all((needed < 0) | exists[needed], axis=1)
        is_output = index >= space.num_values - space.num_outputs
        feasible = feasible & (~is_output | (results == output_type))
        drawn = _draw(feasible, keys[0])
        operator = jnp.where(draw_operator | ~feasible[operator], drawn, operator)
        choices = []
        for position in range(2):
            kind = needed[operator, position]
            mask = available[jnp.maximum(kind, 0)]
            is_unchanged = ~draw_pair[position] & mask[pair[position]]
            choice = jnp.where(is_unchanged, pair[position], _draw(mask, keys[1 + position]))
            choices.append(jnp.where(kind < 0, 0, choice))
        return types.at[index].set(results[operator]), (operator, jnp.stack(choices))

    indices = space.num_leaves + jnp.arange(space.num_nodes)
    keys = jax.random.split(key, space.num_nodes)
    nodes = indices, program.operators, program.arguments, new_operator, new_argument, keys
    _, (operators, arguments) = jax.lax.scan(step, types, nodes)
    return Program(operators.astype(jnp.int32), arguments.astype(jnp.int32), program.constants)


def mutate(space: ProgramSpace, program: Program, params: MutationParams, key: Key[Array, ""]) -> Program:
    """A program with one or two parts changed: the operator or an argument of a node with effect, or a constant.

    Args:
      space: The space of the program.
      program: One program.
      params: Probabilities.
      key: Random key.
    """
    keys = jax.random.split(key, 5)
    child = _change(space, program, params, keys[0])
    twice = _change(space, child, params, keys[1])
    child = _select(jax.random.uniform(keys[2]) < params.second_change, twice, child)
    if params.fresh:
        fresh = random_program(space, keys[3])
        child = _select(jax.random.uniform(keys[4]) < params.fresh, fresh, child)
    return child


def _change(space: ProgramSpace, program: Program, params: MutationParams, key: Key[Array, ""]) -> Program:
    keys = jax.random.split(key, 5)
    node = _draw(live_nodes(space, program), keys[0])
    part = jax.random.randint(keys[1], (), 0, 3)
    is_node = jnp.arange(space.num_nodes) == node
    parts = is_node[:, None] & (part == jnp.arange(3))[None]
    changed = complete(space, program, parts[:, 0], parts[:, 1:], keys[2])
    if not (params.constant and space.constants):
        return changed
    constants = _change_constant(program.constants, params, keys[3])
    own = Program(program.operators, program.arguments, constants)
    return _select(jax.random.uniform(keys[4]) < params.constant, own, changed)


def _change_constant(constants: Array, params: MutationParams, key: Key[Array, ""]) -> Array:
    keys = jax.random.split(key, 3)
    factor = jnp.exp(params.constant_scale * jax.random.normal(keys[0]))
    factor = factor * jnp.where(jax.random.uniform(keys[1]) < params.negation, -1.0, 1.0)
    index = jax.random.randint(keys[2], (), 0, len(constants))
    return constants.at[index].multiply(factor)


def _draw(mask: Bool[Array, " n"], key: Key[Array, ""]) -> Array:
    """Index of a uniformly drawn element of a mask."""
    return jnp.argmax(jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0)).astype(jnp.int32)


def _select(condition: Array, first: Program, second: Program) -> Program:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), first, second)
