"""Distributions over values: a categorical distribution on a fixed support, its projection, and labels of scalars.

Sources: C51 (Bellemare et al. 2017) for the projection; HL-Gauss (Imani and White 2018, Farebrother et al. 2024) for
Gaussian labels.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from behavior_models.networks.heads import two_hot
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class ValueSupport:
    """Equidistant values, the atoms of a categorical distribution.

    Attributes:
      low: Smallest value; smaller returns are clipped.
      high: Largest value; larger returns are clipped.
      num_atoms: Number of atoms M; 51 as in C51.

    Raises:
      ValueError: Fewer than two atoms, or an empty range.
    """

    low: float
    high: float
    num_atoms: int = 51

    def __post_init__(self):
        if self.num_atoms < 2 or not self.low < self.high:
            raise ValueError(f"{self} needs at least two atoms and low < high")

    @property
    def atoms(self) -> Float[Array, " M"]:
        """The values."""
        return jnp.linspace(self.low, self.high, self.num_atoms)

    @property
    def spacing(self) -> float:
        """Distance between two atoms."""
        return (self.high - self.low) / (self.num_atoms - 1)

    def mean(self, logits: Float[Array, "*lead M"]) -> Float[Array, "*lead"]:
        """Mean of a distribution."""
        return jax.nn.softmax(logits) @ self.atoms

    def project(
        self, probabilities: Float[Array, "*lead M"], values: Float[Array, "*lead M"]
    ) -> Float[Array, "*lead M"]:
        """The distribution on the atoms whose mass is that of other values, each shared by the two atoms next to it.

        Args:
          probabilities: Mass of each value.
          values: Values, clipped to the range; the mean within the range is kept.
        """
        atoms = self.atoms.reshape(*(1 for _ in values.shape), self.num_atoms)
        distance = jnp.abs(jnp.clip(values, self.low, self.high)[..., None] - atoms) / self.spacing
        return jnp.sum(probabilities[..., None] * jnp.maximum(1.0 - distance, 0.0), axis=-2)

    def encode(self, value: Float[Array, "*lead"]) -> Float[Array, "*lead M"]:
        """Two-hot labels, whose mean is the value."""
        return two_hot(value, self.atoms)

    def encode_gaussian(self, value: Float[Array, "*lead"], sigma: float) -> Float[Array, "*lead M"]:
        """HL-Gauss labels: the mass of a Gaussian in the interval around each atom, normalized.

        Args:
          value: Means, clipped to the range.
          sigma: Standard deviation; 0.75 times `spacing` in Farebrother et al.
        """
        edges = self.low + self.spacing * (jnp.arange(self.num_atoms + 1, dtype=jnp.float32) - 0.5)
        offset = edges.reshape(*(1 for _ in value.shape), -1) - jnp.clip(value, self.low, self.high)[..., None]
        mass = jnp.diff(jax.scipy.stats.norm.cdf(offset / sigma), axis=-1)
        return mass / jnp.sum(mass, axis=-1, keepdims=True)
