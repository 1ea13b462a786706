"""Pedestrians and cyclists: forces by hand, and trajectories in small scenes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import SocialForce
from tests.behavior_models.streets import AGENTS, STEPS, WALKER, Agent, road, street
from tests.scenes import agent_state
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN
from waymax_sim.env import Env, EnvConfig, rollout

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))
repulsion = jax.jit(SocialForce().repulsion)


@pytest.fixture(scope="module")
def simulate():
    @jax.jit
    def run(scenario, key, driven):
        return rollout(ENV, [(SocialForce(), driven)], scenario, key, STEPS, record=("agents",)).agents

    def run_scene(people, driven=(True,) * AGENTS):
        driven = np.array([*driven, *[False] * (AGENTS - len(driven))])
        scenario = street([road()], people)
        agents = jax.device_get(run(scenario, jax.random.key(0), driven))
        return dataclasses.replace(agents, xyz=agents.xyz + scenario.origin)

    return run_scene


def walker(x, y, yaw, speed=1.4) -> Agent:
    return Agent(x, y, yaw, speed, PEDESTRIAN, WALKER)


def negative_gradient(r, v, stride=2.0) -> np.ndarray:
    """Minus the gradient of 2.1 exp(-b / 0.3) by central differences; r relative to the other agent, of velocity v."""

    def potential(r):
        step = stride * np.asarray(v)
        distances = np.linalg.norm(r) + np.linalg.norm(r - step)
        return 2.1 * math.exp(-0.5 * math.sqrt(distances**2 - step @ step) / 0.3)

    h = 1e-5
    return -np.array([(potential(r + h * e) - potential(r - h * e)) / (2 * h) for e in np.eye(2)])


@pytest.mark.parametrize(
    ("position", "velocity"), [((1.0, 0.2), (0, 0)), ((1.2, -0.6), (-1.0, 0)), ((0.3, 1.0), (1.0, 0.5))]
)
def test_repulsion_is_the_negative_gradient_of_the_potential(position, velocity):
    """The other agent is a point; the agent at the origin faces along x."""
    agents = agent_state([(0, 0), position], yaw=[0.0, 0.0], velocity=[(1.0, 0.0), velocity])
    force = np.asarray(repulsion(agents, jnp.asarray([[0.5, 0.5], [1e-4, 1e-4]])))[0]
    np.testing.assert_allclose(force, negative_gradient(-np.asarray(position), velocity), rtol=5e-3, atol=1e-4)


def test_agents_behind_count_half_and_cars_have_their_length():
    size = jnp.asarray([[0.6, 0.6], [4.0, 2.0]])
    for x, weight in ((3.0, 1.0), (-3.0, 0.5)):
        agents = agent_state([(0, 0), (x, 0)], velocity=[(1.0, 0.0), (0.0, 0.0)])
        push = float(repulsion(agents, size)[0, 0])
        # Its box begins 1 m away.
        assert push == pytest.approx(-math.copysign(weight * 7 * math.exp(-1 / 0.3), x), rel=1e-3)
    away = agent_state([(0, 0), (3, 0)], valid=[True, False])
    assert not np.any(repulsion(away, size))
    above = agent_state([(0, 0, 0), (3, 0, 6)])
    assert not np.any(repulsion(above, size))


def test_agents_without_others_keep_their_velocity(simulate):
    agents = simulate([walker(0, 8, 0.5), Agent(20, 12, 0, 5, CYCLIST, (1.8, 0.6, 1.7)), walker(40, 8, 1.0, 0.0)])
    times = 0.1 * np.arange(1, STEPS + 1)
    expected = np.array([0, 8]) + 1.4 * times[:, None] * [math.cos(0.5), math.sin(0.5)]
    np.testing.assert_allclose(agents.xyz[:, 0, :2], expected, atol=2e-2)
    np.testing.assert_allclose(agents.xyz[:, 1, 0] - 20, 5 * times, atol=5e-2)
    np.testing.assert_allclose(agents.xyz[:, 2, :2], [[40, 8]] * STEPS, atol=1e-2)


def test_oncoming_pedestrians_pass_each_other(simulate):
    agents = simulate([walker(0, 8, 0), walker(8, 8.05, np.pi)])
    distance = np.linalg.norm(agents.xyz[:, 0, :2] - agents.xyz[:, 1, :2], axis=-1)
    assert distance.min() > 0.6
    assert agents.xyz[-1, 0, 0] > 8 and agents.xyz[-1, 1, 0] < 0


def test_pedestrian_does_not_walk_into_a_car(simulate):
    agents = simulate([walker(0, 8, 0), Agent(5, 8.3, 0, 0)], driven=(True, False))
    offset = np.abs(agents.xyz[:, 0, :2] - [5, 8.3]) - [2, 1]
    assert offset.max(axis=1).min() > 0


def test_cyclists_do_not_move_sideways(simulate):
    bike = (1.8, 0.6, 1.7)
    agents = simulate([Agent(0, 8, 0, 4, CYCLIST, bike), Agent(30, 8.1, np.pi, 4, CYCLIST, bike)])
    moved = np.diff(agents.xyz[:, :2, :2], axis=0)
    yaw = agents.yaw[1:, :2]
    lateral = np.cos(yaw) * moved[..., 1] - np.sin(yaw) * moved[..., 0]
    assert np.abs(lateral).max() < 1e-3
    assert np.linalg.norm(agents.xyz[:, 0, :2] - agents.xyz[:, 1, :2], axis=-1).min() > 0.6


def test_gradients_are_finite_even_at_equal_positions():
    @jax.jit
    @jax.grad
    def gradient(xy):
        agents = agent_state(np.zeros((3, 2)))
        agents = dataclasses.replace(agents, xyz=jnp.concatenate([xy, agents.xyz[:, 2:]], axis=-1))
        return jnp.sum(SocialForce().repulsion(agents, jnp.full((3, 2), 0.5)) ** 2)

    for xy in (jnp.zeros((3, 2)), jnp.asarray([[0.0, 0], [0.25, 0], [9, 9]])):
        assert np.isfinite(np.asarray(gradient(xy))).all()
