"""Searches with several seeds in one program, resumed after an interruption with equal results."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from behavior_models.program_search.evolution import ACCEPTED, FALLBACK, NO_PARENT, Archive, Search, SearchState
from behavior_models.training.devices import put_on_devices, replicate
from behavior_models.training.saver import Saver
from waymax_sim.evaluation.confidence import optional_float
from waymax_sim.pytree import tree_index
from waymax_sim.results_dir import check_conditions, write_json

CHECKPOINTS = "checkpoints"
STATUS_FILE = "search.json"
# Blocks without a new program after which a search ends: its space is exhausted.
MAX_IDLE_BLOCKS = 20


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """A search that has ended, S seeds.

    Attributes:
      archive: Evaluated programs of each seed, on the host.
      cpu_seconds: CPU time of all seeds, without compilation.
    """

    archive: Archive
    cpu_seconds: float

    @property
    def curves(self) -> Float[np.ndarray, "S B"]:
        """Largest fitness after each evaluation."""
        return np.maximum.accumulate(self.archive.fitness, axis=1)

    @property
    def win_rates(self) -> dict[str, float]:
        """Shares of accepted children, and of the best rejected ones, that are better than their parents."""
        fitness, parent = self.archive.fitness, self.archive.parent
        wins = fitness > np.take_along_axis(fitness, np.maximum(parent, 0), axis=1)
        masks = {
            name: (self.archive.decision == decision) & (parent != NO_PARENT)
            for name, decision in (("accepted", ACCEPTED), ("fallback", FALLBACK))
        }
        return {name: float(wins[mask].mean()) if mask.any() else float("nan") for name, mask in masks.items()}

    @property
    def win_rates_or_none(self) -> dict[str, float | None]:
        """`win_rates` as JSON has them: None without a decision."""
        return {name: optional_float(rate) for name, rate in self.win_rates.items()}

    def best(self, seed: int, count: int = 1) -> list[tuple[float, Any]]:
        """The programs of a seed with the largest fitness, best first.

        Args:
          seed: Index of the seed.
          count: Number of programs.
        """
        order = np.argsort(-self.archive.fitness[seed], kind="stable")[:count]
        programs = tree_index(self.archive.programs, seed)
        return [(float(self.archive.fitness[seed, row]), tree_index(programs, int(row))) for row in order]


def run_search(
    folder: Path,
    search: Search,
    seeds: list[int],
    report: Callable[[int, float], None] = lambda *_: None,
    save_every: int = 10,
    stop_at: int | None = None,
) -> SearchResult:
    """Runs a search, or continues the one in a folder.

    Args:
      folder: Folder of checkpoints.
      search: The search.
      seeds: Seeds, one search each.
      report: Called with the smallest number of evaluated programs, and the mean over seeds of the largest fitness.
      save_every: Blocks between two checkpoints.
      stop_at: Evaluations of each seed after which the search is left, to be continued later; the budget by default.

    Raises:
      ValueError: The folder holds a search with other conditions.
    """
    conditions = {"domain": search.domain.name, "seeds": seeds, **dataclasses.asdict(search.config)}
    check_conditions(folder, json.loads(json.dumps(conditions)))
    saver = Saver(folder / CHECKPOINTS)
    keys = jax.numpy.stack([jax.random.key(seed) for seed in seeds])
    state = jax.jit(jax.vmap(search.init))(keys)
    # A batch of seeds would evaluate both branches of a hurdle.
    batch = functools.partial(jax.lax.map, search.block) if search.domain.in_sequence else jax.vmap(search.block)
    number, state, stored = saver.restore(state)
    state = put_on_devices(state, search.mesh, True)
    cpu_seconds, idle = stored.get("cpu_seconds", 0.0), stored.get("idle", 0)
    count, last = int(np.min(state.num_evaluated)), min(stop_at or search.config.budget, search.config.budget)
    block = search.block
    if count < last:
        # Compiled before the time is measured, and not for a search that has ended.
        block = jax.jit(lambda state: replicate(batch(state), search.mesh)).lower(state).compile()
    while count < last and idle < MAX_IDLE_BLOCKS:
        begin = time.process_time()
        state: SearchState = jax.block_until_ready(block(state))
        cpu_seconds += time.process_time() - begin
        number, previous, count = number + 1, count, int(np.min(state.num_evaluated))
        idle = idle + 1 if count == previous else 0
        report(count, float(np.mean(np.max(state.archive.fitness, axis=1))))
        if number % save_every == 0 or count >= last:
            saver.save(number, state, {"cpu_seconds": cpu_seconds, "idle": idle})
    write_json(folder / STATUS_FILE, {"evaluated": count, "cpu_seconds": cpu_seconds})
    return SearchResult(jax.device_get(state.archive), cpu_seconds)
