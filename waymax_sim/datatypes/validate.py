"""Scenario validation messages."""

import numpy as np

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, VEHICLE
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES
from waymax_sim.datatypes.scenario import Scenario

MAX_SPEED = 70.0  # m/s
MAX_JUMP = 7.5  # m per step
# Sizes at which sources cut maps, points.
TRUNCATED_SIZES = (20_000, 30_000)
MAX_RELATIVE_JITTER = 0.2  # of the time step


def validate(scenario: Scenario) -> list[str]:
    """Warnings about a scenario that may affect results; empty if there are none.

    Runs on the host, on one scenario. Readers raise an error for data that make a scenario unusable, so none of these
    problems does.
    """
    return [*_agent_problems(scenario), *_map_problems(scenario), *_clock_problems(scenario)]


def _agent_problems(scenario: Scenario) -> list[str]:
    info, log, now = scenario.agents, scenario.log, int(scenario.current_step)
    exists, valid = np.asarray(info.exists), np.asarray(log.valid)
    problems = []
    is_sdc = np.asarray(info.is_sdc) & exists
    if not is_sdc.any():
        problems.append("no agent is marked as the sdc")
    elif not valid[now, is_sdc].all():
        problems.append(f"the sdc is not valid at the current step {now}")
    never = exists & ~valid.any(axis=0)
    if never.any():
        problems.append(f"{never.sum()} agents are never valid")
    if not valid[now].any():
        problems.append(f"no agent is valid at the current step {now}")
    size = np.asarray(info.size)
    flat = exists & valid.any(axis=0) & (size[:, :2] <= 0).any(axis=-1)
    if flat.any():
        problems.append(f"{flat.sum()} agents have no length or width")
    ids = np.asarray(info.id)[exists]
    if len(np.unique(ids)) < len(ids):
        problems.append(f"{len(ids) - len(np.unique(ids))} agent ids are used twice")
    speed = np.linalg.norm(np.asarray(log.velocity), axis=-1)
    fast = ((speed > MAX_SPEED) & valid).any(axis=0)
    for index in np.flatnonzero(fast)[:3]:
        kind = AGENT_TYPE_NAMES[int(info.type[index])]
        problems.append(f"{kind} {int(info.id[index])} moves at {speed[:, index].max():.0f} m/s")
    moved = np.linalg.norm(np.diff(np.asarray(log.xyz)[..., :2], axis=0), axis=-1)
    jumps = ((moved > MAX_JUMP) & valid[1:] & valid[:-1]).any(axis=0)
    if jumps.any():
        problems.append(f"{jumps.sum()} agents jump by more than {MAX_JUMP} m in one step")
    vehicles = exists & (np.asarray(info.type) == VEHICLE)
    if not vehicles.any():
        problems.append("there are no vehicles")
    return problems


def _map_problems(scenario: Scenario) -> list[str]:
    roadmap = scenario.roadmap
    valid = np.asarray(roadmap.valid)
    if not valid.any():
        return ["there is no map"]
    problems = []
    types = np.asarray(roadmap.feature_type)
    if not np.isin(types, LANE_TYPES).any():
        problems.append("the map has no lanes")
    if not np.isin(types, ROAD_EDGE_TYPES).any():
        problems.append("the map has no road edges: off-road cannot be evaluated")
    if valid.sum() in TRUNCATED_SIZES:
        problems.append(f"the map has exactly {valid.sum()} points: the source cut it there")
    counts = np.bincount(np.asarray(roadmap.feature)[valid], minlength=len(types))
    single = (counts == 1) & (np.isin(types, LANE_TYPES) | ((types >= 5) & (types <= 16)))
    if single.any():
        problems.append(f"{single.sum()} lanes, lines or edges have a single point")
    signals = scenario.signals
    lit = np.asarray(signals.lane_id)[np.asarray(signals.valid).any(axis=0)]
    unknown = ~np.isin(lit, np.asarray(roadmap.feature_id))
    if unknown.any():
        problems.append(f"{unknown.sum()} traffic lights control lanes that are not in the map")
    return problems


def _clock_problems(scenario: Scenario) -> list[str]:
    gaps = np.diff(np.asarray(scenario.timestamps, np.float64))
    if len(gaps) and not gaps.min() > 0:
        return ["timestamps do not increase"]
    if len(gaps) and (np.abs(gaps - scenario.time_step) > MAX_RELATIVE_JITTER * scenario.time_step).any():
        return [f"steps are {gaps.min():.3f} to {gaps.max():.3f} s apart, but simulated as {scenario.time_step} s"]
    return []
