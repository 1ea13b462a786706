"""Observation encoders: network inputs with a versioned specification."""

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

from waymax_sim.env.observation import Observation


@dataclasses.dataclass(frozen=True)
class ObservationFeature:
    """One array of an encoded observation.

    Attributes:
      name: Name.
      shape: Shape per controlled agent.
      low: Minimum value.
      high: Maximum value.
      unit: Physical quantity of the value 1.
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
    """The content of an encoded observation. Checkpoints store it and reject encoders with a different one.

    Attributes:
      encoder: Name of the encoder.
      version: Incremented whenever the meaning of any value changes.
      features: The features in order.
    """

    encoder: str
    version: int
    features: tuple[ObservationFeature, ...]

    @property
    def size(self) -> int:
        """Number of values per controlled agent."""
        return sum(feature.size for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values, for JSON."""
        return dataclasses.asdict(self)

    def difference(self, stored: dict[str, Any]) -> str | None:
        """Description of the first difference from a stored `to_dict`; None if they are equal."""
        spec = self.to_dict()
        for name in ("encoder", "version"):
            if spec[name] != stored.get(name):
                return f"{name} is {spec[name]!r}, stored is {stored.get(name)!r}"
        theirs = {feature["name"]: feature for feature in stored.get("features", ())}
        for feature in spec["features"]:
            other = theirs.pop(feature["name"], None)
            if other is None or any(
                feature[key] != _restore_tuple(other.get(key, ()), feature[key]) for key in feature
            ):
                return f"feature {feature['name']!r} is {feature}, stored is {other}"
        if theirs:
            return f"stored features {sorted(theirs)} do not exist"
        order, stored_order = ([feature["name"] for feature in item["features"]] for item in (spec, stored))
        return None if order == stored_order else f"the order of features is {order}, stored is {stored_order}"


@runtime_checkable
class ObservationEncoder(Protocol):
    """Encodes the observation of each controlled agent. Frozen and hashable; holds settings, never arrays."""

    @property
    def limit(self) -> float:
        """Maximum absolute value of the encoding."""
        ...

    def spec(self) -> ObservationSpec:
        """The content of the encoded observation."""
        ...

    def __call__(self, observation: Observation) -> Any:
        """Arrays [K, ...], a row for each entry of `observation.controlled`; zeros for entries of -1."""
        ...


def _restore_tuple(value: Any, own: Any) -> Any:
    """A value from JSON, as a tuple if its counterpart is one."""
    return tuple(value) if isinstance(own, tuple) else value
