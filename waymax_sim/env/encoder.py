"""Observation encoders: from observations to network inputs with a versioned specification."""

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

from waymax_sim.env.observation import Observation


@dataclasses.dataclass(frozen=True)
class Feature:
    """One array of an encoded observation.

    Attributes:
      name: Name.
      shape: Shape per controlled agent.
      low: Smallest possible value.
      high: Largest possible value.
      unit: What a value of 1 stands for.
    """

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    unit: str = "1"

    @property
    def size(self) -> int:
        """Number of values per controlled agent."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """The content of an encoded observation. A checkpoint stores it and refuses an encoder with another one.

    Attributes:
      encoder: Name of the encoder.
      version: Raised whenever the meaning of any value changes.
      features: The features in order.
    """

    encoder: str
    version: int
    features: tuple[Feature, ...]

    @property
    def size(self) -> int:
        """Number of values per controlled agent."""
        return sum(feature.size for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values, for JSON."""
        return dataclasses.asdict(self)

    def difference(self, stored: dict[str, Any]) -> str | None:
        """The first difference from a stored `to_dict`, in words; None where there is none."""
        own = self.to_dict()
        for name in ("encoder", "version"):
            if own[name] != stored.get(name):
                return f"{name} is {own[name]!r}, stored is {stored.get(name)!r}"
        theirs = {feature["name"]: feature for feature in stored.get("features", ())}
        for feature in own["features"]:
            kept = theirs.pop(feature["name"], None)
            if kept is None or any(feature[key] != _plain(kept.get(key, ()), feature[key]) for key in feature):
                return f"feature {feature['name']!r} is {feature}, stored is {kept}"
        if theirs:
            return f"stored features {sorted(theirs)} do not exist"
        order, kept_order = ([feature["name"] for feature in spec["features"]] for spec in (own, stored))
        return None if order == kept_order else f"the order of features is {order}, stored is {kept_order}"


@runtime_checkable
class ObservationEncoder(Protocol):
    """Encodes the observation of each controlled agent. Frozen and hashable; holds settings, never arrays."""

    @property
    def limit(self) -> float:
        """Bound of all encoded values."""
        ...

    def spec(self) -> ObservationSpec:
        """The content of the encoded observation."""
        ...

    def __call__(self, observation: Observation) -> Any:
        """Arrays with one row for each of the K rows of `observation.controlled`; zeros where a row is -1."""
        ...


def _plain(value: Any, like: Any) -> Any:
    """A JSON value in the type that it had."""
    return tuple(value) if isinstance(like, tuple) else value
