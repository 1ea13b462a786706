"""Demonstrations: encoded observations of controlled agents, with the actions that lead back to their logs."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key

from behavior_models.baselines.log_expert import LogExpert
from behavior_models.imitation.corner_expert import CornerExpert
from behavior_models.networks.heads import two_hot
from behavior_models.training.collect import Environments, reset_environments
from waymax_sim import geometry
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.datatypes.agents import forward_speed, where
from waymax_sim.datatypes.state import CALLER
from waymax_sim.dynamics import Discrete
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.ops.bank import materialize_rows
from waymax_sim.pytree import Array, pytree, tree_index

# The constant action that leads to the logged position (`LogExpert`), or also to the heading (`CornerExpert`).
ExpertName = Literal["arc", "corners"]


@dataclasses.dataclass(frozen=True)
class PerturbationParams:
    """Perturbed starts, from which the labels lead back to the log; standard deviations.

    Attributes:
      position: m.
      yaw: rad.
      speed: Share of the speed.
    """

    position: float = 0.5
    yaw: float = 0.05
    speed: float = 0.1


@pytree
class Demonstrations:
    """Transitions, with any leading axes B.

    Attributes:
      observation: Encoded observations, float16.
      label: Weights of the discrete actions, whose mean is the action of the expert; L is 0 for continuous actions.
      value: The action of the expert, in the units of the dynamics (those inside of `Discrete`).
    """

    observation: Array
    label: Float[Array, "*B L"]
    value: Float[Array, "*B A"]

    def __len__(self) -> int:
        return len(self.observation)


def collect_demonstrations(
    env: FunctionalEnv,
    bank: ScenarioBank,
    key: Key[Array, ""],
    *,
    num_decisions: int,
    horizon: int = 6,
    noise: float = 0.0,
    params: PerturbationParams = PerturbationParams(),
    num_envs: int = 20,
    expert: ExpertName = "arc",
) -> Demonstrations:
    """One episode of each scenario, driven by the expert: discrete actions are drawn from the labels.

    Args:
      env: The environment.
      bank: The scenarios.
      key: Random key.
      num_decisions: Decisions of an episode.
      horizon: Steps until the logged position that a label leads to. Labels one step ahead are sensor noise.
      noise: Scale of the perturbation of the starts.
      params: Perturbation at the scale 1.
      num_envs: Scenarios that are simulated together.
      expert: Source of the actions.
    """
    env = dataclasses.replace(env, sampling="order")
    run = jax.jit(_episode, static_argnums=(0, 4, 5, 6, 7))
    parts = []
    for begin in range(0, len(bank), num_envs):
        index = (begin + np.arange(num_envs)) % len(bank)
        part, mask = run(
            env, bank, index, jax.random.fold_in(key, begin), num_decisions, horizon, (noise, params), expert
        )
        # The last group repeats scenarios of the first.
        mask = np.asarray(mask) & (begin + np.arange(num_envs) < len(bank))[None, :, None]
        parts.append(jax.tree.map(lambda leaf, mask=mask: np.asarray(leaf)[mask], part))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _episode(
    env: FunctionalEnv,
    bank: ScenarioBank,
    index: Array,
    key: Key[Array, ""],
    num_decisions: int,
    horizon: int,
    perturbation: tuple[float, PerturbationParams],
    expert: ExpertName,
) -> tuple[Demonstrations, Bool[Array, "T E K"]]:
    ordered = dataclasses.replace(bank, order=jnp.asarray(index, jnp.int32))
    environments = reset_environments(env, ordered, key, len(index))
    environments = perturb_starts(env, ordered, environments, jax.random.fold_in(key, 1), *perturbation)

    def decide(environments: Environments, key: Key[Array, ""]):
        label, value, valid = jax.vmap(lambda state: expert_labels(env, ordered, state, horizon, expert))(
            environments.state
        )
        action = jax.random.categorical(key, jnp.log(label + 1e-9))[..., None] if label.shape[-1] else value
        state, result = jax.vmap(env.step, in_axes=(None, 0, 0))(ordered, environments.state, action)
        is_first = environments.state.count[:, None] == 0
        record = Demonstrations(environments.observation.astype(jnp.float16), label, value)
        return Environments(state, result.observation), (record, result.active & valid & is_first)

    return jax.lax.scan(decide, environments, jax.random.split(key, num_decisions))[1]


def expert_labels(
    env: FunctionalEnv, bank: ScenarioBank, state: Any, horizon: int, expert: ExpertName = "arc"
) -> tuple[Float[Array, "K L"], Float[Array, "K A"], Bool[Array, " K"]]:
    """Labels of the controlled agents: weights of discrete actions, the action of the expert, and their validity.

    Args:
      env: The environment.
      bank: The scenarios.
      state: State of one environment.
      horizon: Steps until the logged position that a label leads to.
      expert: Source of the actions.
    """
    dynamics = env.env.dynamics
    observation = env.env.observe(bank.scenario(state.scene), state.episode.state, privileged=True, controller=CALLER)
    # Logs of a bank are lazy rows.
    observation = dataclasses.replace(observation, log=materialize_rows(observation.log))
    model = dynamics.dynamics if isinstance(dynamics, Discrete) else dynamics
    policy = (LogExpert if expert == "arc" else CornerExpert)(model, horizon=horizon)
    action, _ = policy.act(observation, (), jax.random.key(0))
    rows = jnp.maximum(observation.controlled, 0)
    value = action.value[rows]
    no_labels = jnp.zeros((len(rows), 0))
    label = two_hot_actions(dynamics, value) if isinstance(dynamics, Discrete) else no_labels
    return label, value, action.valid[rows] & (observation.controlled >= 0)


def two_hot_actions(dynamics: Discrete, value: Float[Array, "*lead A"]) -> Float[Array, "*lead L"]:
    """Weights of discrete actions with explicit levels, the product of `two_hot` of each component."""
    weights = jnp.ones((*value.shape[:-1], 1))
    for component, levels in enumerate(dynamics.levels):
        hot = two_hot(value[..., component], jnp.asarray(levels, jnp.float32))
        weights = (weights[..., None] * hot[..., None, :]).reshape(*value.shape[:-1], -1)
    return weights


def perturb_starts(
    env: FunctionalEnv,
    bank: ScenarioBank,
    environments: Environments,
    key: Key[Array, ""],
    noise: float,
    params: PerturbationParams,
) -> Environments:
    """Moves and turns the controlled agents at their start, and changes their speed.

    Args:
      env: The environment.
      bank: The scenarios.
      environments: Environments at a start.
      key: Random key.
      noise: Scale.
      params: Standard deviations at the scale 1.
    """

    def perturb(state: Any, key: Key[Array, ""]) -> tuple[Any, Array]:
        simulated = state.episode.state
        now = tree_index(simulated.history, -1)
        shift, turn, speed = (
            noise * jax.random.normal(own, (now.yaw.shape[0], size))
            for own, size in zip(jax.random.split(key, 3), (2, 1, 1), strict=True)
        )
        yaw = geometry.wrap_angle(now.yaw + params.yaw * turn[:, 0])
        new_speed = forward_speed(now) * jnp.maximum(1.0 + params.speed * speed[:, 0], 0.0)
        moved = dataclasses.replace(
            now,
            xyz=now.xyz + params.position * jnp.pad(shift, ((0, 0), (0, 1))),
            yaw=yaw,
            velocity=new_speed[:, None] * geometry.unit_vector(yaw),
        )
        moved = where((simulated.controller == CALLER) & now.valid, moved, now)
        history = jax.tree.map(lambda all_, last: all_.at[-1].set(last), simulated.history, moved)
        episode = dataclasses.replace(state.episode, state=dataclasses.replace(simulated, history=history))
        observation = env.env.observe(bank.scenario(state.scene), episode.state, controller=CALLER)
        return dataclasses.replace(state, episode=episode), env.observe(observation)

    num_envs = environments.observation.shape[0]
    return Environments(*jax.vmap(perturb)(environments.state, jax.random.split(key, num_envs)))
