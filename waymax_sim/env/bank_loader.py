"""Banks whose scenarios are replaced in the background from a larger source."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env.bank import BankLayout, ScenarioBank, finish_bank, remove_absent_agents
from waymax_sim.env.env import Env

# Additional capacity for later scenarios, as a fraction of every axis.
AXIS_SLACK = 0.1


class BankLoader:
    """A bank with a subset of a source, part of which is replaced on demand in a background thread.

    Shapes are constant, so no program is recompiled. Environments in a replaced scenario start a new episode in their
    next step. Invalid or too large scenarios are skipped and listed in `problems`.

    Args:
      scenarios: The source, such as `load(path, pad_to_bucket=False)`; at least `size` of them must be valid.
      env: Rules, see `build_bank`.
      size: Number of scenarios in the bank.
      seed: Seed of the order; each pass over the source is a random permutation.
      slack: Additional capacity for scenarios larger than the first ones, as a fraction of every axis.

    Attributes:
      bank: The bank on the device.
      problems: Reasons for skipped scenarios, by index in the source.

    Raises:
      ValueError: The source has fewer valid scenarios than the bank.
    """

    def __init__(self, scenarios: Sequence, env: Env, size: int, *, seed: int = 0, slack: float = AXIS_SLACK):
        self.problems: dict[int, str] = {}
        self._source, self._env = scenarios, env
        self._indices = _repeated_permutations(len(scenarios), seed)
        first = [scenario for _, scenario in self._read(size, None)] if 0 < size <= len(scenarios) else []
        if len(first) < size or not first:
            raise ValueError(f"a bank of {size} scenarios needs {size} usable ones, the source has {len(first)}")
        self._scenarios = remove_absent_agents(env, first)[0]
        self._layout = BankLayout.from_scenarios(self._scenarios, slack)
        self._version, self._next = np.zeros(size, np.int32), 0
        self._thread, self._pending = ThreadPoolExecutor(1), None
        self.bank = self._pack(None)

    def refresh(self, count: int) -> None:
        """Starts to replace the `count` oldest scenarios of the bank; `poll` reports completion.

        Does nothing while an earlier refresh runs.
        """
        if self._pending is None:
            self._pending = self._thread.submit(self._replace, count)

    def poll(self, wait: bool = False) -> bool:
        """Installs the bank of a finished refresh; returns whether there was one.

        Args:
          wait: Whether to wait for a running refresh.

        Raises:
          Exception: The refresh failed; the bank is unchanged.
        """
        if self._pending is None or not (wait or self._pending.done()):
            return False
        pending: Future[ScenarioBank] = self._pending
        self._pending = None
        self.bank = pending.result()
        return True

    def close(self) -> None:
        """Stops the background thread."""
        self._thread.shutdown(cancel_futures=True)

    def _replace(self, count: int) -> ScenarioBank:
        scenarios, version = list(self._scenarios), self._version.copy()
        for index, scenario in self._read(min(count, len(scenarios)), self._layout):
            slot = self._next % len(scenarios)
            previous, scenarios[slot] = scenarios[slot], scenario
            if not self._layout.has_room(scenarios):
                scenarios[slot] = previous
                self.problems[index] = "the bank has no room for its map"
                continue
            version[slot] += 1
            self._next += 1
        self._scenarios, self._version = scenarios, version
        return self._pack(self.bank)

    def _read(self, count: int, layout: BankLayout | None) -> Iterator[tuple[int, Scenario]]:
        """The next valid scenarios with their indices; at most one pass over the source."""
        for index, _ in zip(self._indices, range(len(self._source)), strict=False):
            if count <= 0:
                return
            try:
                scenario = self._source[index]
            except ValueError as error:
                self.problems[index] = str(error)
                continue
            if layout is not None:
                scenario = remove_absent_agents(self._env, [scenario])[0][0]
                if not layout.fits(scenario):
                    self.problems[index] = "larger than the scenarios of the bank"
                    continue
            count -= 1
            yield index, scenario

    def _pack(self, before: ScenarioBank | None) -> ScenarioBank:
        scenarios = jax.device_put(self._layout.pack(self._scenarios))
        count = len(self._scenarios)
        bank = ScenarioBank(
            scenarios=scenarios,
            controlled=np.zeros((count, 0), bool),
            weights=np.ones(count, np.float32) if before is None else before.weights,
            order=np.arange(count, dtype=np.int32) if before is None else before.order,
            version=self._version.copy(),
        )
        return finish_bank(self._env, jax.device_put(bank), None)


def _repeated_permutations(count: int, seed: int) -> Iterator[int]:
    """Indices of one random permutation after another, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(count).tolist()
