"""What the sensors of the self-driving car would have seen of a log: part of it, and not exactly."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.synthetic.traffic import Log
from waymax_sim.datasets.synthetic.world import NUM_STEPS, TIME_STEP
from waymax_sim.datatypes.agents import PEDESTRIAN, VEHICLE

RANGE = (62.0, 78.0)  # m; agents are seen from one of these on
SENSOR_HEIGHT = 2.0  # m above the ground
VISIBLE_PART = 0.95  # seen when this share of its height is in sight
NEAR = 3.0  # m around either end of a line of sight where nothing hides anything
LOSS, RETURN = 0.025, 0.1  # chance per step that a track breaks at 50 m, and that it begins again
MEMORY = 4  # steps that a track outlasts its agent's being hidden
SHORTEST = 4  # steps of a track
POSITION, PEOPLE, HEADING = 0.009, 1.6, 0.0025  # noise: m; factor for people; rad


@dataclasses.dataclass(frozen=True)
class Tracks:
    """As in a `RawScene`, in the frame of the place."""

    valid: Bool[np.ndarray, "T N"]
    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    velocity: Float[np.ndarray, "T N 2"]


def observe(log: Log, sdc: int, rng: np.random.Generator) -> Tracks:
    """Tracks of what can be seen from the car in row `sdc`; it knows all of itself.

    Noise grows with distance and not with time. As in WOMD velocities are differences of positions, and what
    does not move stands still.
    """
    offset = log.xyz[..., :2] - log.xyz[:, [sdc], :2]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    num_agents = distance.shape[1]
    in_sight = ~hidden(log, sdc)
    # The tracker outlasts a moment without sight.
    in_sight = np.stack([in_sight[max(0, step - MEMORY) : step + 1].any(axis=0) for step in range(NUM_STEPS)])
    seen = log.present & in_sight & (distance < rng.uniform(*RANGE, num_agents)) & _unbroken(distance, rng)
    seen &= seen.sum(axis=0) >= SHORTEST
    seen[:, sdc] = True

    moving = np.clip(log.speed / 2.0, 0.0, 1.0) * np.where(log.type == PEDESTRIAN, PEOPLE, 1.0)
    sharpness = np.exp(rng.normal(0.0, 0.6, num_agents)) * (0.5 + distance / 50.0) * moving
    sharpness[:, sdc] = 0.2 * moving[:, sdc]
    xyz = log.xyz.copy()
    xyz[..., :2] += POSITION * sharpness[..., None] * rng.normal(size=(NUM_STEPS, num_agents, 2))
    yaw = log.yaw + HEADING * sharpness * rng.normal(size=log.yaw.shape)
    velocity = np.diff(xyz[..., :2], axis=0, prepend=2 * xyz[:1, :, :2] - xyz[1:2, :, :2]) / TIME_STEP
    return Tracks(valid=seen, xyz=xyz, yaw=yaw, velocity=velocity)


def hidden(log: Log, sdc: int) -> Bool[np.ndarray, "T N"]:
    """Who is behind a vehicle, seen from the top of a car: the line of sight to the upper part is cut."""
    blockers = np.flatnonzero(log.type == VEHICLE)
    blockers = blockers[blockers != sdc]
    offset = log.xyz[..., :2] - log.xyz[:, [sdc], :2]
    distance = np.maximum(np.hypot(offset[..., 0], offset[..., 1]), 0.1)
    floor = log.xyz[..., 2] - log.size[:, 2] / 2
    eye = floor[:, sdc] + SENSOR_HEIGHT
    aim = floor + VISIBLE_PART * log.size[:, 2]
    found = np.zeros(distance.shape, bool)
    for step in range(0, NUM_STEPS, 2):
        ahead = offset[step] / distance[step, :, None]
        along = ahead @ offset[step, blockers].T
        across = ahead[:, :1] * offset[step, blockers, 1] - ahead[:, 1:] * offset[step, blockers, 0]
        between = (along > NEAR) & (along < distance[step, :, None] - NEAR)
        between &= np.abs(across) < log.size[blockers, 1] / 2
        share = along / distance[step, :, None]
        sight = eye[step] + share * (aim[step] - eye[step])[:, None]
        top, bottom = floor[step, blockers] + log.size[blockers, 2], floor[step, blockers]
        cut = between & (sight < top) & (sight > bottom) & log.present[step, blockers]
        found[step : step + 2] = cut.any(axis=1)
    return found


def _unbroken(distance: Float[np.ndarray, "T N"], rng: np.random.Generator) -> Bool[np.ndarray, "T N"]:
    """When the tracker has hold of an agent: it loses those far away more often."""
    chance = rng.random(distance.shape)
    found = np.empty(distance.shape, bool)
    found[0] = chance[0] > LOSS * distance[0] / 50.0 / RETURN
    for step in range(1, NUM_STEPS):
        keeps = chance[step] > LOSS * distance[step] / 50.0
        found[step] = np.where(found[step - 1], keeps, chance[step] < RETURN)
    return found
