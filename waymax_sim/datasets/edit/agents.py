"""Who is in a scene: agents added, dropped, moved and changed."""

import dataclasses

import jax
import numpy as np

from waymax_sim.datasets.edit.common import Numbers, Who, chosen, finite, only, sized_like
from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, VEHICLE, AgentInfo, AgentState
from waymax_sim.datatypes.padding import pad, sizes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.geometry import wrap_angle
from waymax_sim.maps.routes import build_routes
from waymax_sim.pytree import take

CAR = (4.5, 2.0, 1.5)  # length, width, height, m


def drop_agents(scenario: Scenario, who: Who) -> Scenario:
    """Takes agents out; their slots become padding. Without the sdc there are no routes."""
    gone = chosen(scenario, who)
    info = only(scenario.agents, ~gone)
    return dataclasses.replace(
        scenario,
        agents=dataclasses.replace(info, id=np.where(gone, -1, scenario.agents.id)),
        log=only(scenario.log, np.broadcast_to(~gone, scenario.log.valid.shape)),
        routes=None if (gone & scenario.agents.is_sdc).any() else scenario.routes,
    )


def add_agent(
    scenario: Scenario,
    xyz: Numbers,
    yaw: Numbers,
    *,
    velocity: Numbers | None = None,
    valid: Numbers = True,
    size: Numbers = CAR,
    agent_type: int = VEHICLE,
    agent_id: int | None = None,
) -> Scenario:
    """Adds an agent with a log of its own, in the first free slot.

    Args:
      scenario: Where it is added.
      xyz: Centre of the box, m, local frame: [T, 3], or [3] for where it is at the current step.
      yaw: Heading, rad: [T], or one for all steps.
      velocity: m/s: [T, 2], or [2] for all steps. Given one place and one velocity, it moves along. Given places at all
        steps and no velocity, the velocity is how they change. Given one place and no velocity, it stands still.
      valid: When it is seen: [T], or one for all steps.
      size: Length, width and height, m.
      agent_type: 0 unset, 1 vehicle, 2 pedestrian, 3 cyclist, 4 other.
      agent_id: Track id; one more than the largest unless given.

    Raises:
      ValueError: A number is not finite, a shape does not fit, there is no such type, or the id is taken.
    """
    num_steps, known = scenario.num_steps, scenario.agents.id[scenario.agents.exists]
    agent_id = int(known.max(initial=0)) + 1 if agent_id is None else agent_id
    if agent_id in known:
        raise ValueError(f"there is an agent {agent_id} already")
    place = finite("xyz", xyz)
    path = np.broadcast_to(place, (num_steps, 3))
    if velocity is None:
        moves = place.ndim > 1 and num_steps > 1
        pace = np.gradient(path[:, :2], scenario.timestamps, axis=0) if moves else np.zeros((num_steps, 2))
    else:
        pace = np.broadcast_to(finite("velocity", velocity), (num_steps, 2))
    if place.ndim == 1:
        since = scenario.timestamps - scenario.timestamps[scenario.current_step]
        path = path + np.pad(pace * since[:, None], ((0, 0), (0, 1)))
    heading = np.asarray(wrap_angle(finite("yaw", yaw).astype(np.float32)))
    log = AgentState(
        xyz=path.astype(np.float32),
        yaw=np.broadcast_to(heading, num_steps),
        velocity=pace.astype(np.float32),
        valid=np.broadcast_to(np.asarray(valid, bool), num_steps),
    )
    no = np.zeros(1, bool)
    info = AgentInfo(
        id=np.array([agent_id], np.int32),
        type=np.array([_known_type(agent_type)]),
        size=np.broadcast_to(finite("size", size), (1, 3)).astype(np.float32),
        exists=~no,
        is_sdc=no,
        to_predict=no,
        of_interest=no,
    )
    return _joined(scenario, info, jax.tree.map(lambda leaf: leaf[:, None], log))


