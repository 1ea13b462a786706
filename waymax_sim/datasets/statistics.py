"""How scenes are distributed: speeds, accelerations, spacing, sizes. To compare one source with another."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
MOVES = 1.0  # m/s; who is never faster stands still
TURNS = 2.0  # m/s; slower than this a heading says little


def statistics(scenes: Iterable[RawScene]) -> dict[str, dict[str, float]]:
    """Quantiles of what agents do and of how large scenes are; scenes are read one at a time.

    Only valid states count, and for differences only those valid at both steps. A vehicle, pedestrian or cyclist moves
    if it is ever faster than 1 m/s.

    Returns:
      By name, with its unit: the quantiles of `QUANTILES`, by name such as "50 %". What is counted once per scene has
      the quantiles over scenes. NaN where there is nothing.
    """
    samples: dict[str, list[np.ndarray]] = {}
    for scene in scenes:
        for name, values in _samples(scene).items():
            samples.setdefault(name, []).append(np.asarray(values, float).ravel())
    return {name: _quantiles(np.concatenate(values)) for name, values in samples.items()}


def table(columns: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A Markdown table of statistics side by side: the 10 %, 50 % and 90 % quantiles of each."""
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = (_cell(found[name]) if name in found else "" for found in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(quantiles: Mapping[str, float]) -> str:
    return " / ".join(f"{quantiles[key]:.3g}" for key in ("10 %", "50 %", "90 %"))


def _quantiles(values: Float[np.ndarray, " K"]) -> dict[str, float]:
    found = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"{100 * share:g} %": float(value) for share, value in zip(QUANTILES, found, strict=True)}


@np.errstate(invalid="ignore", over="ignore")  # states that are not valid may hold anything
def _samples(scene: RawScene) -> dict[str, np.ndarray | list]:
    valid = scene.valid
    speed = np.where(valid, np.hypot(scene.velocity[..., 0], scene.velocity[..., 1]), 0.0)
    step = float(np.median(np.diff(scene.timestamps))) if len(scene.timestamps) > 1 else np.nan
    moves = speed.max(axis=0, initial=0.0) > MOVES
    both = valid[1:] & valid[:-1] & moves
    acceleration = np.diff(speed, axis=0) / step
    turn = np.mod(np.diff(scene.yaw, axis=0) + np.pi, 2 * np.pi) - np.pi
    now = valid[scene.current_step]
    found: dict[str, np.ndarray | list] = {}
    for name, kind in (("vehicle", VEHICLE), ("pedestrian", PEDESTRIAN), ("cyclist", CYCLIST)):
        of_kind = scene.agent_type == kind
        found[f"speed of a moving {name}, m/s"] = speed[valid & moves & of_kind]
        if kind == VEHICLE:
            found["acceleration of a moving vehicle, m/s²"] = acceleration[both & of_kind]
            turning = both & of_kind & (speed[1:] > TURNS)
            found["absolute yaw rate of a vehicle above 2 m/s, rad/s"] = np.abs(turn[turning]) / step
        found[f"share of {name}s"] = [of_kind.mean()] if len(of_kind) else []
    vehicles = scene.agent_type == VEHICLE
    found["share of vehicles that move"] = [moves[vehicles].mean()] if vehicles.any() else []
    found["distance to the nearest agent now, m"] = _spacing(scene.xyz[scene.current_step, now])
    found["steps that an agent is seen"] = valid.sum(axis=0)
    found["agents per scene"] = [len(scene.agent_id)]
    found["agents seen now"] = [now.sum()]
    found["lights per scene"] = [len(scene.signal_lane_id)]
    found["map features per scene"] = [len(scene.feature_id)]
    found["map points per scene"] = [len(scene.point_xyz)]
    return found


def _spacing(xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Distance of each place to the nearest other, in the plane."""
    if len(xyz) < 2:
        return np.zeros(0)
    apart = np.hypot(*np.moveaxis(xyz[:, None, :2] - xyz[None, :, :2], -1, 0))
    np.fill_diagonal(apart, np.inf)
    return apart.min(axis=1)
