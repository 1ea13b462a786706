"""Episodes of single agents: returns computed by hand, and states of agents after their episode."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from tests.scenes import raw_scene
from waymax_sim import Bicycle, Env, EnvConfig, Policy, rollout, stack_scenarios
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.state import Action
from waymax_sim.env import PRESETS, select_agents
from waymax_sim.pytree import Array, pytree, tree_index

pytestmark = pytest.mark.compile_heavy

STEPS, NOW, DT, SPEED, LENGTH = 21, 5, 0.1, 9.0, 4.0
AHEAD = STEPS - 1 - NOW  # steps of an episode
GOAL = dataclasses.replace(PRESETS["goal"], max_controlled=3)
RECORD = ("agents", "metrics", "reward", "terminated", "ended")


@pytree
class Fixed(Policy):
    """The same action at every step."""

    value: Float[Array, "N 2"]

    def act(self, observation, carry, key):
        """The action of each agent."""
        return Action(value=self.value, valid=observation.agents.valid), carry


def scenario(x=(0.0, -20.0, -40.0), speed=(SPEED,) * 3, log_speed=(SPEED,) * 3):
    """Three vehicles on a straight lane along x: positions and speeds now, and the speed of the log's positions."""
    base = raw_scene(num_steps=STEPS, current_step=NOW)
    xyz, velocity = base.xyz.copy(), base.velocity.copy()
    xyz[..., 0] = np.array(x) + DT * (np.arange(STEPS)[:, None] - NOW) * np.array(log_speed)
    velocity[..., 0] = speed
    return to_scenario(dataclasses.replace(base, xyz=xyz, velocity=velocity), pad_to_bucket=False)


@functools.cache
def program(config: EnvConfig, num_steps: int = AHEAD):
    env = Env(Bicycle(), config)

    @jax.jit
    def run(policy, batch):
        return jax.vmap(lambda policy, one: rollout(env, policy, one, jax.random.key(0), num_steps, RECORD))(
            policy, batch
        )

    return run


def play(config: EnvConfig, scenes: list, actions, num_steps: int = AHEAD):
    """Rollouts of several scenarios in one program, on the host."""
    batch = jax.device_put(stack_scenarios(scenes))
    values = jnp.asarray(np.broadcast_to(np.asarray(actions, np.float32), (len(scenes), 3, 2)))
    return jax.device_get(program(config, num_steps)(Fixed(values), batch))


def drive(x: float, speed: float, acceleration: float, curvature: float = 0.0) -> np.ndarray:
    """Poses (x, y, yaw) of a bicycle at constant acceleration and curvature, step by step."""
    pose, poses = np.array([x, 0.0, 0.0]), []
    for _ in range(AHEAD):
        new_speed = max(speed + acceleration * DT, 0.0)
        distance = (speed + new_speed) / 2 * DT if new_speed else -(speed**2) / (2 * acceleration) if speed else 0.0
        pose = pose + [distance * np.cos(pose[2]), distance * np.sin(pose[2]), curvature * distance]
        speed = new_speed
        poses.append(pose)
    return np.array(poses)


