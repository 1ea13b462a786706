"""The simulation loop of all adapters: an environment, an encoder of observations, and policies of the traffic."""

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

Observe = Callable[[Observation], Float[Array, "*shape"]]

# The default observation.
EGO_VIEW = FlatView()
# Follow the log without a collision: the return of an episode is at most 1.
DRIVE = Env(
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
    """Pure functions over (scenario, episode), written for one scenario. Hashable: equal loops share programs.

    The policies of the traffic are an argument, an `Assignment`: weights of one structure share a program.

    Attributes:
      env: The environment; its `config.controlled` are the caller's agents.
      observe: Observation of the caller: an encoder, or any function of an `Observation` to a float32 array.
    """

    env: Env = DRIVE
    observe: Observe = EGO_VIEW

    def reset(
        self, scenario: Scenario, key: Key[Array, ""], traffic: Assignment
    ) -> tuple[EpisodeState, Float[Array, "*shape"], StepOutput]:
        """The start of an episode, its observation and its evaluation.

        Args:
          scenario: One scenario.
          key: Random key of the episode.
          traffic: Policies of the agents that are not the caller's; the log moves the rest.
        """
        scenario = self.env.prepare(scenario)
        episode = begin_episode(self.env, scenario, traffic, key, self.env.controlled_mask(scenario))
        out = self.env.evaluate_state(scenario, episode.state, has_advanced=jnp.asarray(False))
        return episode, self.encode(scenario, episode), out

    def step(
        self, scenario: Scenario, episode: EpisodeState, action: Action, traffic: Assignment
    ) -> tuple[EpisodeState, Float[Array, "*shape"], StepOutput]:
        """One decision with actions for the caller's agents.

        Args:
          scenario: The scenario of the episode.
          episode: From `reset` or `step`.
          action: Actions of all agents; those of the caller's agents are applied.
          traffic: Policies of the traffic.
        """
        scenario = self.env.prepare(scenario)
        episode, seen = interact(self.env, scenario, episode, traffic, action)
        return episode, self.encode(scenario, episode), combine_outputs(self.env, seen)

    def step_ego(
        self, scenario: Scenario, episode: EpisodeState, action: Num[Array, " A"], traffic: Assignment
    ) -> tuple[EpisodeState, Float[Array, "*shape"], StepOutput]:
        """`step` with an action for the sdc alone."""
        value = jnp.broadcast_to(action, (scenario.num_agents, *action.shape))
        return self.step(scenario, episode, Action(value=value, valid=jnp.asarray(scenario.agents.is_sdc)), traffic)

    def encode(self, scenario: Scenario, episode: EpisodeState) -> Float[Array, "*shape"]:
        """The observation of the caller. An encoder gives one row per agent, or the row alone where it is the sdc."""
        seen = self.observe(self.env.observe(scenario, episode.state, controller=CALLER))
        is_encoder = isinstance(self.observe, ObservationEncoder)
        return seen[0] if is_encoder and self.env.config.controlled == "sdc" else seen

    def observation_shape(self, scenario: Scenario) -> tuple[int, ...]:
        """Shape of the observation, computed without running anything."""
        return jax.eval_shape(self.reset, scenario, jax.random.key(0), Assignment((), ()))[1].shape

    @property
    def limit(self) -> float:
        """Bound of all observed values; infinite where `observe` does not state one."""
        return getattr(self.observe, "limit", np.inf)

    @property
    def num_actions(self) -> int | None:
        """Number of discrete actions; None where actions are vectors."""
        return self.env.dynamics.num_actions if isinstance(self.env.dynamics, Discrete) else None


def require_sdc(env: Env) -> None:
    """Raises a ValueError unless the caller of `env` controls the sdc and no other agent."""
    if env.config.controlled != "sdc":
        raise ValueError(f"this adapter drives the sdc, but the environment has controlled={env.config.controlled!r}")


def select_sdc(values: Shaped[Array, " O"], is_sdc: Bool[Array, " N"]) -> Shaped[Array, ""]:
    """The entry of the sdc."""
    return values[0] if values.shape[0] == 1 else values[jnp.argmax(is_sdc)]


def step_ego(
    loop: SimulationLoop, scenario: Scenario, episode: EpisodeState, action: Num[Array, " A"], traffic: Assignment
):
    """A step of the sdc: the episode, the observation, and `ego_outputs`; arguments as for `SimulationLoop.step`."""
    episode, seen, out = loop.step_ego(scenario, episode, action, traffic)
    return episode, seen, ego_outputs(out, scenario)


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


def to_action(value: Any, loop: SimulationLoop) -> Num[np.ndarray, "*B"]:
    """An action of a library as values for the dynamics: discrete actions get an axis of their own."""
    if loop.num_actions is not None:
        return np.asarray(value, np.int32)[..., None]
    return np.asarray(value, np.float32)


def action_shape(loop: SimulationLoop) -> tuple[int, ...]:
    """Shape of the action of one agent, for the dynamics."""
    return np.shape(loop.env.dynamics.bounds[0])


def compiled(function: Callable, loop: SimulationLoop, *, donate: tuple[int, ...] = ()) -> Callable:
    """`function` with `loop` as its first argument, compiled. Equal loops share one program.

    Args:
      function: A function at module level of the loop and arrays.
      loop: The loop that it is compiled for.
      donate: Indices of the other arguments, from 0, that it may overwrite.

    Raises:
      TypeError: The loop is not hashable.
    """
    hash(loop)
    return functools.partial(_jitted(function, tuple(index + 1 for index in donate)), loop)


@functools.lru_cache(maxsize=64)
def _jitted(function: Callable, donate: tuple[int, ...]) -> Callable:
    return jax.jit(function, static_argnums=0, donate_argnums=donate)


def random_key(rng: np.random.Generator) -> Key[Array, ""]:
    """A key drawn from a NumPy generator, which takes seeds of any size."""
    return jax.random.key(int(rng.integers(2**31)))


def episode_key(key: Key[Array, ""], episode: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of an episode, counted from 0."""
    return jax.random.fold_in(key, episode)
