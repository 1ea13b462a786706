import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, pytree, stack, static, static_record, tree_index


@pytree
class Pair:
    first: Float[Array, "*lead 2"]
    second: Float[Array, "*lead"] | None


@pytree
class Scaled:
    """Fields of both kinds, in mixed order."""

    name: str = static()
    value: Float[Array, "*lead 2"]
    factor: float = static(default=2.0)
    offset: Float[Array, "*lead"] | None = None


def pair(size: int = 3) -> Pair:
    return Pair(np.arange(2.0 * size, dtype=np.float32).reshape(size, 2), np.arange(size, dtype=np.float32))


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair().first = np.zeros((1, 2), np.float32)


def test_leaves_are_the_fields_in_order_and_paths_name_them():
    leaves = jax.tree_util.tree_leaves_with_path(pair())
    assert [jax.tree_util.keystr(path) for path, _ in leaves] == [".first", ".second"]
    assert leaves[1][1].shape == (3,)


def test_wrong_shapes_are_refused_except_for_jax_placeholders():
    values = np.zeros((3, 2), np.float32)
    with pytest.raises(TypeError):
        MetricValue(value=values, valid=np.zeros(4, bool))
    item = MetricValue(value=values, valid=np.zeros((3, 2), bool))
    assert jax.tree.map(lambda leaf: None, item).value is None


def test_records_pass_through_jit_vmap_and_scan():
    item = jax.device_put(pair())
    double = jax.jit(lambda record: jax.tree.map(lambda leaf: 2 * leaf, record))
    np.testing.assert_array_equal(double(item).first, 2 * item.first)
    np.testing.assert_array_equal(jax.vmap(lambda record: record.first[0] + record.second)(item), [0.0, 3.0, 6.0])
    total, _ = jax.lax.scan(lambda carry, record: (carry + record.second, None), jnp.float32(0), item)
    assert total == 3.0


def test_take_indexes_every_field():
    last = tree_index(pair(), -1)
    np.testing.assert_array_equal(last.first, [4.0, 5.0])
    assert last.second == 2.0
    assert tree_index(dataclasses.replace(pair(), second=None), slice(0, 2)).first.shape == (2, 2)


def test_stack_adds_a_leading_axis_that_take_removes():
    items = [pair(), jax.tree.map(lambda leaf: leaf + 1, pair())]
    both = stack(items)
    assert both.first.shape == (2, 3, 2)
    for index, item in enumerate(items):
        jax.tree.map(np.testing.assert_array_equal, tree_index(both, index), item)


def scaled(value: float = 1.0, **changes) -> Scaled:
    return Scaled("a", np.full((3, 2), value, np.float32), **changes)


def test_static_fields_are_structure_and_all_others_leaves():
    item = scaled(offset=np.ones(3, np.float32))
    leaves = jax.tree_util.tree_leaves_with_path(item)
    assert [jax.tree_util.keystr(path) for path, _ in leaves] == [".value", ".offset"]
    again = jax.tree.map(lambda leaf: leaf + 1, item)
    assert (again.name, again.factor) == ("a", 2.0)
    np.testing.assert_array_equal(again.value, np.full((3, 2), 2.0))
    assert jax.tree.structure(item) == jax.tree.structure(again)
    for changes in ({"factor": 3.0}, {"name": "b"}, {"offset": None}):
        assert jax.tree.structure(dataclasses.replace(item, **changes)) != jax.tree.structure(item)


def test_programs_are_cached_per_static_value_and_trace_the_leaves():
    traced = []

    @jax.jit
    def total(item):
        traced.append((item.factor, isinstance(item.value, jax.core.Tracer), isinstance(item.factor, float)))
        return jnp.sum(item.value) * item.factor

    assert [float(total(scaled(value))) for value in (1.0, 2.0, 3.0)] == [12.0, 24.0, 36.0]
    assert [float(total(scaled(value, factor=0.5))) for value in (1.0, 2.0)] == [3.0, 6.0]
    # An equal value that is another object.
    assert float(total(scaled(1.0, factor=float("2.0")))) == 12.0
    assert traced == [(2.0, True, True), (0.5, True, True)]


def test_static_fields_pass_through_vmap_scan_and_gradients():
    batch = scaled(1.0)
    np.testing.assert_array_equal(jax.vmap(lambda item: jnp.sum(item.value) * item.factor)(batch), [4.0, 4.0, 4.0])
    last, names = jax.lax.scan(lambda carry, item: (item, item.factor), tree_index(jax.device_put(batch), 0), batch)
    assert (last.name, last.value.shape, names.shape) == ("a", (2,), (3,))
    gradient = jax.grad(lambda item: jnp.sum(item.value) * item.factor)(scaled(1.0, factor=5.0))
    assert gradient.factor == 5.0
    np.testing.assert_array_equal(gradient.value, np.full((3, 2), 5.0))


def test_static_fields_are_required_and_frozen_like_others():
    with pytest.raises(TypeError, match="name"):
        Scaled(value=np.zeros((1, 2), np.float32))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scaled().factor = 3.0


def test_static_records_have_no_leaves_and_programs_are_kept_per_value():
    @static_record
    class Setting:
        limit: float = 1.0

    traced = []

    @jax.jit
    def clip(setting, value):
        traced.append(setting)
        return jnp.minimum(value, setting.limit)

    assert not jax.tree.leaves(Setting())
    assert [float(clip(Setting(limit), 7.0)) for limit in (1.0, 2.0, 1.0)] == [1.0, 2.0, 1.0]
    assert traced == [Setting(1.0), Setting(2.0)]
