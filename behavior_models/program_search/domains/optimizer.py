"""Update rules of gradient descent as programs, scored on small problems.

The inputs of a program are the gradient and two moments; its outputs are the direction of the update and the new
moments. The parameters change by the negative direction times a learning rate, which is chosen from a fixed set for
each problem, as for the known rules. The fitness is the mean over problems of the decimal logarithm of the factor by
which the excess loss decreases. Source of the representation: symbolic discovery of optimizers (Chen et al. 2023).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Key

from behavior_models.program_search import operators as ops
from behavior_models.program_search.domain import Domain
from behavior_models.program_search.domains.perceptron import apply_perceptron, init_perceptron
from behavior_models.program_search.mutation import MutationParams
from behavior_models.program_search.operators import SCALAR, Operator
from behavior_models.program_search.program import Program, ProgramSpace, interpret
from waymax_sim.pytree import Array, pytree

INTERPOLATE_TENTH, INTERPOLATE_HUNDREDTH = (
    Operator(
        f"interpolate_{share}",
        (SCALAR, SCALAR),
        SCALAR,
        lambda first, second, share=share: (1.0 - share) * first + share * second,
        f"({1.0 - share:g} * {{0}} + {share} * {{1}})",
        f"({1.0 - share:g} {{0}} + {share} {{1}})",
        rf"({1.0 - share:g}\, {{0}} + {share}\, {{1}})",
    )
    for share in (0.1, 0.01)
)
# Gradient, first and second moment.
RULE_INPUTS = ("g", "m", "v")
RULE_SPACE = ProgramSpace(
    RULE_INPUTS,
    (
        ops.ADD,
        ops.SUBTRACT,
        ops.MULTIPLY,
        ops.DIVIDE,
        ops.MAXIMUM,
        ops.MINIMUM,
        ops.ABSOLUTE,
        ops.SQUARE,
        ops.ROOT,
        ops.SIGN,
        ops.TANH,
        ops.NEGATE,
        INTERPOLATE_TENTH,
        INTERPOLATE_HUNDREDTH,
    ),
    num_nodes=12,
    constants=(0.9, 0.1, 1.0),
    num_outputs=3,
)
NUM_RULE_PROBES = 26
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
NUM_PROBLEMS = 3
# Smallest share of the initial excess loss that counts, and range of the decimal logarithms of the decrease.
MIN_SHARE = 1e-6
SCORE_RANGE = (-1.0, 6.0)


@dataclasses.dataclass(frozen=True)
class ProblemParams:
    """A quadratic function, a logistic regression and a regression with a small network, all with noise.

    Attributes:
      num_steps: Steps of the optimizer.
      num_dimensions: Dimensions of the quadratic function.
      condition: Ratio of its largest and smallest curvature.
      gradient_noise: Standard deviation of the noise of its gradient.
      num_features: Features of the logistic regression.
      num_samples: Samples of the regressions.
      correlation: Correlation of the features.
      batch_size: Samples per gradient.
      hidden: Units of the network.
      frequency: Frequency of the sine that the network learns.
    """

    num_steps: int = 80
    num_dimensions: int = 16
    condition: float = 300.0
    gradient_noise: float = 0.05
    num_features: int = 8
    num_samples: int = 128
    correlation: float = 0.7
    batch_size: int = 16
    hidden: int = 12
    frequency: float = 2.0


SEARCH_PROBLEMS = ProblemParams()
HELD_OUT_PROBLEMS = (
    ProblemParams(condition=30.0, gradient_noise=0.1, correlation=0.3, frequency=1.2),
    ProblemParams(condition=3000.0, gradient_noise=0.02, correlation=0.9, frequency=3.0),
    ProblemParams(num_steps=240),
)


@pytree
class Problem:
    """A draw of the three problems.

    Attributes:
      curvature: Curvatures of the quadratic function.
      features: Features of the logistic regression.
      labels: Labels, 0 or 1.
      min_loss: Loss of its best parameters.
      inputs: Inputs of the network.
      targets: Their targets.
      start: Initial parameters of all problems, one after another.
    """

    curvature: Float[Array, " D"]
    features: Float[Array, "S F"]
    labels: Float[Array, " S"]
    min_loss: Float[Array, ""]
    inputs: Float[Array, "S 2"]
    targets: Float[Array, " S"]
    start: Float[Array, " W"]


def program_rule(program: Program) -> optax.GradientTransformation:
    """The rule of a program, which makes directions of gradients.

    Args:
      program: A program of `RULE_SPACE`.
    """

    def init(params: Array) -> tuple[Array, Array]:
        return jnp.zeros_like(params), jnp.zeros_like(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        direction, *moments = interpret(RULE_SPACE, program, jnp.stack([updates, *state]))
        return direction, tuple(moments)

    return optax.GradientTransformation(init, update)


def known_rules() -> dict[str, optax.GradientTransformation]:
    """Rules to compare with: gradient descent with momentum, Adam and Lion."""
    return {"momentum": optax.trace(0.9), "adam": optax.scale_by_adam(), "lion": optax.scale_by_lion()}


def lion_program() -> Program:
    """Lion: the sign of an interpolation of the moment and the gradient (Chen et al. 2023); the second moment is 0."""
    node, first = RULE_SPACE.node, RULE_SPACE.num_leaves
    gradient, moment, second = range(3)
    nodes = [node("interpolate_0.1", moment, gradient)]
    nodes += [node("sign", first), node("interpolate_0.01", moment, gradient), node("multiply", second, second)]
    return RULE_SPACE.build(nodes)


def momentum_program() -> Program:
    """Gradient descent with momentum 0.9; the second moment is 0."""
    node, first = RULE_SPACE.node, RULE_SPACE.num_leaves
    gradient, moment, second = range(3)
    decay = len(RULE_INPUTS)
    nodes = [node("multiply", moment, decay), node("add", first, gradient), node("add", first, gradient)]
    return RULE_SPACE.build([*nodes, node("multiply", second, second)])


def draw_problem(key: Key[Array, ""], params: ProblemParams = SEARCH_PROBLEMS) -> Problem:
    """A random draw of the problems.

    Args:
      key: Random key.
      params: Problems.
    """
    keys = jax.random.split(key, 7)
    curvature = jnp.logspace(0.0, -jnp.log10(params.condition), params.num_dimensions)
    shape = params.num_samples, params.num_features
    shared = jax.random.normal(keys[0], (params.num_samples, 1))
    features = jax.random.normal(keys[1], shape) * jnp.sqrt(1 - params.correlation)
    features = features + jnp.sqrt(params.correlation) * shared
    logits = features @ jax.random.normal(keys[2], (params.num_features,))
    labels = jax.random.bernoulli(keys[3], jax.nn.sigmoid(logits)).astype(jnp.float32)
    inputs = jax.random.uniform(keys[4], (params.num_samples, 2), minval=-1.0)
    targets = jnp.sin(params.frequency * (inputs[:, 0] + 0.5 * inputs[:, 1]))
    network = ravel_pytree(init_perceptron(keys[5], _network_sizes(params)))[0]
    quadratic = jax.random.normal(keys[6], (params.num_dimensions,))
    start = jnp.concatenate([quadratic, jnp.zeros(params.num_features), network])
    return Problem(curvature, features, labels, _min_logistic_loss(features, labels), inputs, targets, start)


def _network_sizes(params: ProblemParams) -> tuple[int, ...]:
    return 2, params.hidden, 1


def _logistic_loss(weights: Array, features: Array, labels: Array) -> Array:
    # A small quadratic term makes the minimum finite.
    penalty = 1e-3 * jnp.sum(jnp.square(weights))
    return jnp.mean(optax.sigmoid_binary_cross_entropy(features @ weights, labels)) + penalty


def _min_logistic_loss(features: Array, labels: Array) -> Array:
    """The minimum by Newton's method."""

    def step(_: Array, weights: Array) -> Array:
        gradient = jax.grad(_logistic_loss)(weights, features, labels)
        return weights - jnp.linalg.solve(jax.hessian(_logistic_loss)(weights, features, labels), gradient)

    weights = jax.lax.fori_loop(0, 12, step, jnp.zeros(features.shape[1]))
    return _logistic_loss(weights, features, labels)


