"""Primitive operators of programs.

Every operator is defined for all finite values and returns finite ones: magnitudes of divisors have a lower bound, and
results are clipped by the interpreter to `VALUE_LIMIT`. Values of a program are arrays of one shape; operators act
elementwise, and those of vectors along the last axis, over which a value of the type `SCALAR` is constant.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from waymax_sim.pytree import Array

# Types of values. A scalar is constant over the last axis, a vector is not.
SCALAR = "scalar"
VECTOR = "vector"
# Largest magnitude of a value of a program.
VALUE_LIMIT = 1e4
# Smallest magnitude of a divisor.
MIN_DIVISOR = 1e-3
# Smallest argument of a root or a logarithm, which keeps gradients finite.
MIN_POSITIVE = 1e-6
# Largest exponent: its exponential is below `VALUE_LIMIT`.
MAX_EXPONENT = 9.0


@dataclasses.dataclass(frozen=True)
class Operator:
    """A primitive function.

    Attributes:
      name: Name.
      arguments: Types of its one or two arguments.
      result: Type of its result.
      apply: The function of two values; operators of one argument ignore the second.
      python: Python expression with {0} and {1} for the arguments; its functions are those of `NumPy` as np.
      formula: Readable form of the expression.
      latex: LaTeX form of the expression.
      is_commutative: Whether the order of the arguments does not matter.
    """

    name: str
    arguments: tuple[str, ...]
    result: str
    apply: Callable[[Array, Array], Array]
    python: str
    formula: str
    latex: str
    is_commutative: bool = False

    @property
    def arity(self) -> int:
        """Number of arguments."""
        return len(self.arguments)


def safe_divide(numerator: Array, divisor: Array) -> Array:
    """Quotient; divisors below `MIN_DIVISOR` in magnitude are replaced by it."""
    return numerator / jnp.where(jnp.abs(divisor) < MIN_DIVISOR, MIN_DIVISOR, divisor)


def _binary(name: str, apply: Callable, python: str, formula: str, latex: str, commutes: bool = False) -> Operator:
    return Operator(name, (SCALAR, SCALAR), SCALAR, apply, python, formula, latex, commutes)


def _unary(name: str, apply: Callable, python: str, formula: str, latex: str) -> Operator:
    return Operator(name, (SCALAR,), SCALAR, lambda first, _: apply(first), python, formula, latex)


_DIVISION = f"({{0}} / np.where(np.abs({{1}}) < {MIN_DIVISOR}, {MIN_DIVISOR}, {{1}}))"
_ROOT = f"np.sqrt(np.maximum(np.abs({{0}}), {MIN_POSITIVE}))"
_LOGARITHM = f"np.log(np.maximum(np.abs({{0}}), {MIN_POSITIVE}))"

ADD = _binary("add", jnp.add, "({0} + {1})", "({0} + {1})", r"({0} + {1})", True)
SUBTRACT = _binary("subtract", jnp.subtract, "({0} - {1})", "({0} - {1})", r"({0} - {1})")
MULTIPLY = _binary("multiply", jnp.multiply, "({0} * {1})", "({0} * {1})", r"{0} \cdot {1}", True)
DIVIDE = _binary("divide", safe_divide, _DIVISION, "({0} / {1})", r"\frac{{{0}}}{{{1}}}")
MAXIMUM = _binary("maximum", jnp.maximum, "np.maximum({0}, {1})", "max({0}, {1})", r"\max({0}, {1})", True)
MINIMUM = _binary("minimum", jnp.minimum, "np.minimum({0}, {1})", "min({0}, {1})", r"\min({0}, {1})", True)
NEGATE = _unary("negate", jnp.negative, "(-{0})", "-{0}", r"-{0}")
SQUARE = _unary("square", jnp.square, "np.square({0})", "({0})^2", r"\left({0}\right)^2")
ROOT = _unary(
    "root", lambda x: jnp.sqrt(jnp.maximum(jnp.abs(x), MIN_POSITIVE)), _ROOT, "sqrt|{0}|", r"\sqrt{{\left|{0}\right|}}"
)
ABSOLUTE = _unary("absolute", jnp.abs, "np.abs({0})", "|{0}|", r"\left|{0}\right|")
EXPONENTIAL = _unary(
    "exponential",
    lambda x: jnp.exp(jnp.minimum(x, MAX_EXPONENT)),
    f"np.exp(np.minimum({{0}}, {MAX_EXPONENT}))",
    "exp({0})",
    r"e^{{{0}}}",
)
LOGARITHM = _unary(
    "logarithm",
    lambda x: jnp.log(jnp.maximum(jnp.abs(x), MIN_POSITIVE)),
    _LOGARITHM,
    "log|{0}|",
    r"\log\left|{0}\right|",
)
SIGN = _unary("sign", jnp.sign, "np.sign({0})", "sign({0})", r"\mathrm{{sign}}({0})")
TANH = _unary("tanh", jnp.tanh, "np.tanh({0})", "tanh({0})", r"\tanh({0})")
TENTH = _unary("tenth", lambda x: 0.1 * x, "(0.1 * {0})", "0.1 {0}", r"0.1\, {0}")
HALF_SQUARED_DIFFERENCE = _binary(
    "half_squared_difference",
    lambda first, second: 0.5 * jnp.square(first - second),
    "(0.5 * np.square({0} - {1}))",
    "half_square({0} - {1})",
    r"\tfrac{{1}}{{2}}\left({0} - {1}\right)^2",
    True,
)


def _along_actions(name: str, reduce: Callable[[Array], Array], python: str, formula: str, latex: str) -> Operator:
    """A scalar from a vector over actions."""
    return Operator(
        name,
        (VECTOR,),
        SCALAR,
        lambda first, _: jnp.broadcast_to(reduce(first), first.shape),
        f"np.broadcast_to({python}, np.shape({{0}}))",
        formula,
        latex,
    )


def entropy(values: Array) -> Array:
    """Entropy (nats) of the softmax of a vector, [*, 1]."""
    logs = jax.nn.log_softmax(values)
    return -jnp.sum(jnp.exp(logs) * logs, axis=-1, keepdims=True)


_EXPONENTIALS = "np.exp({0} - np.max({0}, axis=-1, keepdims=True))"
_LOG_SUM = "(np.max({0}, axis=-1, keepdims=True) + np.log(np.sum(" + _EXPONENTIALS + ", axis=-1, keepdims=True)))"
_SOFTMAX = "np.exp({0} - " + _LOG_SUM + ")"

LARGEST = _along_actions(
    "largest",
    lambda values: jnp.max(values, axis=-1, keepdims=True),
    "np.max({0}, axis=-1, keepdims=True)",
    "max_a {0}",
    r"\max_a {0}",
)
MEAN = _along_actions(
    "mean",
    lambda values: jnp.mean(values, axis=-1, keepdims=True),
    "np.mean({0}, axis=-1, keepdims=True)",
    "mean_a {0}",
    r"\mathrm{{mean}}_a\, {0}",
)
LOG_SUM_EXP = _along_actions(
    "log_sum_exp",
    lambda values: jax.nn.logsumexp(values, axis=-1, keepdims=True),
    _LOG_SUM,
    "logsumexp_a {0}",
    r"\log\textstyle\sum_a e^{{{0}}}",
)
ENTROPY = _along_actions(
    "entropy",
    entropy,
    "-np.sum(" + _SOFTMAX + " * ({0} - " + _LOG_SUM + "), axis=-1, keepdims=True)",
    "entropy(softmax {0})",
    r"H(\mathrm{{softmax}}\, {0})",
)
SOFTMAX = Operator(
    "softmax",
    (VECTOR,),
    VECTOR,
    lambda first, _: jax.nn.softmax(first),
    _SOFTMAX,
    "softmax({0})",
    r"\mathrm{{softmax}}({0})",
)
DOT = Operator(
    "dot",
    (VECTOR, VECTOR),
    SCALAR,
    lambda first, second: jnp.broadcast_to(jnp.sum(first * second, axis=-1, keepdims=True), first.shape),
    "np.broadcast_to(np.sum({0} * {1}, axis=-1, keepdims=True), np.shape({0}))",
    "sum_a {0} {1}",
    r"\langle {0}, {1} \rangle",
    True,
)

ARITHMETIC = (ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, ROOT, SQUARE, NEGATE)
