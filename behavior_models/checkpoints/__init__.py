"""Released policies, trained on synthetic scenes alone. `policy.json` of each states the command that remakes it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from waymax_sim.env import Policy
from waymax_sim.plugins.checkpoint import POLICY_FILE, load_checkpoint

FOLDER = Path(__file__).parent
# `scene_decoder.sampling.DEFAULT_TEMPERATURE`, whose package is not loaded for other policies.
DECODER_TEMPERATURE = 0.7


def bc() -> Policy:
    """Behavior cloning."""
    return _load("bc")


def ppo_selfplay() -> Policy:
    """PPO by self-play of all traveling vehicles."""
    return _load("ppo_selfplay")


def ppo_anchored() -> Policy:
    """The same, anchored to a behavior-cloned policy."""
    return _load("ppo_anchored")


def dqn() -> Policy:
    """Double DQN by self-play."""
    return _load("dqn")


def sac() -> Policy:
    """Soft actor-critic by self-play, from a behavior-cloned policy."""
    return _load("sac")


def bc_sac() -> Policy:
    """The same with an imitation term."""
    return _load("bc_sac")


def scaled_ql(task: str = "red_light") -> Policy:
    """Conservative Q-learning of logged driving tasks, with normalized features.

    Args:
      task: following, merge, red_light or narrow_passage.

    Raises:
      ValueError: There is no such task.
    """
    folder = FOLDER / "scaled-ql"
    tasks = json.loads((folder / POLICY_FILE).read_text(encoding="utf-8"))["tasks"]
    if task not in tasks:
        raise ValueError(f"task={task!r} is not one of {', '.join(tasks)}")
    policy: Any = load_checkpoint(folder)
    return dataclasses.replace(policy, model=dataclasses.replace(policy.model, task=tasks.index(task)))


def decoder_nano(temperature: float = DECODER_TEMPERATURE, top_k: int = 48, nucleus: float = 1.0) -> Policy:
    """Scene decoder: learned traffic of all agents.

    Args:
      temperature: Divisor of the logits; 0 selects the most likely motion.
      top_k: Number of most likely motions that are sampled from, at most 64.
      nucleus: Smallest probability that the sampled-from motions have together.
    """
    from behavior_models.scene_decoder.checkpoint import load_decoder, with_sampling

    return with_sampling(load_decoder(FOLDER / "decoder-nano"), temperature, top_k, nucleus)


# All of them, by the name that the command line resolves.
RELEASED = {
    "bc": bc,
    "dqn": dqn,
    "ppo_selfplay": ppo_selfplay,
    "ppo_anchored": ppo_anchored,
    "sac": sac,
    "bc_sac": bc_sac,
    "scaled-ql": scaled_ql,
    "decoder-nano": decoder_nano,
}


def _load(name: str) -> Policy:
    # The other policies do not load the learning libraries.
    from behavior_models.networks.checkpoint import load_policy

    return load_policy(FOLDER / name)
