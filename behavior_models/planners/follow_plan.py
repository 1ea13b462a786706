"""Planners of trajectories: one plan is tracked for several steps before the next one is requested."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from waymax_sim import geometry
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Trajectory
from waymax_sim.dynamics.trajectory import planar_poses
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, pytree, static, static_record, tree_index


@pytree
class PlanState:
    """State of `FollowPlan`.

    Attributes:
      plan: Poses (x, y, yaw) of each agent in the local frame, m and rad; the first one is that of its decision.
      age: Steps since the decision.
      planner: Recurrent state of the planner.
    """

    plan: Float[Array, "N P 3"]
    age: Int[Array, ""]
    planner: Any


@pytree
class FollowPlan(Policy):
    """Tracks the plans of a policy whose actions are trajectories, and requests new ones every `replan_steps`.

    Attributes:
      planner: Policy with the dynamics `Trajectory`.
      replan_steps: Steps between its decisions; its plans must reach as far.
    """

    planner: Policy
    replan_steps: int = static(default=5)

    @property
    def dynamics(self):
        """The vehicle model of the planner's trajectories."""
        return self._trajectory.vehicle

    @property
    def privileged(self):
        """Whether the planner reads the logged future."""
        return self.planner.privileged

    @property
    def _trajectory(self) -> Trajectory:
        if not isinstance(self.planner.dynamics, Trajectory):
            raise TypeError(f"FollowPlan needs a planner with the dynamics Trajectory, not {self.planner.dynamics!r}")
        return self.planner.dynamics

    def init(self, observation: Observation, key: Key[Array, ""]) -> PlanState:
        """No plan: the first step requests one."""
        num_agents, num_poses = observation.agents.valid.shape[0], self._trajectory.num_poses
        plan = jnp.zeros((num_agents, num_poses + 1, 3), jnp.float32)
        return PlanState(plan=plan, age=jnp.zeros((), jnp.int32), planner=self.planner.init(observation, key))

    def act(self, observation: Observation, carry: PlanState, key: Key[Array, ""]) -> tuple[Action, PlanState]:
        """Inputs of the vehicle model that track the present plans."""

        def decide(carry: PlanState) -> PlanState:
            action, planner = self.planner.act(observation, carry.planner, key)
            # Without an action an agent has no plan.
            value = jnp.where(action.valid[:, None], action.value, jnp.nan)
            plan = self._trajectory.plan(planar_poses(observation.agents), value)
            return PlanState(plan=plan, age=jnp.zeros((), jnp.int32), planner=planner)

        due = carry.age % self.replan_steps == 0
        carry = jax.lax.cond(due, decide, lambda unchanged: unchanged, carry)
        given = jnp.all(jnp.isfinite(carry.plan), axis=(1, 2))
        plan = jnp.where(given[:, None, None], carry.plan, 0.0)
        age = jnp.full(given.shape, observation.dt) * carry.age.astype(jnp.float32)
        value = self._trajectory.controls(observation.agents, plan, age, observation.dt)
        value = jnp.where(given[:, None], value, 0.0)
        following = PlanState(plan=carry.plan, age=carry.age + 1, planner=carry.planner)
        return Action(value=value, valid=given & observation.agents.valid), following


@static_record
class LogTrajectory(Policy):
    """The logged future of each agent as a trajectory, continued at constant velocity after its last valid step.

    Attributes:
      dynamics: Number and interval of the poses.
    """

    dynamics: Trajectory = Trajectory()
    privileged = True

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """Poses of the log in the frame of the agent now; after its last valid step at constant velocity."""
        log, now = observation.log, observation.agents
        assert log is not None, "privileged policies receive the log"
        times = self.dynamics.pose_interval * np.arange(1, self.dynamics.num_poses + 1)
        offset = np.round(times / observation.dt).astype(np.int32)
        row = jnp.arange(log.valid.shape[0], dtype=jnp.int32)[:, None]
        later = log.valid & (row > observation.step)
        last = jnp.max(jnp.where(later, row, -1), axis=0)
        wanted = observation.step + offset[:, None]
        rows = jnp.minimum(wanted, jnp.maximum(last, 0)[None])
        target = tree_index(log, (rows, jnp.arange(len(last))[None]))
        beyond = observation.dt * (wanted - rows).astype(jnp.float32)
        position = target.xyz[..., :2] + target.velocity * beyond[..., None]
        xy = geometry.rotate(position - now.xyz[None, :, :2], -now.yaw[None])
        poses = jnp.concatenate([xy, (target.yaw - now.yaw[None])[..., None]], axis=-1)
        usable = now.valid & (last >= 0) & jnp.all(target.valid, axis=0)
        value = jnp.swapaxes(poses, 0, 1).reshape(len(last), -1)
        return Action(value=jnp.where(usable[:, None], value, 0.0), valid=usable), carry
