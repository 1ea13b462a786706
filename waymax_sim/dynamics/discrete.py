"""A finite set of actions over any bounded dynamics model."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import Dynamics, TimeStep
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Index of a grid point within the bounds of another model. The zero action is on the grid.

    The grid is regular (`bins`) or the product of explicit levels per action component (`levels`); exactly one of the
    two is given. The last component varies fastest.

    Attributes:
      dynamics: The wrapped model, with finite bounds.
      bins: Number of intervals per action component, even, so that the middle of symmetric bounds is a grid point.
        There are bins + 1 levels.
      levels: Levels per action component in the units of `dynamics`, strictly ascending, within its bounds, including
        0. Stored as tuples, like `bins`.

    Raises:
      ValueError: Not exactly one of `bins` and `levels` is given; their number differs from that of the action
        components; a number of bins is odd or not positive; levels are not finite, not ascending in float32, outside
        of the bounds, or lack 0; the bounds are infinite.
    """

    dynamics: Dynamics
    bins: Sequence[int] = ()
    levels: Sequence[Sequence[float]] = ()

    def __post_init__(self):
        object.__setattr__(self, "bins", tuple(self.bins))
        # Adding 0 turns -0 into 0, so the zero action is exactly zero.
        object.__setattr__(self, "levels", tuple(tuple(float(level) + 0.0 for level in row) for row in self.levels))
        if bool(self.bins) == bool(self.levels):
            raise ValueError("give exactly one of bins and levels")
        low, high = self.dynamics.bounds
        name, given = ("levels", self.levels) if self.levels else ("bins", self.bins)
        if len(given) != len(low):
            raise ValueError(f"{len(given)} {name} for {len(low)} action components; give one per component")
        if not np.all(np.isfinite(low) & np.isfinite(high)):
            raise ValueError(f"{self.dynamics} has infinite bounds; a grid needs finite ones")
        _check_bins(self.bins)
        for number, levels in enumerate(self.levels):
            _check_levels(np.asarray(levels, np.float32), number, low[number], high[number])

    @property
    def num_levels(self) -> tuple[int, ...]:
        """Number of levels per action component."""
        return tuple(len(levels) for levels in self.levels) or tuple(bins + 1 for bins in self.bins)

    @property
    def preserves_finite(self) -> bool:
        """Whether the wrapped model returns finite agents for finite agents and values."""
        return getattr(self.dynamics, "preserves_finite", False)

    @property
    def num_actions(self) -> int:
        """Number of grid points."""
        return int(np.prod(self.num_levels))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest index."""
        return np.zeros(1, np.int32), np.full(1, self.num_actions - 1, np.int32)

    def decode(self, index: Int[Array, "N 1"]) -> Float[Array, "N A"]:
        """Grid points of indices, which are clipped to the bounds."""
        index = jnp.clip(index[:, 0], 0, self.num_actions - 1)
        level = jnp.stack(jnp.unravel_index(index, self.num_levels), axis=-1)
        if not self.levels:
            return self._regular_values(level)
        values = [jnp.asarray(row, jnp.float32)[level[:, number]] for number, row in enumerate(self.levels)]
        return jnp.stack(values, axis=-1)

    def encode(self, value: Float[Array, "N A"]) -> Int[Array, "N 1"]:
        """Index of the nearest grid point.

        Ties go to the level of even index on a regular grid, and to the lower one of explicit levels.
        """
        level = self._nearest_explicit(value) if self.levels else self._nearest_regular(value)
        strides = np.cumprod([1, *self.num_levels[:0:-1]])[::-1].astype(np.int32)
        return jnp.sum(level * strides[None], axis=-1, keepdims=True)

    def _regular_values(self, level: Int[Array, "N A"]) -> Float[Array, "N A"]:
        low, high = self.dynamics.bounds
        # Relative to the middle level, so that the middle is exact.
        half = np.asarray(self.bins, np.int32) // 2
        step = ((high - low) / np.asarray(self.bins)).astype(np.float32)
        return (level - half[None]).astype(jnp.float32) * step[None] + ((low + high) / 2).astype(np.float32)[None]

    def _nearest_regular(self, value: Float[Array, "N A"]) -> Int[Array, "N A"]:
        low, high = self.dynamics.bounds
        bins = np.asarray(self.bins, np.float32)
        level = jnp.round((value - low[None]) * (bins / (high - low)).astype(np.float32)[None])
        return jnp.clip(level, 0, bins[None]).astype(jnp.int32)

    def _nearest_explicit(self, value: Float[Array, "N A"]) -> Int[Array, "N A"]:
        """Number of midpoints between adjacent levels that each value exceeds."""
        columns = [
            jnp.sum(value[:, number, None] > _midpoints(levels)[None], axis=-1, dtype=jnp.int32)
            for number, levels in enumerate(self.levels)
        ]
        return jnp.stack(columns, axis=-1)

    def apply(self, agents: AgentState, value: Int[Array, "N 1"], dt: TimeStep) -> AgentState:
        """Applies the grid point with the wrapped model.

        Args:
          agents: N agents.
          value: Indices of grid points.
          dt: Duration, s.
        """
        return self.dynamics.apply(agents, self.decode(value), dt)

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The grid point nearest to the action of the wrapped model; the zero action where that is invalid.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        action = self.dynamics.invert(before, after, dt)
        return Action(value=self.encode(action.value), valid=action.valid)


def _check_bins(bins: Sequence[int]) -> None:
    for count in bins:
        if count < 2 or count % 2:
            raise ValueError(f"bins must be even and positive so that the grid contains zero, got {count}")


def _check_levels(levels: Float[np.ndarray, " L"], number: int, low: np.floating, high: np.floating) -> None:
    """Raises an error unless levels are finite, ascending, within bounds and contain zero.

    Args:
      levels: Levels, float32.
      number: Index of the action component, for messages.
      low: Lower bound.
      high: Upper bound.
    """
    subject = f"levels of action component {number}, {levels.tolist()},"
    if not np.all(np.isfinite(levels)):
        raise ValueError(f"{subject} must be finite")
    if np.any(np.diff(levels) <= 0):
        raise ValueError(f"{subject} must be strictly ascending, also when rounded to float32")
    if np.any((levels < low) | (levels > high)):
        raise ValueError(f"{subject} must be within the bounds of the model, {low} to {high}")
    if not np.any(levels == 0):
        raise ValueError(f"{subject} must contain 0, the zero action")


def _midpoints(levels: Sequence[float]) -> Float[np.ndarray, " M"]:
    """Midpoints of adjacent levels, rounded down to float32: a float32 number exceeds both or neither."""
    exact = np.asarray(levels, np.float32).astype(np.float64)
    exact = (exact[:-1] + exact[1:]) / 2
    nearest = exact.astype(np.float32)
    return np.where(nearest > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest)
