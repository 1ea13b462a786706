"""Multi-agent environment of pure functions with dictionaries of agents, as in JaxMARL (Rutherford et al. 2024)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num, Shaped

from waymax_sim.adapters.functional import AutoResetState, FunctionalEnv, Transition
from waymax_sim.adapters.loop import SimulationLoop, action_shape
from waymax_sim.datasets.loader import load
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import PRESETS, Assignment, Env, Policies
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import Array, pytree, static

# Self-play of at most eight traveling vehicles, each with an episode of its own.
SELF_PLAY = FunctionalEnv(
    Env(Bicycle(normalized=True), dataclasses.replace(PRESETS["goal"], max_controlled=8)), FlatView()
)


@dataclasses.dataclass(frozen=True, eq=False)
class BoxSpace:
    """Bounded real vectors.

    Attributes:
      low: Lower bounds, of `shape`.
      high: Upper bounds, of `shape`.
    """

    low: np.ndarray
    high: np.ndarray
    dtype: Any = np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.low.shape

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*shape"]:
        """A uniform sample; not finite where a bound is infinite."""
        return jax.random.uniform(key, self.shape, self.dtype, jnp.asarray(self.low), jnp.asarray(self.high))

    def contains(self, value: Num[Array, "*shape"]) -> Bool[Array, ""]:
        """Whether all components are within the bounds."""
        return jnp.all((value >= self.low) & (value <= self.high))


@dataclasses.dataclass(frozen=True)
class DiscreteSpace:
    """The integers from 0 to `n - 1`."""

    n: int
    dtype: Any = np.int32

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def sample(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """A uniform sample."""
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, value: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the integer is in the range."""
        return jnp.logical_and(value >= 0, value < self.n)


@pytree
class DriveMultiAgentEnv:
    """Control of many agents in scenarios of a bank, one per episode, with the interface of JaxMARL.

    Pure, for one environment: batch `reset` and `step` with `vmap` over keys, states and actions. Agents are the rows
    "agent_0" to "agent_{K-1}" of `functional.env`; rows without an active agent have the observation 0, the reward 0
    and the end of an episode as "done". A pytree: as an argument of a compiled function it brings its bank along.

    Attributes:
      bank: The scenarios.
      functional: Rules, observation and order of scenarios; the caller controls more than the sdc.
      traffic: Policies of all other agents; empty for the log.
    """

    bank: ScenarioBank
    functional: FunctionalEnv = static(default=SELF_PLAY)
    traffic: Assignment = dataclasses.field(default_factory=lambda: Assignment.from_policies(None))

    def __post_init__(self):
        if self.functional.env.config.controlled == "sdc":
            raise ValueError("the caller controls the sdc alone, which has no agents by name; use FunctionalEnv")

    @classmethod
    def from_scenarios(
        cls, scenarios: str | Sequence, functional: FunctionalEnv = SELF_PLAY, traffic: Policies = None
    ) -> "DriveMultiAgentEnv":
        """The environment of scenarios that are loaded into a bank.

        Args:
          scenarios: A path as in `waymax_sim.load`, or a sequence of scenarios.
          functional: Rules, observation and order of scenarios.
          traffic: Policies of all other agents; None for the log.
        """
        scenes = load(scenarios, pad_to_bucket=False) if isinstance(scenarios, str) else scenarios
        return cls(build_bank(scenes, functional.env), functional, Assignment.from_policies(traffic))

    @property
    def num_agents(self) -> int:
        """Number of agents K, the rows of the environment."""
        return self.functional.env.max_controlled(self.bank.num_agents)

    @property
    def agents(self) -> list[str]:
        """Names of the agents, the same in all episodes."""
        return [f"agent_{row}" for row in range(self.num_agents)]

    @property
    def name(self) -> str:
        return "waymax_sim_drive"

    def observation_space(self, agent: str) -> BoxSpace:
        """Space of the observation of an agent, bounded by the limit of the encoder."""
        shape = jax.eval_shape(self._reset_rows, jax.random.key(0))[1].shape[1:]
        high = np.full(shape, SimulationLoop(self.functional.env, self.functional.observe).limit, np.float32)
        return BoxSpace(-high, high)

    def action_space(self, agent: str) -> BoxSpace | DiscreteSpace:
        """Bounds of the dynamics, or their discrete actions."""
        loop = SimulationLoop(self.functional.env)
        if loop.num_actions is not None:
            return DiscreteSpace(loop.num_actions)
        low, high = (np.broadcast_to(np.float32(bound), action_shape(loop)) for bound in loop.env.dynamics.bounds)
        return BoxSpace(low, high)

    def reset(self, key: Key[Array, ""]) -> tuple[dict[str, Any], AutoResetState]:
        """Starts an episode; returns the observation of each agent and the state."""
        state, rows = self._reset_rows(key)
        return self._by_agent(rows), state

    def step(
        self, key: Key[Array, ""], state: AutoResetState, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Any], AutoResetState, dict[str, Any], dict[str, Any], dict[str, Any]]:
        """One step of all agents, and the start of another episode where that of the scenario ends.

        Args:
          key: Random key of the next episode.
          state: From `reset` or `step`.
          actions: The action of each agent; those of inactive agents are ignored.

        Returns:
          Observations, the state, rewards and "dones" of each agent, and infos, [K] each. `dones["__all__"]` is the end
          of the episode of the scenario.
        """
        return self._step(key, state, actions, resets=True)

    def step_env(
        self, key: Key[Array, ""], state: AutoResetState, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Any], AutoResetState, dict[str, Any], dict[str, Any], dict[str, Any]]:
        """`step` without another episode: the observations are those of the end.

        Args:
          key: As for `step`, as are the other arguments.
          state: From `reset` or `step_env`.
          actions: The action of each agent.
        """
        return self._step(key, state, actions, resets=False)

    def _step(self, key: Key[Array, ""], state: AutoResetState, actions: Mapping[str, Any], resets: bool):
        state = dataclasses.replace(state, key=key)
        rows = jnp.stack([jnp.asarray(actions[name]) for name in self.agents])
        if isinstance(self.action_space(self.agents[0]), DiscreteSpace):
            rows = rows[:, None]
        state, out = self.functional.step(self.bank, state, rows, self.traffic, resets)
        dones = self._by_agent(out.terminated | out.truncated | ~out.active) | {"__all__": out.done}
        return self._by_agent(out.observation), state, self._by_agent(out.reward), dones, self._infos(out)

    def _reset_rows(self, key: Key[Array, ""]) -> tuple[AutoResetState, Shaped[Array, "K ..."]]:
        return self.functional.reset(self.bank, key, self.traffic)

    def _by_agent(self, rows: Shaped[Array, "K ..."]) -> dict[str, Any]:
        return {name: rows[row] for row, name in enumerate(self.agents)}

    def _infos(self, out: Transition) -> dict[str, Any]:
        """Fields of the transition and valid metrics, [K] each; metrics that are not valid are 0."""
        names = ("active", "agent", "terminated", "truncated", "invalid_action", "episode_return", "episode_length")
        infos = {name: getattr(out, name) for name in names} | {"scene": out.scene}
        for name, metric in out.metrics.items():
            infos |= {name: jnp.where(metric.valid, metric.value, 0), f"{name}_valid": metric.valid}
        return {name: jnp.broadcast_to(value, (self.num_agents,)) for name, value in infos.items()}