def add_traffic(scenario: Scenario, other: Scenario) -> Scenario:
    """Adds all agents of another scene where they are in the world; its sdc becomes one of the traffic.

    Map, lights and routes of the other scene stay behind. Ids that are taken are replaced by new ones. To add only
    some agents, call `drop_agents` on the other scene before; to have them elsewhere, `move_agents`.

    Raises:
      ValueError: The scenes differ in the number of steps or in the current step.
    """
    if (scenario.num_steps, int(scenario.current_step)) != (other.num_steps, int(other.current_step)):
        raise ValueError("the scenes differ in their number of steps or in the current one")
    # Origins are whole metres, so their difference is exact.
    other = move_agents(other, "all", other.origin - scenario.origin)
    info = take(other.agents, other.agents.exists)
    taken = np.isin(info.id, scenario.agents.id)
    largest = max(scenario.agents.id.max(initial=0), info.id.max(initial=0))
    new = np.where(taken, largest + np.cumsum(taken, dtype=np.int32), info.id)
    info = dataclasses.replace(info, id=new, is_sdc=np.zeros(len(new), bool))
    return _joined(scenario, info, jax.tree.map(lambda leaf: leaf[:, other.agents.exists], other.log))


def move_agents(scenario: Scenario, who: Who, shift: Numbers) -> Scenario:
    """Shifts the logs of agents by (x, y, z), m: [3] for all, [N, 3] for each, or [T, 1, 3] for each step."""
    log = scenario.log
    moved = (chosen(scenario, who) & log.valid)[..., None]
    xyz = np.where(moved, log.xyz + finite("shift", shift), log.xyz).astype(np.float32)
    return dataclasses.replace(scenario, log=dataclasses.replace(log, xyz=xyz))


def set_types(scenario: Scenario, who: Who, agent_type: int) -> Scenario:
    """Makes agents vehicles (1), pedestrians (2), cyclists (3) or other (4).

    Raises:
      ValueError: There is no such type.
    """
    types = np.where(chosen(scenario, who), _known_type(agent_type), scenario.agents.type)
    return dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, type=types))


def scale_boxes(scenario: Scenario, who: Who, factor: Numbers) -> Scenario:
    """Scales boxes by one factor, or by three for length, width and height. Their undersides stay where they are."""
    mask, old = chosen(scenario, who), scenario.agents.size
    size = np.where(mask[:, None], (old * finite("factor", factor)).astype(np.float32), old)
    lift = np.zeros_like(size)
    lift[:, 2] = (size[:, 2] - old[:, 2]) / 2
    scaled = dataclasses.replace(scenario, agents=dataclasses.replace(scenario.agents, size=size))
    return move_agents(scaled, mask, lift)


def set_sdc(scenario: Scenario, agent_id: int) -> Scenario:
    """Makes an agent the sdc. Routes belong to the old one, so those of the new one are derived from the lanes.

    Raises:
      ValueError: There is no such agent.
    """
    is_sdc = chosen(scenario, [agent_id])
    agents, now = dataclasses.replace(scenario.agents, is_sdc=is_sdc), int(scenario.current_step)
    routes = build_routes(scenario.lanes, scenario.graph, scenario.log, agents, int(np.argmax(is_sdc)), now)
    return sized_like(scenario, dataclasses.replace(scenario, agents=agents, routes=routes))


def _known_type(agent_type: int) -> np.int32:
    if not 0 <= agent_type < len(AGENT_TYPE_NAMES):
        raise ValueError(f"agent types are 0 to {len(AGENT_TYPE_NAMES) - 1}")
    return np.int32(agent_type)


def _joined(scenario: Scenario, info: AgentInfo, log: AgentState) -> Scenario:
    """Puts agents into the first free slots, of which there are more if need be."""
    exists, more = scenario.agents.exists, len(info.id)
    missing = max(more - int((~exists).sum()), 0)
    lengths = sizes(scenario)
    roomy = sized_like(scenario, pad(scenario, lengths | {"N": lengths["N"] + missing}))
    slots = np.flatnonzero(~roomy.agents.exists)[:more]

    def put(old: np.ndarray, new: np.ndarray, where: tuple) -> np.ndarray:
        filled = old.copy()
        filled[where] = new
        return filled

    return dataclasses.replace(
        roomy,
        agents=jax.tree.map(lambda old, new: put(old, new, (slots,)), roomy.agents, info),
        log=jax.tree.map(lambda old, new: put(old, new, (slice(None), slots)), roomy.log, only(log, log.valid)),
    )
