"""What the tests of the adapters share: short scenes that differ, and an observation that compiles quickly."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests.scenes import raw_scene, scene
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Observation

# Steps of an episode: from step 5 of 12.
LENGTH = 6


def roads(count: int, **changes) -> list[Scenario]:
    """Scenes of 12 steps; in the i-th, everybody drives i * 0.1 m beside the middle of the lane."""
    found = []
    for index in range(count):
        base = raw_scene(num_steps=12, **changes)
        xyz = base.xyz + np.array([0.0, 0.1 * index, 0.0])
        found.append(scene(num_steps=12, **changes, xyz=xyz, scenario_id=f"road-{index}"))
    return found


@dataclasses.dataclass(frozen=True)
class Places:
    """Where agents are and at what speed: four numbers in hundreds of metres and m/s, of the sdc or a row each."""

    who: str = "sdc"
    limit: float = 10.0

    def __call__(self, observation: Observation):
        agents = observation.agents
        rows = jnp.concatenate([agents.xyz[:, :2], agents.velocity], axis=-1) / 100
        return rows[jnp.argmax(observation.info.is_sdc)] if self.who == "sdc" else rows


place = Places()
