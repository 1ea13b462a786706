"""Scenarios of a training: a resident bank, or part of a larger source whose scenarios are replaced."""

import dataclasses
from collections.abc import Callable
from typing import Any

from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.bank_loader import BankLoader


@dataclasses.dataclass(frozen=True)
class StreamParams:
    """Replacement of scenarios between training steps.

    Attributes:
      interval: Training steps between two replacements.
      share: Share of the bank that is replaced.
    """

    interval: int = 10
    share: float = 0.1


class ScenarioStream:
    """A bank of a constant number of scenarios (`training.loop.ScenarioUpdates`).

    A replacement is read in the background for one interval. It begins and is installed at fixed training steps,
    however long it takes, so that a resumed training equals an uninterrupted one.

    Args:
      loader: The bank and its source.
      params: Times and amount of the replacement.
      put_on_devices: Copies a bank to the devices of the training.
    """

    def __init__(
        self,
        loader: BankLoader,
        params: StreamParams = StreamParams(),
        put_on_devices: Callable[[ScenarioBank], ScenarioBank] = lambda bank: bank,
    ):
        self._loader, self._params, self._put = loader, params, put_on_devices
        self.bank = put_on_devices(loader.bank)
        self._begin()

    def _begin(self) -> None:
        self._loader.refresh(max(1, round(self._params.share * len(self.bank))))

    def advance(self, number: int) -> None:
        """Installs the scenarios read since the last replacement, and begins the next one."""
        if number % self._params.interval == 0:
            self._loader.poll(wait=True)
            self.bank = self._put(self._loader.bank)
            self._begin()

    def position(self) -> dict[str, Any]:
        """The scenarios of the bank and the position in the source, plain values."""
        return self._loader.position()

    def restore(self, position: dict[str, Any]) -> None:
        """Continues at a position: the replacement that was in progress begins again."""
        self._loader.restore(position)
        self.bank = self._put(self._loader.bank)
        self._begin()

    def close(self) -> None:
        """Stops reading."""
        self._loader.close()
