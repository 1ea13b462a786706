"""Networks as policies in rollouts: held actions, goals, standstill at the goal."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.networks.actor_critic import ActorCritic
from behavior_models.networks.model import ActorCriticModel
from behavior_models.networks.policy import NetworkPolicy, braking_action
from behavior_models.networks.scene_encoder import NetworkConfig
from tests.scenes import scene
from waymax_sim.datatypes.goals import Goals
from waymax_sim.dynamics import Bicycle, Delta, Discrete
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.env.flat_view import FlatView

VIEW = FlatView("controlled", num_agents=2, num_polylines=2)
GRAPH, PARAMS = nnx.split(ActorCritic(VIEW.spec(), 9, NetworkConfig(width=4, trunk=4), rngs=nnx.Rngs(0)))
ACTIONS = Discrete(Bicycle(), levels=((-3.0, 0.0, 2.0), (-0.1, 0.0, 0.1)))
KEY, SCENE = jax.random.key(0), scene(num_steps=20)
POLICY = NetworkPolicy(PARAMS, GRAPH, VIEW, ACTIONS, "sample", 3)


def test_goals_are_required():
    with pytest.raises(ValueError, match="observes goals"):
        jax.eval_shape(lambda: rollout(Env(ACTIONS, EnvConfig(metrics=(), rewards=())), POLICY, SCENE, KEY, 1))


def test_actions_are_held_and_agents_stop_at_their_goal():
    sdc = int(np.argmax(SCENE.agents.is_sdc))
    start = SCENE.log.xyz[int(SCENE.current_step), sdc, :2]
    far = Goals(np.full((SCENE.num_agents, 2), 1e3, np.float32), np.ones(SCENE.num_agents, bool))
    near = dataclasses.replace(far, xy=far.xy.copy())
    near.xy[sdc] = start + 1.0
    env = Env(ACTIONS, EnvConfig(metrics=(), rewards=()))
    run = jax.jit(lambda scenario: rollout(env, POLICY, scenario, KEY, 9, record=("actions",)))
    driving, stopping = (run(dataclasses.replace(SCENE, goals=goals)) for goals in (far, near))
    actions = np.asarray(driving.actions[0].value)[:, sdc, 0]
    assert (actions.reshape(3, 3) == actions[::3, None]).all() and len(set(actions)) > 1
    assert (np.asarray(stopping.actions[0].value)[:, sdc, 0] == ACTIONS.encode(jnp.array([[-2.5, 0.0]]))[0, 0]).all()


def test_a_temperature_divides_the_logits():
    model = ActorCriticModel(VIEW, ACTIONS, NetworkConfig(width=4, trunk=4))
    params, rows = model.init(KEY), jax.random.normal(KEY, (5, VIEW.spec().size))
    cool = model.distribution(model.at_temperature(params, 0.5), rows)
    np.testing.assert_allclose(cool.logits, 2 * model.distribution(params, rows).logits, rtol=1e-5, atol=1e-7)


def test_braking_is_an_action_of_each_model():
    np.testing.assert_allclose(braking_action(Bicycle()), [-2.5, 0.0])
    np.testing.assert_allclose(braking_action(Bicycle(normalized=True)), [-2.5 / 6.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(ACTIONS.decode(braking_action(ACTIONS)[None])[0], [-3.0, 0.0])
    assert not braking_action(Delta()).any()
