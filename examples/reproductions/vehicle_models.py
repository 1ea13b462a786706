"""Bicycle models of the center and of the rear axle, and tracked trajectories, against logged vehicles.

    python -m examples.reproductions.vehicle_models --data synthetic:901:20 "/data/womd/*" --out runs/vehicle_models

For each source: where the point without lateral velocity lies; residuals of one step; and errors of a vehicle that
tracks the logged future, with a new plan every half second or with a single plan of eight seconds.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import tyro

import waymax_sim as ws
from behavior_models.planners.follow_plan import FollowPlan, LogTrajectory
from waymax_sim import geometry
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.dynamics import Bicycle, RearAxleBicycle, Trajectory
from waymax_sim.pytree import tree_index

VEHICLES = {"center": Bicycle(), "rear axle": RearAxleBicycle()}
# Plans of a log: number of poses and steps between plans.
PLANS = {"every 0.5 s": (8, 5), "once": (16, 80)}
TIMES = (1.0, 3.0, 8.0)
# Speed below which vehicles have no direction of motion, m/s.
MIN_SPEED = 2.0
# Turn rate of bends, rad/s.
MIN_TURN_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Options:
    """Sources and output.

    Attributes:
      data: Sources of scenes.
      out: Folder of `vehicle_models.json`.
      limit: Scenes of each source.
    """

    data: tuple[str, ...] = ("synthetic:901:20",)
    out: Path = Path("runs/vehicle_models")
    limit: int = 20


def moving_pairs(scenario: Scenario) -> np.ndarray:
    """Steps t and vehicles, [P, 2], that move in steps t - 1 to t + 1."""
    log = scenario.log
    valid = np.asarray(log.valid) & (np.asarray(scenario.agents.type) == 1)[None]
    fast = valid & (np.linalg.norm(np.asarray(log.velocity), axis=-1) > MIN_SPEED)
    return np.argwhere(fast[1:-1] & fast[2:] & fast[:-2]) + [1, 0]


def lateral_motion(scenario: Scenario) -> np.ndarray:
    """Lateral velocity of the center (m/s), turn rate (rad/s) and length (m) of moving vehicles in bends, [P, 3]."""
    pairs, log, dt = moving_pairs(scenario), scenario.log, scenario.time_step
    step, agent = pairs.T
    xy, yaw = np.asarray(log.xyz, float)[..., :2], np.asarray(log.yaw, float)
    shift = xy[step + 1, agent] - xy[step - 1, agent]
    turn = yaw[step + 1, agent] - yaw[step - 1, agent]
    rate = np.arctan2(np.sin(turn), np.cos(turn)) / (2 * dt)
    across = (-np.sin(yaw[step, agent]) * shift[:, 0] + np.cos(yaw[step, agent]) * shift[:, 1]) / (2 * dt)
    rows = np.stack([across, rate, np.asarray(scenario.agents.size)[agent, 0]], axis=-1)
    return rows[np.abs(rate) > MIN_TURN_RATE]


def axle_fraction(rows: np.ndarray) -> float:
    """Distance from the point without lateral velocity to the center over the length: the median over all steps."""
    return float(np.median(rows[:, 0] / (rows[:, 1] * rows[:, 2]))) if len(rows) else np.nan


@jax.jit
def step_residuals(before, after, dt):
    """Position (m) and heading errors (rad) of the inverse applied to logged states, by vehicle model."""

    def residual(model):
        reached = model.apply(before, model.invert(before, after, dt).value, dt)
        turn = reached.yaw - after.yaw
        return geometry.norm(reached.xyz[:, :2] - after.xyz[:, :2]), abs(geometry.wrap_angle(turn))

    return {name: residual(model) for name, model in VEHICLES.items()}


def residuals_in_bends(scenario: Scenario) -> dict[str, np.ndarray]:
    """Residuals of moving vehicles in bends, [P, 2] each."""
    parts: dict[str, list] = {name: [] for name in VEHICLES}
    log, dt = jax.tree.map(np.asarray, scenario.log), scenario.time_step
    pairs = moving_pairs(scenario)
    for step in np.unique(pairs[:, 0]):
        turn = np.abs(np.angle(np.exp(1j * (log.yaw[step + 1] - log.yaw[step])))) / dt > MIN_TURN_RATE
        rows = pairs[(pairs[:, 0] == step) & turn[pairs[:, 1]], 1]
        result = jax.device_get(step_residuals(tree_index(log, step), tree_index(log, step + 1), np.float32(dt)))
        for name, errors in result.items():
            parts[name].append(np.stack(errors, axis=-1)[rows])
    return {name: np.concatenate([np.zeros((0, 2)), *each]) for name, each in parts.items()}


@functools.partial(jax.jit, static_argnames="num_steps")
def follow(policy, scenario, key, num_steps):
    """A rollout in which a policy moves all vehicles."""
    env = ws.Env(config=ws.EnvConfig(metrics=(), rewards=(), controlled="vehicle"))
    return ws.rollout(env, policy, scenario, key, num_steps, record=("agents",))


def tracking_errors(scenario: Scenario, vehicle: str, plan: str) -> np.ndarray:
    """Distances (m) to the log of vehicles that are valid in the whole future, [V, times]; NaN after the record."""
    (num_poses, replan_steps), now, last = PLANS[plan], int(scenario.current_step), int(scenario.last_step)
    planner = LogTrajectory(Trajectory(num_poses=num_poses, vehicle=VEHICLES[vehicle]))
    trace = jax.device_get(follow(FollowPlan(planner, replan_steps), scenario, jax.random.key(0), min(80, last - now)))
    log = jax.tree.map(np.asarray, scenario.log)
    moving = np.linalg.norm(log.velocity, axis=-1).max(axis=0) > MIN_SPEED
    rows = np.flatnonzero(log.valid[now:].all(axis=0) & moving & (np.asarray(scenario.agents.type) == 1))
    errors = np.full((len(rows), len(TIMES)), np.nan)
    for column, time in enumerate(TIMES):
        steps = round(time / scenario.time_step)
        if now + steps < len(log.valid) and steps <= len(trace.step):
            shift = trace.agents.xyz[steps - 1, rows, :2] - log.xyz[now + steps, rows, :2]
            errors[:, column] = np.linalg.norm(shift, axis=-1)
    return errors


def quantiles(values: np.ndarray) -> list[list[float | None]]:
    """Medians and 95th percentiles of the columns; None without values."""
    usable = [column[np.isfinite(column)] for column in values.T]
    return [[float(np.quantile(each, q)) if len(each) else None for q in (0.5, 0.95)] for each in usable]


def measure(scenarios: Iterable[Scenario]) -> dict:
    """All measures of one source."""
    scenarios = list(scenarios)
    lateral = np.concatenate([lateral_motion(scenario) for scenario in scenarios])
    residuals = [residuals_in_bends(scenario) for scenario in scenarios]
    tracking = {
        f"{vehicle}, plan {plan}": quantiles(
            np.concatenate([tracking_errors(scenario, vehicle, plan) for scenario in scenarios])
        )
        for vehicle in VEHICLES
        for plan in PLANS
    }
    return {
        "scenes": len(scenarios),
        "steps in bends": len(lateral),
        "axle fraction": axle_fraction(lateral),
        "one step, m and rad": {name: quantiles(np.concatenate([r[name] for r in residuals])) for name in VEHICLES},
        f"tracking after {TIMES} s, m": tracking,
    }


def main(options: Options) -> dict[str, dict]:
    """Measures all sources and writes the results."""
    results = {}
    for source in options.data:
        scenarios = ws.load(source)
        results[source] = measure(scenarios[index] for index in range(min(len(scenarios), options.limit)))
        print(source, json.dumps(results[source], indent=1), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "vehicle_models.json").write_text(json.dumps(results, indent=1))
    print(f"written to {options.out / 'vehicle_models.json'}")
    return results


if __name__ == "__main__":
    main(tyro.cli(Options))
