"""Contributions of rollouts and agents against the score of the set without them."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.metrics.realism.scenes import compare_jitted, log_of, score_features, world
from waymax_sim.metrics.realism import CONFIGS, agent_contributions, rollout_contributions
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy

CONFIG = CONFIGS["2025"]
NUM_ROLLOUTS = 3


@pytest.fixture(scope="module")
def features():
    raw, scenario, rollouts = world(num_rollouts=NUM_ROLLOUTS)
    return jax.device_get(compare_jitted(scenario, rollouts, log=log_of(raw, scenario)))


def meta(features) -> float:
    return float(score_features(features, config=CONFIG).meta_metric)


def test_rollouts_contribute_the_difference_to_the_set_without_them(features):
    contributions = jax.jit(rollout_contributions, static_argnames="config")(features, CONFIG)
    for index in range(NUM_ROLLOUTS):
        others = np.arange(NUM_ROLLOUTS) != index
        without = dataclasses.replace(features, sim=tree_index(features.sim, others))
        assert contributions[index] == pytest.approx(meta(features) - meta(without), abs=2e-6)
    assert np.ptp(contributions) > 1e-4


def test_agents_contribute_the_difference_to_the_metric_of_the_others(features):
    contributions = np.asarray(jax.jit(agent_contributions, static_argnames="config")(features, CONFIG))
    exists = np.asarray(features.agents.exists)
    assert np.isnan(contributions[~exists]).all() and np.isfinite(contributions[exists]).sum() > 2
    for index in np.flatnonzero(exists)[:3]:
        others = exists & (np.arange(len(exists)) != index)
        agents = dataclasses.replace(features.agents, exists=others, logged=features.agents.logged & others)
        without = dataclasses.replace(features, agents=agents)
        assert contributions[index] == pytest.approx(meta(features) - meta(without), abs=2e-6, nan_ok=True)


def test_sets_without_separate_contributions_are_refused(features):
    one = dataclasses.replace(features, sim=tree_index(features.sim, slice(1)))
    with pytest.raises(ValueError, match="one rollout"):
        rollout_contributions(one, CONFIG)
    with pytest.raises(ValueError, match="pools the values of agents"):
        agent_contributions(features, dataclasses.replace(CONFIG, pool_agents=True))
