"""Edits of agents: add, drop, move and modify."""

import dataclasses

import jax
import numpy as np

from waymax_sim.datasets.edit.common import AgentSelection, ArrayLike, agent_mask, check_finite, pad_like, zero_outside
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, VEHICLE, AgentInfo, AgentState
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.geometry import wrap_angle
from waymax_sim.maps.routes import build_routes
from waymax_sim.pytree import tree_index

CAR_SIZE = (4.5, 2.0, 1.5)  # length, width and height, m


def drop_agents(scenario: Scenario, agents: AgentSelection) -> Scenario:
    """Removes agents; their slots become padding. Removing the sdc removes the routes."""
    dropped = agent_mask(scenario, agents)
    info = zero_outside(scenario.agents, ~dropped)
    return dataclasses.replace(
        scenario,
        agents=dataclasses.replace(info, id=np.where(dropped, -1, scenario.agents.id)),
        log=zero_outside(scenario.log, np.broadcast_to(~dropped, scenario.log.valid.shape)),
        routes=None if (dropped & scenario.agents.is_sdc).any() else scenario.routes,
    )


def add_agent(
    scenario: Scenario,
    xyz: ArrayLike,
    yaw: ArrayLike,
    *,
    velocity: ArrayLike | None = None,
    valid: ArrayLike = True,
    size: ArrayLike = CAR_SIZE,
    agent_type: int = VEHICLE,
    agent_id: int | None = None,
) -> Scenario:
    """Adds an agent and its log in the first free slot.

    Args:
      scenario: The scenario.
      xyz: Center of the box, m, local frame: [T, 3], or [3] for the current step.
      yaw: Heading, rad: [T], or a scalar for all steps.
      velocity: m/s: [T, 2], or [2] for all steps. With one position and one velocity, the agent moves uniformly. With
        positions at all steps and no velocity, the velocity is their derivative. With one position and no velocity, the
        agent is at rest.
      valid: Whether the agent is valid: [T], or a scalar for all steps.
      size: Length, width and height, m.
      agent_type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other.
      agent_id: Track id; by default one more than the largest.

    Raises:
      ValueError: A number is not finite, a shape or the type is invalid, or the id exists.
    """
    num_steps, known_ids = scenario.num_steps, scenario.agents.id[scenario.agents.exists]
    agent_id = int(known_ids.max(initial=0)) + 1 if agent_id is None else agent_id
    if agent_id in known_ids:
        raise ValueError(f"agent id {agent_id} exists already")
    position = check_finite("xyz", xyz)
    path = np.broadcast_to(position, (num_steps, 3))
    if velocity is None:
        is_track = position.ndim > 1 and num_steps > 1
        velocities = np.gradient(path[:, :2], scenario.timestamps, axis=0) if is_track else np.zeros((num_steps, 2))
    else:
        velocities = np.broadcast_to(check_finite("velocity", velocity), (num_steps, 2))
    if position.ndim == 1:
        elapsed = scenario.timestamps - scenario.timestamps[scenario.current_step]
        path = path + np.pad(velocities * elapsed[:, None], ((0, 0), (0, 1)))
    heading = np.asarray(wrap_angle(check_finite("yaw", yaw).astype(np.float32)))
    log = AgentState(
        xyz=path.astype(np.float32),
        yaw=np.broadcast_to(heading, num_steps),
        velocity=velocities.astype(np.float32),
        valid=np.broadcast_to(np.asarray(valid, bool), num_steps),
    )
    false = np.zeros(1, bool)
    info = AgentInfo(
        id=np.array([agent_id], np.int32),
        type=np.array([_check_type(agent_type)]),
        size=np.broadcast_to(check_finite("size", size), (1, 3)).astype(np.float32),
        exists=~false,
        is_sdc=false,
        to_predict=false,
        of_interest=false,
    )
    return _append_agents(scenario, info, jax.tree.map(lambda leaf: leaf[:, None], log))


