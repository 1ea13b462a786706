"""Short scenes and a quickly compiled observation for the tests of adapters."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests.scenes import raw_scene, scene
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Observation

# Steps of an episode: from step 5 of 12.
LENGTH = 6


def roads(count: int, **changes) -> list[Scenario]:
    """Scenes of 12 steps; in the i-th, all agents drive at a lateral offset of i * 0.1 m."""
    scenes = []
    for index in range(count):
        base = raw_scene(num_steps=12, **changes)
        xyz = base.xyz + np.array([0.0, 0.1 * index, 0.0])
        scenes.append(scene(num_steps=12, **changes, xyz=xyz, scenario_id=f"road-{index}"))
    return scenes


@dataclasses.dataclass(frozen=True)
class Positions:
    """Position and velocity of the sdc or of each agent: four values in units of 100 m and 100 m/s."""

    observers: str = "sdc"
    limit: float = 10.0

    def __call__(self, observation: Observation):
        agents = observation.agents
        rows = jnp.concatenate([agents.xyz[:, :2], agents.velocity], axis=-1) / 100
        return rows[jnp.argmax(observation.info.is_sdc)] if self.observers == "sdc" else rows


ego_position = Positions()
