"""How drivers accelerate. A driver is a function of what drivers see and of their traits, for all of them at once."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

HARDEST_BRAKING = 7.0  # m/s^2


@dataclasses.dataclass(frozen=True)
class Sight:
    """What drivers see.

    Attributes:
      speed: Own speed, m/s.
      allowed: Speed that the road allows, m/s.
      gap: Distance to whoever is next on the way, bumper to bumper, m; infinite where nobody is.
      leader: Speed of that one, m/s.
      stop: Distance to the line to stop at, m; infinite where there is none.
    """

    speed: Float[np.ndarray, " N"]
    allowed: Float[np.ndarray, " N"]
    gap: Float[np.ndarray, " N"]
    leader: Float[np.ndarray, " N"]
    stop: Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Traits:
    """What makes drivers differ.

    Attributes:
      pace: Wanted speed over allowed speed.
      headway: Wanted time to the one ahead, s.
      standstill: Wanted gap at rest, m.
      acceleration: Largest one, m/s^2.
      braking: Comfortable one, m/s^2.
    """

    pace: Float[np.ndarray, " N"]
    headway: Float[np.ndarray, " N"]
    standstill: Float[np.ndarray, " N"]
    acceleration: Float[np.ndarray, " N"]
    braking: Float[np.ndarray, " N"]

    def of(self, rows: np.ndarray) -> "Traits":
        """Those of some drivers."""
        return Traits(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


Driver = Callable[[Sight, Traits], Float[np.ndarray, " N"]]


def draw_traits(count: int, rng: np.random.Generator) -> Traits:
    """Drivers from calm to hasty; who is hasty in one respect tends to be so in the others."""
    haste = rng.normal(0.0, 1.0, count)

    def drawn(middle: float, by_haste: float, spread: float) -> np.ndarray:
        return middle * np.exp(by_haste * haste + rng.normal(0.0, spread, count))

    return Traits(
        pace=np.clip(drawn(0.95, 0.06, 0.06), 0.7, 1.15),
        headway=np.clip(drawn(1.25, -0.2, 0.15), 0.7, 2.2),
        standstill=np.clip(drawn(2.2, -0.1, 0.2), 1.4, 4.0),
        acceleration=np.clip(drawn(1.6, 0.15, 0.15), 0.9, 2.6),
        braking=np.clip(drawn(2.0, 0.15, 0.1), 1.3, 3.0),
    )


def intelligent_driver(sight: Sight, traits: Traits) -> Float[np.ndarray, " N"]:
    """Acceleration by the Intelligent Driver Model (Treiber, Hennecke, Helbing 2000), m/s^2.

    A line to stop at is somebody who stands behind it.
    """
    root = 2 * np.sqrt(traits.acceleration * traits.braking)
    # Whoever is ahead, and the line to stop at.
    closing = np.stack([sight.speed - sight.leader, sight.speed])
    standstill = np.stack([traits.standstill, np.ones_like(sight.speed)])
    wanted = standstill + np.maximum(0.0, sight.speed * (traits.headway + closing / root))
    closeness = wanted / np.maximum(np.stack([sight.gap, sight.stop]), 0.1)
    nearest = np.max(closeness * closeness, axis=0)
    ratio = sight.speed / np.maximum(traits.pace * sight.allowed, 0.5)
    free = 1 - ratio * ratio * ratio * ratio
    # Above the wanted speed with nobody near one rolls off; only somebody or something ahead makes one brake hard.
    rolling = np.maximum(traits.acceleration * free, -traits.braking)
    return np.clip(rolling - traits.acceleration * nearest, -HARDEST_BRAKING, traits.acceleration)
