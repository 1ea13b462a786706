"""Training by PPO self-play."""

from typing import Any

import jax

from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.trainers.common import load_bank, network_config, open_folder, run, save
from behavior_models.trainers.options import PPOOptions
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import GOAL_TASK


def train_ppo(options: PPOOptions) -> NetworkPolicy:
    """Trains by self-play, anchored if an anchor is given."""
    open_folder(options)
    bank = load_bank(options.data, GOAL_TASK, options.curriculum)
    reference = None if options.anchor is None else load_policy(options.anchor)
    config = PPOConfig(
        num_updates=options.steps or PPOConfig.num_updates,
        anchor_weight=0.0 if reference is None else options.anchor_weight,
    )
    learner = PPO(GOAL_TASK, config, network_config(options), None if reference is None else reference.graph)
    anchor_params = None if reference is None else jax.device_put(reference.params)
    step = jax.jit(learner.train_step)

    def tempered(params: Any) -> Any:
        return learner.model.at_temperature(params, options.sampling_temperature)

    state = run(
        options,
        GOAL_TASK,
        jax.jit(learner.init)(bank, jax.random.key(options.seed)),
        lambda state: step(state, bank, None, anchor_params),
        LoopConfig(config.num_updates),
        lambda params: learner.model.actor(tempered(params), "sample"),
    )
    return save(options, GOAL_TASK, learner.model, tempered(state.params), "sample")
