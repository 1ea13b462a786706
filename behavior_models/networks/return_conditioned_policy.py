"""Return-conditioned networks as policies."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.policy import braking_action, has_reached_goal
from behavior_models.networks.return_conditioned import Context, ReturnConditionedModel
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Discrete
from waymax_sim.env import Observation, Policy
from waymax_sim.env.encoder import ObservationEncoder
from waymax_sim.env.observation import scatter_actions
from waymax_sim.pytree import Array, pytree, static


@pytree
class ReturnConditionedPolicy(Policy):
    """The most likely action of a network given a level of the return; levels and parameters share programs.

    Agents that have reached their goal brake to a standstill, as those of `NetworkPolicy`.

    Attributes:
      params: Parameters of the network.
      target: Level of the return, such as the highest one of the log; clipped to those of the model.
      task: Index of the task.
      model: The network.
      encoder: Encoder of the observation.
      dynamics: Discrete actions.
      interval: Steps for which an action is held.

    Raises:
      ValueError: The network observes goals, and the scenario has none.
    """

    params: Any
    target: Int[Array, ""]
    task: Int[Array, ""]
    model: ReturnConditionedModel = static()
    encoder: ObservationEncoder = static()
    dynamics: Discrete = static()
    interval: int = static(default=1)

    @property
    def num_history_steps(self) -> int:
        """Steps of history that the policy observes."""
        return getattr(self.encoder, "num_history_steps", 2)

    @property
    def observes_goals(self) -> bool:
        """Whether the encoding contains goals."""
        return any(feature.name == "goal" for feature in self.encoder.spec().features)

    def init(self, observation: Observation, key: Key[Array, ""]) -> "DecisionMemory":
        """No decision yet."""
        count, length = len(observation.controlled), self.model.context
        return DecisionMemory(
            jnp.zeros((count, length, self.model.spec.size)),
            jnp.zeros((count, length), jnp.int32),
            jnp.zeros((count, length), bool),
            jnp.zeros((), jnp.int32),
            jnp.zeros(count, bool),
        )

    def act(
        self, observation: Observation, carry: "DecisionMemory", key: Key[Array, ""]
    ) -> tuple[Action, "DecisionMemory"]:
        """Actions of the controlled agents: new ones at every `interval`-th step, else those of the last one."""
        if self.observes_goals and observation.goals is None:
            raise ValueError("the network observes goals, and the scenario has none: set EnvConfig(goals='end_of_log')")
        decided = self._decide(carry, self.encoder(observation))
        carry = jax.tree.map(lambda new, old: jnp.where(carry.age == 0, new, old), decided, carry)
        value, arrived = carry.action[:, -1:], carry.arrived
        if self.observes_goals:
            arrived = arrived | has_reached_goal(observation)
            value = jnp.where(arrived[:, None], braking_action(self.dynamics)[None], value)
        memory = DecisionMemory(carry.observation, carry.action, carry.valid, (carry.age + 1) % self.interval, arrived)
        return scatter_actions(observation, value), memory

    def _decide(self, memory: "DecisionMemory", rows: Float[Array, "K D"]) -> "DecisionMemory":
        """The memory with a new decision as its last one."""
        count = len(rows)
        observation, action, valid = (
            jnp.concatenate([old[:, 1:], new[:, None]], axis=1)
            for old, new in (
                (memory.observation, rows),
                (memory.action, jnp.zeros(count, jnp.int32)),
                (memory.valid, jnp.ones(count, bool)),
            )
        )
        level = jnp.broadcast_to(jnp.clip(self.target, 0, self.model.num_levels - 1), action.shape)
        context = Context(observation, action, level, valid, jnp.broadcast_to(self.task, (count,)))
        chosen = jnp.argmax(self.model.logits(self.params, context)[:, -1], axis=-1).astype(jnp.int32)
        return DecisionMemory(observation, action.at[:, -1].set(chosen), valid, memory.age, memory.arrived)


@pytree
class DecisionMemory:
    """The last C decisions of each controlled agent, oldest first.

    Attributes:
      observation: Encoded observations.
      action: Actions.
      valid: Decisions of the episode.
      age: Steps since the last decision, modulo the interval.
      arrived: Agents that have reached their goal.
    """

    observation: Float[Array, "K C D"]
    action: Int[Array, "K C"]
    valid: Bool[Array, "K C"]
    age: Int[Array, ""]
    arrived: Bool[Array, " K"]
