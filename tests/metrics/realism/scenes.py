"""Made-up scenes, far from the origin of the world, with what trips the Sim Agents metrics."""

import dataclasses

import jax
import numpy as np

from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.evaluation.realism.evaluate import verbatim_log
from waymax_sim.metrics.realism import Rollouts, compare, score

# One program each for the tests of a module; of all modules they are the same, so that a cache on disk has them.
compared = jax.jit(compare, static_argnames=("parity", "max_evaluated"))
judged = jax.jit(score, static_argnames=("config", "parity", "soft"))

PLACE = np.array([3000.0, -2000.0, 16.0])
NOW, STEPS = 5, 21


def exact(values: np.ndarray) -> np.ndarray:
    """Rounded so that float32 holds them wherever they are."""
    return np.round(values * 1024) / 1024


def headings(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Along the road and against it, not all of them within +-pi."""
    return (rng.choice([0, 0, np.pi, 2 * np.pi], shape) + rng.normal(0, 0.3, shape)).astype(np.float32)


def raw_world(seed: int = 0, num_agents: int = 14, place: np.ndarray = PLACE) -> RawScene:
    """A busy scene: gaps in the log, headings beyond pi, a closed island and lights of all states."""
    raw, rng = busy_raw_scene(seed, num_agents), np.random.default_rng(seed)
    valid = raw.valid.copy()
    valid[NOW, 0] = True
    valid[NOW, -1] = False
    drift = np.cumsum(rng.normal(0, 0.4, (*valid.shape, 2)), axis=0)
    xyz = exact(np.concatenate([raw.xyz[:1, :, :2] + drift, raw.xyz[..., 2:]], axis=-1) + place)
    lit = rng.random((STEPS, 3)) < 0.8
    stop = (
        np.array([[-5.0, 0.0, 0.0], [3.0, 3.5, 0.0], [-12.0, 2.0, 6.0]])
        + rng.normal(0, 1.0, (STEPS, 3, 3)) * lit[..., None]
    )
    return dataclasses.replace(
        raw,
        agent_id=rng.permutation(num_agents) + 50,
        xyz=np.where(valid[..., None], xyz, 0.0),
        yaw=np.where(valid, headings(rng, valid.shape), 0.0).astype(float),
        size=exact(raw.size),
        valid=valid,
        to_predict=valid[NOW] & (rng.random(num_agents) < 0.5),
        point_xyz=exact(raw.point_xyz + place),
        signal_lane_id=np.array([10, 11, 15]),
        signal_state=rng.choice([1, 4, 4, 6, 7], (STEPS, 3)),
        signal_stop_point=exact(stop + place),
        signal_valid=lit,
    )


def world(seed: int = 0, num_rollouts: int = 2, **changes) -> tuple[RawScene, Scenario, Rollouts]:
    """The scene as read and in its local frame, and rollouts in which everyone wanders."""
    raw, rng = raw_world(seed, **changes), np.random.default_rng(100 + seed)
    scenario = to_scenario(raw, bucketed=False)
    shape = (num_rollouts, STEPS - 1 - NOW, len(raw.agent_id))
    steps = np.cumsum(rng.normal(0, 0.5, (*shape, 3)) * [1, 1, 0.1], axis=1)
    xyz = exact(np.asarray(scenario.log.xyz)[NOW] + steps).astype(np.float32)
    return raw, scenario, Rollouts(xyz, headings(rng, shape))


def log_of(raw: RawScene, scenario: Scenario):
    """The log with its headings as recorded."""
    return verbatim_log(raw, scenario)
