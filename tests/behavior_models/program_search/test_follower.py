"""Car-following laws: episodes, closed-loop errors, and the policy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import IDM, FoundFollower
from behavior_models.program_search.domains.follower import (
    ERROR,
    FOLLOWER_SPACE,
    FollowerEpisodes,
    find_episodes,
    follow,
    follower_domain,
    idm_program,
    program_law,
)
from behavior_models.program_search.export import from_json, to_json
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from tests.behavior_models.streets import AGENTS, STEPS, Agent, boxes_overlap, road, street
from tests.data import recorded
from waymax_sim import load
from waymax_sim.env import Env, EnvConfig, rollout

pytestmark = pytest.mark.compile_heavy

NODE = FOLLOWER_SPACE.node


def headway_program():
    """dv-damped control of the gap: (gap - 2 - 1.5 v) / 4 - dv, with constants 1, 2, 1.5 and 0.25."""
    return FOLLOWER_SPACE.build(
        [
            NODE("multiply", 6, 0),
            NODE("add", 5, 8),
            NODE("subtract", 2, 9),
            NODE("multiply", 7, 10),
            NODE("subtract", 11, 1),
        ]
    )


def random_episodes(count=3, steps=50):
    rng = np.random.default_rng(0)
    leader_speed = 10 + np.cumsum(rng.normal(0, 0.2, (count, steps)), axis=1)
    leader = 20 + np.cumsum(leader_speed, axis=1) * 0.1
    valid = np.arange(steps)[None] < np.array([[50], [45], [40]])
    arrays = leader, leader_speed, rng.uniform(10, 30, (count, steps)), rng.uniform(8, 12, (count, steps))
    return FollowerEpisodes(*(item.astype(np.float32) for item in arrays), valid, np.full(count, 15.0, np.float32))


def test_errors_equal_a_loop():
    episodes = random_episodes()
    errors = jax.jit(lambda: follow(program_law(headway_program()), episodes))()
    for index in range(3):
        position, speed, gaps, speeds = 0.0, float(episodes.speed[index, 0]), [], []
        for step in range(50):
            gap = episodes.leader[index, step] - position
            gaps.append(gap)
            speeds.append(speed)
            law = (gap - (2 + 1.5 * speed)) * 0.25 - (speed - episodes.leader_speed[index, step])
            law = np.clip(law, -VEHICLE_LIMITS.max_deceleration, VEHICLE_LIMITS.max_acceleration)
            following = max(speed + law * 0.1, 0.0)
            position += (speed + following) / 2 * 0.1
            speed = following
        used = episodes.valid[index]
        for name, values in (("gap", gaps), ("speed", speeds)):
            error = np.sqrt(np.mean((np.array(values) - getattr(episodes, name)[index])[used] ** 2))
            assert float(getattr(errors, name)[index]) == pytest.approx(error, rel=1e-4)
        assert bool(errors.collision[index]) == (np.array(gaps)[used] < 0).any()


def test_a_collision_costs_and_gradients_are_finite():
    episodes = random_episodes()
    errors = jax.jit(lambda: follow(lambda v, dv, gap, v0: jnp.full_like(v, 3.0), episodes))()
    assert np.asarray(errors.collision).any()
    assert float(errors.total) >= ERROR.collision * float(jnp.mean(errors.collision.astype(jnp.float32)))

    def total(weight):
        return follow(lambda v, dv, gap, v0: weight * (gap - 2 * v) - dv, episodes).total

    assert np.isfinite(jax.jit(jax.grad(total))(0.1))


def follower_street(lateral=0.0):
    """A follower at 10 m/s, 25 m behind a leader at 8 m/s; both keep their speeds in the record."""
    return street([road()], [Agent(0.0, 0.0, speed=10.0), Agent(25.0, lateral, speed=8.0)])


def test_episodes_have_the_recorded_gaps():
    scenario = follower_street()
    length = float(scenario.agents.size[0, 0])
    episodes = find_episodes([scenario])
    assert len(episodes) >= 1
    first = 25.0 - length
    np.testing.assert_allclose(episodes.gap[0, :40], first - 0.2 * np.arange(40), atol=0.02)
    np.testing.assert_allclose(episodes.leader[0, :40], first + 0.8 * np.arange(40), atol=0.02)
    np.testing.assert_allclose(episodes.speed[0], 10.0, atol=1e-4)
    assert episodes.desired_speed[0] == pytest.approx(10.0, abs=1e-4)


def test_a_vehicle_in_another_lane_is_no_leader():
    with pytest.raises(ValueError, match="no vehicle follows"):
        find_episodes([follower_street(lateral=3.5)])


def test_vehicles_of_recorded_scenes_are_followers():
    """Recorded gaps agree with recorded positions; the released law follows better than the model of the start."""
    files = "womd/scenario_637f20cafde22ff8.tfrecord", "gpudrive/db4edc9bd0c9d18c.json"
    episodes = find_episodes(load(recorded(file))[0] for file in files)
    assert len(episodes) >= 8
    valid = episodes.valid[:, 1:]
    assert (episodes.gap[episodes.valid] > 0).all() and episodes.speed[episodes.valid].max() < 40
    # The leader moves by its speed, and the follower by the difference of leader and gap.
    own = np.diff(episodes.leader - episodes.gap, axis=1)
    np.testing.assert_allclose(own[valid], 0.1 * episodes.speed[:, 1:][valid], atol=0.15)
    laws = program_law(FoundFollower().program), program_law(idm_program()), lambda v, dv, gap, v0: jnp.zeros_like(v)
    found, model, constant = (jax.device_get(jax.jit(lambda law=law: follow(law, episodes))()) for law in laws)
    assert found.gap.mean() < model.gap.mean() < constant.gap.mean()
    assert not found.collision.any()


def test_fitness_of_a_law_that_fails_is_finite_and_worst():
    domain = follower_domain(random_episodes())
    program = FOLLOWER_SPACE.build([NODE("exponential", 2), NODE("square", 8)])
    fitness = float(jax.jit(domain.evaluate)(jax.tree.map(lambda leaf: leaf[None], program))[0])
    assert -ERROR.max_error - ERROR.collision <= fitness < -5.0


@pytest.fixture(scope="module")
def drive():
    env = Env(config=EnvConfig(controlled="none", metrics=(), rewards=()))
    driven = np.arange(AGENTS) < 2
    runs = {
        policy: jax.jit(
            lambda scenario, key, policy=policy: (
                rollout(env, [(policy, driven)], scenario, key, STEPS, record=("agents",)).agents
            )
        )
        for policy in (FoundFollower(), FoundFollower(to_json(FOLLOWER_SPACE, headway_program())), IDM())
    }
    return lambda policy, scenario: jax.device_get(runs[policy](scenario, jax.random.key(0)))


@pytest.mark.parametrize("gap", [8.0, 30.0])
def test_the_released_law_stops_behind_a_stationary_leader(drive, gap):
    scenario = street([road()], [Agent(0.0, 0.0, speed=8.0), Agent(gap + 15.0, 0.0, speed=0.0)])
    agents = drive(FoundFollower(), scenario)
    assert not boxes_overlap(agents, scenario.agents.size, 0, 1).any()


@pytest.mark.slow
def test_laws_differ_behind_a_leader_and_not_on_a_free_road(drive):
    other = FoundFollower(to_json(FOLLOWER_SPACE, headway_program()))
    behind = street([road()], [Agent(0.0, 0.0, speed=10.0), Agent(25.0, 0.0, speed=6.0)])
    free = street([road()], [Agent(0.0, 0.0, speed=10.0), Agent(0.0, 40.0, speed=0.0)])
    assert np.abs(drive(FoundFollower(), behind).xyz - drive(other, behind).xyz).max() > 0.1
    np.testing.assert_array_equal(drive(other, free).xyz[:, 0], drive(IDM(), free).xyz[:, 0])


def test_the_released_law_is_text():
    policy = FoundFollower()
    assert "gap" in policy.formula
    assert from_json(FOLLOWER_SPACE, to_json(FOLLOWER_SPACE, policy.program)).operators.shape == (16,)
    assert json.loads(to_json(FOLLOWER_SPACE, policy.program))["formula"] == policy.formula


def test_searches_begin_with_the_model():
    """Its program equals the model where no bound of the model applies."""
    state = {"v": 10.0, "dv": -0.5, "gap": 30.0, "v0": 15.0}
    law = program_law(jax.tree.map(jnp.asarray, idm_program()))
    acceleration = float(law(*(jnp.asarray([value]) for value in state.values()))[0])
    desired_gap = 2.0 + 15.0 - 0.25 * 10.0 * 0.5
    assert acceleration == pytest.approx(1 - (10 / 15) ** 4 - (desired_gap / 30) ** 2, abs=1e-5)
