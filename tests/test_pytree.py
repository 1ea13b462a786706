import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, pytree, stack, take


@pytree
class Pair:
    first: Float[Array, "*lead 2"]
    second: Float[Array, "*lead"] | None


def pair(size: int = 3) -> Pair:
    return Pair(np.arange(2.0 * size, dtype=np.float32).reshape(size, 2), np.arange(size, dtype=np.float32))


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair().first = np.zeros((1, 2), np.float32)


def test_leaves_are_the_fields_in_order_and_paths_name_them():
    leaves = jax.tree_util.tree_leaves_with_path(pair())
    assert [jax.tree_util.keystr(path) for path, _ in leaves] == [".first", ".second"]
    assert leaves[1][1].shape == (3,)


def test_wrong_shapes_are_refused_but_not_the_placeholders_of_jax():
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
    last = take(pair(), -1)
    np.testing.assert_array_equal(last.first, [4.0, 5.0])
    assert last.second == 2.0
    assert take(dataclasses.replace(pair(), second=None), slice(0, 2)).first.shape == (2, 2)


def test_stack_adds_a_leading_axis_that_take_removes():
    items = [pair(), jax.tree.map(lambda leaf: leaf + 1, pair())]
    both = stack(items)
    assert both.first.shape == (2, 3, 2)
    for index, item in enumerate(items):
        jax.tree.map(np.testing.assert_array_equal, take(both, index), item)
