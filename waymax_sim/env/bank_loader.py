"""Banks whose scenarios are replaced from a larger source while training runs."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env.bank import BankLayout, ScenarioBank, compact, finish_bank
from waymax_sim.env.env import Env

# Room for larger scenarios than those that the bank starts with, as a share of every axis.
SLACK = 0.1


class BankLoader:
    """Keeps a bank of some scenarios of a source, and replaces part of it in a background thread.

    Shapes never change, so no program is compiled again. Environments in a replaced scenario begin another episode in
    their next step. Scenarios that cannot be used are left out and listed in `problems`.

    Args:
      scenarios: The source, such as `load(path, bucketed=False)`; at least `size` of them must be usable.
      env: Rules, see `build_bank`.
      size: Number of scenarios in the bank.
      seed: Seed of the order in which scenarios are taken; every scenario comes once before any comes again.
      slack: Room for larger scenarios than the first ones, as a share of every axis.

    Attributes:
      bank: The bank on the device.
      problems: Indices of scenarios that were left out, and the reasons.

    Raises:
      ValueError: The source has fewer usable scenarios than the bank.
    """

    def __init__(self, scenarios: Sequence, env: Env, size: int, *, seed: int = 0, slack: float = SLACK):
        self.problems: dict[int, str] = {}
        self._source, self._env = scenarios, env
        self._indices = _endless_order(len(scenarios), seed)
        first = [scenario for _, scenario in self._read(size, None)] if 0 < size <= len(scenarios) else []
        if len(first) < size or not first:
            raise ValueError(f"a bank of {size} scenarios needs as many usable ones, the source has {len(first)}")
        self._kept = compact(env, first)[0]
        self._layout = BankLayout.of(self._kept, slack)
        self._version, self._next = np.zeros(size, np.int32), 0
        self._thread, self._coming = ThreadPoolExecutor(1), None
        self.bank = self._pack(None)

    def refresh(self, count: int) -> None:
        """Starts to replace the `count` scenarios that are in the bank for longest; `poll` tells when it is done.

        Does nothing while an earlier refresh runs.
        """
        if self._coming is None:
            self._coming = self._thread.submit(self._replace, count)

    def poll(self, wait: bool = False) -> bool:
        """Takes over a finished refresh: whether `bank` is a new one.

        Args:
          wait: Whether to wait for a refresh that still runs.

        Raises:
          Exception: The refresh failed; the bank is as before.
        """
        if self._coming is None or not (wait or self._coming.done()):
            return False
        coming: Future[ScenarioBank] = self._coming
        self._coming = None
        self.bank = coming.result()
        return True

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _replace(self, count: int) -> ScenarioBank:
        kept, version = list(self._kept), self._version.copy()
        for index, scenario in self._read(min(count, len(kept)), self._layout):
            slot = self._next % len(kept)
            previous, kept[slot] = kept[slot], scenario
            if not self._layout.has_room(kept):
                kept[slot] = previous
                self.problems[index] = "the bank has no room for its map"
                continue
            version[slot] += 1
            self._next += 1
        self._kept, self._version = kept, version
        return self._pack(self.bank)

    def _read(self, count: int, layout: BankLayout | None) -> Iterator[tuple[int, Scenario]]:
        """The next usable scenarios with their indices, fewer where a pass over the source finds no more."""
        for index, _ in zip(self._indices, range(len(self._source)), strict=False):
            if count <= 0:
                return
            try:
                scenario = self._source[index]
            except ValueError as error:
                self.problems[index] = str(error)
                continue
            if layout is not None:
                scenario = compact(self._env, [scenario])[0][0]
                if not layout.fits(scenario):
                    self.problems[index] = "larger than the scenarios of the bank"
                    continue
            count -= 1
            yield index, scenario

    def _pack(self, before: ScenarioBank | None) -> ScenarioBank:
        scenarios = jax.device_put(self._layout.pack(self._kept))
        count = len(self._kept)
        bank = ScenarioBank(
            scenarios=scenarios,
            controlled=np.zeros((count, 0), bool),
            weights=np.ones(count, np.float32) if before is None else before.weights,
            order=np.arange(count, dtype=np.int32) if before is None else before.order,
            version=self._version.copy(),
        )
        return finish_bank(self._env, jax.device_put(bank), None)


def _endless_order(count: int, seed: int) -> Iterator[int]:
    """Indices in random order, all of them before any comes again."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(count).tolist()
