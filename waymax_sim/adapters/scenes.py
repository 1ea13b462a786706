"""Scenes of one shape, so that one compiled program runs them all."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.padding import common_sizes, pad
from waymax_sim.datatypes.scenario import Scenario


@dataclasses.dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes of a common size.

    Attributes:
      scenarios: The scenes.
      pad_to: Lengths of their axes.
      padded: Whether they have these already; otherwise they are padded when asked for.
    """

    scenarios: Sequence
    pad_to: Mapping[str, int]
    padded: bool = False

    def __len__(self) -> int:
        return len(self.scenarios)

    def __getitem__(self, index: int) -> Scenario:
        """A scene in NumPy arrays.

        Raises:
          ValueError: It is larger than `pad_to`.
          DataError: It cannot be read.
        """
        scenario = self.scenarios[index]
        return scenario if self.padded else pad(scenario, self.pad_to)


def scenes_of(scenarios: str | Sequence, pad_to: Mapping[str, int] | None = None) -> Scenes:
    """Scenes by path or as a sequence.

    Args:
      scenarios: A path as for `load`, or scenarios.
      pad_to: Lengths of axes to pad scenes to, as `waymax_sim.datatypes.padding.sizes` gives them. None reads all
        scenes once, keeps them in memory and pads them to the largest; give it where they are too many for that.

    Raises:
      ValueError: There are none, they differ in their number of steps, or only some have routes or goals.
    """
    found = load(scenarios) if isinstance(scenarios, str) else scenarios
    if not len(found):
        raise ValueError("no scenarios to drive in")
    if pad_to is not None:
        return Scenes(found, pad_to)
    kept = [jax.tree.map(np.asarray, scenario) for scenario in found]
    if len({scenario.num_steps for scenario in kept}) > 1:
        raise ValueError("scenarios of different numbers of steps cannot run in one environment")
    for name in ("routes", "goals"):
        if len({getattr(scenario, name) is None for scenario in kept}) > 1:
            raise ValueError(f"scenarios with {name} and without cannot run in one environment")
    common = common_sizes(kept)
    return Scenes([pad(scenario, common) for scenario in kept], common, padded=True)
