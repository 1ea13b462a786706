"""Synthetic scenes, far from the origin of the world, with the special cases of the Sim Agents metrics."""

import dataclasses

import jax
import numpy as np

from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.evaluation.realism.evaluate import recorded_log
from waymax_sim.metrics.realism import RealismRollouts, compare_rollouts, score

# One program each for all tests; modules share them through the cache on disk.
compare_jitted = jax.jit(compare_rollouts, static_argnames=("parity", "max_evaluated"))
score_features = jax.jit(score, static_argnames=("config", "parity", "soft"))

WORLD_POSITION = np.array([3000.0, -2000.0, 16.0])
NOW, STEPS = 5, 21


def exact(values: np.ndarray) -> np.ndarray:
    """Rounded to values that float32 represents at any position."""
    return np.round(values * 1024) / 1024


def headings(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Along the road and against it, not all of them within +-pi."""
    return (rng.choice([0, 0, np.pi, 2 * np.pi], shape) + rng.normal(0, 0.3, shape)).astype(np.float32)


def raw_world(seed: int = 0, num_agents: int = 14, position: np.ndarray = WORLD_POSITION) -> RawScene:
    """A busy scene: gaps in the log, headings beyond pi, a closed island and lights of all states."""
    raw, rng = busy_raw_scene(seed, num_agents), np.random.default_rng(seed)
    valid = raw.valid.copy()
    valid[NOW, 0] = True
    valid[NOW, -1] = False
    drift = np.cumsum(rng.normal(0, 0.4, (*valid.shape, 2)), axis=0)
    xyz = exact(np.concatenate([raw.xyz[:1, :, :2] + drift, raw.xyz[..., 2:]], axis=-1) + position)
    observed = rng.random((STEPS, 3)) < 0.8
    stop = (
        np.array([[-5.0, 0.0, 0.0], [3.0, 3.5, 0.0], [-12.0, 2.0, 6.0]])
        + rng.normal(0, 1.0, (STEPS, 3, 3)) * observed[..., None]
    )
    return dataclasses.replace(
        raw,
        agent_id=rng.permutation(num_agents) + 50,
        xyz=np.where(valid[..., None], xyz, 0.0),
        yaw=np.where(valid, headings(rng, valid.shape), 0.0).astype(float),
        size=exact(raw.size),
        valid=valid,
        to_predict=valid[NOW] & (rng.random(num_agents) < 0.5),
        point_xyz=exact(raw.point_xyz + position),
        signal_lane_id=np.array([10, 11, 15]),
        signal_state=rng.choice([1, 4, 4, 6, 7], (STEPS, 3)),
        signal_stop_point=exact(stop + position),
        signal_valid=observed,
    )


def world(seed: int = 0, num_rollouts: int = 2, **changes) -> tuple[RawScene, Scenario, RealismRollouts]:
    """The raw scene, its scenario, and rollouts with random walks of all agents."""
    raw, rng = raw_world(seed, **changes), np.random.default_rng(100 + seed)
    scenario = to_scenario(raw, pad_to_bucket=False)
    shape = (num_rollouts, STEPS - 1 - NOW, len(raw.agent_id))
    steps = np.cumsum(rng.normal(0, 0.5, (*shape, 3)) * [1, 1, 0.1], axis=1)
    xyz = exact(np.asarray(scenario.log.xyz)[NOW] + steps).astype(np.float32)
    return raw, scenario, RealismRollouts(xyz, headings(rng, shape))


def log_of(raw: RawScene, scenario: Scenario):
    """The log with its headings as recorded."""
    return recorded_log(raw, scenario)
