"""Habits of drivers: a bed of recall whose optimal prediction is known.

A history is a sequence of situations and the maneuvers of one driver in them. Situations have Zipf frequencies under a
random permutation. Each driver has a random table of responses, so a maneuver is known if its situation occurred
before, and otherwise uniform. With a positive `redraw` a response is drawn again with this probability before each
record, and the last one counts.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.pytree import Array, pytree


@pytree
class Histories:
    """Records of drivers in temporal order.

    Attributes:
      situation: Situations.
      maneuver: Maneuvers in them.
    """

    situation: Int[Array, "*lead N"]
    maneuver: Int[Array, "*lead N"]


@dataclasses.dataclass(frozen=True)
class HabitBed:
    """A distribution of histories.

    Attributes:
      num_situations: Situations C.
      num_maneuvers: Maneuvers M.
      exponent: Exponent of the Zipf frequencies.
      redraw: Probability that a response is drawn again before a record.
      is_shuffled: Whether every maneuver is that of another driver (control): nothing can be recalled.
    """

    num_situations: int = 64
    num_maneuvers: int = 16
    exponent: float = 2.0
    redraw: float = 0.0
    is_shuffled: bool = False

    @property
    def frequency(self) -> Float[np.ndarray, " C"]:
        """Probabilities of the situations, in descending order."""
        weight = np.arange(1, self.num_situations + 1.0) ** -self.exponent
        return weight / weight.sum()

    def optimum(self, num_records: int) -> Float[np.ndarray, " N"]:
        """Smallest mean negative log-likelihood of each maneuver, nats, without redrawn responses.

        The maneuver of record n is uniform if its situation is new: with probability sum_c p_c (1 - p_c)^(n - 1).
        """
        frequency, earlier = self.frequency, np.arange(num_records)[:, None]
        is_new = np.sum(frequency * (1.0 - frequency) ** earlier, axis=1)
        return np.log(self.num_maneuvers) * is_new

    def draw(self, key: Key[Array, ""], num_drivers: int, num_records: int) -> Histories:
        """Random histories.

        Args:
          key: Random key.
          num_drivers: Number of histories.
          num_records: Records of each.
        """
        situation_key, response_key = jax.random.split(key)
        none = jnp.zeros((num_drivers, self.num_situations), bool)
        situation = self.draw_situations(situation_key, num_records, none)
        return Histories(situation, self.draw_maneuvers(response_key, situation))

    def draw_situations(self, key: Key[Array, ""], num_records: int, excluded: Bool[Array, "B C"]) -> Int[Array, "B N"]:
        """Situations with Zipf frequencies in an order of each driver, without the excluded ones.

        Args:
          key: Random key.
          num_records: Number of records N.
          excluded: Situations that do not occur.
        """
        permutation_key, key = jax.random.split(key)
        keys = jax.random.split(permutation_key, excluded.shape[0])
        rank = jax.vmap(lambda own: jax.random.permutation(own, self.num_situations))(keys)
        weight = jnp.where(excluded, 0.0, jnp.asarray(self.frequency, jnp.float32)[rank])
        total = jnp.cumsum(weight, axis=-1)
        level = jax.random.uniform(key, (excluded.shape[0], num_records)) * total[:, -1:]
        return jax.vmap(lambda own, value: jnp.searchsorted(own, value, side="right"))(total, level).astype(jnp.int32)

    def draw_maneuvers(self, key: Key[Array, ""], situation: Int[Array, "B N"]) -> Int[Array, "B N"]:
        """Maneuvers of random drivers in situations."""
        table_key, redraw_key, key = jax.random.split(key, 3)
        maneuver = jax.random.randint(key, situation.shape, 0, self.num_maneuvers)
        if self.is_shuffled:
            return maneuver
        shape = situation.shape[0], self.num_situations
        table = jax.random.randint(table_key, shape, 0, self.num_maneuvers)
        if self.redraw == 0.0:
            return jnp.take_along_axis(table, situation, axis=1)
        is_redrawn = jax.random.bernoulli(redraw_key, self.redraw, situation.shape)
        drivers = jnp.arange(shape[0])

        def respond(table: Array, record: tuple[Array, Array, Array]):
            situation, maneuver, is_redrawn = record
            own = jnp.where(is_redrawn, maneuver, table[drivers, situation])
            return table.at[drivers, situation].set(own), own

        _, own = jax.lax.scan(respond, table, (situation.T, maneuver.T, is_redrawn.T))
        return own.T


@pytree
class Needles:
    """Histories with situations that occur at known records only, and are queried after the last one.

    Attributes:
      histories: The histories, B with N records.
      query: The situations that are queried, Q of each history.
      first: Their maneuvers at their first records; of those that occur once, a maneuver that does not occur.
      last: Their maneuvers at their last records.
    """

    histories: Histories
    query: Int[Array, "B Q"]
    first: Int[Array, "B Q"]
    last: Int[Array, "B Q"]


def draw_needles(
    bed: HabitBed, key: Key[Array, ""], num_drivers: int, num_records: int, records: Int[Array, "Q 2"]
) -> Needles:
    """Histories with Q situations at two given records each, whose maneuvers differ.

    Args:
      bed: Distribution of the other records; the Q situations occur in none of these.
      key: Random key.
      num_drivers: Number of histories B.
      num_records: Records of each N.
      records: First and last record of each situation; equal for one that occurs once, N for a control without it.
    """
    choice_key, situation_key, response_key, first_key, other_key = jax.random.split(key, 5)
    shape = num_drivers, records.shape[0]
    keys = jax.random.split(choice_key, num_drivers)
    order = jax.vmap(lambda own: jax.random.permutation(own, bed.num_situations))(keys)
    query = order[:, : shape[1]].astype(jnp.int32)
    excluded = jnp.zeros((num_drivers, bed.num_situations), bool).at[jnp.arange(num_drivers)[:, None], query].set(True)
    situation = bed.draw_situations(situation_key, num_records, excluded)
    maneuver = bed.draw_maneuvers(response_key, situation)
    first = jax.random.randint(first_key, shape, 0, bed.num_maneuvers)
    last = (first + jax.random.randint(other_key, shape, 1, bed.num_maneuvers)) % bed.num_maneuvers
    for own, value in zip(records.T, (first, last), strict=True):
        situation, maneuver = situation.at[:, own].set(query), maneuver.at[:, own].set(value)
    return Needles(Histories(situation, maneuver), query, first, last)