def is_off_road(pose: np.ndarray) -> bool:
    """Whether a corner of a box of 4 by 2 m is beyond the edge at y = -1.75."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return any(pose[1] + sin * dx + cos * dy < -1.75 for dx in (-2, 2) for dy in (-1, 1))


@pytest.fixture(scope="module")
def five():
    """Constant speed, standing still, braking, a rear-end collision, and leaving the road."""
    near = scenario(x=(0.0, -6.0, -40.0))
    scenes = [scenario(), scenario(speed=(0.0,) * 3), scenario(), near, scenario()]
    keep, brake = [[0, 0]] * 3, [[-6, 0]] * 3
    actions = [keep, keep, brake, [[-6, 0], [6, 0], [0, 0]], [[0, -0.1]] + keep[:2]]
    return scenes, play(GOAL, scenes, actions)


def test_constant_speed_reaches_the_goal_and_is_rewarded_once(five):
    # The goal is 13.5 m ahead; after 13 steps of 0.9 m it is 1.8 m away.
    trace = tree_index(five[1], 0)
    np.testing.assert_allclose(trace.reward.sum(axis=0), 1 + 0.01 * 11.7, atol=1e-5)
    np.testing.assert_array_equal(trace.ended[:, 0], np.arange(1, AHEAD + 1) >= 13)
    assert (trace.metrics["goal_reached"].value[:, 0] > 0).sum() == 1
    np.testing.assert_array_equal(trace.terminated.nonzero()[0], [12])


def test_standing_still_earns_nothing(five):
    trace = tree_index(five[1], 1)
    np.testing.assert_array_equal(trace.reward, 0)
    assert not trace.ended.any() and not trace.terminated.any()


def test_braking_is_rewarded_for_the_approach(five):
    # From 9 m/s to rest at -6 m/s^2 within 6.75 m.
    trace = tree_index(five[1], 2)
    np.testing.assert_allclose(trace.reward.sum(axis=0), 0.01 * 6.75, atol=1e-5)
    assert not trace.ended.any()


def test_a_collision_ends_both_agents_and_costs_each(five):
    trace = tree_index(five[1], 3)
    ahead, behind = drive(0.0, SPEED, -6.0)[:, 0], drive(-6.0, SPEED, 6.0)[:, 0]
    hit = int(np.argmax(ahead - behind < LENGTH))
    expected = [-0.75 + 0.01 * (ahead[hit] - 0.0), -0.75 + 0.01 * (behind[hit] + 6.0)]
    np.testing.assert_allclose(trace.reward.sum(axis=0)[:2], expected, atol=1e-4)
    np.testing.assert_array_equal(trace.ended[:, :2].argmax(axis=0), [hit, hit])
    # Both are removed; the third agent goes on.
    assert not trace.agents.valid[hit + 1 :, :2].any() and trace.agents.valid[:13, 2].all()


def test_leaving_the_road_ends_the_agent_and_costs(five):
    trace = tree_index(five[1], 4)
    poses = drive(0.0, SPEED, 0.0, -0.1)
    off = next(index for index, pose in enumerate(poses) if is_off_road(pose))
    to_goal = np.hypot(13.5 - poses[off, 0], poses[off, 1])
    np.testing.assert_allclose(trace.reward[:, 0].sum(), -0.75 + 0.01 * (13.5 - to_goal), atol=1e-4)
    assert int(trace.ended[:, 0].argmax()) == off
    np.testing.assert_allclose(trace.reward[:, 1:].sum(axis=0), 1.117, atol=1e-5)


def test_parked_agents_are_excluded_from_rates():
    parked = scenario(log_speed=(SPEED, 0.0, 0.3), speed=(SPEED, 0.0, 0.3))
    np.testing.assert_array_equal(select_agents(parked, "traveling"), [True, False, False])
    trace = tree_index(play(GOAL, [parked] * 5, 0.0), 0)
    np.testing.assert_array_equal(trace.metrics["goal_reached"].valid.any(axis=0), [True, False, False])
    np.testing.assert_array_equal(trace.final.controller > 0, [True, False, False])
    # With all vehicles controlled, the parked one has no value, and is neither paid nor ended at its goal.
    everyone = dataclasses.replace(GOAL, controlled="vehicle", evaluated="all", max_controlled=None)
    trace = tree_index(play(everyone, [parked] * 5, 0.0), 0)
    assert not trace.metrics["goal_reached"].valid[:, 1:].any()
    np.testing.assert_array_equal(trace.reward[:, 1], 0)
    np.testing.assert_array_equal(trace.ended[-1], [True, False, False])


def test_goals_must_be_observed_where_they_are_rewarded():
    hidden = Env(config=dataclasses.replace(GOAL, goals="scenario"))
    with pytest.raises(ValueError, match="goals='end_of_log'"):
        hidden.reset(scenario(), jax.random.key(0))
    state, _ = jax.jit(Env(config=GOAL).reset)(scenario(), jax.random.key(0))
    observation = Env(config=GOAL).observe(scenario(), state)
    np.testing.assert_allclose(observation.goals.xy[:, 0], np.array([13.5, -6.5, -26.5]), atol=1e-4)


NEAR = dict(metrics=("goal_reached",), rewards=(("goal_reached", 1.0),), terminate_on=("goal_reached",))


def at_end(mode: str, **changes):
    """Agent 0 reaches a goal 5 m ahead after 4 steps, within 2 m; agent 1 follows 6 m behind, its goal is far away."""
    config = EnvConfig(controlled="all", spawn="never", ends="agent", at_end=mode, **{**NEAR, **changes})
    one = scenario(x=(0.0, -6.0, -40.0))
    goals = Goals(xy=np.float32([[5, 0], [60, 0], [60, 0]]), valid=np.ones(3, bool))
    return tree_index(play(config, [dataclasses.replace(one, goals=goals)], 0.0), 0)


def test_stay_continues_without_reward():
    trace = at_end("stay")
    np.testing.assert_array_equal(trace.reward[:, 0], np.arange(1, AHEAD + 1) == 4)
    np.testing.assert_allclose(trace.agents.xyz[:, 0, 0], SPEED * DT * np.arange(1, AHEAD + 1), atol=1e-4)
    np.testing.assert_array_equal(trace.ended[:, 0], np.arange(1, AHEAD + 1) >= 4)
    assert not trace.ended[:, 1:].any()


def test_stop_keeps_the_pose():
    trace = at_end("stop")
    np.testing.assert_allclose(
        trace.agents.xyz[:, 0, 0], SPEED * DT * np.minimum(np.arange(1, AHEAD + 1), 4), atol=1e-4
    )
    np.testing.assert_array_equal(trace.agents.velocity[4:, 0], 0)
    assert trace.agents.valid.all() and trace.reward.sum() == 1


def test_remove_takes_the_agent_out_of_the_scenario():
    trace = at_end("remove")
    np.testing.assert_array_equal(trace.agents.valid[:, 0], np.arange(1, AHEAD + 1) <= 4)
    assert trace.agents.valid[:, 1:].all() and trace.reward.sum() == 1
    np.testing.assert_array_equal(trace.agents.xyz[4:, 0], 0)


def test_respawn_waits_until_the_start_is_free_and_rewards_again():
    trace = at_end("respawn")
    # Agent 1 is nearer than 4.5 m to the start of agent 0, center to center, until it is 4.8 m beyond, after 12 steps.
    np.testing.assert_array_equal(trace.agents.valid[:, 0].nonzero()[0] + 1, [1, 2, 3, 4, 13, 14, 15])
    np.testing.assert_allclose(trace.agents.xyz[12:, 0, 0], [0.9, 1.8, 2.7], atol=1e-4)
    np.testing.assert_array_equal(trace.ended[:, 0].nonzero()[0] + 1, np.arange(4, 12))
    assert trace.reward[:, 0].sum() == 1 and not trace.terminated.any()


def test_an_episode_of_the_scenario_earns_nothing_after_its_end():
    config = EnvConfig(controlled="all", **NEAR)
    one = scenario(x=(0.0, -6.0, -40.0))
    goals = Goals(xy=np.float32([[5, 0], [2, 0], [60, 0]]), valid=np.ones(3, bool))
    trace = tree_index(play(config, [dataclasses.replace(one, goals=goals)], 0.0), 0)
    np.testing.assert_array_equal(trace.reward.sum(axis=0), [1, 0, 0])
    np.testing.assert_array_equal(trace.terminated.nonzero()[0], [3])
    # Without a terminating metric each goal is paid once, however long the agent is at it.
    trace = tree_index(
        play(dataclasses.replace(config, terminate_on=()), [dataclasses.replace(one, goals=goals)], 0.0), 0
    )
    np.testing.assert_array_equal(trace.reward.sum(axis=0), [1, 1, 0])
    assert (trace.metrics["goal_reached"].value[:, 0] > 0).sum() > 1 and not trace.terminated.any()


def test_contradictory_configurations_are_rejected():
    with pytest.raises(ValueError, match="set ends='agent'"):
        EnvConfig(at_end="remove")
    with pytest.raises(ValueError, match="steps_per_action=0"):
        EnvConfig(steps_per_action=0)
    with pytest.raises(ValueError, match="max_controlled=0"):
        EnvConfig(max_controlled=0)
