"""Distributions of speeds, accelerations, distances and sizes of scenes, to compare sources."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
MIN_MOVING_SPEED = 1.0  # m/s; agents that are never faster are stationary
MIN_TURNING_SPEED = 2.0  # m/s; yaw rates at lower speeds are dominated by noise


def statistics(scenes: Iterable[RawScene]) -> dict[str, dict[str, float]]:
    """Quantiles of the motion of agents and of the sizes of scenes; scenes are read one at a time.

    Only valid states count, and only those valid at both steps for differences. A vehicle, pedestrian or cyclist is
    moving if it is ever faster than 1 m/s.

    Returns:
      The quantiles of `QUANTILES`, keyed "50 %", for each quantity, keyed by its name and unit. Quantities of whole
      scenes have the quantiles over scenes. NaN without samples.
    """
    samples: dict[str, list[np.ndarray]] = {}
    for scene in scenes:
        for name, values in _samples(scene).items():
            samples.setdefault(name, []).append(np.asarray(values, float).ravel())
    return {name: _quantiles(np.concatenate(values)) for name, values in samples.items()}


def table(columns: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A Markdown table of statistics side by side: the 10 %, 50 % and 90 % quantiles of each."""
    names = list(dict.fromkeys(name for quantities in columns.values() for name in quantities))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = (_cell(quantities[name]) if name in quantities else "" for quantities in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(quantiles: Mapping[str, float]) -> str:
    return " / ".join(f"{quantiles[key]:.3g}" for key in ("10 %", "50 %", "90 %"))


def _quantiles(values: Float[np.ndarray, " K"]) -> dict[str, float]:
    quantiles = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"{100 * fraction:g} %": float(value) for fraction, value in zip(QUANTILES, quantiles, strict=True)}


@np.errstate(invalid="ignore", over="ignore")  # invalid states may hold any value
def _samples(scene: RawScene) -> dict[str, np.ndarray | list]:
    valid = scene.valid
    speed = np.where(valid, np.hypot(scene.velocity[..., 0], scene.velocity[..., 1]), 0.0)
    time_step = float(np.median(np.diff(scene.timestamps))) if len(scene.timestamps) > 1 else np.nan
    is_moving = speed.max(axis=0, initial=0.0) > MIN_MOVING_SPEED
    both = valid[1:] & valid[:-1] & is_moving
    acceleration = np.diff(speed, axis=0) / time_step
    turn = np.mod(np.diff(scene.yaw, axis=0) + np.pi, 2 * np.pi) - np.pi
    now = valid[scene.current_step]
    samples: dict[str, np.ndarray | list] = {}
    for name, kind in (("vehicle", VEHICLE), ("pedestrian", PEDESTRIAN), ("cyclist", CYCLIST)):
        of_kind = scene.agent_type == kind
        samples[f"speed of a moving {name}, m/s"] = speed[valid & is_moving & of_kind]
        if kind == VEHICLE:
            samples["acceleration of a moving vehicle, m/s²"] = acceleration[both & of_kind]
            turning = both & of_kind & (speed[1:] > MIN_TURNING_SPEED)
            samples["absolute yaw rate of a vehicle above 2 m/s, rad/s"] = np.abs(turn[turning]) / time_step
        samples[f"share of {name}s"] = [of_kind.mean()] if len(of_kind) else []
    vehicles = scene.agent_type == VEHICLE
    samples["share of vehicles that move"] = [is_moving[vehicles].mean()] if vehicles.any() else []
    samples["distance to the nearest agent now, m"] = _spacing(scene.xyz[scene.current_step, now])
    samples["valid steps of an agent"] = valid.sum(axis=0)
    samples["agents per scene"] = [len(scene.agent_id)]
    samples["agents valid now"] = [now.sum()]
    samples["lights per scene"] = [len(scene.signal_lane_id)]
    samples["map features per scene"] = [len(scene.feature_id)]
    samples["map points per scene"] = [len(scene.point_xyz)]
    return samples


def _spacing(xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Distance of each point to the nearest other one, m, in the plane."""
    if len(xyz) < 2:
        return np.zeros(0)
    distance = np.hypot(*np.moveaxis(xyz[:, None, :2] - xyz[None, :, :2], -1, 0))
    np.fill_diagonal(distance, np.inf)
    return distance.min(axis=1)
