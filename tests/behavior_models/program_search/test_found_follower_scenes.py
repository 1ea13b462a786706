"""The released law in all small scenes of the traffic tests: no collision, as of the Intelligent Driver Model."""

import dataclasses

import jax
import numpy as np
import pytest

from behavior_models import IDM, FoundFollower
from tests.behavior_models.streets import AGENTS, STEPS, boxes_overlap
from tests.behavior_models.test_micro_scenes import *  # noqa: F403
from tests.behavior_models.test_micro_scenes import ENV
from waymax_sim.env import rollout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulate():
    """Simulates the masked agents by both laws, checks those of the released one, and returns those of the model."""

    @jax.jit
    def run(policy, scenario, key, driven):
        return rollout(ENV, [(policy, driven)], scenario, key, STEPS, record=("agents",)).agents

    def checked(scenario, driven=(True,) * AGENTS, seed=0):
        mask = np.array([*driven, *[False] * (AGENTS - len(driven))])
        found, model = (
            jax.device_get(run(policy, scenario, jax.random.key(seed), mask)) for policy in (FoundFollower(), IDM())
        )
        for first in np.flatnonzero(scenario.agents.exists):
            for second in np.flatnonzero(scenario.agents.exists)[first + 1 :]:
                if not boxes_overlap(model, scenario.agents.size, first, second).any():
                    assert not boxes_overlap(found, scenario.agents.size, first, second).any(), (first, second)
        return dataclasses.replace(model, xyz=model.xyz + scenario.origin)

    return checked
