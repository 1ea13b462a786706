"""Released policies, trained on synthetic scenes alone. `policy.json` of each states the command that remakes it."""

from pathlib import Path

from waymax_sim.env import Policy

FOLDER = Path(__file__).parent


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


# All of them, by the name that the command line resolves.
RELEASED = {
    "bc": bc,
    "dqn": dqn,
    "ppo_selfplay": ppo_selfplay,
    "ppo_anchored": ppo_anchored,
    "sac": sac,
    "bc_sac": bc_sac,
}


def _load(name: str) -> Policy:
    # The other policies do not load the learning libraries.
    from behavior_models.networks.checkpoint import load_policy

    return load_policy(FOLDER / name)
