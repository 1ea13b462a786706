"""Arrays of many maps that stay where they are: rows are read by the index of a map, nothing is copied.

Under `vmap`, `take(arrays, index)` copies the arrays of every batch entry, in every step of a loop. A `BankRow` reads
the requested rows instead. It can be indexed like the array that it stands for; any other operation materializes it.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from waymax_sim.pytree import Array, pytree, static


@pytree
class BankArray:
    """An array of each of B maps, concatenated along the first axis, of their own lengths.

    Attributes:
      values: Rows of all maps, [L, ...]; one entry per map, [B, ...], for arrays that are read as a whole.
      start: First row of each map, [B].
      count: Number of rows of each map, [B].
      length: Rows of the longest map; None for arrays that are read as a whole.
      fill: Value of rows beyond the count of a map, as padding has it.
    """

    values: Shaped[Array, "L *w"]
    start: Int[Array, " B"]
    count: Int[Array, " B"]
    length: int | None = static()
    fill: float | int = static(default=0)

    def row(self, index: Int[Array, ""]) -> "BankRow":
        """The array of a map."""
        return BankRow(self, index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as if the arrays were padded and stacked."""
        rows = () if self.length is None else (self.length,)
        return (self.start.shape[0], *rows, *self.values.shape[1:])

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        return self.values.dtype


