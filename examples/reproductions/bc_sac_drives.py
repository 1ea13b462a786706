"""Drives of all traveling vehicles of some scenes by one policy: outcomes, progress and actions of each vehicle."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

import waymax_sim as ws
from behavior_models.training.collect import Actor, collect, reset_environments
from behavior_models.training.presets import BICYCLE, SELF_PLAY_CONFIG, SELF_PLAY_VIEW
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env import Env
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.evaluation.difficulty_model import AGENT_FEATURES, agent_features
from waymax_sim.pytree import Array, static_record

# Decisions of an episode of 8 s at 5 Hz.
NUM_DECISIONS = 40
# Scenes that are simulated together.
GROUP_SIZE = 30
TASK = FunctionalEnv(
    Env(BICYCLE, dataclasses.replace(SELF_PLAY_CONFIG, metrics=(*SELF_PLAY_CONFIG.metrics, "goal_distance"))),
    SELF_PLAY_VIEW,
    sampling="order",
)


class Scenes(NamedTuple):
    """Scenes on the device, and in host memory.

    Attributes:
      bank: On the device.
      scenarios: In host memory.
    """

    bank: ScenarioBank
    scenarios: list

    @classmethod
    def load(cls, path: str) -> "Scenes":
        """The scenes of a path."""
        scenarios = list(ws.load(path, pad_to_bucket=False))
        return cls(build_bank(scenarios, TASK.env), scenarios)


class Drives(NamedTuple):
    """V vehicles, and all their D decisions.

    Attributes:
      scene: Scene of each vehicle.
      features: Features of the initial scene of each vehicle (`AGENT_FEATURES`).
      failed: Whether the vehicle collided or left the road.
      reached: Whether it reached its goal without either.
      progress: Share of the distance to its goal that it covered.
      actions: Normalized (acceleration, curvature) of all decisions.
    """

    scene: Int[np.ndarray, " V"]
    features: Float[np.ndarray, "V F"]
    failed: Bool[np.ndarray, " V"]
    reached: Bool[np.ndarray, " V"]
    progress: Float[np.ndarray, " V"]
    actions: Float[np.ndarray, "D 2"]


@static_record
class StationaryActor:
    """A car that brakes to a standstill (`training.collect.Actor`)."""

    def __call__(self, observation: Array, key: Key[Array, ""]) -> tuple[Array, tuple[()]]:
        """Full braking."""
        return jnp.broadcast_to(jnp.asarray([-1.0, 0.0]), (*observation.shape[:-1], 2)), ()


def drive(actor: Actor, scenes: Scenes, key: Key[Array, ""]) -> Drives:
    """Drives all traveling vehicles of all scenes at the same time.

    Args:
      actor: The policy, a pytree.
      scenes: The scenes.
      key: Random key.
    """
    parts, count = [], len(scenes.bank)
    size = min(GROUP_SIZE, count)
    for begin in range(0, count, size):
        index = np.arange(begin, begin + size)
        bank = dataclasses.replace(scenes.bank, order=jnp.asarray(index % count, jnp.int32))
        records = jax.device_get(_records(actor, bank, jax.random.fold_in(key, begin)))
        parts += [
            _scene_drives(scenes, scene, *(values[:, row] for values in records))
            for row, scene in enumerate(index)
            if scene < count
        ]
    return Drives(*(np.concatenate(values) for values in zip(*parts, strict=True)))


@jax.jit
def _records(actor: Actor, bank: ScenarioBank, key: Key[Array, ""]):
    """Masks of acting vehicles, slots, failures, arrivals, distances (m) and actions, [T, E, K]."""
    environments = reset_environments(TASK, bank, key, bank.order.shape[0])
    _, decisions = collect(TASK, actor, bank, environments, key, NUM_DECISIONS)
    result = decisions.result
    goal, overlap, offroad = (result.metrics[name].value > 0 for name in ("goal_reached", "overlap", "offroad"))
    active = result.active & (decisions.episode == 0)[..., None]
    failed = active & (overlap | offroad)
    return (
        active,
        result.agent,
        failed,
        active & goal & ~failed,
        result.metrics["goal_distance"].value,
        decisions.action,
    )


def _scene_drives(
    scenes: Scenes,
    scene: int,
    active: Bool[np.ndarray, "T K"],
    agent: Int[np.ndarray, "T K"],
    failed: Bool[np.ndarray, "T K"],
    reached: Bool[np.ndarray, "T K"],
    distance: Float[np.ndarray, "T K"],
    action: Float[np.ndarray, "T K 2"],
) -> Drives:
    """The vehicles of one scene.

    Args:
      scenes: The scenes.
      scene: Index of the scene.
      active: Vehicles that acted.
      agent: Their slots in the bank.
      failed: Collisions and road departures.
      reached: Arrivals.
      distance: Distances to the goals, m.
      action: Actions.
    """
    scenario, rows = scenes.scenarios[scene], np.flatnonzero(active[0])
    # A bank has no slots for agents that are absent at the start.
    present = np.flatnonzero(np.asarray(scenario.log.valid)[int(scenario.current_step)])
    features = agent_features(scenario, present[agent[0, rows]])
    last = active.shape[0] - 1 - np.argmax(active[::-1, rows], axis=0)
    arrives = np.any(reached[:, rows], axis=0)
    covered = 1.0 - distance[last, rows] / features[:, AGENT_FEATURES.index("goal_distance")]
    return Drives(
        scene=np.full(len(rows), scene),
        features=features,
        failed=np.any(failed[:, rows], axis=0),
        reached=arrives,
        progress=np.where(arrives, 1.0, covered),
        actions=action[active],
    )
