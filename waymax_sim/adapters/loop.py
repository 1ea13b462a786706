"""The simulation loop of all adapters: an environment, an observation encoder, and traffic policies."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num, Shaped

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, Action
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env import (
    Assignment,
    Env,
    EnvConfig,
    EpisodeState,
    Observation,
    StepOutput,
    begin_episode,
    combine_outputs,
    interact,
)
from waymax_sim.env.encoder import ObservationEncoder
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import Array

ObservationFn = Callable[[Observation], Float[Array, "*shape"]]

# Default encoder of the sdc.
EGO_VIEW = FlatView()
# Default task of the sdc: progress along the logged path without collision, with a return of at most 1 per episode.
EGO_ENV = Env(
    dynamics=Bicycle(normalized=True),
    config=EnvConfig(
        controlled="sdc",
        evaluated="sdc",
        metrics=("overlap", "offroad", "log_progress"),
        rewards=(("log_progress", 1.0), ("overlap", -1.0), ("offroad", -1.0)),
        terminate_on=("overlap", "offroad"),
    ),
)


@dataclasses.dataclass(frozen=True)
class SimulationLoop:
    """Pure functions of one scenario and one episode. Hashable: equal loops share programs.

    Traffic policies are an argument, an `Assignment`, so that all weights of one structure share a program.

    Attributes:
      env: The environment; the caller controls `config.controlled`.
      observe: Observation of the caller: an encoder, or any function of an `Observation` to a float32 array.
    """

    env: Env = EGO_ENV
    observe: ObservationFn = EGO_VIEW

    def reset(
        self, scenario: Scenario, key: Key[Array, ""], traffic: Assignment
    ) -> tuple[EpisodeState, Float[Array, "*shape"], StepOutput]:
        """The start of an episode, its observation and its evaluation.

        Args:
          scenario: One scenario.
          key: Random key of the episode.
          traffic: Policies of agents other than the caller's; the log moves all remaining agents.
        """
        scenario = self.env.prepare(scenario)
        episode = begin_episode(self.env, scenario, traffic, key, self.env.controlled_mask(scenario))
        out = self.env.evaluate_state(scenario, episode.state, has_advanced=jnp.asarray(False))
        return episode, self.encode(scenario, episode), out

    def step(
        self, scenario: Scenario, episode: EpisodeState, action: Action, traffic: Assignment
    ) -> tuple[EpisodeState, Float[Array, "*shape"], StepOutput]:
        """One decision with actions of the caller's agents.

        Args:
          scenario: The scenario of the episode.
          episode: From `reset` or `step`.
          action: Actions of all agents; those of the caller's agents are applied.
          traffic: Traffic policies.
        """
        scenario = self.env.prepare(scenario)
        episode, interaction = interact(self.env, scenario, episode, traffic, action)
        return episode, self.encode(scenario, episode), combine_outputs(self.env, interaction)

    def step_ego(
        self, scenario: Scenario, episode: EpisodeState, action: Num[Array, " A"], traffic: Assignment
    ) -> tuple[EpisodeState, Float[Array, "*shape"], StepOutput]:
        """`step` with an action of the sdc alone.

        Args:
          scenario: The scenario of the episode.
          episode: From `reset` or `step_ego`.
          action: Action of the sdc.
          traffic: Traffic policies.
        """
        value = jnp.broadcast_to(action, (scenario.num_agents, *action.shape))
        return self.step(scenario, episode, Action(value=value, valid=jnp.asarray(scenario.agents.is_sdc)), traffic)

    def encode(self, scenario: Scenario, episode: EpisodeState) -> Float[Array, "*shape"]:
        """The observation of the caller: a row per agent, or without the agent axis for an encoder of the sdc."""
        observation = self.observe(self.env.observe(scenario, episode.state, controller=CALLER))
        is_encoder = isinstance(self.observe, ObservationEncoder)
        return observation[0] if is_encoder and self.env.config.controlled == "sdc" else observation

    def observation_shape(self, scenario: Scenario) -> tuple[int, ...]:
        """Shape of the observation, by abstract evaluation."""
        return jax.eval_shape(self.reset, scenario, jax.random.key(0), Assignment((), ()))[1].shape

    @property
    def limit(self) -> float:
        """Maximum absolute value of the observation; infinite unless `observe` has a `limit`."""
        return getattr(self.observe, "limit", np.inf)

    @property
    def num_actions(self) -> int | None:
        """Number of discrete actions; None for continuous actions."""
        return self.env.dynamics.num_actions if isinstance(self.env.dynamics, Discrete) else None


def require_sdc(env: Env) -> None:
    """Raises a ValueError unless the caller of `env` controls exactly the sdc."""
    if env.config.controlled != "sdc":
        raise ValueError(f"this adapter drives the sdc, but the environment has controlled={env.config.controlled!r}")


def select_sdc(values: Shaped[Array, " O"], is_sdc: Bool[Array, " N"]) -> Shaped[Array, ""]:
    """The entry of the sdc in values of all agents or of the sdc alone."""
    return values[0] if values.shape[0] == 1 else values[jnp.argmax(is_sdc)]


def step_ego(
    loop: SimulationLoop, scenario: Scenario, episode: EpisodeState, action: Num[Array, " A"], traffic: Assignment
):
    """`SimulationLoop.step_ego` with the outputs of the sdc.

    Args:
      loop: The loop.
      scenario: The scenario of the episode.
      episode: The episode.
      action: Action of the sdc.
      traffic: Traffic policies.

    Returns:
      The episode, the observation, and `ego_outputs`.
    """
    episode, observation, out = loop.step_ego(scenario, episode, action, traffic)
    return episode, observation, ego_outputs(out, scenario)


def ego_outputs(out: StepOutput, scenario: Scenario):
    """Reward, terminated, truncated, and metrics as (value, valid), of the sdc."""
    is_sdc = scenario.agents.is_sdc
    metrics = {
        name: (select_sdc(item.value, is_sdc), select_sdc(item.valid, is_sdc))
        if item.value.ndim
        else (item.value, item.valid)
        for name, item in out.metrics.items()
    }
    return select_sdc(out.reward, is_sdc), out.terminated, out.truncated, metrics


def to_action(value: Any, loop: SimulationLoop, name: str = "action") -> Num[np.ndarray, "*B"]:
    """An action of a library as input of the dynamics: discrete actions get a trailing axis of length 1.

    Args:
      value: The action.
      loop: The loop that it is for.
      name: Name of the action in errors.

    Raises:
      ValueError: A component is not finite.
    """
    if loop.num_actions is not None:
        return np.asarray(value, np.int32)[..., None]
    action = np.asarray(value, np.float32)
    invalid = np.argwhere(~np.isfinite(action))
    if len(invalid):
        index = ", ".join(map(str, invalid[0].tolist()))
        raise ValueError(f"{name}[{index}] is {action[tuple(invalid[0])]}; actions must be finite")
    return action


def action_shape(loop: SimulationLoop) -> tuple[int, ...]:
    """Shape of the action of one agent in the dynamics."""
    return np.shape(loop.env.dynamics.bounds[0])


def jit_with_loop(function: Callable, loop: SimulationLoop, *, donate: tuple[int, ...] = ()) -> Callable:
    """`function` compiled with `loop` as its static first argument. Equal loops share one program.

    Args:
      function: A module-level function of the loop and arrays.
      loop: The loop.
      donate: Indices of the remaining arguments, from 0, whose buffers are donated.

    Raises:
      TypeError: The loop is not hashable.
    """
    hash(loop)
    return functools.partial(_jitted(function, tuple(index + 1 for index in donate)), loop)


@functools.lru_cache(maxsize=64)
def _jitted(function: Callable, donate: tuple[int, ...]) -> Callable:
    return jax.jit(function, static_argnums=0, donate_argnums=donate)


def random_key(rng: np.random.Generator) -> Key[Array, ""]:
    """A key drawn from a NumPy generator, which accepts seeds of any size."""
    return jax.random.key(int(rng.integers(2**31)))


def episode_key(key: Key[Array, ""], episode: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of an episode, counted from 0."""
    return jax.random.fold_in(key, episode)
