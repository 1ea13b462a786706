"""Policies of the driving tasks: rule-based ones of any expertise, and networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.lookahead import LookaheadParams, action_values
from behavior_models.offline.route_frame import RouteFrame
from waymax_sim.pytree import Array, pytree, static


class TaskObservation(NamedTuple):
    """Observations of E policies at a decision.

    Attributes:
      rows: Encoded observations.
      frame: The egos on their routes.
      task: Indices of the tasks.
      mask: Permitted actions.
      limit: Speed limits, m/s.
    """

    rows: Float[Array, "E D"]
    frame: RouteFrame
    task: Int[Array, " E"]
    mask: Bool[Array, "E L"]
    limit: Float[Array, " E"]


# A policy of driving tasks: from observations and a random key to the actions of E environments. A pytree: actors of
# equal structure share programs.
TaskActor = Callable[[TaskObservation, Key[Array, ""]], Int[Array, " E"]]


@pytree
class RuleActor:
    """The lookahead planner, or constant speed, with random actions at some decisions.

    All fields are arrays, for one policy or for E of them, so policies of any expertise share a program.

    Attributes:
      epsilon: Probability of a uniformly random action.
      holds_speed: Probability of keeping the speed on the route instead of the planned action.
      planner: Objective of the planner.
    """

    epsilon: Float[Array, "*E"]
    holds_speed: Float[Array, "*E"]
    planner: LookaheadParams

    def __call__(self, observation: TaskObservation, key: Key[Array, ""]) -> Int[Array, " E"]:
        """The actions of E environments.

        Args:
          observation: The observations.
          key: Random key.
        """
        num_envs = observation.task.shape[0]
        planner = jax.tree.map(lambda value: jnp.broadcast_to(jnp.asarray(value), (num_envs,)), self.planner)
        value = jax.vmap(action_values)(observation.frame, planner, observation.limit, observation.mask)
        action = jnp.argmax(value, axis=-1).astype(jnp.int32)
        action_key, random_key, hold_key = jax.random.split(key, 3)
        action = jnp.where(jax.random.uniform(hold_key, (num_envs,)) < self.holds_speed, ROUTE_ACTIONS.hold, action)
        logits = jnp.where(observation.mask, 0.0, -jnp.inf)
        random = jax.random.categorical(action_key, logits).astype(jnp.int32)
        return jnp.where(jax.random.uniform(random_key, (num_envs,)) < self.epsilon, random, action)


@pytree
class RowsActor:
    """A network as an actor.

    Attributes:
      params: Its parameters.
      act: From parameters, encoded observations [E, D], tasks [E], permitted actions [E, L] and a key to actions [E].
    """

    params: Any
    act: Callable[..., Int[Array, " E"]] = static()

    def __call__(self, observation: TaskObservation, key: Key[Array, ""]) -> Int[Array, " E"]:
        """The actions of E environments.

        Args:
          observation: The observations.
          key: Random key.
        """
        return self.act(self.params, observation.rows, observation.task, observation.mask, key)


def rule_actor(epsilon: float = 0.0, holds_speed: float = 0.0, **planner: float) -> RuleActor:
    """A rule-based policy.

    Args:
      epsilon: Probability of a uniformly random action.
      holds_speed: Probability of keeping the speed.
      planner: Fields of `LookaheadParams`.
    """
    default = LookaheadParams(**planner)
    leaves, structure = jax.tree.flatten(default)
    params = jax.tree.unflatten(structure, [jnp.asarray(leaf, jnp.float32) for leaf in leaves])
    return RuleActor(jnp.asarray(epsilon, jnp.float32), jnp.asarray(holds_speed, jnp.float32), params)


def named_actors() -> dict[str, RuleActor]:
    """The rule-based policies by name: the reference, degraded planners, constant speed and random actions."""
    return {
        "lookahead": rule_actor(),
        "constant_speed": rule_actor(holds_speed=1.0),
        "random": rule_actor(epsilon=1.0),
        "hasty": rule_actor(speed_factor=1.2, headway=0.2, margin=0.0),
        "slow": rule_actor(speed_factor=0.6),
        "inattentive": rule_actor(holds_speed=0.5),
    }


def noisy_actor(name: str, epsilon: float) -> RuleActor:
    """A named policy with random actions.

    Args:
      name: Name of the policy.
      epsilon: Probability of a random action.

    Raises:
      ValueError: There is no such policy.
    """
    actors = named_actors()
    if name not in actors:
        raise ValueError(f"{name!r} is no rule-based policy of driving tasks; they are {', '.join(actors)}")
    own = actors[name]
    return RuleActor(jnp.maximum(own.epsilon, epsilon), own.holds_speed, own.planner)


def stack_actors(actors: list[RuleActor]) -> RuleActor:
    """One policy per environment."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *actors)
