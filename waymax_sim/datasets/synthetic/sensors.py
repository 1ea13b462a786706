"""Sensor model: the tracks that a self-driving car would have recorded, with limited range, occlusion and noise."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.synthetic.traffic import TrafficLog
from waymax_sim.datasets.synthetic.world import NUM_STEPS
from waymax_sim.datatypes.agents import PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.scenario import TIME_STEP


class SensorParams(NamedTuple):
    """Parameters of the sensor model; noise chosen to resemble recorded tracks (docs/synthetic.md)."""

    min_range: float = 62.0  # m; the range of each agent is uniform between both
    max_range: float = 78.0  # m
    height: float = 2.0  # m above the ground
    visible_height: float = 0.95  # fraction of the height of an agent at which it is aimed at
    occlusion_margin: float = 3.0  # m from both ends of a line of sight without occlusion
    loss_rate: float = 0.025  # probability per step that a track is lost at `loss_distance`, proportional to distance
    loss_distance: float = 50.0  # m
    recovery_rate: float = 0.1  # probability per step that a lost track is recovered
    memory: int = 4  # steps that a track continues under occlusion
    min_steps: int = 4  # valid steps of a track
    position_noise: float = 0.009  # m
    pedestrian_noise: float = 1.6  # factor for pedestrians
    heading_noise: float = 0.0025  # rad


SENSOR_PARAMS = SensorParams()


@dataclasses.dataclass(frozen=True)
class SensorTracks:
    """Tracks with the fields of a `RawScene`, in the frame of the world before its transform."""

    valid: Bool[np.ndarray, "T N"]
    xyz: Float[np.ndarray, "T N 3"]
    yaw: Float[np.ndarray, "T N"]
    velocity: Float[np.ndarray, "T N 2"]


def simulate_tracks(log: TrafficLog, sdc: int, rng: np.random.Generator) -> SensorTracks:
    """Tracks of all agents from the sdc, whose own track is complete.

    Noise grows with distance, is white in time and vanishes for agents at rest. As in WOMD, velocities are differences
    of positions.

    Args:
      log: The states of all agents.
      sdc: Row of the self-driving car.
      rng: Source of noise.
    """
    offset = log.xyz[..., :2] - log.xyz[:, [sdc], :2]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    num_agents = distance.shape[1]
    is_visible = ~is_occluded(log, sdc)
    is_visible = np.stack(
        [is_visible[max(0, step - SENSOR_PARAMS.memory) : step + 1].any(axis=0) for step in range(NUM_STEPS)]
    )
    max_distance = rng.uniform(SENSOR_PARAMS.min_range, SENSOR_PARAMS.max_range, num_agents)
    valid = log.present & is_visible & (distance < max_distance) & _is_tracked(distance, rng)
    valid &= valid.sum(axis=0) >= SENSOR_PARAMS.min_steps
    valid[:, sdc] = True

    factor = np.where(log.type == PEDESTRIAN, SENSOR_PARAMS.pedestrian_noise, 1.0)
    motion = np.clip(log.speed / 2.0, 0.0, 1.0) * factor
    noise = np.exp(rng.normal(0.0, 0.6, num_agents)) * (0.5 + distance / 50.0) * motion
    noise[:, sdc] = 0.2 * motion[:, sdc]
    xyz = log.xyz.copy()
    xyz[..., :2] += SENSOR_PARAMS.position_noise * noise[..., None] * rng.normal(size=(NUM_STEPS, num_agents, 2))
    yaw = log.yaw + SENSOR_PARAMS.heading_noise * noise * rng.normal(size=log.yaw.shape)
    velocity = np.diff(xyz[..., :2], axis=0, prepend=2 * xyz[:1, :, :2] - xyz[1:2, :, :2]) / TIME_STEP
    return SensorTracks(valid=valid, xyz=xyz, yaw=yaw, velocity=velocity)


def is_occluded(log: TrafficLog, sdc: int) -> Bool[np.ndarray, "T N"]:
    """Whether a vehicle intersects the line of sight from the sensor on the sdc to the upper part of each agent.

    Evaluated at every second step.
    """
    blockers = np.flatnonzero(log.type == VEHICLE)
    blockers = blockers[blockers != sdc]
    offset = log.xyz[..., :2] - log.xyz[:, [sdc], :2]
    distance = np.maximum(np.hypot(offset[..., 0], offset[..., 1]), 0.1)
    bottom = log.xyz[..., 2] - log.size[:, 2] / 2
    sensor_z = bottom[:, sdc] + SENSOR_PARAMS.height
    target_z = bottom + SENSOR_PARAMS.visible_height * log.size[:, 2]
    occluded = np.zeros(distance.shape, bool)
    for step in range(0, NUM_STEPS, 2):
        direction = offset[step] / distance[step, :, None]
        longitudinal = direction @ offset[step, blockers].T
        lateral = direction[:, :1] * offset[step, blockers, 1] - direction[:, 1:] * offset[step, blockers, 0]
        is_between = longitudinal > SENSOR_PARAMS.occlusion_margin
        is_between &= longitudinal < distance[step, :, None] - SENSOR_PARAMS.occlusion_margin
        is_between &= np.abs(lateral) < log.size[blockers, 1] / 2
        fraction = longitudinal / distance[step, :, None]
        sight_z = sensor_z[step] + fraction * (target_z[step] - sensor_z[step])[:, None]
        low, high = bottom[step, blockers], bottom[step, blockers] + log.size[blockers, 2]
        intersects = is_between & (sight_z < high) & (sight_z > low) & log.present[step, blockers]
        occluded[step : step + 2] = intersects.any(axis=1)
    return occluded


def _is_tracked(distance: Float[np.ndarray, "T N"], rng: np.random.Generator) -> Bool[np.ndarray, "T N"]:
    """A two-state Markov chain of track loss and recovery, with a loss rate proportional to distance."""
    sample = rng.random(distance.shape)
    tracked = np.empty(distance.shape, bool)
    loss_rate = SENSOR_PARAMS.loss_rate * distance / SENSOR_PARAMS.loss_distance
    tracked[0] = sample[0] > loss_rate[0] / SENSOR_PARAMS.recovery_rate
    for step in range(1, NUM_STEPS):
        is_kept = sample[step] > loss_rate[step]
        tracked[step] = np.where(tracked[step - 1], is_kept, sample[step] < SENSOR_PARAMS.recovery_rate)
    return tracked
