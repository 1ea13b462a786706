"""Rewards as programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models.program_search.domains import reward
from behavior_models.program_search.domains.reward import REWARD_INPUTS, REWARD_SPACE, Situations
from behavior_models.training.presets import DISCRETE_BICYCLE

pytestmark = pytest.mark.compile_heavy

PARAMS = reward.SituationParams(num_per_scenario=2)


def _random_situations(count=200):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(REWARD_INPUTS), count, 9)).astype(np.float32)
    best = np.argmax(features[0] - features[3] ** 2, axis=1).astype(np.int32)
    return Situations(features, rng.uniform(size=(count, 9)).astype(np.float32), best)


def test_rank_and_distance_by_hand():
    rewards = jnp.asarray([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 2.0, 3.0]])
    assert reward.normalized_rank(rewards, jnp.asarray([1, 2, 1])).tolist() == pytest.approx([2.5 / 3, 0.5, 0.0])
    distance = jnp.asarray([[9.0, 1.0, 9.0, 2.0], [1.0, 2.0, 3.0, 4.0], [7.0, 0.0, 0.0, 0.0]])
    assert reward.chosen_distance(rewards, distance).tolist() == pytest.approx([1.5, 2.5, 7.0])


def test_fitness_of_the_planted_reward_and_of_controls():
    situations = _random_situations()
    node, first = REWARD_SPACE.node, REWARD_SPACE.num_leaves
    nodes = [node("square", REWARD_INPUTS.index("acceleration")), node("subtract", 0, first)]
    program = REWARD_SPACE.build(nodes)
    constant = REWARD_SPACE.build([node("subtract", 0, 0)])

    def fitness(domain, program):
        return float(domain.fitness(jax.tree.map(jnp.asarray, program)))

    assert fitness(reward.reward_domain(situations), program) == 1.0
    assert fitness(reward.reward_domain(situations), constant) == 0.5
    for shuffle in (reward.shuffle_situations, reward.shuffle_actions):
        assert fitness(reward.reward_domain(shuffle(situations, 1)), program) == pytest.approx(0.5, abs=0.08)
    shuffled = reward.shuffle_situations(situations, 1)
    assert sorted(shuffled.best) == sorted(situations.best)


@pytest.fixture(scope="module")
def scene():
    scenario = next(iter(ws.load("synthetic:0:1")))
    pairs = reward._possible_pairs(scenario, PARAMS)[[0, -1]]
    return scenario, pairs, jax.device_get(reward.evaluate_actions(scenario, pairs[:, 0], pairs[:, 1], PARAMS))


def _drive(position, yaw, speed, control):
    """Ten steps of 0.1 s of the bicycle model, in NumPy. Speeds that stay positive."""
    positions = []
    for _ in range(10):
        distance = (speed + 0.05 * control[0]) * 0.1
        position = position + distance * np.array([np.cos(yaw), np.sin(yaw)])
        yaw, speed = yaw + control[1] * distance, speed + 0.1 * control[0]
        positions.append(position)
    return np.stack(positions), speed


def test_features_equal_numpy(scene):
    scenario, pairs, (features, distance) = scene
    controls = np.asarray(DISCRETE_BICYCLE.decode(jnp.arange(63, dtype=jnp.int32)[:, None]))
    assert features.shape == (8, 2, 63)
    assert np.isfinite(features).all()
    log, checked = scenario.log, 0
    for row, (step, vehicle) in enumerate(pairs):
        yaw, velocity = log.yaw[step, vehicle], np.asarray(log.velocity[step, vehicle])
        speed = velocity @ np.array([np.cos(yaw), np.sin(yaw)])
        steps = np.flatnonzero(log.valid[:, vehicle])
        goal, start = log.xyz[steps[-1], vehicle, :2], log.xyz[step, vehicle, :2]
        for action in np.flatnonzero(speed + controls[:, 0] > 0.1):
            path, final = _drive(start, yaw, speed, controls[action])
            logged = log.xyz[step + 1 : step + 11, vehicle, :2]
            error = np.linalg.norm(path - logged, axis=1).mean()
            progress = np.linalg.norm(goal - start) - np.linalg.norm(goal - path[-1])
            assert distance[row, action] == pytest.approx(error, abs=2e-3)
            assert features[0, row, action] == pytest.approx(progress, abs=2e-3)
            assert features[3, row, action] == pytest.approx(abs(controls[action, 0]), abs=1e-5)
            assert features[4, row, action] == pytest.approx(final**2 * abs(controls[action, 1]), rel=1e-2, abs=1e-3)
            checked += 1
    assert checked > 60


def test_situations_travel_and_have_near_actions():
    situations = reward.find_situations(ws.load("synthetic:0:1"), PARAMS)
    assert len(situations) == 2
    np.testing.assert_array_equal(situations.best, situations.distance.argmin(axis=1))
    # The logged motion of vehicles in traffic is nearly one of the actions.
    assert situations.distance.min(axis=1).max() < 0.5
    with pytest.raises(ValueError, match="no vehicle"):
        reward.find_situations([])
