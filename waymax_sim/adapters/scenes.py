"""Scenes padded to common axis lengths, so that they share one compiled program."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from waymax_sim.datasets.errors import DataError
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
      needs_sdc: Whether scenes without an sdc are refused on access.
    """

    scenarios: Sequence
    pad_to: Mapping[str, int]
    padded: bool = False
    needs_sdc: bool = False

    def __len__(self) -> int:
        return len(self.scenarios)

    def __getitem__(self, index: int) -> Scenario:
        """A scene in NumPy arrays.

        Raises:
          ValueError: It is larger than `pad_to`.
          DataError: It cannot be read, or has no sdc where one is needed.
        """
        scenario = self.scenarios[index]
        if self.needs_sdc:
            _check_sdc(scenario, index)
        return scenario if self.padded else pad(scenario, self.pad_to)


def load_scenes(
    scenarios: str | Sequence, pad_to: Mapping[str, int] | None = None, *, needs_sdc: bool = False
) -> PaddedScenes:
    """Scenes of a path or a sequence, with common axis lengths.

    Args:
      scenarios: A path as in `load`, or a sequence of scenarios.
      pad_to: Axis lengths by name (see `waymax_sim.datatypes.padding.axis_lengths`). By default all scenes are read,
        kept in memory, and padded to their maximum lengths; state them for sequences larger than memory.
      needs_sdc: Whether scenes without an sdc are refused, with `pad_to` on access.

    Raises:
      ValueError: There are none, they differ in their number of steps, or only some have routes or goals.
      DataError: A scene has no sdc where one is needed.
    """
    scenes = load(scenarios) if isinstance(scenarios, str) else scenarios
    if not len(scenes):
        raise ValueError("no scenarios are given")
    if pad_to is not None:
        return PaddedScenes(scenes, pad_to, needs_sdc=needs_sdc)
    scenes = [jax.tree.map(np.asarray, scenario) for scenario in scenes]
    check_compatible(scenes)
    for index, scenario in enumerate(scenes if needs_sdc else ()):
        _check_sdc(scenario, index)
    lengths = common_lengths(scenes)
    return PaddedScenes([pad(scenario, lengths) for scenario in scenes], lengths, padded=True)


def _check_sdc(scenario: Scenario, index: int) -> None:
    if not np.any(scenario.agents.is_sdc):
        raise DataError(
            f"scenario {scenario.scenario_id!r} has no sdc, the agent that this adapter drives",
            record=index,
            field="sdc_index",
            remedy="leave the scene out, or select an agent with `waymax_sim.datasets.edit.set_sdc`",
        )
