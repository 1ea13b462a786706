"""A policy that brakes at its goal, for policies that were trained to arrive and then leave the scene."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Key, Num

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, where
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Dynamics
from waymax_sim.dynamics.protocol import TimeStep
from waymax_sim.env import Observation, Policy
from waymax_sim.metrics.goal import GOAL_RADIUS
from waymax_sim.pytree import Array, pytree

# Deceleration after the arrival, m/s^2: comfortable braking.
DECELERATION = 2.5


@dataclasses.dataclass(frozen=True)
class BrakingDynamics:
    """The actions of another model with a flag; agents with a positive flag brake along their heading instead.

    Attributes:
      dynamics: The other model.
    """

    dynamics: Dynamics

    @property
    def preserves_finite(self) -> bool:
        """Whether the other model returns finite agents for finite agents and values."""
        return getattr(self.dynamics, "preserves_finite", False)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the other model, and 0 and 1."""
        low, high = self.dynamics.bounds
        return np.append(low, low.dtype.type(0)), np.append(high, high.dtype.type(1))

    def apply(self, agents: AgentState, value: Num[Array, "N A"], dt: TimeStep) -> AgentState:
        """Agents `dt` seconds later.

        Args:
          agents: N agents.
          value: Actions of the other model, and the flag.
          dt: Duration, s.
        """
        brakes = value[:, -1] > 0
        control = jnp.asarray([-DECELERATION, 0.0])[None] * jnp.ones((len(brakes), 1))
        return where(brakes, Bicycle().apply(agents, control, dt), self.dynamics.apply(agents, value[:, :-1], dt))

    def invert(self, before: AgentState, after: AgentState, dt: TimeStep) -> Action:
        """The action of the other model, without braking.

        Args:
          before: N agents.
          after: The same agents `dt` later.
          dt: Duration, s.
        """
        return _with_flag(self.dynamics.invert(before, after, dt), jnp.zeros(before.valid.shape, bool))


@pytree
class BrakeAtGoal(Policy):
    """Another policy until an agent is within 2 m of its goal; from then on it brakes.

    Attributes:
      policy: The other policy.
    """

    policy: Any

    @property
    def privileged(self) -> bool:
        """Whether the other policy reads the logged future."""
        return self.policy.privileged

    @property
    def dynamics(self) -> Dynamics:
        """The model of the other policy with a flag."""
        return BrakingDynamics(self.policy.dynamics or Bicycle())

    def init(self, observation: Observation, key: Key[Array, ""]) -> tuple[Any, Bool[Array, " N"]]:
        """The state of the other policy, and no agent at its goal."""
        return self.policy.init(observation, key), jnp.zeros(observation.info.exists.shape, bool)

    def act(
        self, observation: Observation, carry: tuple[Any, Bool[Array, " N"]], key: Key[Array, ""]
    ) -> tuple[Action, tuple[Any, Bool[Array, " N"]]]:
        """Actions of the other policy; braking for agents that have arrived."""
        memory, arrived = carry
        goals, now = observation.goals, observation.agents
        if goals is not None:
            arrived |= goals.valid & now.valid & (geometry.norm(now.xyz[:, :2] - goals.xy) <= GOAL_RADIUS)
        action, memory = self.policy.act(observation, memory, key)
        return _with_flag(action, arrived), (memory, arrived)


def _with_flag(action: Action, flag: Bool[Array, " N"]) -> Action:
    value = jnp.concatenate([action.value, flag[:, None].astype(action.value.dtype)], axis=-1)
    return Action(value=value, valid=action.valid)
