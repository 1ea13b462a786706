"""Scenario banks: many scenarios on the device that environments refer to by index, without a copy."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.padding import axes, common_sizes, fill_value
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env.env import Env
from waymax_sim.env.selection import first_agents
from waymax_sim.maps.goals import end_of_log
from waymax_sim.ops.bank import BankArray, BankRow, is_bank_row
from waymax_sim.pytree import Array, pytree

# Parts of a scenario that are small, and are gathered as a whole.
SMALL = ("id_bytes", "origin", "timestamps", "current_step", "agents", "goals")


@pytree
class ScenarioBank:
    """B scenarios on the device.

    Map arrays are concatenated and not padded. Environments refer to a scenario by its index; map queries read the rows
    that they need in place. All functions that take a scenario take one of a bank.

    Attributes:
      scenarios: The scenarios, with a `BankArray` in place of each array.
      controlled: Agents that the caller controls, [B, N].
      weights: Relative frequency of each scenario in random draws, [B].
      order: Scenarios in the order in which they are played where draws are not random, [L].
      version: Raised when a scenario is replaced, [B]. Environments in a replaced scenario begin another episode.
    """

    scenarios: Scenario
    controlled: Bool[Array, "B N"]
    weights: Float[Array, " B"]
    order: Int[Array, " L"]
    version: Int[Array, " B"]

    def __len__(self) -> int:
        return self.version.shape[0]

    @property
    def num_agents(self) -> int:
        """Agent slots N of every scenario."""
        return self.controlled.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def scenario(self, index: Int[Array, ""]) -> Scenario:
        """A scenario whose map, log, signals and routes are read in place. Batch it with `vmap` over indices.

        Args:
          index: Index of the scenario.
        """
        row = jax.tree.map(lambda array: array.row(index), self.scenarios, is_leaf=_is_bank_array)
        small = {name: jax.tree.map(BankRow.materialize, getattr(row, name), is_leaf=is_bank_row) for name in SMALL}
        return _replace(row, small)


def build_bank(
    scenarios: Sequence,
    env: Env,
    *,
    controlled: Sequence | None = None,
    weights: Float[Array, " B"] | None = None,
    order: Int[Array, " L"] | None = None,
) -> ScenarioBank:
    """Puts scenarios on the device as a bank.

    Where agents never spawn, those that are absent at the current step take no slot. Goals that the configuration adds
    become part of the bank.

    Args:
      scenarios: Scenarios of one number of steps, best unpadded (`load(path, bucketed=False)`).
      env: Rules: the agents that are controlled, `spawn` and `goals`.
      controlled: A mask of controlled agents for each scenario, instead of `env.config.controlled`.
      weights: Relative frequencies, not negative; uniform by default.
      order: Indices of scenarios in the order of play; ascending by default.

    Raises:
      ValueError: There are no scenarios, they do not fit together, or weights or order do not fit them.
    """
    masks = None if controlled is None else [np.asarray(mask) for mask in controlled]
    kept = list(scenarios)
    _check(kept, masks, weights, order)
    kept, masks = compact(env, kept, masks)
    count = len(kept)
    bank = ScenarioBank(
        scenarios=jax.device_put(BankLayout.of(kept).pack(kept)),
        controlled=jnp.zeros((count, 0), bool),
        weights=jax.device_put(np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)),
        order=jax.device_put(np.arange(count, dtype=np.int32) if order is None else np.asarray(order, np.int32)),
        version=jax.device_put(np.zeros(count, np.int32)),
    )
    return finish_bank(env, bank, masks)


def compact(env: Env, scenarios: Sequence[Scenario], masks: list | None = None) -> tuple[list[Scenario], list | None]:
    """Scenarios on the host, and masks of their agents; without agents that are absent where agents never spawn.

    Args:
      env: Rules.
      scenarios: The scenarios.
      masks: A mask of agents for each scenario, or None.
    """
    kept = [jax.tree.map(np.asarray, scenario) for scenario in scenarios]
    if env.config.spawn != "never":
        return kept, masks
    rows = [_present_rows(scenario) for scenario in kept]
    kept = [_with_agents(scenario, row) for scenario, row in zip(kept, rows, strict=True)]
    return kept, masks and [mask[row] for mask, row in zip(masks, rows, strict=True)]


def finish_bank(env: Env, bank: ScenarioBank, masks: Sequence | None) -> ScenarioBank:
    """Adds goals and the mask of controlled agents; masks replace the selector of the environment."""
    if bank.scenarios.goals is None and env.config.goals == "end_of_log":
        bank = dataclasses.replace(bank, scenarios=_replace(bank.scenarios, {"goals": _goals(bank)}))
    if masks is None:
        return dataclasses.replace(bank, controlled=_controlled(env, bank))
    num_agents = bank.scenarios.agents.id.shape[1]
    padded = np.stack([np.pad(mask, (0, num_agents - len(mask))) for mask in masks])
    # As with a selector, the first agents of a scenario up to the number of rows.
    limited = first_agents(jax.device_put(padded), env.max_controlled(num_agents))
    return dataclasses.replace(bank, controlled=limited)


@dataclasses.dataclass(frozen=True)
class BankLayout:
    """Sizes of the arrays of a bank. Scenarios that fit can replace others without a change of shape.

    Attributes:
      sizes: Longest axes of a scenario, by name, as `common_sizes` gives them.
      rows: Rows of the concatenated array at each path.
    """

    sizes: dict[str, int]
    rows: dict[str, int]

    @classmethod
    def of(cls, scenarios: Sequence[Scenario], slack: float = 0.0) -> "BankLayout":
        """The layout of some scenarios, with a share of room for larger ones.

        Args:
          scenarios: Scenarios on the host.
          slack: Additional room as a share of every axis.
        """
        sizes = {axis: math.ceil(size * (1 + slack)) for axis, size in common_sizes(scenarios).items()}
        totals = cls(sizes, {})._total_rows(scenarios)
        return cls(sizes, {path: math.ceil(total * (1 + slack)) for path, total in totals.items()})

    def fits(self, scenario: Scenario) -> bool:
        """Whether no axis of a scenario is longer than those of the bank."""
        return all(size <= self.sizes.get(axis, 0) for axis, size in common_sizes([scenario]).items())

    def has_room(self, scenarios: Sequence[Scenario]) -> bool:
        """Whether the rows of scenarios fit together."""
        return all(total <= self.rows[path] for path, total in self._total_rows(scenarios).items())

    def pack(self, scenarios: Sequence[Scenario]) -> Scenario:
        """Scenarios on the host as `BankArray`s.

        Raises:
          ValueError: They have more rows than the bank.
        """
        columns = zip(*map(_leaves, scenarios), strict=True)
        arrays = [self._bank_array(column[0][0], [leaf for _, leaf in column]) for column in columns]
        return jax.tree.unflatten(jax.tree.structure(scenarios[0]), arrays)

    def _bank_array(self, path: str, leaves: Sequence[np.ndarray]) -> BankArray:
        names, fill = axes(path)[: leaves[0].ndim], fill_value(path)
        if not names:
            index = np.arange(len(leaves), dtype=np.int32)
            return BankArray(np.stack(leaves), index, np.ones(len(leaves), np.int32), None, fill)
        counts = np.array([self._num_rows(path, leaf) for leaf in leaves], np.int32)
        start = np.cumsum(counts) - counts
        if counts.sum() > self.rows[path]:
            raise ValueError(f"the scenarios have {counts.sum()} rows of {path}, the bank has {self.rows[path]}")
        inner = [self.sizes[name] if name else leaves[0].shape[1 + axis] for axis, name in enumerate(names[1:])]
        kind = np.result_type(*(leaf.dtype for leaf in leaves))
        values = np.full((max(self.rows[path], 1), *inner, *leaves[0].shape[len(names) :]), fill, kind)
        for begin, leaf in zip(start, leaves, strict=True):
            values[(slice(begin, begin + len(leaf)), *map(slice, leaf.shape[1:]))] = leaf
        length = self.sizes[names[0]] if names[0] else leaves[0].shape[0]
        return BankArray(values, start.astype(np.int32), counts, length, fill)

    def _total_rows(self, scenarios: Sequence[Scenario]) -> dict[str, int]:
        """Rows of all scenarios together, for the array at each path."""
        columns = zip(*map(_leaves, scenarios), strict=True)
        return {column[0][0]: sum(self._num_rows(path, leaf) for path, leaf in column) for column in columns}

    def _num_rows(self, path: str, leaf: np.ndarray) -> int:
        """Rows that an array takes: its own where no other axis is padded, otherwise those of the longest."""
        names = axes(path)[: leaf.ndim]
        if len(names) > 1 and names[0]:
            return self.sizes[names[0]]
        return leaf.shape[0] if names else 1


def _leaves(scenario: Scenario) -> list[tuple[str, np.ndarray]]:
    found = jax.tree_util.tree_leaves_with_path(scenario)
    return [(".".join(key.name for key in path), leaf) for path, leaf in found]


@jax.jit
def _goals(bank: ScenarioBank) -> Goals:
    goals = jax.vmap(lambda index: end_of_log(bank.scenario(index)))(_indices(bank))
    count, num_agents = goals.valid.shape
    start = num_agents * _indices(bank)
    lengths = jnp.full(count, num_agents, jnp.int32)

    def joined(leaf: Array) -> BankArray:
        return BankArray(leaf.reshape(-1, *leaf.shape[2:]), start, lengths, num_agents)

    return jax.tree.map(joined, goals)


@functools.partial(jax.jit, static_argnums=0)
def _controlled(env: Env, bank: ScenarioBank) -> Bool[Array, "B N"]:
    return jax.vmap(lambda index: env.controlled_mask(bank.scenario(index)))(_indices(bank))


def _indices(bank: ScenarioBank) -> Int[Array, " B"]:
    return jnp.arange(len(bank), dtype=jnp.int32)


def _present_rows(scenario: Scenario) -> Int[np.ndarray, " n"]:
    rows = np.flatnonzero(scenario.log.valid[int(scenario.current_step)] & scenario.agents.exists)
    return rows if len(rows) else np.zeros(1, int)


def _with_agents(scenario: Scenario, rows: Int[np.ndarray, " n"]) -> Scenario:
    agents: AgentInfo = jax.tree.map(lambda leaf: leaf[rows], scenario.agents)
    log: AgentState = jax.tree.map(lambda leaf: leaf[:, rows], scenario.log)
    goals = scenario.goals and jax.tree.map(lambda leaf: leaf[rows], scenario.goals)
    return dataclasses.replace(scenario, agents=agents, log=log, goals=goals)


def _check(kept: Sequence[Scenario], masks: Sequence | None, weights: Array | None, order: Array | None) -> None:
    if not kept:
        raise ValueError("no scenarios for the bank")
    if len({scenario.num_steps for scenario in kept}) > 1:
        raise ValueError("scenarios of different numbers of steps cannot share a bank; load them with a window")
    for name in ("routes", "goals"):
        if len({getattr(scenario, name) is None for scenario in kept}) > 1:
            raise ValueError(f"scenarios with {name} and scenarios without cannot share a bank")
    if masks is not None and [len(mask) for mask in masks] != [scenario.num_agents for scenario in kept]:
        raise ValueError("masks of controlled agents do not fit the scenarios: give one entry per agent slot")
    if weights is not None:
        weights = np.asarray(weights)
        if weights.shape != (len(kept),) or not np.all(np.isfinite(weights) & (weights >= 0)) or not weights.any():
            raise ValueError(f"weights must be {len(kept)} finite numbers, not negative, and not all zero")
    if order is not None and (not len(order) or np.min(order) < 0 or np.max(order) >= len(kept)):
        raise ValueError(f"order must hold indices below {len(kept)}")


def _replace(scenario: Scenario, changes: dict) -> Scenario:
    """`dataclasses.replace` without the checks of arrays, which rows of a bank are not."""
    replaced = object.__new__(Scenario)
    for field in dataclasses.fields(Scenario):
        object.__setattr__(replaced, field.name, changes.get(field.name, getattr(scenario, field.name)))
    return replaced


def _is_bank_array(item: object) -> bool:
    return isinstance(item, BankArray)
