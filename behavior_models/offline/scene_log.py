"""Logs of plain scenes: traveling vehicles that drive to their goals, by the rules of self-play."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

import waymax_sim as ws
from behavior_models.offline.collection import collect_transitions, max_episode_decisions
from behavior_models.offline.transitions import Transitions
from behavior_models.training.presets import GOAL_TASK, SELF_PLAY_VIEW
from waymax_sim.env import Policy
from waymax_sim.env.bank import build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.plugins.policies import resolve_policy

NUM_ENVS = 32
# Decisions of a part of a log, in decisions of the longest episode: of each part, those that begin in the last one are
# left out.
PART_HORIZONS = 4


def scene_policy(text: str) -> tuple[Policy, float]:
    """The policy of `NAME[:EPSILON]`, a name or the folder of a checkpoint, and its probability of random actions.

    Raises:
      ValueError: There is no such policy.
    """
    name, epsilon = split_policy(text)
    return resolve_policy(name), 1.0 if name == "random" else epsilon


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
    policies: Sequence[tuple[Policy, float]],
    num_transitions: int,
    seed: int,
    report: Callable[[int], None] | None = None,
    view: FlatView = SELF_PLAY_VIEW,
) -> list[tuple[Transitions, Float[np.ndarray, " e"]]]:
    """Transitions of the episodes of all traveling vehicles, and the returns of the episodes, in parts.

    Args:
      data: Scenes (see `waymax_sim.load`).
      policies: From `scene_policy`; each drives equally long.
      num_transitions: Smallest number of decisions of vehicles.
      seed: Seed of all random draws.
      report: Receives the number of decisions so far.
      view: Encoder of the observations.
    """
    task = dataclasses.replace(GOAL_TASK, observe=view)
    bank, parts, total = build_bank(ws.load(data, pad_to_bucket=False), task.env), [], 0
    num_decisions = PART_HORIZONS * max_episode_decisions(task, bank)
    for number, (policy, epsilon) in enumerate(policies):
        key, share = jax.random.fold_in(jax.random.key(seed), number), -(-num_transitions // len(policies))
        count = part = 0
        while count < share:
            own = jax.random.fold_in(key, part)
            log = collect_transitions(task, policy, bank, own, num_decisions, num_envs=NUM_ENVS, epsilon=epsilon)
            if not int(log.transitions.count):
                raise ValueError(f"no episode of {data} ends with its record")
            parts.append((log.transitions, log.returns))
            count, part = count + int(log.transitions.count), part + 1
            if report is not None:
                report(min(total + count, num_transitions))
        total += count
    return parts
