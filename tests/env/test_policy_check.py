"""Mistakes in policies are named while a rollout is traced, with a remedy."""

import jax
import jax.numpy as jnp
import pytest

from tests.scenes import scene
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env import Env, EnvConfig, Policy, rollout
from waymax_sim.env.policy_check import check_members

NUM_AGENTS = 3
ENV = Env(dynamics=Bicycle(), config=EnvConfig(controlled="all"))


def policy_of(decide, first=(), dynamics=None):
    """A policy whose `act` returns decide(valid, carry)."""

    class Custom(Policy):
        def init(self, observation, key):
            return first

        def act(self, observation, carry, key):
            return decide(observation.agents.valid, carry)

    Custom.dynamics = dynamics
    return Custom()


def trace(policy, env=ENV):
    run = lambda scenario, key: rollout(env, policy, scenario, key, 2, record=("agents",))  # noqa: E731
    return jax.eval_shape(run, scene(), jax.random.key(0))


def zeros(valid, shape=(2,), dtype=jnp.float32):
    return Action(jnp.zeros((*valid.shape, *shape), dtype), valid)


def test_a_valid_policy_passes():
    assert trace(policy_of(lambda valid, carry: (zeros(valid), carry))).agents.valid.shape[0] == 2
    counting = policy_of(lambda valid, carry: (zeros(valid), carry + 1), first=jnp.int32(0))
    assert trace(counting).agents.valid.shape[0] == 2
    discrete = Discrete(Bicycle(), bins=(2, 2))
    index = policy_of(lambda valid, carry: (zeros(valid, (1,), jnp.int32), carry), dynamics=discrete)
    assert trace(index).agents.valid.shape[0] == 2


MISTAKES = {
    "integers": (
        lambda valid, carry: (zeros(valid, dtype=jnp.int32), carry),
        TypeError,
        "int32; Bicycle needs float32",
    ),
    "another number of components": (lambda valid, carry: (zeros(valid, (3,)), carry), ValueError, "Bicycle needs"),
    "one row": (
        lambda valid, carry: (Action(jnp.zeros((1, 2)), jnp.ones(1, bool)), carry),
        ValueError,
        "one row per agent of the scenario",
    ),
    "no recurrent state": (lambda valid, carry: zeros(valid), TypeError, "must return a pair"),
    "an array": (lambda valid, carry: (jnp.zeros((*valid.shape, 2)), carry), TypeError, "`Action`"),
    "another recurrent state": (lambda valid, carry: (zeros(valid), jnp.zeros(2)), TypeError, r"float32\[2\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    decide, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        trace(policy_of(decide))


def test_floats_are_no_indices():
    discrete = Discrete(Bicycle(), bins=(2, 2))
    with pytest.raises(TypeError, match="Discrete needs int32"):
        trace(policy_of(lambda valid, carry: (zeros(valid, (1,)), carry), dynamics=discrete))


def test_missing_members_are_named():
    class Bare:
        def act(self, observation, carry, key):
            return zeros(observation.agents.valid), carry

    with pytest.raises(TypeError, match="Bare has no init, dynamics, privileged: subclass"):
        check_members(Bare())
    with pytest.raises(TypeError, match=r"the class Bare; pass an object of it: Bare\(...\)"):
        check_members(Bare)
