"""Recorded scenes as small arrays of one shape: tracks at 10 Hz, map tokens and lights."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.scene_decoder.motion_tokens import SEGMENT_STEPS
from behavior_models.scene_decoder.poses import class_index, poses
from behavior_models.scene_decoder.scene_map import (
    MAP_TOKENS,
    MapTokenParams,
    Pieces,
    SceneMap,
    scene_map,
    stop_line_lights,
)
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.signals import Signals
from waymax_sim.pytree import Array, pytree, tree_index

# Tokens of a record: one second of history and eight of future.
NUM_HISTORY_TOKENS = 2
TOKENS_PER_RECORD = 18
STEPS_PER_RECORD = TOKENS_PER_RECORD * SEGMENT_STEPS + 1
# Slots of agents: those present now first, then those with the longest tracks.
NUM_SLOTS = 64
# Agents with smaller displacements between their first and last steps are parked, m.
MIN_TRAVEL = 4.0
# Records in the fields of a record, by the name of the field.
FIELD_RECORDS = {"map": SceneMap, "lanes": Pieces, "edges": Pieces, "stops": Pieces, "route": Pieces}


@pytree
class SceneRecord:
    """A recorded scene of 9.1 s around the current step. The leading axes are free.

    Attributes:
      pose: Logged poses at 10 Hz; zero where agents are absent.
      velocity: Logged velocities, m/s.
      valid: Whether agents are present.
      size: Lengths and widths, m.
      classes: Class of each agent.
      is_sdc: The sdc.
      is_traveling: Agents that travel more than `MIN_TRAVEL` in the record.
      map: Map tokens.
      lights: States of the lights of stop lines every half second; those of the history are the present ones, which
        is all that a simulation observes at its start.
    """

    pose: Float[Array, "*lead 91 A 3"]
    velocity: Float[Array, "*lead 91 A 2"]
    valid: Bool[Array, "*lead 91 A"]
    size: Float[Array, "*lead A 2"]
    classes: Int[Array, "*lead A"]
    is_sdc: Bool[Array, "*lead A"]
    is_traveling: Bool[Array, "*lead A"]
    map: SceneMap
    lights: Float[Array, "*lead 19 S 4"]


def record_scene(scenario: Scenario, num_slots: int = NUM_SLOTS, params: MapTokenParams = MAP_TOKENS) -> SceneRecord:
    """The record of a scenario; one program for scenarios of one shape.

    Args:
      scenario: The scenario.
      num_slots: Slots of agents.
      params: Numbers and sizes of map tokens.

    Raises:
      ValueError: The scenario is not recorded at 10 Hz.
    """
    if scenario.time_step != TIME_STEP:
        raise ValueError(f"{scenario.scenario_id}: motion tokens need steps of {TIME_STEP} s, not {scenario.time_step}")
    return jax.device_get(_record(pad_to_class(scenario), num_slots, params))


def record_arrays(scenario: Scenario, num_slots: int, params: MapTokenParams) -> SceneRecord:
    """`record_scene` as a pure function, without padding to a size class.

    Args:
      scenario: The scenario.
      num_slots: Slots of agents.
      params: Numbers and sizes of map tokens.
    """
    log, valid, steps = _recorded_tracks(scenario)
    rows = _slots(scenario, valid, num_slots)
    is_filled = jnp.arange(num_slots) < jnp.sum(jnp.any(valid, axis=0))
    valid = valid[:, rows] & is_filled[None]
    pose = jnp.where(valid[..., None], poses(log)[:, rows], 0.0)
    now = tree_index(scenario.log, scenario.current_step)
    tokens = scene_map(scenario.roadmap, scenario.graph, scenario.routes, now, params)
    light_steps = jnp.maximum(steps, scenario.current_step)[::SEGMENT_STEPS]
    return SceneRecord(
        pose=pose,
        velocity=jnp.where(valid[..., None], log.velocity[:, rows], 0.0),
        valid=valid,
        size=jnp.where(is_filled[:, None], jnp.asarray(scenario.agents.size)[rows, :2], 0.0),
        classes=class_index(jnp.asarray(scenario.agents.type)[rows]),
        is_sdc=jnp.asarray(scenario.agents.is_sdc)[rows] & is_filled,
        is_traveling=_travel(pose, valid) > MIN_TRAVEL,
        map=tokens,
        lights=stop_line_lights(tokens, _signals_at(scenario, light_steps)),
    )


_record = functools.partial(jax.jit, static_argnums=(1, 2))(record_arrays)


def record_slots(scenario: Scenario, num_slots: int) -> Int[Array, " A"]:
    """Agents of the slots of a record: those present now first, then those with the longest tracks.

    Args:
      scenario: The scenario.
      num_slots: Number of slots.
    """
    return _slots(scenario, _recorded_tracks(scenario)[1], num_slots)


def _recorded_tracks(scenario: Scenario) -> tuple[AgentState, Bool[Array, "T N"], Int[Array, " T"]]:
    """States at the steps of a record, their validity, and the steps."""
    steps = scenario.current_step - NUM_HISTORY_TOKENS * SEGMENT_STEPS + jnp.arange(STEPS_PER_RECORD)
    is_recorded = (steps >= 0) & (steps <= scenario.last_step)
    steps = jnp.clip(steps, 0, scenario.num_steps - 1)
    log = tree_index(scenario.log, steps)
    return log, log.valid & is_recorded[:, None] & scenario.agents.exists[None], steps


def _signals_at(scenario: Scenario, steps: Int[Array, " T"]) -> Signals:
    lights = scenario.signals
    return Signals(lights.lane_id, lights.state[steps], lights.stop_point[steps], lights.valid[steps])


def _slots(scenario: Scenario, valid: Bool[Array, "T N"], count: int) -> Int[Array, " A"]:
    valid_now = jnp.asarray(scenario.log.valid)[scenario.current_step] & scenario.agents.exists
    rank = len(valid) * 2 * valid_now.astype(jnp.int32) + jnp.sum(valid, axis=0, dtype=jnp.int32)
    order = jnp.argsort(-rank, stable=True)
    return jnp.pad(order, (0, max(0, count - len(order))))[:count]


def _travel(pose: Float[Array, "T A 3"], valid: Bool[Array, "T A"]) -> Float[Array, " A"]:
    """Distance between the first and the last valid position, m."""
    step, agents = jnp.arange(len(valid))[:, None], jnp.arange(valid.shape[1])
    first = jnp.min(jnp.where(valid, step, len(valid) - 1), axis=0)
    last = jnp.max(jnp.where(valid, step, 0), axis=0)
    return jnp.linalg.norm(pose[last, agents, :2] - pose[first, agents, :2], axis=-1)


def save_records(file: str | os.PathLike, records: SceneRecord) -> None:
    """Writes stacked records as npz.

    Args:
      file: The file.
      records: The records.
    """
    named = jax.tree_util.tree_leaves_with_path(records)
    arrays: dict[str, Any] = {_name(path): np.asarray(leaf) for path, leaf in named}
    partial = Path(file).with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(file)


def load_records(file: str | os.PathLike) -> SceneRecord:
    """Reads stacked records of `save_records`."""
    names = _field_names(SceneRecord)
    stored = read_npz_arrays(Path(file), names, "record the scenes again")
    return _from_fields(SceneRecord, stored, "")


def concatenate_records(parts: Sequence[SceneRecord]) -> SceneRecord:
    """Stacked records of several files, joined."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _field_names(record: type, prefix: str = "") -> list[str]:
    """Names of the arrays of a record type and of the records in its fields."""
    names = []
    for field in dataclasses.fields(record):
        nested = FIELD_RECORDS.get(field.name)
        names += [prefix + field.name] if nested is None else _field_names(nested, f"{prefix}{field.name}.")
    return names


def _from_fields(record: type, arrays: dict[str, np.ndarray], prefix: str) -> Any:
    values = {}
    for field in dataclasses.fields(record):
        name, nested = prefix + field.name, FIELD_RECORDS.get(field.name)
        values[field.name] = arrays[name] if nested is None else _from_fields(nested, arrays, f"{name}.")
    return record(**values)
