"""Returns of policies by hand-computed rewards."""

import dataclasses

import jax.numpy as jnp
import pytest

import waymax_sim as ws
from behavior_models import ConstantSpeed
from behavior_models.training.returns import mean_returns
from tests.adapters.roads import LENGTH, roads
from waymax_sim.adapters.loop import EGO_ENV
from waymax_sim.env.bank import build_bank
from waymax_sim.env.observation import scatter_actions
from waymax_sim.pytree import Array, pytree

pytestmark = pytest.mark.compile_heavy


@pytree
class Turn(ws.Policy):
    """A constant action of the ego."""

    action: Array
    dynamics = EGO_ENV.dynamics

    def act(self, observation, carry, key):
        return scatter_actions(observation, self.action[None]), carry


def test_returns_end_with_the_episode():
    """Coasting drives the whole logged path; a sharp turn leaves the road, -1, before the end of the record."""
    bank = build_bank(roads(2), EGO_ENV)
    policies = {"coast": ConstantSpeed(), "zero": Turn(jnp.zeros(2)), "turn": Turn(jnp.array([1.0, -1.0]))}
    results = mean_returns(EGO_ENV, policies, bank)
    for name in ("coast", "zero"):
        assert results[name].per_episode == pytest.approx(1.0, abs=1e-5)
        assert results[name].per_step == pytest.approx(1 / LENGTH, abs=1e-5)
    turn = results["turn"]
    assert -1 < turn.per_episode < 0 and turn.per_step < turn.per_episode / LENGTH
    assert str(results["coast"]) == "1.000 per episode, 0.1667 per step"


def test_other_agents_than_the_sdc_are_refused():
    env = dataclasses.replace(EGO_ENV, config=dataclasses.replace(EGO_ENV.config, controlled="all", evaluated="all"))
    with pytest.raises(ValueError, match="returns are those of the sdc"):
        mean_returns(env, {}, build_bank(roads(1), env))
