"""Programs: interpreter, mutation and export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.program_search import operators as ops
from behavior_models.program_search.domain import hash_outputs
from behavior_models.program_search.domains.idm_law import SPACE, idm_acceleration, idm_law_domain, sample_states
from behavior_models.program_search.export import (
    from_json,
    num_live_nodes,
    to_formula,
    to_json,
    to_latex,
    to_python,
)
from behavior_models.program_search.mutation import MutationParams, mutate, random_program
from behavior_models.program_search.program import Program, ProgramSpace, interpret, live_nodes
from tests.behavior_models.program_search import oracle

VECTOR_SPACE = ProgramSpace(
    ("q", "r", "a"),
    (ops.ADD, ops.MULTIPLY, ops.LARGEST, ops.MEAN, ops.SOFTMAX, ops.DOT, ops.HALF_SQUARED_DIFFERENCE, ops.TANH),
    num_nodes=8,
    constants=(0.5,),
    num_outputs=2,
    input_types=(ops.VECTOR, ops.SCALAR, ops.VECTOR),
)
MUTATION = MutationParams(fresh=0.1, constant=0.3)


def _item(programs, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), programs)


@pytest.fixture(scope="module")
def programs():
    def batch(space, count):
        keys = jax.random.split(jax.random.key(1), (2, count))
        first = jax.jit(jax.vmap(lambda key: random_program(space, key)))(keys[0])
        return first, jax.jit(jax.vmap(lambda one, key: mutate(space, one, MUTATION, key)))(first, keys[1])

    return {space: batch(space, count) for space, count in ((SPACE, 10_000), (VECTOR_SPACE, 300))}


@pytest.mark.parametrize("space", [SPACE, VECTOR_SPACE], ids=["scalar", "vector"])
def test_random_and_mutated_programs_are_valid(programs, space):
    for batch in programs[space]:
        assert all(space.problem(_item(batch, index)) is None for index in range(300))


def test_mutations_change_programs_and_constants(programs):
    before, after = programs[VECTOR_SPACE]
    changed = [
        np.any(getattr(before, name) != getattr(after, name), axis=tuple(range(1, getattr(before, name).ndim)))
        for name in ("operators", "arguments", "constants")
    ]
    assert 0.5 < np.mean(np.any(changed, axis=0)) <= 1.0
    assert 0.1 < changed[2].mean() < 0.6


def test_interpreter_equals_numpy_on_many_programs(programs):
    """10,000 programs in one compiled call; differences of float32 may grow by squares and quotients."""
    states = sample_states(5, 16)
    batch = programs[SPACE][0]
    with jax.enable_x64():
        run = jax.jit(jax.vmap(lambda program: interpret(SPACE, program, jnp.asarray(states, jnp.float64))))
        outputs = np.asarray(run(batch))
    expected = np.stack([oracle.evaluate(SPACE, _item(batch, index), states) for index in range(10_000)])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    assert len({row.tobytes() for row in expected.round(4)}) > 3_500


def test_vector_operators_equal_numpy(programs):
    inputs = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    inputs[1] = inputs[1][:, :1]
    batch = programs[VECTOR_SPACE][1]
    run = jax.jit(jax.vmap(lambda program: interpret(VECTOR_SPACE, program, jnp.asarray(inputs))))
    outputs = np.asarray(run(batch))
    for index in range(300):
        for row in range(5):
            expected = oracle.evaluate(VECTOR_SPACE, _item(batch, index), inputs[:, row])
            np.testing.assert_allclose(outputs[index][:, row], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("space", [SPACE, VECTOR_SPACE], ids=["scalar", "vector"])
def test_exported_python_computes_the_same(programs, space):
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(len(space.inputs), 6)).astype(np.float32)
    run = jax.jit(jax.vmap(lambda program: interpret(space, program, jnp.asarray(inputs))))
    outputs = np.asarray(run(jax.tree.map(lambda leaf: leaf[:50], programs[space][1])))
    for index in range(50):
        scope: dict = {}
        exec(to_python(space, _item(programs[space][1], index)), scope)
        result = scope["program"](*inputs)
        values = np.stack([np.broadcast_to(row, (6,)) for row in (result if isinstance(result, tuple) else (result,))])
        np.testing.assert_allclose(outputs[index], values, rtol=2e-3, atol=2e-3)


def test_values_and_gradients_are_finite(programs):
    states = jnp.asarray(sample_states(6, 4)).at[:, 0].set(0.0)

    def total(program, states):
        return jnp.sum(interpret(SPACE, program, states))

    run = jax.jit(jax.vmap(jax.value_and_grad(total, argnums=1), in_axes=(0, None)))
    values, gradients = run(jax.tree.map(lambda leaf: leaf[:500], programs[SPACE][0]), states)
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()


def idm_program():
    """The free-road and interaction terms of the model without the lower bound of the desired gap."""
    node = SPACE.node
    speed, difference, gap, desired, one, two = range(6)
    return SPACE.build(
        [
            node("multiply", speed, difference),
            node("add", two, two),
            node("divide", 6, 7),
            node("add", speed, 8),
            node("add", two, 9),
            node("divide", 10, gap),
            node("square", 11),
            node("divide", speed, desired),
            node("square", 13),
            node("add", 12, 14),
            node("subtract", one, 15),
        ]
    )


def test_built_program_has_formula_and_json():
    program = idm_program()
    formula = to_formula(SPACE, program)
    assert formula == "one - (((two + (v + ((v * dv) / (two + two)))) / gap)^2 + (v / v0)^2)"
    assert num_live_nodes(SPACE, program) == 11
    assert "\\frac{v}{v0}" in to_latex(SPACE, program)
    restored = from_json(SPACE, to_json(SPACE, program))
    jax.tree.map(np.testing.assert_array_equal, restored, program)
    states = sample_states(0, 200)
    expected = np.corrcoef(oracle.evaluate(SPACE, program, states)[0], idm_acceleration(states))[0, 1] ** 2
    fitness = float(idm_law_domain().fitness(jax.tree.map(jnp.asarray, program)))
    assert fitness == pytest.approx(expected, abs=1e-4)


def test_live_nodes_follow_the_arguments():
    program = idm_program()
    assert np.asarray(live_nodes(SPACE, program)).tolist() == [False] * 3 + [True] * 11


def test_equal_functions_have_equal_identities():
    """Dead nodes and the order of commutative arguments do not change the identity; another function does."""
    domain, program = idm_law_domain(), idm_program()
    dead = Program(program.operators.copy(), program.arguments.copy(), program.constants)
    dead.operators[0] = SPACE.node("maximum", 0, 1)[0]
    dead.arguments[0] = (2, 1)
    swapped = Program(program.operators, program.arguments.copy(), program.constants)
    swapped.arguments[-2] = swapped.arguments[-2][::-1]
    other = Program(program.operators, program.arguments.copy(), program.constants)
    other.arguments[-1] = other.arguments[-1][::-1]
    probe = jax.jit(domain.probe)
    identity = np.asarray(probe(program)[0])
    np.testing.assert_array_equal(probe(dead)[0], identity)
    np.testing.assert_array_equal(probe(swapped)[0], identity)
    assert np.any(np.asarray(probe(other)[0]) != identity)


def test_identities_depend_on_the_order_of_outputs():
    values = jnp.asarray([1.0, 2.0, 3.0])
    assert np.any(np.asarray(hash_outputs(values)) != np.asarray(hash_outputs(values[::-1])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operators": 99}, "operator 99"),
        ({"arguments": 30}, "no earlier value"),
        ({"constants": np.nan}, "finite"),
    ],
)
def test_invalid_programs_are_refused(change, message):
    program = _item(jax.vmap(lambda key: random_program(VECTOR_SPACE, key))(jax.random.split(jax.random.key(0), 1)), 0)
    parts = {name: np.array(getattr(program, name)) for name in ("operators", "arguments", "constants")}
    for name, value in change.items():
        parts[name][0] = value
    assert message in str(VECTOR_SPACE.problem(Program(**parts)))


def test_types_are_checked():
    index = [item.name for item in VECTOR_SPACE.operators].index("largest")
    program = _item(jax.vmap(lambda key: random_program(VECTOR_SPACE, key))(jax.random.split(jax.random.key(0), 1)), 0)
    operators, arguments = program.operators.copy(), program.arguments.copy()
    operators[0], arguments[0] = index, (1, 0)
    assert "needs a vector" in str(VECTOR_SPACE.problem(Program(operators, arguments, program.constants)))
    with pytest.raises(ValueError, match="no operator makes"):
        ProgramSpace(("r",), (ops.LARGEST,), num_nodes=2)


def test_text_of_another_space_is_refused():
    text = to_json(SPACE, idm_program())
    with pytest.raises(ValueError, match="inputs"):
        from_json(VECTOR_SPACE, text)
    with pytest.raises(ValueError, match="unknown operators"):
        from_json(SPACE, text.replace('"square"', '"cube"'))


def test_target_is_the_model_by_hand():
    """v = 10 behind an equally fast leader at 20 m: desired gap 2 + 15 = 17 m."""
    states = np.array([[10.0], [0.0], [20.0], [20.0], [1.0], [2.0]], np.float32)
    assert idm_acceleration(states)[0] == pytest.approx(2 * (1 - 0.25 - (17 / 20) ** 2), abs=1e-5)
