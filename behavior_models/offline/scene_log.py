"""Logs of plain scenes: traveling vehicles that drive to their goals, by the rules of self-play."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

import waymax_sim as ws
from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.policy import NetworkActor, NetworkPolicy
from behavior_models.offline.transitions import Transitions, returns_to_go
from behavior_models.training.collect import Decisions, collect, reset_environments
from behavior_models.training.presets import DISCRETE_BICYCLE, GOAL_TASK
from waymax_sim.env.bank import build_bank
from waymax_sim.pytree import Array, pytree

NUM_ENVS = 32
SCENE_DECISIONS = 40
# The action that keeps speed and heading: the zero action of the grid.
HOLD = int(np.asarray(DISCRETE_BICYCLE.encode(np.zeros((1, 2), np.float32)))[0, 0])


@pytree
class NoisyActor:
    """An actor of encoded observations with random actions at some decisions.

    Attributes:
      actor: A network; None to keep speed and heading.
      epsilon: Probability of a uniformly random action.
    """

    actor: NetworkActor | None
    epsilon: Float[Array, ""]

    def __call__(self, rows: Float[Array, "E K D"], key: Key[Array, ""]) -> tuple[Int[Array, "E K 1"], Any]:
        """Actions of all rows.

        Args:
          rows: Encoded observations.
          key: Random key.
        """
        own_key, random_key, mask_key = jax.random.split(key, 3)
        shape = (*rows.shape[:-1], 1)
        own = jnp.full(shape, HOLD, jnp.int32) if self.actor is None else self.actor(rows, own_key)[0]
        random = jax.random.randint(random_key, shape, 0, DISCRETE_BICYCLE.num_actions)
        return jnp.where(jax.random.uniform(mask_key, shape) < self.epsilon, random, own), ()


def scene_actor(text: str) -> NoisyActor:
    """The actor of `NAME[:EPSILON]`: "random", "constant_speed", or the folder of a checkpoint.

    Raises:
      ValueError: The checkpoint has other actions or observations than self-play.
    """
    name, epsilon = split_policy(text)
    if name in ("random", "constant_speed"):
        return NoisyActor(None, jnp.asarray(1.0 if name == "random" else epsilon, jnp.float32))
    policy = load_policy(Path(name))
    if not isinstance(policy, NetworkPolicy) or policy.dynamics != DISCRETE_BICYCLE:
        raise ValueError(f"{name} has other actions than those of self-play")
    if policy.encoder != GOAL_TASK.observe:
        raise ValueError(f"{name} has another observation than self-play")
    actor = NetworkActor(policy.params, policy.graph, policy.dynamics, policy.mode, policy.head)
    return NoisyActor(actor, jnp.asarray(epsilon, jnp.float32))


def split_policy(text: str) -> tuple[str, float]:
    """Name and probability of random actions of `NAME` or `NAME:EPSILON`.

    Raises:
      ValueError: The probability is not one.
    """
    name, _, number = text.rpartition(":")
    if not name:
        return text, 0.0
    try:
        epsilon = float(number)
    except ValueError:
        raise ValueError(f"{text!r}: after the colon, give the probability of random actions") from None
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"{text!r}: the probability of random actions must be between 0 and 1")
    return name, epsilon


def log_scenes(
    data: str,
    actors: Sequence[NoisyActor],
    num_transitions: int,
    seed: int,
    report: Callable[[int], None] | None = None,
) -> list[tuple[Transitions, Float[np.ndarray, " e"]]]:
    """Transitions of all traveling vehicles, and the returns of their episodes, for each policy.

    Args:
      data: Scenes (see `waymax_sim.load`).
      actors: The policies, of which each drives equally long.
      num_transitions: Smallest number of decisions of vehicles.
      seed: Seed of all random draws.
      report: Receives the number of decisions so far.
    """
    bank, results, total = build_bank(ws.load(data, pad_to_bucket=False), GOAL_TASK.env), [], 0
    for number, actor in enumerate(actors):
        key, share = jax.random.fold_in(jax.random.key(seed), number), -(-num_transitions // len(actors))
        environments = _reset(bank, key)
        count, round_ = 0, 0
        while count < share:
            key = jax.random.fold_in(key, round_)
            environments, decisions = _collect(actor, bank, environments, key)
            transitions, returns = to_transitions(jax.device_get(decisions))
            results.append((transitions, returns))
            count, round_ = count + int(transitions.count), round_ + 1
            if report is not None:
                report(min(total + count, num_transitions))
        total += count
    return results


_reset = jax.jit(lambda bank, key: reset_environments(GOAL_TASK, bank, key, NUM_ENVS))
_collect = jax.jit(
    lambda actor, bank, environments, key: collect(GOAL_TASK, actor, bank, environments, key, SCENE_DECISIONS)
)


def to_transitions(decisions: Decisions) -> tuple[Transitions, Float[np.ndarray, " e"]]:
    """Decisions of all rows of all environments as streams, and the returns of the episodes that ended.

    The remaining time is observed, so the end of a record is an end like any other.
    """
    result = decisions.result

    def flatten(values: Array) -> np.ndarray:
        return np.asarray(values).reshape(len(values), -1)

    observation = np.asarray(decisions.observation).astype(np.float16)
    reward, active = flatten(result.reward), flatten(result.active)
    ended = flatten(result.terminated | result.truncated) & active
    transitions = Transitions(
        observation.reshape(len(observation), -1, observation.shape[-1]),
        flatten(decisions.action).astype(np.int32),
        reward,
        ended,
        np.zeros_like(ended),
        active,
        np.zeros(reward.shape[1], np.int32),
        returns_to_go(reward, ended, active),
    )
    used = active.any(axis=0)
    streams = jax.tree.map(lambda leaf: leaf[used] if leaf.ndim == 1 else leaf[:, used], transitions)
    return streams, flatten(result.episode_return)[ended]
