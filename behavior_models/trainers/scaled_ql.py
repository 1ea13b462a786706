"""Training by Scaled Q-learning from a folder of logged transitions."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from behavior_models.networks.multi_task_q import MultiTaskQModel, ObservationNetwork
from behavior_models.networks.value_heads import ValueSupport
from behavior_models.offline.scaled_q_learning import ScaledQConfig, ScaledQLearning, ScaledQState, with_new_heads
from behavior_models.offline.stored_set import StoredSet, load_set
from behavior_models.offline.task_policy import TaskQPolicy, load_task_policy, save_task_policy
from behavior_models.trainers.common import network_config, open_folder, run
from behavior_models.trainers.options import ScaledQLOptions
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import GOAL_TASK

# Hyperparameters of the driving tasks, chosen on scenes of seed 101. Returns are -1 for a failure and about 1 for good
# driving, 10 times that after scaling.
TASK_CONFIG = ScaledQConfig(
    num_steps=3,
    discount=0.97,
    reward_scale=10.0,
    target_period=250,
    learning_rate=1e-3,
    final_rate=0.1,
    cql_weight=0.05,
)
# Range of these returns.
TASK_SUPPORT = ValueSupport(-15.0, 15.0, 31)
# Width of the layer between encoder and features, relative to that of the features.
HIDDEN_MULTIPLE = 2


def train_scaled_ql(options: ScaledQLOptions) -> TaskQPolicy:
    """Trains without interaction; the policy takes the action of the largest value."""
    open_folder(options)
    stored, key = load_set(options.data), jax.random.key(options.seed)
    learner = scaled_q_learner(options, stored)
    data = jax.device_put(stored.transitions)
    step = jax.jit(learner.train_step)
    state: ScaledQState = run(
        options,
        GOAL_TASK,
        learner.init(key, start_params(options.start, learner.model, key)),
        lambda state: step(state, data),
        LoopConfig(learner.config.num_updates, log_every=1, save_every=10),
        lambda params: _no_actor(),
    )
    policy = TaskQPolicy(jax.device_get(state.params), learner.model, stored.encoder)
    facts = {"algorithm": options.algorithm, "command": options.command(), "seed": options.seed}
    save_task_policy(options.out / "policy", policy, stored.tasks, facts)
    return policy


def scaled_q_learner(options: ScaledQLOptions, stored: StoredSet) -> ScaledQLearning:
    """The algorithm for the tasks and observations of a set of transitions."""
    size = network_config(options)
    network = ObservationNetwork(stored.encoder.spec(), size, (HIDDEN_MULTIPLE * size.trunk,))
    model = MultiTaskQModel(
        network,
        stored.masks,
        TASK_SUPPORT,
        is_distributional=options.values != "mse",
        num_features=size.trunk,
        normalize=options.normalize,
    )
    config = dataclasses.replace(
        TASK_CONFIG,
        loss=options.values,
        double=options.double,
        num_updates=options.num_steps or ScaledQConfig.num_updates,
        num_steps=options.return_steps,
        cql_weight=options.cql,
        dr3_weight=options.dr3,
        frozen=options.frozen,
    )
    return ScaledQLearning(model, config, stored.decode)


def start_params(folder: Path | None, model: MultiTaskQModel, key: Any) -> Any:
    """Parameters with the encoder of a stored policy and new heads; None without a folder.

    Args:
      folder: Folder of the policy.
      model: The model.
      key: Random key of the heads.

    Raises:
      ValueError: The policy has another encoder.
    """
    if folder is None:
        return None
    start = load_task_policy(folder)
    if start.model.encoder != model.encoder:
        raise ValueError(f"{folder} has another encoder or observation: {start.model.encoder}")
    return with_new_heads(model, jax.device_put(start.params), key)


def _no_actor() -> Any:
    raise AssertionError("policies of driving tasks are not evaluated by the rules of self-play")