def add_traffic(scenario: Scenario, other: Scenario) -> Scenario:
    """Adds all agents of another scene at their world positions, its sdc as an ordinary agent.

    Map, lights and routes of the other scene are not added. Ids that exist already are replaced. To add some agents
    only, call `drop_agents` on the other scene first; to displace them, `move_agents`.

    Raises:
      ValueError: The scenes differ in the number of steps or in the current step.
    """
    if (scenario.num_steps, int(scenario.current_step)) != (other.num_steps, int(other.current_step)):
        raise ValueError("the scenes differ in the number of steps or in the current step")
    # Origins are whole meters, so that their difference is exact.
    other = move_agents(other, "all", other.origin - scenario.origin)
    info = tree_index(other.agents, other.agents.exists)
    is_duplicate = np.isin(info.id, scenario.agents.id)
    max_id = max(scenario.agents.id.max(initial=0), info.id.max(initial=0))
    new_ids = np.where(is_duplicate, max_id + np.cumsum(is_duplicate, dtype=np.int32), info.id)
    info = dataclasses.replace(info, id=new_ids, is_sdc=np.zeros(len(new_ids), bool))
    return _append_agents(scenario, info, jax.tree.map(lambda leaf: leaf[:, other.agents.exists], other.log))


def move_agents(scenario: Scenario, agents: AgentSelection, shift: ArrayLike) -> Scenario:
    """Translates the logs of agents.

    Args:
      scenario: The scenario.
      agents: The agents.
      shift: x, y and z, m: [3] for all agents, [N, 3] per agent, or [T, 1, 3] per step.
    """
    log = scenario.log
    is_moved = (agent_mask(scenario, agents) & log.valid)[..., None]
    xyz = np.where(is_moved, log.xyz + check_finite("shift", shift), log.xyz).astype(np.float32)
    return dataclasses.replace(scenario, log=dataclasses.replace(log, xyz=xyz))


def set_types(scenario: Scenario, agents: AgentSelection, agent_type: int) -> Scenario:
    """Sets the type of agents.

    Args:
      scenario: The scenario.
      agents: The agents.
      agent_type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other.

    Raises:
      ValueError: The type is invalid.
    """
    types = np.where(agent_mask(scenario, agents), _check_type(agent_type), scenario.agents.type)
    return dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, type=types))


def scale_boxes(scenario: Scenario, agents: AgentSelection, factor: ArrayLike) -> Scenario:
    """Scales boxes of agents about the center of their undersides.

    Args:
      scenario: The scenario.
      agents: The agents.
      factor: One factor, or three for length, width and height.
    """
    mask, old_size = agent_mask(scenario, agents), scenario.agents.size
    size = np.where(mask[:, None], (old_size * check_finite("factor", factor)).astype(np.float32), old_size)
    lift = np.zeros_like(size)
    lift[:, 2] = (size[:, 2] - old_size[:, 2]) / 2
    scaled = dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, size=size))
    return move_agents(scaled, mask, lift)


def set_sdc(scenario: Scenario, agent_id: int) -> Scenario:
    """Selects another sdc. Its routes are derived from the lanes.

    Raises:
      ValueError: The id does not exist.
    """
    is_sdc = agent_mask(scenario, [agent_id])
    agents, now = dataclasses.replace(scenario.agents, is_sdc=is_sdc), int(scenario.current_step)
    sdc, time_step = int(np.argmax(is_sdc)), scenario.time_step
    routes = build_routes(scenario.lanes, scenario.graph, scenario.log, agents, sdc, now, time_step)
    return pad_like(scenario, dataclasses.replace(scenario, agents=agents, routes=routes))


def _check_type(agent_type: int) -> np.int32:
    if not 0 <= agent_type < len(AGENT_TYPE_NAMES):
        raise ValueError(f"agent_type {agent_type} is not one of 0 to {len(AGENT_TYPE_NAMES) - 1}")
    return np.int32(agent_type)


def _append_agents(scenario: Scenario, info: AgentInfo, log: AgentState) -> Scenario:
    """Writes agents to the first free slots, after adding slots if necessary."""
    exists, count = scenario.agents.exists, len(info.id)
    num_missing = max(count - int((~exists).sum()), 0)
    lengths = axis_lengths(scenario)
    padded = pad_like(scenario, pad(scenario, lengths | {"N": lengths["N"] + num_missing}))
    slots = np.flatnonzero(~padded.agents.exists)[:count]

    def write(old: np.ndarray, new: np.ndarray, index: tuple) -> np.ndarray:
        written = old.copy()
        written[index] = new
        return written

    valid_log = zero_outside(log, log.valid)
    return dataclasses.replace(
        padded,
        agents=jax.tree.map(lambda old, new: write(old, new, (slots,)), padded.agents, info),
        log=jax.tree.map(lambda old, new: write(old, new, (slice(None), slots)), padded.log, valid_log),
    )
