"""Streets with a few agents for tests of traffic, all of equal array shapes, so each program is compiled once."""

from typing import NamedTuple

import numpy as np

from tests.maps.lane_maps import arc, straight
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.padding import pad
from waymax_sim.datatypes.roadmap import CONTROLS, LANE_SURFACE_STREET, STOP_SIGN
from waymax_sim.datatypes.scenario import Scenario

STEPS, AGENTS, LIMIT = 80, 4, 13.4
RED, YELLOW, GREEN = 4, 5, 6
CAR = (4.0, 2.0, 1.5)
WALKER = (0.6, 0.6, 1.7)
# Array lengths that fit all streets of the tests.
SIZES = {"N": AGENTS, "P": 512, "F": 8, "graph.F": 8, "L": 32, "polylines.G": 128, "polylines.C": 512, "S": 1}
SIZES |= {f"lanes.{axis}": size for axis, size in (("C", 64), ("G", 32), ("Q", 1024), ("L", 1024))}
SIZES |= {f"edges.{axis}": size for axis, size in (("C", 1), ("G", 1), ("Q", 1), ("L", 1))}
SIZES |= {"graph.Z": 2, "M": 32, "R": 128}


class Agent(NamedTuple):
    """An agent on a street; without a track it keeps its velocity in the log."""

    x: float
    y: float
    yaw: float = 0.0
    speed: float = 10.0
    kind: int = VEHICLE
    size: tuple = CAR
    track: np.ndarray | None = None


def street(lines, agents, lights=(), signs=(), limit: float = LIMIT) -> Scenario:
    """Lanes [n, 3] and agents; lights are (lane, stop point, states by step), signs (position, lane)."""
    times = 0.1 * np.arange(STEPS + 1)
    shape = (STEPS + 1, len(agents))
    xyz, yaw, velocity = np.zeros((*shape, 3)), np.zeros(shape), np.zeros((*shape, 2))
    for index, agent in enumerate(agents):
        ahead = np.array([np.cos(agent.yaw), np.sin(agent.yaw)])
        straight_on = np.array([agent.x, agent.y]) + agent.speed * times[:, None] * ahead
        track = straight_on if agent.track is None else agent.track
        xyz[:, index, :2], xyz[:, index, 2] = track, agent.size[2] / 2
        velocity[:, index] = np.gradient(track, 0.1, axis=0)
        moves = np.hypot(*velocity[:, index].T) > 1e-3
        heading = np.unwrap(np.arctan2(velocity[:, index, 1], velocity[:, index, 0]))
        yaw[:, index] = np.where(moves, heading, agent.yaw)
    lines = [np.asarray(line, float) for line in lines] + [np.array([[*position, 2.0]]) for position, _ in signs]
    kinds = [LANE_SURFACE_STREET] * (len(lines) - len(signs)) + [STOP_SIGN] * len(signs)
    first_sign = len(lines) - len(signs)
    states = np.array([light[2] for light in lights]).reshape(len(lights), STEPS + 1).T
    points = np.array([(*light[1], 0.0) for light in lights]).reshape(len(lights), 3)
    raw = raw_scene(
        num_steps=STEPS + 1,
        num_agents=len(agents),
        current_step=0,
        xyz=xyz,
        yaw=yaw,
        velocity=velocity,
        agent_type=np.array([agent.kind for agent in agents]),
        size=np.broadcast_to([agent.size for agent in agents], (*shape, 3)),
        point_xyz=np.concatenate(lines),
        point_feature=np.repeat(np.arange(len(lines)), [len(line) for line in lines]),
        feature_id=np.arange(len(lines)) + 10,
        feature_type=np.array(kinds),
        speed_limit=np.full(len(lines), limit),
        links=np.array([(first_sign + i, lane, CONTROLS) for i, (_, lane) in enumerate(signs)], int).reshape(-1, 3),
        signal_lane_id=np.array([10 + light[0] for light in lights], int),
        signal_state=states.astype(int),
        signal_stop_point=np.broadcast_to(points, (STEPS + 1, len(lights), 3)),
        signal_valid=np.ones((STEPS + 1, len(lights)), bool),
    )
    return pad(to_scenario(raw, pad_to_bucket=False), SIZES)


def road(length: float = 300.0, y: float = 0.0, begin: float = -60.0) -> np.ndarray:
    """A lane along x, points 2 m apart."""
    return straight((begin, y), (begin + length, y), 2.0)


def back(length: float = 300.0, y: float = 3.5, begin: float = -60.0) -> np.ndarray:
    """The oncoming lane."""
    return road(length, y, begin)[::-1]


def bend(radius: float = 20.0) -> list[np.ndarray]:
    """A lane along x that turns left by 90 degrees at the origin and continues along y."""
    return [
        straight((-60, 0), (0, 0), 2.0),
        arc((0, radius), radius, -90, 0, 1.0),
        straight((radius, radius), (radius, radius + 120), 2.0),
    ]


def boxes_overlap(agents, size: np.ndarray, i: int, j: int) -> np.ndarray:
    """Whether the boxes of two agents overlap at each step, by separating axes in float64."""
    corners = []
    for k in (i, j):
        yaw, xy = np.asarray(agents.yaw[:, k], float), np.asarray(agents.xyz[:, k, :2], float)
        ahead, left = np.stack([np.cos(yaw), np.sin(yaw)], -1), np.stack([-np.sin(yaw), np.cos(yaw)], -1)
        signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)]) / 2
        half = signs * np.asarray(size[k, :2], float)
        corners.append(xy[:, None] + half[None, :, :1] * ahead[:, None] + half[None, :, 1:] * left[:, None])
    apart = np.zeros(len(agents.yaw), bool)
    for k in (i, j):
        for turn in (0.0, np.pi / 2):
            axis = np.asarray(agents.yaw[:, k], float) + turn
            axis = np.stack([np.cos(axis), np.sin(axis)], -1)
            a, b = ((box @ axis[:, :, None])[..., 0] for box in corners)
            apart |= (a.max(1) <= b.min(1)) | (b.max(1) <= a.min(1))
    return ~apart
