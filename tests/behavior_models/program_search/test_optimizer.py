"""Update rules as programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from behavior_models.program_search.domains.optimizer import (
    RULE_SPACE,
    SCORE_RANGE,
    ProblemParams,
    best_rates,
    draw_problem,
    lion_program,
    losses,
    minimize,
    momentum_program,
    optimizer_domain,
    program_rule,
)
from behavior_models.program_search.export import to_formula

pytestmark = pytest.mark.compile_heavy

SMALL = ProblemParams(num_steps=1, condition=1.0, gradient_noise=0.0, num_samples=32, batch_size=8, hidden=4)
QUADRATIC, LOGISTIC = 0, 1


@pytest.mark.parametrize(
    ("program", "reference"),
    [(lion_program, optax.lion(0.1, weight_decay=0.0)), (momentum_program, optax.sgd(0.1, momentum=0.9))],
    ids=["lion", "momentum"],
)
def test_programs_equal_known_rules(program, reference):
    gradients = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    rule = optax.chain(program_rule(program()), optax.scale(-0.1))
    params = jnp.zeros(5)
    states = rule.init(params), reference.init(params)
    for gradient in gradients:
        own, first = rule.update(jnp.asarray(gradient), states[0], params)
        expected, second = reference.update(jnp.asarray(gradient), states[1], params)
        states = first, second
        np.testing.assert_allclose(own, expected, atol=1e-6)


def test_formula_names_all_outputs():
    formula = to_formula(RULE_SPACE, lion_program())
    assert formula == "sign(0.9 m + 0.1 g); 0.99 m + 0.01 g; v * v"


def test_score_of_one_step_by_hand():
    """Half a step to the minimum of a sphere leaves a quarter of the loss."""
    key = jax.random.key(0)
    run = jax.jit(lambda rate: minimize(optax.identity(), draw_problem(key, SMALL), rate, key, SMALL))
    assert float(run(0.5)[QUADRATIC]) == pytest.approx(np.log10(4.0), abs=1e-4)
    assert float(run(1.0)[QUADRATIC]) == pytest.approx(SCORE_RANGE[1])
    # Divergence, up to overflow, has the worst score.
    assert run(1e3)[QUADRATIC] == SCORE_RANGE[0]
    assert run(1e30).tolist() == [SCORE_RANGE[0]] * 3


def test_excess_loss_is_zero_at_the_minimum():
    problem = draw_problem(jax.random.key(1), SMALL)
    rows = jnp.arange(SMALL.num_samples)
    value = jax.jit(lambda weights: losses(weights, problem, rows, SMALL)[LOGISTIC])
    step = jax.jit(lambda weights: weights - 2.0 * jax.grad(value)(weights))
    weights = problem.start
    assert float(value(weights)) > 0.1
    for _ in range(300):
        weights = step(weights)
    assert 0.0 <= float(value(weights)) + 1e-5 < 5e-3


def test_learning_rates_are_chosen_by_problem():
    scores = np.zeros((2, 3, 3), np.float32)
    scores[1, :, 0], scores[0, :, 1], scores[:, 0, 2] = 1.0, 1.0, 5.0
    assert best_rates(jnp.asarray(scores)).tolist() == [1, 0, 0]


def test_fitness_prefers_descent():
    domain = optimizer_domain(num_draws=1, params=dataclasses.replace(SMALL, num_steps=20))
    node = RULE_SPACE.node
    ascent = RULE_SPACE.build([node("negate", 0), node("square", 2), node("square", 2)])
    still = RULE_SPACE.build([node("subtract", 0, 0), node("square", 2), node("square", 2)])
    programs = [jax.tree.map(jnp.asarray, item) for item in (momentum_program(), still, ascent)]
    fitness = jax.jit(domain.evaluate)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *programs))
    assert fitness[0] > 0.5
    assert float(fitness[1]) == pytest.approx(0.0, abs=1e-6)
    assert fitness[2] < 0.0
