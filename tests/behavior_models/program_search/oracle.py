"""Evaluation of programs by recursion over their nodes, in float64 NumPy."""

import numpy as np

from behavior_models.program_search.operators import MAX_EXPONENT, MIN_DIVISOR, MIN_POSITIVE, VALUE_LIMIT

FUNCTIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / np.where(np.abs(b) < MIN_DIVISOR, MIN_DIVISOR, b),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "negate": lambda a, b: -a,
    "square": lambda a, b: a**2,
    "root": lambda a, b: np.sqrt(np.maximum(np.abs(a), MIN_POSITIVE)),
    "absolute": lambda a, b: np.abs(a),
    "exponential": lambda a, b: np.exp(np.minimum(a, MAX_EXPONENT)),
    "logarithm": lambda a, b: np.log(np.maximum(np.abs(a), MIN_POSITIVE)),
    "sign": lambda a, b: np.sign(a),
    "tanh": lambda a, b: np.tanh(a),
    "tenth": lambda a, b: a / 10,
    "half_squared_difference": lambda a, b: (a - b) ** 2 / 2,
    "largest": lambda a, b: np.full_like(a, 0) + a.max(-1, keepdims=True),
    "mean": lambda a, b: np.full_like(a, 0) + a.mean(-1, keepdims=True),
    "log_sum_exp": lambda a, b: np.full_like(a, 0) + np.log(np.exp(a - a.max()).sum(-1, keepdims=True)) + a.max(),
    "softmax": lambda a, b: np.exp(a - a.max()) / np.exp(a - a.max()).sum(-1, keepdims=True),
    "dot": lambda a, b: np.full_like(a, 0) + (a * b).sum(-1, keepdims=True),
}


def evaluate(space, program, inputs):
    """Outputs of a program.

    Args:
      space: The space of the program.
      program: The program.
      inputs: Values of the inputs.
    """
    values = [np.asarray(row, np.float64) for row in inputs]
    values += [np.full_like(values[0], float(value)) for value in program.constants]

    def value(number):
        if number < len(values):
            return values[number]
        operator = space.operators[int(program.operators[number - len(values)])]
        first, second = program.arguments[number - len(values)]
        result = FUNCTIONS[operator.name](value(first), value(second) if operator.arity == 2 else None)
        return np.clip(result, -VALUE_LIMIT, VALUE_LIMIT)

    return np.stack([value(space.num_values - space.num_outputs + index) for index in range(space.num_outputs)])
