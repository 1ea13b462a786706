"""Banks whose scenarios are replaced in the background from a larger source."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env.bank import BankLayout, ScenarioBank, finish_bank, remove_absent_agents
from waymax_sim.env.env import Env

# Additional capacity for later scenarios, as a fraction of every axis.
AXIS_SLACK = 0.1


@dataclasses.dataclass
class _Position:
    """The content of a bank, and the progress in the source.

    Attributes:
      scenarios: The scenarios of the bank, in host memory.
      index: Their indices in the source.
      version: Their versions.
      next: Slot of the oldest scenario.
      num_read: Number of scenarios read.
    """

    scenarios: list[Scenario]
    index: list[int]
    version: np.ndarray
    next: int
    num_read: int


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
        self._source, self._env, self._seed = scenarios, env, seed
        self._order = _Order(len(scenarios), seed)
        first = list(self._read(size, None)) if 0 < size <= len(scenarios) else []
        if len(first) < size or not first:
            raise ValueError(f"a bank of {size} scenarios needs {size} usable ones, the source has {len(first)}")
        present = remove_absent_agents(env, [scenario for _, scenario in first])[0]
        self._layout = BankLayout.from_scenarios(present, slack)
        self._current = _Position(
            present, [index for index, _ in first], np.zeros(size, np.int32), 0, self._order.num_read
        )
        self._thread, self._pending = ThreadPoolExecutor(1), None
        self.bank = self._pack(self._current, None)

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
        pending: Future[tuple[_Position, ScenarioBank]] = self._pending
        self._pending = None
        self._current, self.bank = pending.result()
        return True

    def position(self) -> dict[str, Any]:
        """The scenarios of the installed bank and the progress in the source, as plain values for `restore`.

        A refresh that has not been installed is not part of it.
        """
        now = self._current
        return {
            "source": len(self._source),
            "seed": self._seed,
            "index": [int(index) for index in now.index],
            "version": now.version.tolist(),
            "next": now.next,
            "num_read": now.num_read,
            "sizes": dict(self._layout.sizes),
            "rows": dict(self._layout.rows),
            "weights": np.asarray(self.bank.weights).tolist(),
            "problems": {str(index): problem for index, problem in self.problems.items()},
        }

    def restore(self, position: dict[str, Any]) -> None:
        """Continues at a `position` of a loader of the same source: the bank and all later refreshes are equal.

        A refresh that has not been installed is discarded.

        Args:
          position: From `position`.

        Raises:
          ValueError: The source, its order or the size of the bank is another one.
        """
        own = len(self._source), self._seed, len(self._current.index)
        if (position["source"], position["seed"], len(position["index"])) != own:
            raise ValueError("the position belongs to a bank of another size, seed or number of scenarios")
        if self._pending is not None:
            self._pending.exception()
            self._pending = None
        self.problems = {int(index): problem for index, problem in position["problems"].items()}
        self._layout = BankLayout(dict(position["sizes"]), dict(position["rows"]))
        self._order = _Order(len(self._source), self._seed, position["num_read"])
        scenarios = remove_absent_agents(self._env, [self._source[index] for index in position["index"]])[0]
        version = np.asarray(position["version"], np.int32)
        self._current = _Position(scenarios, list(position["index"]), version, position["next"], position["num_read"])
        bank = self._pack(self._current, None)
        self.bank = dataclasses.replace(bank, weights=jax.device_put(np.asarray(position["weights"], np.float32)))

    def close(self) -> None:
        """Stops the background thread."""
        self._thread.shutdown(cancel_futures=True)

    def _replace(self, count: int) -> tuple[_Position, ScenarioBank]:
        after = dataclasses.replace(
            self._current,
            scenarios=list(self._current.scenarios),
            index=list(self._current.index),
            version=self._current.version.copy(),
        )
        for index, scenario in self._read(min(count, len(after.scenarios)), self._layout):
            slot = after.next % len(after.scenarios)
            previous, after.scenarios[slot] = after.scenarios[slot], scenario
            if not self._layout.has_room(after.scenarios):
                after.scenarios[slot] = previous
                self.problems[index] = "the bank has no room for its map"
                continue
            after.index[slot] = index
            after.version[slot] += 1
            after.next += 1
        after.num_read = self._order.num_read
        return after, self._pack(after, self.bank)

    def _read(self, count: int, layout: BankLayout | None) -> Iterator[tuple[int, Scenario]]:
        """The next valid scenarios with their indices; at most one pass over the source."""
        for _ in range(len(self._source)):
            if count <= 0:
                return
            index = next(self._order)
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

    def _pack(self, position: _Position, before: ScenarioBank | None) -> ScenarioBank:
        scenarios = jax.device_put(self._layout.pack(position.scenarios))
        count = len(position.scenarios)
        bank = ScenarioBank(
            scenarios=scenarios,
            controlled=np.zeros((count, 0), bool),
            weights=np.ones(count, np.float32) if before is None else before.weights,
            order=np.arange(count, dtype=np.int32) if before is None else before.order,
            version=position.version.copy(),
        )
        return finish_bank(self._env, jax.device_put(bank), None)


class _Order:
    """Indices of one random permutation after another, without end.

    Args:
      count: Number of indices.
      seed: Seed.
      num_read: Number of indices to skip.

    Attributes:
      num_read: Number of indices returned, those skipped included.
    """

    def __init__(self, count: int, seed: int, num_read: int = 0):
        self.num_read = num_read
        self._count, self._rng = count, np.random.default_rng(seed)
        for _ in range(num_read // count + 1):
            self._permutation = self._rng.permutation(count)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        index = int(self._permutation[self.num_read % self._count])
        self.num_read += 1
        if self.num_read % self._count == 0:
            self._permutation = self._rng.permutation(self._count)
        return index
