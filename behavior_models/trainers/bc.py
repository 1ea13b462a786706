"""Training by behavior cloning."""

import jax
import numpy as np

from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import Demonstrations, collect_demonstrations
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.trainers.common import NUM_DECISIONS, load_bank, network_config, open_folder, run, save
from behavior_models.trainers.options import BCOptions
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import GOAL_TASK

# Scales of the perturbation of the starts of demonstrations.
NOISE_SCALES = (0.0, 1.0)


def train_bc(options: BCOptions) -> NetworkPolicy:
    """Trains from demonstrations with logged and with perturbed starts."""
    open_folder(options)
    key = jax.random.key(options.seed)
    bank = load_bank(options.data, GOAL_TASK)
    parts = [
        collect_demonstrations(
            GOAL_TASK, bank, jax.random.fold_in(key, index), num_decisions=NUM_DECISIONS, noise=scale
        )
        for index, scale in enumerate(NOISE_SCALES)
    ]
    data: Demonstrations = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    config = BCConfig(num_epochs=options.steps or BCConfig.num_epochs)
    learner = BehaviorCloning(GOAL_TASK, len(data), config, network_config(options))
    device_data = jax.device_put(data)
    step = jax.jit(learner.train_step)
    state = run(
        options,
        GOAL_TASK,
        learner.init(key),
        lambda state: step(state, device_data),
        LoopConfig(config.num_epochs, log_every=1, save_every=4),
        lambda params: learner.model.actor(params, "mode"),
    )
    return save(options, GOAL_TASK, learner.model, state.params, "mode")