def losses(weights: Float[Array, " W"], problem: Problem, rows: Array, params: ProblemParams) -> Float[Array, "3"]:
    """Excess losses of the problems on samples.

    Args:
      weights: Parameters of all problems.
      problem: The problems.
      rows: Indices of the samples.
      params: Problems.
    """
    bounds = np.cumsum([params.num_dimensions, params.num_features])
    quadratic, logistic, network = jnp.split(weights, bounds)
    unravel = ravel_pytree(init_perceptron(jax.random.key(0), _network_sizes(params)))[1]
    outputs = apply_perceptron(unravel(network), problem.inputs[rows])[:, 0]
    return jnp.stack(
        [
            0.5 * jnp.sum(problem.curvature * jnp.square(quadratic)),
            _logistic_loss(logistic, problem.features[rows], problem.labels[rows]) - problem.min_loss,
            jnp.mean(jnp.square(outputs - problem.targets[rows])),
        ]
    )


def minimize(
    rule: optax.GradientTransformation,
    problem: Problem,
    rate: Float[Array, ""],
    key: Key[Array, ""],
    params: ProblemParams = SEARCH_PROBLEMS,
) -> Float[Array, "3"]:
    """Decimal logarithms of the factors by which excess losses decrease, one per problem; the larger the better.

    Args:
      rule: Directions of gradients.
      problem: The problems.
      rate: Learning rate.
      key: Random key of batches and noise.
      params: Problems.
    """

    def step(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, None]:
        weights, state = carry
        batch_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(batch_key, (params.batch_size,), 0, params.num_samples)
        gradient = jax.grad(lambda weights: jnp.sum(losses(weights, problem, rows, params)))(weights)
        noise = params.gradient_noise * jax.random.normal(noise_key, (params.num_dimensions,))
        gradient = gradient.at[: params.num_dimensions].add(noise)
        direction, state = rule.update(gradient, state)
        return (weights - rate * direction, state), None

    carry = problem.start, rule.init(problem.start)
    weights = jax.lax.scan(step, carry, jax.random.split(key, params.num_steps))[0][0]
    rows = jnp.arange(params.num_samples)
    share = losses(weights, problem, rows, params) / losses(problem.start, problem, rows, params)
    score = jnp.clip(-jnp.log10(jnp.maximum(share, MIN_SHARE)), *SCORE_RANGE)
    return jnp.where(jnp.isfinite(share), score, SCORE_RANGE[0])


