"""Collection of transitions in the graph, by any policy in an environment of discrete actions.

Continuous actions are replaced by the nearest discrete ones, which are applied and logged.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num

from behavior_models.networks.policy import NetworkPolicy
from behavior_models.offline.transitions import Transitions, returns_to_go
from waymax_sim.adapters.functional import AutoResetState, FunctionalEnv
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.state import CALLER, Action
from waymax_sim.dynamics import Discrete
from waymax_sim.env import Observation, Policy
from waymax_sim.env.auto_reset import reset_where
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.ops.bank import materialize_rows
from waymax_sim.pytree import Array


class CollectedLog(NamedTuple):
    """Complete episodes of controlled agents.

    Attributes:
      transitions: The transitions, on the host; truncated episodes have no last observation.
      returns: Return of each episode.
      num_steps: Simulated steps of all active agents, those of incomplete episodes included.
    """

    transitions: Transitions
    returns: Float[np.ndarray, " e"]
    num_steps: int


def collect_transitions(
    env: FunctionalEnv,
    policy: Policy,
    bank: ScenarioBank,
    key: Key[Array, ""],
    num_decisions: int,
    *,
    num_envs: int = 16,
    epsilon: float = 0.0,
    task: int = 0,
    num_tasks: int = 1,
) -> CollectedLog:
    """Episodes of the controlled agents of E environments with automatic resets.

    Only episodes that begin at least one longest episode before the end are retained, so short ones are not preferred.
    Policies of equal structure share a program.

    Args:
      env: Environment with discrete actions.
      policy: Drives all controlled agents; a network decides as often as in its training.
      bank: The scenarios.
      key: Random key.
      num_decisions: Decisions T of each environment, at least those of the longest episode.
      num_envs: E.
      epsilon: Probability of a uniformly random action.
      task: Index of the task.
      num_tasks: Number of tasks.

    Raises:
      ValueError: The actions of the environment are not discrete, it keeps less history than the policy observes, a
        network holds its actions for a part of a decision, there are too few decisions, or `epsilon` is no probability.
    """
    horizon = max_episode_decisions(env, bank)
    _check(env, policy, num_decisions, horizon, epsilon)
    collector = _Collector(env, num_decisions, num_envs)
    rows = _run(collector, _at_decisions(policy, env.env.config.steps_per_action), bank, key, jnp.float32(epsilon))
    return _pack(jax.device_get(rows), horizon, env.env.config.steps_per_action, (task, num_tasks))


def max_episode_decisions(env: FunctionalEnv, bank: ScenarioBank) -> int:
    """Decisions until the end of the longest record of a bank."""

    def num_steps(index: Int[Array, ""]) -> Int[Array, ""]:
        scenario = bank.scenario(index)
        return scenario.last_step - scenario.current_step

    longest = int(jnp.max(jax.vmap(num_steps)(jnp.arange(len(bank), dtype=jnp.int32))))
    return -(-longest // env.env.config.steps_per_action)


class _Rows(NamedTuple):
    """Decisions in the graph; without the axis K for the sdc alone."""

    observation: Float[Array, "*lead D"]
    action: Int[Array, "*lead"]
    reward: Float[Array, "*lead"]
    ended: Bool[Array, "*lead"]
    truncated: Bool[Array, "*lead"]
    active: Bool[Array, "*lead"]


@dataclasses.dataclass(frozen=True)
class _Collector:
    """Static arguments of the program."""

    env: FunctionalEnv
    num_decisions: int
    num_envs: int

    @property
    def dynamics(self) -> Discrete:
        dynamics = self.env.env.dynamics
        assert isinstance(dynamics, Discrete)
        return dynamics

    def observe(self, policy: Policy, bank: ScenarioBank, state: AutoResetState) -> Observation:
        scenario = bank.scenario(state.scene)
        env, current = self.env.env, state.episode.state
        observation = env.observe(scenario, current, privileged=policy.privileged, controller=CALLER)
        # Policies expect arrays, and the log is a row of the bank.
        return dataclasses.replace(observation, log=materialize_rows(observation.log))

    def start_policy(self, shared: tuple[Policy, ScenarioBank], own: tuple) -> Any:
        """The recurrent state of the policy at the start of an episode."""
        (policy, bank), (state, key) = shared, own
        return policy.init(self.observe(policy, bank, state), key)

    def decide(
        self, policy: Policy, bank: ScenarioBank, epsilon: Float[Array, ""], own: tuple
    ) -> tuple[AutoResetState, Any, Bool[Array, ""], _Rows]:
        """A decision of one environment.

        Args:
          policy: The policy.
          bank: The scenarios.
          epsilon: Probability of a random action.
          own: State, recurrent state of the policy, whether the episode begins, and key of the environment.
        """
        state, carry, begins, key = own
        init_key, policy_key, noise_key = jax.random.split(key, 3)
        carry = reset_where(self.start_policy, (policy, bank), (state, init_key), begins, carry)
        observation = self.observe(policy, bank, state)
        action, carry = policy.act(observation, carry, policy_key)
        index = nearest_actions(self.dynamics, policy, action, observation)[jnp.maximum(observation.controlled, 0)]
        index = _mix(index, epsilon, self.dynamics.num_actions, noise_key)
        is_single = self.env.env.config.controlled == "sdc"
        encoded = self.env.observe(dataclasses.replace(observation, log=None)).astype(jnp.float16)
        squeeze = (lambda values: values[0]) if is_single else (lambda values: values)
        state, result = dataclasses.replace(self.env, observe=_no_observation).step(bank, state, squeeze(index))
        ended, truncated = result.terminated & result.active, result.truncated & result.active
        rows = squeeze(encoded), squeeze(index)[..., 0], result.reward, ended, truncated, result.active
        return state, carry, result.done, _Rows(*rows)


@functools.partial(jax.jit, static_argnums=0)
def _run(
    collector: _Collector, policy: Policy, bank: ScenarioBank, key: Key[Array, ""], epsilon: Float[Array, ""]
) -> _Rows:
    num_envs = collector.num_envs
    reset_key, init_key, key = jax.random.split(key, 3)
    silent = dataclasses.replace(collector.env, observe=_no_observation)
    reset = jax.vmap(silent.reset, in_axes=(None, 0, None, 0, None))
    positions = jnp.arange(num_envs, dtype=jnp.int32)
    state, _ = reset(bank, jax.random.split(reset_key, num_envs), None, positions, num_envs)
    init = jax.vmap(collector.start_policy, in_axes=(None, 0))
    carry = init((policy, bank), (state, jax.random.split(init_key, num_envs)))
    decide = jax.vmap(functools.partial(collector.decide, policy, bank, epsilon))

    def step(own: tuple, key: Key[Array, ""]) -> tuple[tuple, _Rows]:
        state, carry, begins, rows = decide((*own, jax.random.split(key, num_envs)))
        return (state, carry, begins), rows

    begins = jnp.zeros(num_envs, bool)
    return jax.lax.scan(step, (state, carry, begins), jax.random.split(key, collector.num_decisions))[1]


def nearest_actions(dynamics: Discrete, policy: Policy, action: Action, observation: Observation) -> Int[Array, "N 1"]:
    """Indices of the discrete actions nearest to those of a policy; the zero action where they are unusable.

    Args:
      dynamics: The discrete actions.
      policy: The policy.
      action: Its actions.
      observation: The observation that it acted on.
    """
    own = policy.dynamics or dynamics
    usable = action.valid & jnp.all(jnp.isfinite(action.value), axis=-1)
    value = jnp.where(usable[:, None], action.value, jnp.zeros((), action.value.dtype))
    zero = jnp.zeros((value.shape[0], len(dynamics.dynamics.bounds[0])))
    index, usable = _convert(dynamics, own, value, observation.agents, observation.dt, usable)
    return jnp.where(usable[:, None], index, dynamics.encode(zero)).astype(jnp.int32)


def _convert(
    dynamics: Discrete,
    own: Any,
    value: Num[Array, "N A"],
    agents: AgentState,
    dt: float,
    usable: Bool[Array, " N"],
) -> tuple[Num[Array, "N 1"], Bool[Array, " N"]]:
    """Indices of actions of another model, and whether they exist.

    Args:
      dynamics: The discrete actions.
      own: Model of the actions.
      value: Actions.
      agents: The agents.
      dt: Time step, s.
      usable: Whether the actions are usable.
    """
    if own == dynamics:
        return value, usable
    if own == dynamics.dynamics:
        return dynamics.encode(value), usable
    # Of any other model: the action that leads nearest to the next state.
    inverse = dynamics.invert(agents, own.apply(agents, value, dt), dt)
    return inverse.value, usable & inverse.valid


def _mix(
    index: Int[Array, "K 1"], epsilon: Float[Array, ""], num_actions: int, key: Key[Array, ""]
) -> Int[Array, "K 1"]:
    """Random actions with probability `epsilon`.

    Args:
      index: Actions.
      epsilon: Probability.
      num_actions: Number of actions.
      key: Random key.
    """
    mask_key, key = jax.random.split(key)
    random = jax.random.randint(key, index.shape, 0, num_actions)
    return jnp.where(jax.random.uniform(mask_key, index.shape) < epsilon, random, index)


def _no_observation(observation: Observation) -> Float[Array, "K 0"]:
    return jnp.zeros((observation.controlled.shape[0], 0))


def _at_decisions(policy: Policy, steps_per_action: int) -> Policy:
    """The policy with its interval in decisions instead of steps."""
    if not isinstance(policy, NetworkPolicy):
        return policy
    return dataclasses.replace(policy, interval=policy.interval // steps_per_action)


def _check(env: FunctionalEnv, policy: Policy, num_decisions: int, horizon: int, epsilon: float) -> None:
    """Raises the errors of `collect_transitions`.

    Args:
      env: The environment.
      policy: The policy.
      num_decisions: Decisions of each environment.
      horizon: Decisions of the longest episode.
      epsilon: Probability of a random action.
    """
    config, history = env.env.config, observed_history_steps([policy])
    if not isinstance(env.env.dynamics, Discrete):
        raise ValueError(f"transitions have discrete actions, and {env.env.dynamics} is none; wrap it in Discrete")
    if history > config.num_history_steps:
        raise ValueError(f"the policy observes {history} steps; give EnvConfig(num_history_steps={history})")
    if isinstance(policy, NetworkPolicy) and policy.interval % config.steps_per_action:
        raise ValueError(f"the network decides every {policy.interval} steps; use a divisor as steps_per_action")
    if num_decisions < horizon:
        raise ValueError(f"num_decisions={num_decisions} is less than an episode; give at least {horizon}")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon={epsilon} is no probability")


def complete_episodes(
    active: Bool[np.ndarray, "T S"], ends: Bool[np.ndarray, "T S"], horizon: int
) -> tuple[Bool[np.ndarray, "T S"], Bool[np.ndarray, "T S"]]:
    """Rows of the episodes that end, and that begin at least `horizon` rows before the last one; and their first rows.

    Args:
      active: Rows with a decision.
      ends: Last rows of episodes.
      horizon: Rows of the longest episode.
    """
    no = np.zeros((1, active.shape[1]), bool)
    begins = active & ~np.concatenate([no, active[:-1] & ~ends[:-1]])
    start = np.maximum.accumulate(np.where(begins, np.arange(len(active))[:, None], -1), axis=0)
    ending, rows = np.zeros(active.shape[1], bool), []
    for own_active, own_end in zip(active[::-1], ends[::-1], strict=True):
        ending = own_active & (own_end | ending)
        rows.append(ending)
    valid = active & np.stack(rows[::-1]) & (start <= len(active) - horizon)
    return valid, begins & valid


def _pack(rows: _Rows, horizon: int, steps_per_action: int, task: tuple[int, int]) -> CollectedLog:
    """Streams of complete episodes; those without one are left out.

    Args:
      rows: Decisions, on the host.
      horizon: Decisions of the longest episode.
      steps_per_action: Steps of a decision.
      task: Index of the task, and number of tasks.
    """
    num_rows = len(rows.active)
    flat = [np.asarray(leaf).reshape(num_rows, rows.active[0].size, *leaf.shape[rows.active.ndim :]) for leaf in rows]
    observation, action, reward, ended, truncated, active = flat
    valid, begins = complete_episodes(active, ended | truncated, horizon)
    used, num_steps = valid.any(axis=0), int(active.sum()) * steps_per_action
    observation, action, valid, begins = (values[:, used] for values in (observation, action, valid, begins))
    reward = np.where(valid, reward[:, used], 0.0).astype(np.float32)
    ended, truncated = ended[:, used] & valid, truncated[:, used] & valid
    to_go = returns_to_go(reward, ended | truncated, valid)
    tasks = np.full(int(used.sum()), task[0], np.int32)
    action = np.where(valid, action, 0).astype(np.int32)
    transitions = Transitions(observation, action, reward, ended, truncated, valid, tasks, to_go, num_tasks=task[1])
    return CollectedLog(transitions, to_go[begins], num_steps)
