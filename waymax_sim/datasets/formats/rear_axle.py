"""Recording vehicles whose source gives the position of the middle of the rear axle instead of the box center."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class EgoVehicleParams:
    """Body of a recording vehicle.

    Attributes:
      length: m.
      width: Without mirrors, m.
      height: m.
      rear_axle_to_center: Longitudinal distance of the box center from the rear axle, m: half of the length less the
        rear overhang.
    """

    length: float
    width: float
    height: float
    rear_axle_to_center: float


# Renault Zoe (first generation): length 4084, width 1730, height 1562, wheelbase 2588, rear overhang 657 mm. nuScenes
# (Caesar et al. 2020) gives poses at the rear axle: in a recorded scene, the sideways velocity over the yaw rate of the
# ego is -0.02 m, that of a WOMD ego 0.97 m.
NUSCENES_EGO = EgoVehicleParams(length=4.084, width=1.730, height=1.562, rear_axle_to_center=1.385)
# Ford Fusion Hybrid (second generation): length 4869, width 1852, height 1476, wheelbase 2850, rear overhang 1096 mm.
# The ego frame of Argoverse 2 (Wilson et al. 2021) has its origin at the rear axle: -0.25 m in a recorded scene.
ARGOVERSE2_EGO = EgoVehicleParams(length=4.869, width=1.852, height=1.476, rear_axle_to_center=1.339)


def rear_axle_to_center(
    xy: Float[np.ndarray, "T 2"],
    yaw: Float[np.ndarray, " T"],
    velocity: Float[np.ndarray, "T 2"],
    valid: Bool[np.ndarray, " T"],
    timestamps: Float[np.ndarray, " T"],
    params: EgoVehicleParams,
) -> tuple[Float[np.ndarray, "T 2"], Float[np.ndarray, "T 2"]]:
    """Positions (m) and velocities (m/s) of the box center of a vehicle from those of the middle of its rear axle.

    A turning box center moves sideways: the change of the offset is added to the velocity.

    Args:
      xy: Positions of the middle of the rear axle, m.
      yaw: Headings, rad.
      velocity: Velocities of the rear axle, m/s.
      valid: Mask of the observed states; others are returned as they are.
      timestamps: Times of the steps, s.
      params: The vehicle.
    """
    offset = np.where(valid[:, None], params.rear_axle_to_center * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1), 0.0)
    steps = np.flatnonzero(valid)
    rate = np.zeros_like(offset)
    # Without increasing times there is no rate; the clock is reported elsewhere.
    if len(steps) > 1 and (np.diff(timestamps[steps]) > 0).all():
        rate[steps] = np.gradient(offset[steps], timestamps[steps], axis=0)
    return xy + offset, velocity + rate
