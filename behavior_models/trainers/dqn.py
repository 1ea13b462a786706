"""Training by DQN self-play."""

import jax

from behavior_models.networks.policy import NetworkPolicy
from behavior_models.networks.q_network import QHeadConfig
from behavior_models.networks.value_heads import ValueSupport
from behavior_models.reinforcement.dqn import DQN, DQNConfig
from behavior_models.trainers.common import load_bank, network_config, open_folder, run_and_save
from behavior_models.trainers.options import DQNOptions
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import GOAL_TASK

# Range of returns of the task: -0.75 for a collision, 1 for the goal, and 0.01 per meter of progress.
GOAL_SUPPORT = ValueSupport(-1.0, 2.5)


def train_dqn(options: DQNOptions) -> NetworkPolicy:
    """Trains by self-play; the policy takes the action of the largest value."""
    open_folder(options)
    bank = load_bank(options.data, GOAL_TASK, options.curriculum)
    head = QHeadConfig(support=GOAL_SUPPORT if options.values == "distribution" else None)
    config = DQNConfig(num_updates=options.num_steps or DQNConfig.num_updates, head=head, dr3_weight=options.dr3)
    learner = DQN(GOAL_TASK, config, network_config(options))
    state, step = jax.jit(learner.init)(bank, jax.random.key(options.seed)), jax.jit(learner.train_step)
    # A checkpoint holds the replay buffer, 0.2 GB.
    loop = LoopConfig(config.num_updates, save_every=100)
    return run_and_save(options, GOAL_TASK, state, lambda state: step(state, bank), loop, learner.model)