def rule_scores(
    rule: optax.GradientTransformation,
    keys: Key[Array, " S"],
    params: ProblemParams = SEARCH_PROBLEMS,
    rates: tuple[float, ...] = LEARNING_RATES,
) -> Float[Array, "R S 3"]:
    """`minimize` for all learning rates and random keys.

    Args:
      rule: Directions of gradients.
      keys: Random keys of problems and noise.
      params: Problems.
      rates: Learning rates.
    """

    def run(rate: Array, key: Array) -> Array:
        problem_key, noise_key = jax.random.split(key)
        return minimize(rule, draw_problem(problem_key, params), rate, noise_key, params)

    over_keys = jax.vmap(run, in_axes=(None, 0))
    return jax.vmap(over_keys, in_axes=(0, None))(jnp.asarray(rates), keys)


def best_rates(scores: Float[Array, "R S 3"]) -> Array:
    """Index of the learning rate with the largest mean score of each problem [3]."""
    return jnp.argmax(jnp.mean(scores, axis=1), axis=0)


def optimizer_domain(seed: int = 0, num_draws: int = 4, params: ProblemParams = SEARCH_PROBLEMS) -> Domain:
    """The domain of update rules, which begins with gradient descent with momentum.

    Args:
      seed: Seed of problems and noise, equal for all rules.
      num_draws: Draws of the problems.
      params: Problems.
    """
    keys = jax.random.split(jax.random.key(seed), num_draws)

    def fitness(program: Program) -> Float[Array, ""]:
        scores = rule_scores(program_rule(program), keys, params)
        return jnp.mean(jnp.max(jnp.mean(scores, axis=1), axis=0))

    rng = np.random.default_rng(seed)
    gradient, moment = rng.normal(size=(2, NUM_RULE_PROBES))
    probes = np.stack([gradient, moment, np.square(rng.normal(size=NUM_RULE_PROBES))])
    mutation = MutationParams(fresh=0.05, constant=0.1)
    first = (momentum_program(),)
    return Domain("optimizer", RULE_SPACE, fitness, probes, mutation, SCORE_RANGE[0], first=first)
