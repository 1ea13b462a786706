"""Programs as text: formulas, Python, LaTeX and plain values."""

import json
import re
from typing import Any

import numpy as np

from behavior_models.program_search.operators import VALUE_LIMIT
from behavior_models.program_search.program import Program, ProgramSpace

FORMAT_VERSION = 1
# Significant digits of constants in formulas; plain values keep all digits.
NUM_DIGITS = 4
# An argument that its operator already encloses, in parentheses, bars or braces, or as an argument of a function.
ENCLOSED = r"((?<=[(|{{])|(?<=, ))\{{{0}\}}(?=[)|}},\\])"


def to_formula(space: ProgramSpace, program: Program) -> str:
    """Readable formulas of the outputs, separated by semicolons.

    Args:
      space: The space of the program.
      program: One program on the host.
    """
    return "; ".join(map(_strip, _expressions(space, program, "formula")))


def to_latex(space: ProgramSpace, program: Program) -> str:
    """LaTeX formulas of the outputs, separated by semicolons.

    Args:
      space: The space of the program.
      program: One program on the host.
    """
    return r";\quad ".join(_expressions(space, program, "latex"))


def to_python(space: ProgramSpace, program: Program, name: str = "program") -> str:
    """Source of a Python function of NumPy arrays equal to the interpreter, one line per node.

    Args:
      space: The space of the program.
      program: One program on the host.
      name: Name of the function.
    """
    names = _leaf_names(space, program, digits=9)
    lines = ["import numpy as np", "", "", f"def {name}({', '.join(space.inputs)}):"]
    for index in _needed(space, program):
        operator = space.operators[int(program.operators[index])]
        arguments = [names[int(item)] for item in program.arguments[index]]
        names[space.num_leaves + index] = f"x{index}"
        expression = operator.python.format(*arguments)
        lines.append(f"    x{index} = np.clip({expression}, -{VALUE_LIMIT}, {VALUE_LIMIT})")
    outputs = [names[space.num_values - space.num_outputs + index] for index in range(space.num_outputs)]
    return "\n".join([*lines, f"    return {', '.join(outputs)}", ""])


def num_live_nodes(space: ProgramSpace, program: Program) -> int:
    """Number of nodes that the outputs depend on, the length of the program.

    Args:
      space: The space of the program.
      program: One program on the host.
    """
    return len(_needed(space, program))


def to_json(space: ProgramSpace, program: Program) -> str:
    """A program as JSON, with the names of its inputs and operators.

    Args:
      space: The space of the program.
      program: One program on the host.
    """
    nodes = []
    for operator, pair in zip(np.asarray(program.operators), np.asarray(program.arguments), strict=True):
        item = space.operators[int(operator)]
        nodes.append([item.name, *map(int, pair[: item.arity])])
    content = {
        "version": FORMAT_VERSION,
        "inputs": list(space.inputs),
        "constants": [float(value) for value in program.constants],
        "nodes": nodes,
        "formula": to_formula(space, program),
    }
    return json.dumps(content, indent=1) + "\n"


def from_json(space: ProgramSpace, text: str) -> Program:
    """Reads a program of `to_json`.

    Args:
      space: The space of the program.
      text: JSON.

    Raises:
      ValueError: The text is no program of the space.
    """
    content: dict[str, Any] = json.loads(text)
    if content.get("version") != FORMAT_VERSION:
        raise ValueError(f"the program has version {content.get('version')!r}; this package reads {FORMAT_VERSION}")
    if tuple(content["inputs"]) != space.inputs:
        raise ValueError(f"the program has the inputs {content['inputs']} instead of {list(space.inputs)}")
    names = [item.name for item in space.operators]
    unknown = sorted({row[0] for row in content["nodes"]} - set(names))
    if unknown:
        raise ValueError(f"the program has unknown operators {', '.join(map(str, unknown))}")
    rows = [[names.index(row[0]), row[1], row[2] if len(row) > 2 else 0] for row in content["nodes"]]
    array = np.array(rows, np.int32).reshape(-1, 3)
    program = Program(array[:, 0], array[:, 1:], np.array(content["constants"], np.float32))
    problem = space.problem(program)
    if problem:
        raise ValueError(problem)
    return program


def _needed(space: ProgramSpace, program: Program) -> list[int]:
    """Nodes that an output depends on, in order."""
    needed = set(range(space.num_nodes - space.num_outputs, space.num_nodes))
    for index in range(space.num_nodes - 1, -1, -1):
        if index in needed:
            arity = space.operators[int(program.operators[index])].arity
            arguments = (int(item) for item in program.arguments[index][:arity])
            needed |= {item - space.num_leaves for item in arguments if item >= space.num_leaves}
    return sorted(needed)


def _leaf_names(space: ProgramSpace, program: Program, digits: int) -> dict[int, str]:
    names = [*space.inputs, *(f"{float(value):.{digits}g}" for value in program.constants)]
    return {index: f"({name})" if name.startswith("-") else name for index, name in enumerate(names)}


def _expressions(space: ProgramSpace, program: Program, form: str) -> list[str]:
    texts = _leaf_names(space, program, NUM_DIGITS)
    for index in _needed(space, program):
        template = getattr(space.operators[int(program.operators[index])], form)
        arguments = [texts[int(item)] for item in program.arguments[index]]
        arguments = [
            _strip(text) if re.search(ENCLOSED.format(position), template) else text
            for position, text in enumerate(arguments)
        ]
        texts[space.num_leaves + index] = template.format(*arguments)
    return [texts[space.num_values - space.num_outputs + index] for index in range(space.num_outputs)]


def _strip(text: str) -> str:
    """The text without parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and index < len(text) - 1:
            return text
    return text[1:-1]
