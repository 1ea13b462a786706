import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.scenes import agent_state
from tests.strategies import N, floats
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
ACCELERATIONS = (-5.0, -2.5, -1.0, 0.0, 1.0, 2.0, 3.5)
CURVATURES = (-0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2)
CUSTOM = Discrete(Bicycle(), levels=(ACCELERATIONS, CURVATURES))


step = jax.jit(lambda model, agents, value: model.apply(agents, value, DT), static_argnums=0)
invert = jax.jit(lambda model, before, after: model.invert(before, after, DT), static_argnums=0)


def every_index(model: Discrete) -> jnp.ndarray:
    return jnp.arange(model.num_actions, dtype=jnp.int32)[:, None]


def test_the_waymax_grid():
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
    with pytest.raises(ValueError, match="bounds"):
        Discrete(Teleport(), levels=((0.0,),) * 5)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (((0.0, 1.0),), "1 levels for 2 action components"),
        (((0.0, 1.0), (0.0,), (0.0,)), "3 levels for 2"),
        (((-1.0, 0.0, np.nan), (0.0,)), "component 0.*finite"),
        (((0.0,), (-np.inf, 0.0)), "component 1.*finite"),
        (((-1.0, 0.0, 2.0, 1.0), (0.0,)), "component 0.*ascending"),
        (((0.0,), (0.0, 0.0)), "component 1.*ascending"),
        (((0.0, 1.0, 1.0 + 1e-9), (0.0,)), "ascending.*float32"),
        (((-6.1, 0.0), (0.0,)), "component 0.*bounds.*-6.0 to 6.0"),
        (((0.0,), (0.0, 0.31)), "component 1.*bounds"),
        (((-1.0, 1.0), (0.0,)), "component 0.*contain 0"),
        (((0.0,), ()), "component 1.*contain 0"),
    ],
)
def test_unusable_levels_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        Discrete(Bicycle(), levels=levels)


def test_either_bins_or_levels_are_needed():
    with pytest.raises(ValueError, match="exactly one"):
        Discrete(Bicycle())
    with pytest.raises(ValueError, match="exactly one"):
        Discrete(Bicycle(), (12, 20), CUSTOM.levels)


def test_levels_by_hand():
    """63 actions, curvature fastest; ties go to the lower level, values outside to the outermost one."""
    assert CUSTOM.num_actions == 63 and CUSTOM.num_levels == (7, 9)
    np.testing.assert_array_equal(CUSTOM.bounds, [[0], [62]])
    value = np.float32([[0, 0], [-1.75, 0], [-1.7499, 0], [1.5, 0.09], [99, -99], [3.5, 0.2], [-9, 9]])
    index = [31, 13, 22, 43, 54, 62, 8]
    np.testing.assert_array_equal(CUSTOM.encode(value)[:, 0], index)
    decoded = np.asarray(CUSTOM.decode(np.int32(index)[:, None]))
    expected = np.float32([[0, 0], [-2.5, 0], [-1, 0], [1, 0.1], [3.5, -0.2], [3.5, 0.2], [-5, 0.2]])
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(CUSTOM.decode(np.int32([[-3], [999]])), [decoded[-1] * [1, -1], decoded[-2]])


def test_levels_are_decoded_exactly_and_reversible():
    grid = np.array(list(itertools.product(*CUSTOM.levels)), np.float32)
    value = np.asarray(CUSTOM.decode(every_index(CUSTOM)))
    np.testing.assert_array_equal(value, grid)
    np.testing.assert_array_equal(CUSTOM.encode(value), every_index(CUSTOM))


LEVELS = st.lists(st.floats(-0.75, 0.75, width=32).filter(lambda x: abs(x) > 1e-6), max_size=8, unique=True)


@given(LEVELS, LEVELS, floats(-1.2, 1.2, 2))
def test_levels_equal_a_slow_search(first, second, share):
    """Also at midpoints: the nearest level in double precision, the lower of two that are equally near."""
    limits = Bicycle().bounds[1]
    levels = [np.unique(np.float32([0, *row]) * limit) for row, limit in zip((first, second), limits, strict=True)]
    model = Discrete(Bicycle(), levels=tuple(tuple(row.tolist()) for row in levels))
    value = share * limits
    for column, row in enumerate(levels):
        value[: len(row) - 1, column] = ((row[1:] + row[:-1]) / 2)[:N]
    nearest = [
        np.abs(row.astype(float)[None] - value[:, column, None].astype(float)).argmin(axis=-1)
        for column, row in enumerate(levels)
    ]
    index = nearest[0] * len(levels[1]) + nearest[1]
    np.testing.assert_array_equal(model.encode(value)[:, 0], index)
    decoded = np.asarray(model.decode(np.int32(index)[:, None]))
    np.testing.assert_array_equal(decoded, np.stack([row[i] for row, i in zip(levels, nearest, strict=True)], axis=-1))


def test_sequences_become_tuples():
    grid_points = Discrete(Bicycle(), levels=[list(ACCELERATIONS), list(CURVATURES)])
    assert grid_points == CUSTOM and hash(grid_points) == hash(CUSTOM) and grid_points != WAYMAX
    assert grid_points.levels == (ACCELERATIONS, CURVATURES)
    assert hash(Discrete(Bicycle(), [12, 20])) == hash(WAYMAX)
    assert str(Discrete(Bicycle(), levels=((-0.0, 1.0), (0.0,))).levels[0]) == "(0.0, 1.0)"


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
    # Per action component nothing on the grid is nearer.
    step = (high - low) / model.bins
    inside = np.clip(value, low, high)
    assert (np.abs(chosen - inside) <= step * 0.5001 + 1e-6).all()


def test_indices_beyond_the_grid_count_as_its_ends():
    ends = WAYMAX.decode(jnp.asarray([[0], [272]]))
    np.testing.assert_array_equal(WAYMAX.decode(jnp.asarray([[-5], [9999]])), ends)


@pytest.mark.parametrize(("model", "index"), [(WAYMAX, (155, 3)), (CUSTOM, (41, 3))], ids=["bins", "levels"])
def test_acting_is_through_the_wrapped_model(model, index):
    before = agent_state([(0, 0), (5, 5)], [0.0, 1.0], [(10, 0), (5, 8)])
    index = jnp.asarray(index)[:, None]
    after = step(model, before, index)
    expected = step(Bicycle(), before, model.decode(index))
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    np.testing.assert_array_equal(invert(model, before, after).value, index)


@pytest.mark.parametrize(("model", "nothing"), [(WAYMAX, 136), (CUSTOM, 31)], ids=["bins", "levels"])
def test_invalid_states_give_the_zero_action(model, nothing):
    here, gone = agent_state([(0, 0)]), agent_state([(9, 9)], valid=False)
    result = invert(model, here, gone)
    assert result.value[0, 0] == nothing and not result.valid[0]


@pytest.mark.parametrize("model", [WAYMAX, CUSTOM], ids=["bins", "levels"])
def test_models_are_dynamics_and_hashable(model):
    assert isinstance(model, Dynamics) and hash(model) == hash(Discrete(Bicycle(), model.bins, model.levels))
    compiled = jax.jit(model.decode)(every_index(model))
    np.testing.assert_array_equal(compiled, model.decode(every_index(model)))
