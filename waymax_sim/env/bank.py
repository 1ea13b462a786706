"""Scenario banks: scenarios on the device that environments refer to by index, without copies."""

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
from waymax_sim.datatypes.padding import axes_too_large, axis_names, check_compatible, common_lengths, fill_value
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env.env import Env
from waymax_sim.env.selection import first_agents
from waymax_sim.maps.goals import log_end_goals
from waymax_sim.ops.bank import BankArray, materialize_rows
from waymax_sim.pytree import Array, pytree

# Small fields of a scenario, which are copied; all others are read in the bank.
GATHERED_FIELDS = ("id_bytes", "origin", "timestamps", "current_step", "last_step", "agents", "goals")


@pytree
class ScenarioBank:
    """B scenarios on the device.

    Map arrays are concatenated and not padded. Environments refer to a scenario by its index, and map queries read
    single rows of the bank. Every function of a scenario accepts one of a bank.

    Attributes:
      scenarios: The scenarios, with a `BankArray` instead of each array.
      controlled: Agents that the caller controls, [B, N].
      weights: Relative frequency of each scenario in random draws, [B].
      order: Indices of scenarios in the order of play for `sampling="order"`, [L].
      version: Incremented when a scenario is replaced, [B]. Environments in a replaced scenario start a new episode.
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
        """A scenario whose map, log, signals and routes stay in the bank. Batch it with `vmap` over indices.

        Args:
          index: Index of the scenario.
        """
        row = jax.tree.map(lambda array: array.row(index), self.scenarios, is_leaf=_is_bank_array)
        small = {name: materialize_rows(getattr(row, name)) for name in GATHERED_FIELDS}
        return _replace(row, small)


def build_bank(
    scenarios: Sequence,
    env: Env,
    *,
    controlled: Sequence | None = None,
    weights: Float[Array, " B"] | None = None,
    order: Int[Array, " L"] | None = None,
) -> ScenarioBank:
    """Builds a bank on the device.

    With `spawn="never"`, agents that are absent at the current step take no slot. Goals that the configuration adds
    become part of the bank.

    Args:
      scenarios: Scenarios of equal numbers of steps, preferably unpadded (`load(path, pad_to_bucket=False)`).
      env: Rules: the agents that are controlled, `spawn` and `goals`.
      controlled: A mask of controlled agents for each scenario, instead of `env.config.controlled`.
      weights: Relative frequencies, not negative; uniform by default.
      order: Indices of scenarios in the order of play; ascending by default.

    Raises:
      ValueError: There are no scenarios, they are incompatible, or masks, weights or order do not match them.
    """
    masks = None if controlled is None else [np.asarray(mask) for mask in controlled]
    scenarios = list(scenarios)
    check_compatible(scenarios)
    _check_options(scenarios, masks, weights, order)
    scenarios, masks = remove_absent_agents(env, scenarios, masks)
    count = len(scenarios)
    bank = ScenarioBank(
        scenarios=jax.device_put(BankLayout.from_scenarios(scenarios).pack(scenarios)),
        controlled=jnp.zeros((count, 0), bool),
        weights=jax.device_put(np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)),
        order=jax.device_put(np.arange(count, dtype=np.int32) if order is None else np.asarray(order, np.int32)),
        version=jax.device_put(np.zeros(count, np.int32)),
    )
    return finish_bank(env, bank, masks)


def remove_absent_agents(
    env: Env, scenarios: Sequence[Scenario], masks: list | None = None
) -> tuple[list[Scenario], list | None]:
    """Scenarios in host memory without the agents that are absent at the current step; all agents if any may spawn.

    Args:
      env: Rules.
      scenarios: The scenarios.
      masks: A mask of agents for each scenario, or None.

    Returns:
      The scenarios, and the masks of the remaining agents.
    """
    scenarios = [jax.tree.map(np.asarray, scenario) for scenario in scenarios]
    if env.config.spawn != "never":
        return scenarios, masks
    slots = [_valid_agents_now(scenario) for scenario in scenarios]
    scenarios = [_select_agents(scenario, own) for scenario, own in zip(scenarios, slots, strict=True)]
    return scenarios, masks and [mask[own] for mask, own in zip(masks, slots, strict=True)]


def finish_bank(env: Env, bank: ScenarioBank, masks: Sequence | None) -> ScenarioBank:
    """The bank with goals and the mask of controlled agents.

    Args:
      env: Rules.
      bank: A bank without mask.
      masks: Masks of controlled agents, which replace the selector of the environment; None for the selector.
    """
    if bank.scenarios.goals is None and env.config.goals == "end_of_log":
        bank = dataclasses.replace(bank, scenarios=_replace(bank.scenarios, {"goals": _goals(bank)}))
    if masks is None:
        return dataclasses.replace(bank, controlled=_controlled(env, bank))
    num_agents = bank.scenarios.agents.id.shape[1]
    padded = np.stack([np.pad(mask, (0, num_agents - len(mask))) for mask in masks])
    # As with a selector, `max_controlled` limits the agents of a mask.
    limited = first_agents(jax.device_put(padded), env.max_controlled(num_agents))
    return dataclasses.replace(bank, controlled=limited)


@dataclasses.dataclass(frozen=True)
class BankLayout:
    """Sizes of the arrays of a bank. Scenarios that fit can replace others without a change of shape.

    Attributes:
      sizes: Maximum axis lengths of a scenario, by name (see `common_lengths`).
      rows: Number of rows of the concatenated array at each path.
    """

    sizes: dict[str, int]
    rows: dict[str, int]

    @classmethod
    def from_scenarios(cls, scenarios: Sequence[Scenario], slack: float = 0.0) -> "BankLayout":
        """The layout for given scenarios, with room for larger ones.

        Args:
          scenarios: Scenarios in host memory.
          slack: Additional capacity as a fraction of every axis.
        """
        sizes = {axis: math.ceil(size * (1 + slack)) for axis, size in common_lengths(scenarios).items()}
        totals = cls(sizes, {})._total_rows(scenarios)
        return cls(sizes, {path: math.ceil(total * (1 + slack)) for path, total in totals.items()})

    def fits(self, scenario: Scenario) -> bool:
        """Whether no axis of a scenario is longer than in the bank."""
        return not axes_too_large(scenario, self.sizes)

    def has_room(self, scenarios: Sequence[Scenario]) -> bool:
        """Whether the total rows of the scenarios do not exceed those of the bank."""
        return all(total <= self.rows[path] for path, total in self._total_rows(scenarios).items())

    def pack(self, scenarios: Sequence[Scenario]) -> Scenario:
        """Concatenates scenarios into `BankArray`s in host memory.

        Raises:
          ValueError: They have more rows than the bank.
        """
        columns = zip(*map(_named_leaves, scenarios), strict=True)
        arrays = [self._bank_array(column[0][0], [leaf for _, leaf in column]) for column in columns]
        return jax.tree.unflatten(jax.tree.structure(scenarios[0]), arrays)

    def _bank_array(self, path: str, leaves: Sequence[np.ndarray]) -> BankArray:
        names, fill = axis_names(path)[: leaves[0].ndim], fill_value(path)
        if not names:
            index = np.arange(len(leaves), dtype=np.int32)
            return BankArray(np.stack(leaves), index, np.ones(len(leaves), np.int32), None, fill)
        counts = np.array([self._num_rows(path, leaf) for leaf in leaves], np.int32)
        start = np.cumsum(counts) - counts
        if counts.sum() > self.rows[path]:
            raise ValueError(f"the scenarios have {counts.sum()} rows of {path}, the bank has {self.rows[path]}")
        inner = [self.sizes[name] if name else leaves[0].shape[1 + axis] for axis, name in enumerate(names[1:])]
        dtype = np.result_type(*(leaf.dtype for leaf in leaves))
        values = np.full((max(self.rows[path], 1), *inner, *leaves[0].shape[len(names) :]), fill, dtype)
        for begin, leaf in zip(start, leaves, strict=True):
            values[(slice(begin, begin + len(leaf)), *map(slice, leaf.shape[1:]))] = leaf
        length = self.sizes[names[0]] if names[0] else leaves[0].shape[0]
        return BankArray(values, start.astype(np.int32), counts, length, fill)

    def _total_rows(self, scenarios: Sequence[Scenario]) -> dict[str, int]:
        """Rows of all scenarios together, for the array at each path."""
        columns = zip(*map(_named_leaves, scenarios), strict=True)
        return {column[0][0]: sum(self._num_rows(path, leaf) for path, leaf in column) for column in columns}

    def _num_rows(self, path: str, leaf: np.ndarray) -> int:
        """Rows of an array in the bank: padded to the maximum length if another axis is padded too."""
        names = axis_names(path)[: leaf.ndim]
        if len(names) > 1 and names[0]:
            return self.sizes[names[0]]
        return leaf.shape[0] if names else 1


def _named_leaves(scenario: Scenario) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_leaves_with_path(scenario)
    return [(".".join(key.name for key in path), leaf) for path, leaf in leaves]


@jax.jit
def _goals(bank: ScenarioBank) -> Goals:
    goals = jax.vmap(lambda index: log_end_goals(bank.scenario(index)))(_indices(bank))
    count, num_agents = goals.valid.shape
    start = num_agents * _indices(bank)
    lengths = jnp.full(count, num_agents, jnp.int32)

    def concatenate(leaf: Array) -> BankArray:
        return BankArray(leaf.reshape(-1, *leaf.shape[2:]), start, lengths, num_agents)

    return jax.tree.map(concatenate, goals)


@functools.partial(jax.jit, static_argnums=0)
def _controlled(env: Env, bank: ScenarioBank) -> Bool[Array, "B N"]:
    return jax.vmap(lambda index: env.controlled_mask(bank.scenario(index)))(_indices(bank))


def _indices(bank: ScenarioBank) -> Int[Array, " B"]:
    return jnp.arange(len(bank), dtype=jnp.int32)


def _valid_agents_now(scenario: Scenario) -> Int[np.ndarray, " n"]:
    """Slots of the agents that are valid at the current step; slot 0 if none is."""
    slots = np.flatnonzero(scenario.log.valid[int(scenario.current_step)] & scenario.agents.exists)
    return slots if len(slots) else np.zeros(1, int)


def _select_agents(scenario: Scenario, slots: Int[np.ndarray, " n"]) -> Scenario:
    agents: AgentInfo = jax.tree.map(lambda leaf: leaf[slots], scenario.agents)
    log: AgentState = jax.tree.map(lambda leaf: leaf[:, slots], scenario.log)
    goals = scenario.goals and jax.tree.map(lambda leaf: leaf[slots], scenario.goals)
    return dataclasses.replace(scenario, agents=agents, log=log, goals=goals)


def _check_options(
    scenarios: Sequence[Scenario], masks: Sequence | None, weights: Array | None, order: Array | None
) -> None:
    if masks is not None and [len(mask) for mask in masks] != [scenario.num_agents for scenario in scenarios]:
        raise ValueError("masks of controlled agents do not fit the scenarios: give one entry per agent slot")
    if weights is not None:
        weights = np.asarray(weights)
        if weights.shape != (len(scenarios),) or not np.all(np.isfinite(weights) & (weights >= 0)) or not weights.any():
            raise ValueError(f"weights must be {len(scenarios)} finite numbers, not negative, and not all zero")
    if order is not None and (not len(order) or np.min(order) < 0 or np.max(order) >= len(scenarios)):
        raise ValueError(f"order must hold indices below {len(scenarios)}")


def _replace(scenario: Scenario, changes: dict) -> Scenario:
    """`dataclasses.replace` without type checks: rows of a bank are not arrays."""
    replaced = object.__new__(Scenario)
    for field in dataclasses.fields(Scenario):
        object.__setattr__(replaced, field.name, changes.get(field.name, getattr(scenario, field.name)))
    return replaced


def _is_bank_array(item: object) -> bool:
    return isinstance(item, BankArray)
