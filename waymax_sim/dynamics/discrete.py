"""A finite set of actions over any bounded dynamics model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics.protocol import Dynamics, Step
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Index of a point on a regular grid over the bounds of another model. "Do nothing" is on the grid.

    Attributes:
      dynamics: The model to act through; its bounds must be finite.
      bins: Intervals per action number, each even, so that the middle of symmetric bounds is a grid point.
        There are bins + 1 levels; the last action number varies fastest.

    Raises:
      ValueError: A number of bins is odd or not positive, there are not as many as action numbers, or the
        bounds are infinite.
    """

    dynamics: Dynamics
    bins: tuple[int, ...]

    def __post_init__(self):
        low, high = self.dynamics.bounds
        if len(self.bins) != len(low):
            raise ValueError(f"{len(self.bins)} bins for {len(low)} action numbers; give one per number")
        if not np.all(np.isfinite(low) & np.isfinite(high)):
            raise ValueError(f"{self.dynamics} has no finite bounds to divide")
        for bins in self.bins:
            if bins < 2 or bins % 2:
                raise ValueError(f"bins must be even and positive so that the grid holds zero, got {bins}")

    @property
    def num_actions(self) -> int:
        """Number of grid points."""
        return int(np.prod([bins + 1 for bins in self.bins]))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest index."""
        return np.zeros(1, np.int32), np.full(1, self.num_actions - 1, np.int32)

    def decode(self, index: Int[Array, "N 1"]) -> Float[Array, "N A"]:
        """Grid points of indices; indices outside the bounds count as the nearest one."""
        low, high = self.dynamics.bounds
        index = jnp.clip(index[:, 0], 0, self.num_actions - 1)
        level = jnp.stack(jnp.unravel_index(index, tuple(bins + 1 for bins in self.bins)), axis=-1)
        # Counted from the middle, so that the middle is exact.
        half = np.asarray(self.bins, np.int32) // 2
        step = ((high - low) / np.asarray(self.bins)).astype(np.float32)
        return (level - half[None]).astype(jnp.float32) * step[None] + ((low + high) / 2).astype(np.float32)[None]

    def encode(self, value: Float[Array, "N A"]) -> Int[Array, "N 1"]:
        """Index of the nearest grid point; values half way go to the even level."""
        low, high = self.dynamics.bounds
        bins = np.asarray(self.bins, np.float32)
        level = jnp.round((value - low[None]) * (bins / (high - low)).astype(np.float32)[None])
        level = jnp.clip(level, 0, bins[None]).astype(jnp.int32)
        strides = np.cumprod([1, *(b + 1 for b in self.bins[:0:-1])])[::-1].astype(np.int32)
        return jnp.sum(level * strides[None], axis=-1, keepdims=True)

    def apply(self, agents: AgentState, value: Int[Array, "N 1"], dt: Step) -> AgentState:
        """Applies the grid point through the wrapped model."""
        return self.dynamics.apply(agents, self.decode(value), dt)

    def invert(self, before: AgentState, after: AgentState, dt: Step) -> Action:
        """Nearest grid point to the wrapped inverse; "do nothing" where that is invalid."""
        action = self.dynamics.invert(before, after, dt)
        return Action(value=self.encode(action.value), valid=action.valid)
