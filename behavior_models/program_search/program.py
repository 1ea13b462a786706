"""Programs: directed acyclic graphs of operators in a fixed number of nodes, and their interpreter.

A program is three small arrays, so a population is a batch of them, and one compiled interpreter evaluates all programs
of a space. Values are numbered: first the inputs, then the constants, then the nodes; the arguments of a node have
smaller numbers than the node. The last nodes are the outputs. Nodes that no output depends on have no effect.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.program_search.operators import SCALAR, VALUE_LIMIT, Operator
from waymax_sim.pytree import Array, pytree


@pytree
class Program:
    """A program of L nodes with C constants; leading axes are those of a batch.

    Attributes:
      operators: Index of the operator of each node.
      arguments: Numbers of the values that are its arguments; the second is 0 for operators of one argument.
      constants: Values of the constants.
    """

    operators: Int[Array, "*lead L"]
    arguments: Int[Array, "*lead L 2"]
    constants: Float[Array, "*lead C"]


@dataclasses.dataclass(frozen=True)
class ProgramSpace:
    """All programs over given inputs and operators. Hashable: equal spaces share compiled interpreters.

    Attributes:
      inputs: Names of the inputs.
      operators: The operators.
      num_nodes: Nodes L of each program.
      constants: Initial values of the constants.
      num_outputs: Number of outputs, the last nodes.
      input_types: Types of the inputs; scalars by default.
      output_type: Type of the outputs.

    Raises:
      ValueError: No operator has the type of the outputs, or there are fewer nodes than outputs.
    """

    inputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    num_nodes: int
    constants: tuple[float, ...] = ()
    num_outputs: int = 1
    input_types: tuple[str, ...] = ()
    output_type: str = SCALAR

    def __post_init__(self):
        if not self.input_types:
            object.__setattr__(self, "input_types", (SCALAR,) * len(self.inputs))
        if len(self.input_types) != len(self.inputs):
            raise ValueError(f"{len(self.inputs)} inputs have {len(self.input_types)} types")
        if not 1 <= self.num_outputs <= self.num_nodes:
            raise ValueError(f"{self.num_nodes} nodes cannot hold {self.num_outputs} outputs")
        leaves = {*self.input_types, *([SCALAR] if self.constants else [])}
        if not any(item.result == self.output_type and leaves >= set(item.arguments) for item in self.operators):
            raise ValueError(f"no operator makes a {self.output_type} from inputs of the types {sorted(leaves)}")

    @property
    def num_leaves(self) -> int:
        """Number of inputs and constants."""
        return len(self.inputs) + len(self.constants)

    @property
    def num_values(self) -> int:
        """Number of inputs, constants and nodes."""
        return self.num_leaves + self.num_nodes

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        """All types."""
        used = {*self.input_types, SCALAR, *(item.result for item in self.operators)}
        return tuple(sorted(used | {name for item in self.operators for name in item.arguments}))

    @functools.cached_property
    def leaf_types(self) -> np.ndarray:
        """Indices of the types of inputs and constants."""
        return np.array([self.types.index(name) for name in (*self.input_types, *(SCALAR,) * len(self.constants))])

    @functools.cached_property
    def result_types(self) -> np.ndarray:
        """Index of the type of the result of each operator."""
        return np.array([self.types.index(item.result) for item in self.operators])

    @functools.cached_property
    def argument_types(self) -> np.ndarray:
        """Indices of the types of the two arguments of each operator, -1 where it has none."""
        rows = [[*map(self.types.index, item.arguments), -1][:2] for item in self.operators]
        return np.array(rows)

    def node(self, operator: str, *arguments: int) -> tuple[int, int, int]:
        """A node for `build`.

        Args:
          operator: Name of the operator.
          arguments: Numbers of its arguments.
        """
        index = [item.name for item in self.operators].index(operator)
        return index, arguments[0], arguments[1] if len(arguments) > 1 else 0

    def build(self, nodes: list[tuple[int, int, int]]) -> Program:
        """The program of given nodes, at the end of the row; the nodes before them have no effect.

        Args:
          nodes: Operator and arguments of each node, by `node`. Numbers of nodes count from the first given one.

        Raises:
          ValueError: The program is invalid.
        """
        missing = self.num_nodes - len(nodes)
        if missing < 0:
            raise ValueError(f"{len(nodes)} nodes exceed the {self.num_nodes} of the space")
        filler = self._filler()
        shifted = [
            (operator, *(item + missing if item >= self.num_leaves else item for item in (first, second)))
            for operator, first, second in nodes
        ]
        rows = np.array([filler] * missing + shifted, np.int32)
        program = Program(rows[:, 0], rows[:, 1:], np.array(self.constants, np.float32))
        problem = self.problem(program)
        if problem:
            raise ValueError(problem)
        return program

    def problem(self, program: Program) -> str | None:
        """Why a program is invalid; None for a valid one.

        Args:
          program: One program on the host.
        """
        operators, arguments = np.asarray(program.operators), np.asarray(program.arguments)
        if operators.shape != (self.num_nodes,) or arguments.shape != (self.num_nodes, 2):
            return f"a program of {operators.shape} nodes is not one of {self.num_nodes} nodes"
        if not np.isfinite(program.constants).all() or np.shape(program.constants) != (len(self.constants),):
            return f"constants {program.constants} are not {len(self.constants)} finite numbers"
        types = list(self.leaf_types)
        for index, (operator, pair) in enumerate(zip(operators, arguments, strict=True)):
            if not 0 <= operator < len(self.operators):
                return f"node {index} has the operator {operator} of {len(self.operators)}"
            for number, needed in zip(pair, self.argument_types[operator], strict=True):
                if not 0 <= number < self.num_leaves + index:
                    return f"node {index} has the argument {number}, which is no earlier value"
                if needed >= 0 and types[number] != needed:
                    return f"node {index} needs a {self.types[needed]}, and the value {number} is none"
            types.append(self.result_types[operator])
        wrong = [item for item in types[-self.num_outputs :] if self.types[item] != self.output_type]
        return f"an output is no {self.output_type}" if wrong else None

    def _filler(self) -> tuple[int, int, int]:
        """A valid node of leaves alone."""
        leaves = list(self.leaf_types)
        for index, needed in enumerate(self.argument_types):
            if all(item < 0 or item in leaves for item in needed):
                first, second = (leaves.index(item) if item >= 0 else 0 for item in needed)
                return index, first, second
        raise AssertionError("no operator applies to leaves, which the constructor excludes")


def interpret(space: ProgramSpace, program: Program, inputs: Float[Array, "I *shape"]) -> Float[Array, "O *shape"]:
    """Outputs of a program. Pure and differentiable; batched by `vmap` over programs.

    Args:
      space: The space of the program.
      program: One program.
      inputs: Values of the inputs, all of one shape.
    """
    shape = inputs.shape[1:]
    constants = jnp.broadcast_to(program.constants.reshape(-1, *(1 for _ in shape)), (len(space.constants), *shape))
    empty = jnp.zeros((space.num_nodes, *shape), inputs.dtype)
    values = jnp.concatenate([inputs, constants.astype(inputs.dtype), empty])
    branches = [item.apply for item in space.operators]

    def evaluate(values: Array, node: tuple[Array, Array, Array]) -> tuple[Array, None]:
        index, operator, pair = node
        result = jax.lax.switch(operator, branches, values[pair[0]], values[pair[1]])
        return values.at[index].set(jnp.clip(result, -VALUE_LIMIT, VALUE_LIMIT)), None

    indices = space.num_leaves + jnp.arange(space.num_nodes)
    values, _ = jax.lax.scan(evaluate, values, (indices, program.operators, program.arguments))
    return values[-space.num_outputs :]


def live_nodes(space: ProgramSpace, program: Program) -> Bool[Array, " L"]:
    """Mask of the nodes that an output depends on.

    Args:
      space: The space of the program.
      program: One program.
    """
    has_second = jnp.asarray(space.argument_types[:, 1] >= 0)[program.operators]
    live = jnp.arange(space.num_values) >= space.num_values - space.num_outputs

    def mark(live: Array, node: tuple[Array, Array, Array]) -> tuple[Array, None]:
        index, pair, has_second = node
        is_live = live[index]
        return live.at[pair[0]].max(is_live).at[pair[1]].max(is_live & has_second), None

    indices = space.num_leaves + jnp.arange(space.num_nodes)
    live, _ = jax.lax.scan(mark, live, (indices, program.arguments, has_second), reverse=True)
    return live[space.num_leaves :]
