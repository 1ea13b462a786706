import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.scenes import agent_state
from tests.strategies import floats
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Dynamics, Teleport

DT = 0.1
WAYMAX = Discrete(Bicycle(), (12, 20))
GRIDS = pytest.mark.parametrize(
    "model",
    [
        WAYMAX,
        Discrete(Bicycle(normalized=True), (12, 20)),
        Discrete(Bicycle(max_acceleration=9.81, max_curvature=0.07), (34, 62)),
        Discrete(Delta(), (4, 6, 10)),
        Discrete(Delta(frame="body"), (2, 100, 14)),
    ],
    ids=lambda model: f"{type(model.dynamics).__name__}{model.bins}",
)


step = jax.jit(lambda model, agents, value: model.apply(agents, value, DT), static_argnums=0)
invert = jax.jit(lambda model, before, after: model.invert(before, after, DT), static_argnums=0)


def every_index(model: Discrete) -> jnp.ndarray:
    return jnp.arange(model.num_actions, dtype=jnp.int32)[:, None]


def test_the_grid_of_waymax():
    assert WAYMAX.num_actions == 273
    assert WAYMAX.encode(jnp.zeros((1, 2))) == 136
    assert WAYMAX.encode(jnp.asarray([[1.3, -0.05]])) == 155
    np.testing.assert_allclose(WAYMAX.decode(jnp.asarray([[155]])), [[1.0, -0.06]], atol=1e-7)


@pytest.mark.parametrize("bins", [(7, 31), (12, 0), (12, -2), (12,), (12, 20, 2)])
def test_grids_without_nothing_on_them_are_refused(bins):
    with pytest.raises(ValueError, match="bins"):
        Discrete(Bicycle(), bins)


def test_unbounded_models_are_refused():
    with pytest.raises(ValueError, match="bounds"):
        Discrete(Teleport(), (2, 2, 2, 2, 2))


@GRIDS
def test_the_grid_is_regular_reversible_and_holds_exact_zero(model):
    index = every_index(model)
    value = np.asarray(model.decode(index))
    low, high = model.dynamics.bounds
    np.testing.assert_allclose(value, oracle.grid(low, high, model.bins), atol=1e-5)
    np.testing.assert_array_equal(value[model.num_actions // 2], 0)
    assert np.count_nonzero((value == 0).all(axis=-1)) == 1
    np.testing.assert_array_equal(model.encode(jnp.asarray(value)), index)
    np.testing.assert_array_equal(model.bounds, [[0], [model.num_actions - 1]])


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 50), st.floats(0.01, 50))
def test_every_even_grid_holds_exact_zero_and_is_reversible(half_a, half_b, limit_a, limit_b):
    model = Discrete(Bicycle(max_acceleration=limit_a, max_curvature=limit_b), (2 * half_a, 2 * half_b))
    middle = model.num_actions // 2
    index = np.linspace(0, model.num_actions - 1, 64).astype(np.int32)
    index[0] = middle
    value = np.asarray(model.decode(index[:, None]))
    np.testing.assert_array_equal(value[0], 0)
    np.testing.assert_array_equal(model.encode(value)[:, 0], index)


@GRIDS
@given(floats(-1.5, 1.5, 3))
def test_encoding_is_to_the_nearest_point(model, share):
    low, high = model.dynamics.bounds
    value = share[:, : len(high)] * high
    grid = oracle.grid(low, high, model.bins)
    chosen = grid[np.asarray(model.encode(value))[:, 0]]
    # Per action number nothing on the grid is nearer.
    step = (high - low) / model.bins
    inside = np.clip(value, low, high)
    assert (np.abs(chosen - inside) <= step * 0.5001 + 1e-6).all()


def test_indices_beyond_the_grid_count_as_its_ends():
    ends = WAYMAX.decode(jnp.asarray([[0], [272]]))
    np.testing.assert_array_equal(WAYMAX.decode(jnp.asarray([[-5], [9999]])), ends)


def test_acting_is_through_the_wrapped_model():
    before = agent_state([(0, 0), (5, 5)], [0.0, 1.0], [(10, 0), (5, 8)])
    index = jnp.asarray([[155], [3]])
    after = step(WAYMAX, before, index)
    expected = step(Bicycle(), before, WAYMAX.decode(index))
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    np.testing.assert_array_equal(invert(WAYMAX, before, after).value, index)


def test_what_is_invalid_does_nothing():
    here, gone = agent_state([(0, 0)]), agent_state([(9, 9)], valid=False)
    found = invert(WAYMAX, here, gone)
    assert found.value[0, 0] == 136 and not found.valid[0]


def test_models_are_dynamics_and_hashable():
    assert isinstance(WAYMAX, Dynamics) and hash(WAYMAX) == hash(Discrete(Bicycle(), (12, 20)))
    compiled = jax.jit(WAYMAX.decode)(every_index(WAYMAX))
    np.testing.assert_array_equal(compiled, WAYMAX.decode(every_index(WAYMAX)))
