"""Scenes padded to common axis lengths, so that they share one compiled program."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.padding import check_compatible, common_lengths, pad
from waymax_sim.datatypes.scenario import Scenario


@dataclasses.dataclass(frozen=True, eq=False)
class PaddedScenes:
    """A sequence of scenes with common axis lengths.

    Attributes:
      scenarios: The scenes.
      pad_to: Axis lengths by name.
      padded: Whether the scenes have these lengths already; otherwise they are padded on access.
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


def load_scenes(scenarios: str | Sequence, pad_to: Mapping[str, int] | None = None) -> PaddedScenes:
    """Scenes of a path or a sequence, with common axis lengths.

    Args:
      scenarios: A path as in `load`, or a sequence of scenarios.
      pad_to: Axis lengths by name (see `waymax_sim.datatypes.padding.axis_lengths`). By default all scenes are read,
        kept in memory, and padded to their maximum lengths; state them for sequences larger than memory.

    Raises:
      ValueError: There are none, they differ in their number of steps, or only some have routes or goals.
    """
    scenes = load(scenarios) if isinstance(scenarios, str) else scenarios
    if not len(scenes):
        raise ValueError("no scenarios are given")
    if pad_to is not None:
        return PaddedScenes(scenes, pad_to)
    scenes = [jax.tree.map(np.asarray, scenario) for scenario in scenes]
    check_compatible(scenes)
    lengths = common_lengths(scenes)
    return PaddedScenes([pad(scenario, lengths) for scenario in scenes], lengths, padded=True)
