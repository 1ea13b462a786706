"""Networks as policies."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Int, Key, Num

from behavior_models.networks.heads import (
    NUM_COMPONENTS,
    Categorical,
    Distribution,
    GaussianMixture,
    Head,
    Mode,
    TanhGaussian,
)
from waymax_sim import geometry
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Discrete, Dynamics
from waymax_sim.env import Observation, Policy
from waymax_sim.env.encoder import ObservationEncoder
from waymax_sim.env.observation import scatter_actions
from waymax_sim.metrics.goal import GOAL_RADIUS
from waymax_sim.pytree import Array, pytree, static

# Deceleration of agents that have reached their goal, m/s^2. Chosen.
COMFORTABLE_DECELERATION = 2.5

# Logarithms of the probabilities of actions, and values of states.
ActorExtra = tuple[Array, Array]


@pytree
class NetworkPolicy(Policy):
    """A network that acts for the controlled agents; sets of parameters of one network share compiled programs.

    Agents that have reached their goal brake to a standstill: the episodes of training end there.

    Attributes:
      params: Parameters of the network.
      graph: Its structure.
      encoder: Encoder of the observation.
      dynamics: Model of the actions: discrete actions are those of a categorical distribution, others are normalized to
        (-1, 1).
      mode: Whether an action is sampled, the most likely one, or the mean.
      interval: Steps for which an action is held.
      head: Distribution of continuous actions.

    Raises:
      ValueError: The network observes goals, and the scenario has none.
    """

    params: Any
    graph: nnx.GraphDef = static()
    encoder: ObservationEncoder = static()
    dynamics: Dynamics = static()
    mode: Mode = static(default="sample")
    interval: int = static(default=1)
    head: Head = static(default="gaussian")

    @property
    def observes_goals(self) -> bool:
        """Whether the encoding contains goals."""
        return any(feature.name == "goal" for feature in self.encoder.spec().features)

    def init(self, observation: Observation, key: Key[Array, ""]) -> "HeldAction":
        """No action yet."""
        low, _ = self.dynamics.bounds
        shape = len(observation.controlled), len(low)
        return HeldAction(jnp.zeros(shape, low.dtype), jnp.zeros((), jnp.int32), jnp.zeros(shape[:1], bool))

    def act(self, observation: Observation, carry: "HeldAction", key: Key[Array, ""]) -> tuple[Action, "HeldAction"]:
        """Actions of the controlled agents: new ones at every `interval`-th step, else those of the last one."""
        if self.observes_goals and observation.goals is None:
            raise ValueError("the network observes goals, and the scenario has none: set EnvConfig(goals='end_of_log')")
        actor = NetworkActor(self.params, self.graph, self.dynamics, self.mode, self.head)
        new, _ = actor(self.encoder(observation), key)
        value = jnp.where(carry.age == 0, new, carry.value)
        arrived = carry.arrived
        if self.observes_goals:
            arrived = arrived | has_reached_goal(observation)
            value = jnp.where(arrived[:, None], braking_action(self.dynamics)[None], value)
        return scatter_actions(observation, value), HeldAction(value, (carry.age + 1) % self.interval, arrived)


@pytree
class HeldAction:
    """The last action of each controlled agent.

    Attributes:
      value: The actions.
      age: Steps since they were chosen, modulo the interval.
      arrived: Agents that have reached their goal.
    """

    value: Num[Array, "K A"]
    age: Int[Array, ""]
    arrived: Bool[Array, " K"]


def has_reached_goal(observation: Observation) -> Bool[Array, " K"]:
    """Controlled agents within the radius of their goal."""
    goals, rows = observation.goals, jnp.maximum(observation.controlled, 0)
    assert goals is not None
    distance = geometry.norm(observation.agents.xyz[rows, :2] - goals.xy[rows])
    return goals.valid[rows] & (distance <= GOAL_RADIUS)


def braking_action(dynamics: Dynamics) -> Num[Array, " A"]:
    """The action that brakes comfortably on a straight line; for models without acceleration, that stops."""
    if isinstance(dynamics, Discrete):
        return dynamics.encode(braking_action(dynamics.dynamics)[None])[0]
    low, _ = dynamics.bounds
    if not isinstance(dynamics, Bicycle):
        return jnp.zeros(len(low))
    scale = dynamics.max_acceleration if dynamics.normalized else 1.0
    return jnp.asarray([-COMFORTABLE_DECELERATION / scale, 0.0], jnp.float32)


def action_distribution(dynamics: Dynamics, outputs: Array, head: Head = "gaussian") -> Distribution:
    """The distribution over actions of a model.

    Args:
      dynamics: The model.
      outputs: Outputs of a network.
      head: Distribution of continuous actions.
    """
    if isinstance(dynamics, Discrete):
        indices = jnp.arange(dynamics.num_actions, dtype=jnp.int32)[:, None]
        return Categorical(outputs, dynamics.decode(indices))
    if head == "mixture":
        return GaussianMixture.from_outputs(outputs, NUM_COMPONENTS)
    return TanhGaussian.from_outputs(outputs)


def num_distribution_outputs(dynamics: Dynamics, head: Head = "gaussian") -> int:
    """Number of outputs of a network that `action_distribution` needs."""
    if isinstance(dynamics, Discrete):
        return dynamics.num_actions
    size = len(dynamics.bounds[0])
    return NUM_COMPONENTS * (1 + 2 * size) if head == "mixture" else 2 * size


def choose(actions: Distribution, mode: Mode, key: Key[Array, ""]) -> Array:
    """An action of a distribution.

    Args:
      actions: The distribution.
      mode: Whether it is sampled, the most likely one, or the mean.
      key: Random key.
    """
    match mode:
        case "sample":
            return actions.sample(key)
        case "mode":
            return actions.mode()
        case "mean":
            return actions.mean()


@pytree
class NetworkActor:
    """A network as an actor of encoded observations (`training.collect.Actor`).

    Attributes:
      params: Parameters of an actor-critic network.
      graph: Its structure.
      dynamics: Model of the actions.
      mode: See `NetworkPolicy`.
      head: Distribution of continuous actions.
    """

    params: Any
    graph: nnx.GraphDef = static()
    dynamics: Dynamics = static()
    mode: Mode = static(default="sample")
    head: Head = static(default="gaussian")

    def __call__(self, observation: Array, key: Key[Array, ""]) -> tuple[Array, ActorExtra]:
        """Actions, and the logarithms of their probabilities with the values of the states."""
        outputs, value = nnx.merge(self.graph, self.params)(observation)
        actions = action_distribution(self.dynamics, outputs, self.head)
        action = choose(actions, self.mode, key)
        return action, (actions.log_prob(action), value)
