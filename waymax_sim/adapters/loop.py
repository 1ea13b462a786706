"""The loop that all adapters turn: an environment, what is observed in it, and who else drives."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num, Shaped

from waymax_sim.adapters.flat import FlatView
from waymax_sim.datatypes.agents import select, where
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, LOG, POLICY, Action, State
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env import Env, EnvConfig, Observation, Policy, StepOutput
from waymax_sim.pytree import Array, on_device, pytree

Observe = Callable[[Observation], Float[Array, "*shape"]]

# What is observed unless something else is asked for.
EGO_VIEW = FlatView()
# Make the way that the log made, without a crash: the return of an episode is at most 1.
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


@pytree
class Episode:
    """What goes on from step to step.

    Attributes:
      state: The simulated scene.
      carry: What the policy of the traffic keeps; () without one.
    """

    state: State
    carry: Any


@dataclasses.dataclass(frozen=True)
class Loop:
    """Pure functions over (scenario, episode), written for one scene.

    Attributes:
      env: The environment; its `config.controlled` are the caller's agents.
      observe: What the caller sees: any function of an observation to a float32 array.
      traffic: Who drives all others; None for the log.
    """

    env: Env = DRIVE
    observe: Observe = EGO_VIEW
    traffic: Policy | None = None

    def reset(self, scenario: Scenario, key: Key[Array, ""]) -> tuple[Episode, Float[Array, "*shape"], StepOutput]:
        """The start of an episode, what is seen of it, and its judgement."""
        info = on_device(scenario.agents)
        others = LOG if self.traffic is None else POLICY
        mine = select(info, self.env.config.controlled)
        controller = jnp.where(mine, CALLER, jnp.where(info.exists, others, LOG)).astype(jnp.int32)
        state, out = self.env.reset(scenario, key, controller)
        carry = ()
        if self.traffic is not None:
            seen = self.env.observe(scenario, state, privileged=self.traffic.privileged)
            # As in a rollout: before the first step, draws are of a step that never comes.
            carry = self.traffic.init(seen, _traffic_key(key, jnp.asarray(scenario.num_steps, jnp.int32)))
        return Episode(state=state, carry=carry), self._see(scenario, state), out

    def step(
        self, scenario: Scenario, episode: Episode, action: Action
    ) -> tuple[Episode, Float[Array, "*shape"], StepOutput]:
        """One step with the caller's action for the caller's agents."""
        state, carry = episode.state, episode.carry
        if self.traffic is None:
            state, out = self.env.step(scenario, state, action)
        else:
            dt = self.env.config.dt
            seen = self.env.observe(scenario, state, privileged=self.traffic.privileged)
            moves, carry = self.traffic.act(seen, carry, _traffic_key(state.key, state.step))
            dynamics = self.traffic.dynamics or self.env.dynamics
            mine = state.controller == CALLER
            proposed = where(
                mine,
                self.env.dynamics.apply(state.agents, action.value, dt),
                dynamics.apply(state.agents, moves.value, dt),
            )
            moved = state.step < scenario.num_steps - 1
            state = self.env.advance(scenario, state, proposed, jnp.where(mine, action.valid, moves.valid))
            out = self.env.evaluate_state(scenario, state, has_advanced=moved)
        return Episode(state=state, carry=carry), self._see(scenario, state), out

    def step_sdc(
        self, scenario: Scenario, episode: Episode, action: Num[Array, " A"]
    ) -> tuple[Episode, Float[Array, "*shape"], StepOutput]:
        """One step with an action for the sdc alone."""
        value = jnp.broadcast_to(action, (scenario.num_agents, *action.shape))
        return self.step(scenario, episode, Action(value=value, valid=jnp.asarray(scenario.agents.is_sdc)))

    def _see(self, scenario: Scenario, state: State) -> Float[Array, "*shape"]:
        return self.observe(self.env.observe(scenario, state))

    def observation_shape(self, scenario: Scenario) -> tuple[int, ...]:
        """Shape of what the caller sees, found without running anything."""
        return jax.eval_shape(self.reset, scenario, jax.random.key(0))[1].shape

    @property
    def limit(self) -> float:
        """Bound of all numbers that are observed; infinite where `observe` does not say."""
        return getattr(self.observe, "limit", np.inf)

    @property
    def num_actions(self) -> int | None:
        """How many actions there are to choose from; None where actions are vectors."""
        return self.env.dynamics.num_actions if isinstance(self.env.dynamics, Discrete) else None


def _traffic_key(key: Key[Array, ""], step: Int[Array, ""]) -> Key[Array, ""]:
    """What the first policy of a rollout draws from."""
    return jax.random.fold_in(jax.random.fold_in(key, step), 0)


def require_sdc(env: Env) -> None:
    """Raises a ValueError unless the caller of `env` moves the sdc and nobody else."""
    if env.config.controlled != "sdc":
        raise ValueError(f"this adapter drives the sdc, but the environment has controlled={env.config.controlled!r}")


def of_sdc(values: Shaped[Array, " O"], is_sdc: Bool[Array, " N"]) -> Shaped[Array, ""]:
    """The entry of the sdc; of values that were judged for the sdc alone, the only one."""
    return values[0] if values.shape[0] == 1 else values[jnp.argmax(is_sdc)]


def step_told(loop: Loop, scenario: Scenario, episode: Episode, action: Num[Array, " A"]):
    """A step of the sdc: the episode, what is seen, and what is told of the sdc (see `told_of`)."""
    episode, seen, out = loop.step_sdc(scenario, episode, action)
    return episode, seen, told_of(out, scenario)


def told_of(out: StepOutput, scenario: Scenario):
    """Reward, terminated, truncated, and metrics as (value, valid), of the sdc."""
    is_sdc = scenario.agents.is_sdc
    metrics = {
        name: (of_sdc(item.value, is_sdc), of_sdc(item.valid, is_sdc)) if item.value.ndim else (item.value, item.valid)
        for name, item in out.metrics.items()
    }
    return of_sdc(out.reward, is_sdc), out.terminated, out.truncated, metrics


def action_of(value: Any, loop: Loop) -> Num[np.ndarray, "*B"]:
    """An action of a library as numbers for the dynamics: whole numbers get an axis of their own."""
    if loop.num_actions is not None:
        return np.asarray(value, np.int32)[..., None]
    return np.asarray(value, np.float32)


def action_shape(loop: Loop) -> tuple[int, ...]:
    """Shape of the action of one agent, for the dynamics."""
    return np.shape(loop.env.dynamics.bounds[0])


def compiled(function: Callable, loop: Loop, *, donate: tuple[int, ...] = ()) -> Callable:
    """`function` with `loop` as its first argument, compiled. Equal loops share one program.

    A loop that holds learned parameters cannot be compared with others, and gets a program of its own.

    Args:
      function: Takes the loop, then arrays.
      loop: What it is compiled for.
      donate: Which of the other arguments, from 0, it may overwrite.
    """
    try:
        hash(loop)
    except TypeError:
        return jax.jit(functools.partial(function, loop), donate_argnums=donate)
    return functools.partial(_shared(function, tuple(number + 1 for number in donate)), loop)


@functools.cache
def _shared(function: Callable, donate: tuple[int, ...]) -> Callable:
    return jax.jit(function, static_argnums=0, donate_argnums=donate)


def key_of(rng: np.random.Generator) -> Key[Array, ""]:
    """A key drawn from a NumPy generator, which takes seeds of any size."""
    return jax.random.key(int(rng.integers(2**31)))


def episode_key(key: Key[Array, ""], episode: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of an episode, counted from 0."""
    return jax.random.fold_in(key, episode)
