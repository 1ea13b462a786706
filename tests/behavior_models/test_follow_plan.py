"""Planners of trajectories in rollouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models import ConstantSpeed, FollowPlan, LogTrajectory
from tests.scenes import scene
from waymax_sim.dynamics import RearAxleBicycle, Trajectory
from waymax_sim.pytree import static_record

ENV = ws.Env(config=ws.EnvConfig(metrics=(), rewards=(), controlled="vehicle"))
traces = []


@jax.jit
def simulate(policy, scenario):
    traces.append(policy)
    return ws.rollout(ENV, policy, scenario, jax.random.key(0), 15, record=("agents",))


def run(policy, scenario):
    return jax.device_get(simulate(policy, scenario)).agents


def test_a_logged_plan_is_tracked_with_and_without_new_plans():
    scenario = scene()
    log = np.asarray(scenario.log.xyz)[6:21]
    for steps in (1, 3, 15):
        planner = LogTrajectory(Trajectory(num_poses=4, vehicle=RearAxleBicycle()))
        agents = run(FollowPlan(planner, steps), scenario)
        np.testing.assert_allclose(agents.xyz[..., :2], log[..., :2], atol=0.05)
    # The dynamics without a stored plan request one in each step.
    np.testing.assert_allclose(run(LogTrajectory(), scenario).xyz[..., :2], log[..., :2], atol=0.05)
    before = len(traces)
    run(FollowPlan(planner, 15), scenario)
    assert len(traces) == before


def test_between_decisions_the_plan_stays_that_of_the_decision():
    @static_record
    class Slower(ws.Policy):
        dynamics = Trajectory(num_poses=4)

        def act(self, observation, carry, key):
            # Ten meters ahead of the decision after two seconds.
            ahead = jnp.asarray([2.5, 0, 0, 5, 0, 0, 7.5, 0, 0, 10, 0, 0], jnp.float32)
            num_agents = observation.agents.valid.shape[0]
            return ws.Action(jnp.tile(ahead[None], (num_agents, 1)), observation.agents.valid), carry

    # From 10 m/s to the 5 m/s of the plan: 7.5 m after 1.5 s, and further where each plan begins at the agent.
    start = float(scene().log.xyz[5, 0, 0])
    once, often = (float(run(FollowPlan(Slower(), steps), scene()).xyz[-1, 0, 0]) - start for steps in (20, 1))
    assert once == pytest.approx(7.5, abs=1.0) and often > once + 0.3


def test_other_actions_are_refused():
    with pytest.raises(TypeError, match="planner with the dynamics Trajectory"):
        _ = FollowPlan(ConstantSpeed()).dynamics