@pytree
class BankRow:
    """The array of one map of a bank, read in place.

    Attributes:
      bank: The arrays of all maps.
      index: Index of the map.
    """

    bank: BankArray
    index: Int[Array, ""]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the padded array of the map."""
        return self.bank.shape[1:]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values of the padded array."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        return self.bank.dtype

    def __getitem__(self, key: Any) -> Any:
        """Rows of the map. Row numbers must be those of existing rows or of padding, or negative and masked later."""
        bank, (first, *rest) = self.bank, key if isinstance(key, tuple) else (key,)
        if bank.length is None:
            return self.materialize()[key]
        if _is_row_index(first):
            row = jnp.clip(jnp.asarray(first, jnp.int32), 0, bank.length - 1)
            return jnp.asarray(bank.values)[(bank.start[self.index] + row, *rest)]
        if isinstance(first, slice) and first == slice(None) and rest and _is_row_index(rest[0]):
            # Some columns of all rows.
            columns = jnp.asarray(rest[0])
            if not columns.ndim:
                return self._column(columns, *rest[1:])
            return jax.vmap(lambda column: self._column(column, *rest[1:]), out_axes=1)(columns)
        return self.materialize()[key]

    def _column(self, column: Any, *rest: Any) -> Array:
        bank = self.bank
        number = jnp.arange(bank.length, dtype=jnp.int32)
        rows = jnp.minimum(bank.start[self.index] + number, bank.values.shape[0] - 1)
        inside = number < bank.count[self.index]
        values = jnp.asarray(bank.values)[(rows, column, *rest)]
        return jnp.where(inside.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.asarray(bank.fill, values.dtype))

    def materialize(self) -> Array:
        """A copy of the padded array of the map."""
        bank = self.bank
        if bank.length is None:
            return bank.values[self.index]
        number = jnp.arange(bank.length, dtype=jnp.int32)
        rows = jnp.asarray(bank.values).at[bank.start[self.index] + number].get(mode="clip")
        inside = (number < bank.count[self.index]).reshape(-1, *[1] * (rows.ndim - 1))
        return jnp.where(inside, rows, jnp.asarray(bank.fill, rows.dtype))

    def __jax_array__(self) -> Array:
        return self.materialize()

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        # Methods of arrays, such as `reshape`; not special ones, which copying and pickling ask for.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.materialize(), name)


def is_bank_row(item: Any) -> bool:
    """Whether an item stands for the array of a map in a bank; for `is_leaf` of tree functions."""
    return isinstance(item, BankRow)


def materialize_rows(tree: Any) -> Any:
    """A tree with whole arrays instead of the rows of a bank; other leaves are unchanged."""
    return jax.tree.map(lambda leaf: leaf.materialize() if is_bank_row(leaf) else leaf, tree, is_leaf=is_bank_row)


def _is_row_index(key: Any) -> bool:
    """Whether a key picks rows by number: an integer or an integer array."""
    return not isinstance(key, slice | type(Ellipsis) | type(None)) and jnp.issubdtype(jnp.result_type(key), np.integer)


def _delegate(function: Any, swapped: bool) -> Any:
    def method(self: BankRow, *others: Any) -> Any:
        others = tuple(item.materialize() if isinstance(item, BankRow) else item for item in others)
        return function(*others, self.materialize()) if swapped else function(self.materialize(), *others)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "and", "or", "xor", "rshift", "lshift"):
    _function = getattr(operator, f"{_name}_" if _name in ("and", "or") else _name)
    setattr(BankRow, f"__{_name}__", _delegate(_function, False))
    setattr(BankRow, f"__r{_name}__", _delegate(_function, True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "invert", "neg", "abs"):
    setattr(BankRow, f"__{_name}__", _delegate(getattr(operator, _name), False))


def gather_rows(
    arrays: Shaped[Array, "M L *w"] | BankArray, map_index: Int[Array, " Q"], row: Int[Array, " Q"]
) -> Shaped[Array, "Q *w"]:
    """A row of the array of a map for each query; rows must exist.

    Args:
      arrays: Arrays of M maps, stacked or in a bank.
      map_index: The map of each query.
      row: The row in the array of that map.
    """
    if isinstance(arrays, BankArray):
        return arrays.values.at[arrays.start[map_index] + row].get(mode="promise_in_bounds")
    flat = arrays.reshape(arrays.shape[0] * arrays.shape[1], *arrays.shape[2:])
    return flat.at[map_index * arrays.shape[1] + row].get(mode="promise_in_bounds")


def gather_maps(arrays: Shaped[Array, "M *w"] | BankArray, map_index: Int[Array, " Q"]) -> Shaped[Array, "Q *w"]:
    """The whole array of a map for each query.

    Args:
      arrays: Arrays of M maps, stacked or in a bank.
      map_index: The map of each query.
    """
    if not isinstance(arrays, BankArray):
        return arrays[map_index]
    if arrays.length is None:
        return arrays.values[map_index]
    return jax.vmap(lambda index: arrays.row(index).materialize())(map_index)


def flatten_rows(arrays: Shaped[Array, "M L *w"] | BankArray) -> Shaped[Array, "M l"] | BankArray:
    """The same with all axes behind that of the maps merged into one."""
    if not isinstance(arrays, BankArray):
        return arrays.reshape(arrays.shape[0], -1)
    width = math.prod(arrays.values.shape[1:])
    assert arrays.length is not None
    return BankArray(
        arrays.values.reshape(-1), arrays.start * width, arrays.count * width, arrays.length * width, arrays.fill
    )


def index_maps(arrays: Any, map_index: Int[Array, "*q"] | None, *key: Any) -> Shaped[Array, "*r"]:
    """Values of the arrays of maps by row and further indices.

    Args:
      arrays: Arrays of many maps, stacked or in a bank, or the array of one map.
      map_index: The map of each query; None for one map.
      key: Row and further indices, as in `array[key]`.
    """
    if map_index is None:
        return arrays[key]
    if isinstance(arrays, BankArray):
        row, *rest = key
        return arrays.values[(arrays.start[map_index] + row, *rest)]
    return arrays[(map_index, *key)]


def map_start(
    arrays: Shaped[Array, "M L *w"] | BankArray, map_index: Int[Array, "*q"]
) -> tuple[Int[Array, "*q"], Shaped[Array, "rows *w"]]:
    """The first row of the map of each query, and the rows of all maps one after the other.

    Args:
      arrays: Arrays of M maps, stacked or in a bank.
      map_index: The map of each query.
    """
    if isinstance(arrays, BankArray):
        return arrays.start[map_index], arrays.values
    return map_index * arrays.shape[1], arrays.reshape(arrays.shape[0] * arrays.shape[1], *arrays.shape[2:])


def existing_rows(
    arrays: Shaped[Array, "M L *w"] | BankArray, map_index: Int[Array, " Q"], row: Int[Array, "1 L"]
) -> Int[Array, "#Q L"]:
    """Row numbers, -1 for those beyond the map of a query. Of stacked arrays all rows exist, padding included.

    Args:
      arrays: Arrays of M maps, stacked or in a bank.
      map_index: The map of each query.
      row: All row numbers.
    """
    if isinstance(arrays, BankArray):
        return jnp.where(row < arrays.count[map_index][:, None], row, -1)
    return row
