"""Training by BC-SAC."""

import jax

from behavior_models.networks.policy import NetworkPolicy
from behavior_models.reinforcement.bc_sac import BCSAC
from behavior_models.trainers.bc import demonstrate
from behavior_models.trainers.common import load_bank, open_folder, run_and_save
from behavior_models.trainers.options import BCSACOptions
from behavior_models.trainers.sac import load_start, sac_learner
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import SHAPED_TASK


def train_bc_sac(options: BCSACOptions) -> NetworkPolicy:
    """Trains by self-play and from demonstrations."""
    open_folder(options)
    key = jax.random.key(options.seed)
    bank, learner = load_bank(options.data, SHAPED_TASK), BCSAC(sac_learner(options), options.imitation_weight)
    start, data = load_start(options.start, learner.model), jax.device_put(demonstrate(SHAPED_TASK, bank, key))
    state, step = jax.jit(learner.init)(bank, key, None, start), jax.jit(learner.train_step)
    loop = LoopConfig(learner.sac.config.num_updates)
    return run_and_save(options, SHAPED_TASK, state, lambda state: step(state, bank, data), loop, learner.model)
