"""Training by soft actor-critic."""

from pathlib import Path
from typing import Any

import jax

from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.model import ActorCriticModel
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.reinforcement.sac import SAC, SACConfig
from behavior_models.trainers.common import load_bank, network_config, open_folder, run_and_save
from behavior_models.trainers.options import SACOptions
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import SHAPED_TASK


def train_sac(options: SACOptions) -> NetworkPolicy:
    """Trains by self-play."""
    open_folder(options)
    bank, learner = load_bank(options.data, SHAPED_TASK), sac_learner(options)
    start, step = load_start(options.start, learner.model), jax.jit(learner.train_step)
    state = jax.jit(learner.init)(bank, jax.random.key(options.seed), None, start)
    loop = LoopConfig(learner.config.num_updates)
    return run_and_save(options, SHAPED_TASK, state, lambda state: step(state, bank), loop, learner.model)


def sac_learner(options: SACOptions) -> SAC:
    """The algorithm with the given options."""
    config = SACConfig(
        num_updates=options.num_steps or SACConfig.num_updates,
        temperature=options.temperature,
        actor_delay=options.actor_delay,
        dr3_weight=options.dr3,
    )
    return SAC(SHAPED_TASK, config, network_config(options))


def load_start(folder: Path | None, model: ActorCriticModel) -> Any:
    """Parameters of a stored policy as those of a model; None without a folder.

    Args:
      folder: Folder of the policy.
      model: The model.

    Raises:
      ValueError: The policy has another network, or other observations or actions.
    """
    if folder is None:
        return None
    policy = load_policy(folder)
    given = policy.graph, policy.encoder, policy.dynamics, policy.head
    if given != (model.graph, model.encoder, model.dynamics, model.config.head):
        raise ValueError(f"{folder} has another network, or other observations or actions: {policy.dynamics}")
    return jax.device_put(policy.params)
