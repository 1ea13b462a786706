"""Training by behavior cloning."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Key

from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import Demonstrations, ExpertName, collect_demonstrations
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.trainers.common import (
    NUM_DECISIONS,
    compile_seeds,
    load_bank,
    network_config,
    open_folder,
    run_and_save,
    training_keys,
    training_mesh,
)
from behavior_models.trainers.options import BCOptions
from behavior_models.training.devices import put_on_devices
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import goal_task
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array

# Scales of the perturbation of the starts of demonstrations.
NOISE_SCALES = (0.0, 1.0)


def train_bc(options: BCOptions) -> NetworkPolicy:
    """Trains from demonstrations with logged and with perturbed starts."""
    open_folder(options)
    key, env = jax.random.key(options.seed), goal_task(options.action)
    data = demonstrate(env, load_bank(options.data, env), key, options.expert)
    num_epochs = options.num_steps or BCConfig.num_epochs
    config = BCConfig(options.labels, num_epochs=num_epochs, weight_decay=options.weight_decay)
    network = dataclasses.replace(network_config(options), head=options.head)
    learner = BehaviorCloning(env, len(data), config, network)
    mesh = training_mesh(options) if options.seeds > 1 else None
    device_data = put_on_devices(jax.device_put(data), mesh, True)
    step = compile_seeds(options, learner.train_step, mesh)
    keys = put_on_devices(training_keys(options), mesh, False)
    state, loop = compile_seeds(options, learner.init, mesh)(keys), LoopConfig(num_epochs, log_every=1, save_every=4)
    return run_and_save(options, env, state, lambda state: step(state, device_data), loop, learner.model)


def demonstrate(
    env: FunctionalEnv, bank: ScenarioBank, key: Key[Array, ""], expert: ExpertName = "arc"
) -> Demonstrations:
    """Demonstrations of all scenarios, with logged and with perturbed starts.

    Args:
      env: The environment.
      bank: The scenarios.
      key: Random key.
      expert: Source of the actions.
    """
    parts = [
        collect_demonstrations(
            env, bank, jax.random.fold_in(key, index), num_decisions=NUM_DECISIONS, noise=scale, expert=expert
        )
        for index, scale in enumerate(NOISE_SCALES)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
