"""Runs of the study of Scaled Q-learning: logs, learners, and their scores in scenes that are not in the logs.

A run is a folder with the policy and the normalized return of each scene (0: random actions, 1: the planner). Stored
runs are used again.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.networks.multi_task_q import MultiTaskQModel, ObservationNetwork
from behavior_models.networks.return_conditioned import ReturnConditionedModel
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.offline.actions import ROUTE_ACTIONS
from behavior_models.offline.behavior_cloning import LoggedCloning, LoggedCloningConfig
from behavior_models.offline.behaviors import RowsActor
from behavior_models.offline.command import log
from behavior_models.offline.dataset import read_description
from behavior_models.offline.evaluation import EVALUATION_GROUP, TaskEvaluation
from behavior_models.offline.return_conditioned import (
    ConditionedActions,
    ConditionedTransitions,
    ReturnConditionedCloning,
    ReturnConditionedConfig,
    condition_transitions,
)
from behavior_models.offline.scaled_q_learning import ScaledQLearning
from behavior_models.offline.simulation import TaskSimulator
from behavior_models.offline.stored_set import StoredSet, load_set
from behavior_models.offline.task_policy import TaskActions, TaskQPolicy, save_task_policy
from behavior_models.offline.tasks import TASKS, draw_scenes
from behavior_models.offline.transitions import Transitions
from behavior_models.trainers.scaled_ql import HIDDEN_MULTIPLE, TASK_CONFIG, TASK_SUPPORT

# Width of an element and of the features, by size of the network.
SIZES = {1: (8, 16), 3: (24, 48), 8: (64, 128)}
# Transitions per gradient step and learning rates of all learners.
STEP = {"minibatch": 128, "learning_rate": TASK_CONFIG.learning_rate, "final_rate": TASK_CONFIG.final_rate}
NUM_LEVELS = 10
# Seed of the scenes on which levels are chosen.
VALIDATION_SEED = 101
LEARNERS = ScaledQLearning | LoggedCloning | ReturnConditionedCloning


@dataclasses.dataclass(frozen=True)
class Arm:
    """A learner.

    Attributes:
      method: Scaled Q-learning, cloning, or cloning given the return that followed.
      size: Size of the network (`SIZES`).
      loss: Loss of the values.
      normalize: Whether features are normalized.
      rewards: Logged rewards, or those of a task permuted among its decisions, or these less their mean. Without the
        last step a longer episode has a larger return, so that permuted rewards still reward the avoidance of failures.
      highest: Whether return conditioning uses the highest level; otherwise the best one of each task on validation
        scenes.
    """

    method: Literal["q", "clone", "conditioned"] = "q"
    size: int = 8
    loss: Any = "c51"
    normalize: bool = True
    rewards: Literal["logged", "permuted", "centered"] = "logged"
    highest: bool = False

    def model(self, stored: StoredSet) -> MultiTaskQModel:
        """The network of values or logits."""
        width, features = SIZES[self.size]
        size, hidden = NetworkConfig(width=width, trunk=features), (HIDDEN_MULTIPLE * features,)
        network = ObservationNetwork(stored.encoder.spec(), size, hidden)
        is_distributional = self.method == "q" and self.loss != "mse"
        return MultiTaskQModel(network, stored.masks, TASK_SUPPORT, is_distributional, features, self.normalize)

    def learner(self, stored: StoredSet, num_updates: int, **params: Any) -> LEARNERS:
        """The algorithm.

        Args:
          stored: The log.
          num_updates: Training steps.
          params: Fields of `ScaledQConfig` that differ.
        """
        if self.method == "clone":
            return LoggedCloning(self.model(stored), LoggedCloningConfig(num_updates, **STEP))
        if self.method == "q":
            config = dataclasses.replace(TASK_CONFIG, loss=self.loss, num_updates=num_updates, **(STEP | params))
            return ScaledQLearning(self.model(stored), config)
        width, features = SIZES[self.size]
        size, sizes = NetworkConfig(width=width, trunk=HIDDEN_MULTIPLE * features), (NUM_LEVELS, len(stored.tasks))
        model = ReturnConditionedModel(stored.encoder.spec(), ROUTE_ACTIONS.num_actions, *sizes, size)
        return ReturnConditionedCloning(model, ReturnConditionedConfig(num_updates, **STEP))


def log_tasks(
    folder: Path, tasks: tuple[str, ...], behavior: float | tuple[str, ...], num_transitions: int, num_scenes: int
) -> StoredSet:
    """A log made by `waymax-sim log` if the folder has none.

    Args:
      folder: The folder.
      tasks: Names of the tasks.
      behavior: Normalized mean return of the log, or its policies.
      num_transitions: Decisions of each task.
      num_scenes: Different scenes of each task.
    """
    policies, grade = (behavior, None) if isinstance(behavior, tuple) else ((), behavior)
    log(folder, policies, tasks, transitions=num_transitions, grade=grade, scenes=num_scenes)
    return load_set(folder)


def log_scores(folder: Path, tasks: tuple[str, ...]) -> dict[str, float]:
    """Normalized mean return of the episodes of a log by task."""
    logs = read_description(folder)["facts"]["logs"]
    return {name: logs[name]["normalized_return"] for name in tasks}


def permute_rewards(data: Transitions, seed: int, is_centered: bool) -> Transitions:
    """The log with the rewards of each task permuted among its decisions.

    Args:
      data: The log.
      seed: Seed of the permutation.
      is_centered: Whether their mean is subtracted.
    """
    rng, reward = np.random.default_rng(seed), np.array(data.reward)
    for task in range(data.num_tasks):
        rows = np.asarray(data.active) & (np.asarray(data.task) == task)[None]
        reward[rows] = rng.permutation(reward[rows]) - (reward[rows].mean() if is_centered else 0.0)
    return dataclasses.replace(data, reward=reward)


_train_q = jax.jit(ScaledQLearning.train_step, static_argnums=0)
_train_clone = jax.jit(LoggedCloning.train_step, static_argnums=0)
_train_conditioned = jax.jit(ReturnConditionedCloning.train_step, static_argnums=0)


def train(learner: LEARNERS, data: Transitions, seed: int, params: Any = None) -> tuple[Any, dict[str, float]]:
    """Parameters of a trained network, and the scalars of its last training step.

    Args:
      learner: The algorithm.
      data: The log.
      seed: Training seed.
      params: Initial parameters; random by default.
    """
    programs = {ScaledQLearning: _train_q, LoggedCloning: _train_clone, ReturnConditionedCloning: _train_conditioned}
    step, key = programs[type(learner)], jax.random.key(seed)
    if isinstance(learner, ReturnConditionedCloning):
        state, rows = learner.init(key), condition(data)
    else:
        state, rows = learner.init(key, params), data
    rows, scalars = jax.device_put(rows), {}
    for _ in range(learner.config.num_updates):
        state, scalars = step(learner, state, rows)
    return state.params, {name: float(value) for name, value in scalars.items()}


def find_actor(learner: LEARNERS, params: Any, stored: StoredSet, highest: bool = True) -> RowsActor:
    """A trained network as an actor of the simulation.

    Args:
      learner: The algorithm.
      params: Parameters.
      stored: The log.
      highest: See `Arm`.
    """
    tasks = [0] * len(TASKS)
    for position, name in enumerate(stored.tasks):
        tasks[TASKS[name].index] = position
    if not isinstance(learner, ReturnConditionedCloning):
        return RowsActor(params, TaskActions(learner.model, tasks=tuple(tasks)))
    act, levels = ConditionedActions(learner.model, tuple(tasks)), condition(stored.transitions).highest
    if not highest:
        levels = choose_levels(act, params, stored.tasks)
    return RowsActor((params, jnp.asarray(levels, jnp.int32)), act)


def condition(data: Transitions) -> ConditionedTransitions:
    """The log with the levels of the mean return per remaining decision."""
    return condition_transitions(data, NUM_LEVELS, "mean_return")


def choose_levels(act: ConditionedActions, params: Any, tasks: tuple[str, ...]) -> np.ndarray:
    """Level with the largest mean return in validation scenes, for each task.

    Args:
      act: The network.
      params: Its parameters.
      tasks: Names of the tasks.
    """
    simulator, best = TaskSimulator(records_observation=False), []
    for task in tasks:
        scenes = draw_scenes(task, VALIDATION_SEED, range(EVALUATION_GROUP))
        actors = (RowsActor((params, jnp.full(len(tasks), level, jnp.int32)), act) for level in range(NUM_LEVELS))
        runs = [simulator.run_stepwise(actor, scenes, jax.random.key(0)).returns for actor in actors]
        best.append(int(np.argmax([float(np.mean(returns)) for returns in runs])))
    return np.array(best)


def make_evaluation(tasks: tuple[str, ...], num_scenes: int) -> TaskEvaluation:
    """The scenes of the test seed."""
    return TaskEvaluation(tasks, num_scenes, TaskSimulator(records_observation=False))


class Runs:
    """Runs of one log.

    Args:
      folder: Folder of the runs.
      stored: The log.
      evaluation: The test scenes.
      num_updates: Training steps of 250 gradient steps.
    """

    def __init__(self, folder: Path, stored: StoredSet, evaluation: TaskEvaluation, num_updates: int):
        self.folder, self.stored, self.evaluation, self.num_updates = folder, stored, evaluation, num_updates

    def scores(self, name: str, arm: Arm, seed: int) -> list[list[float]]:
        """Normalized return of each scene by task, of a stored run or a new one.

        Args:
          name: Name of the arm.
          arm: The learner.
          seed: Training seed.
        """
        folder = self.folder / f"{slug(name)}-{seed}"
        if not (folder / "scores.json").exists():
            learner = arm.learner(self.stored, self.num_updates)
            data = self.stored.transitions
            if arm.rewards != "logged":
                data = permute_rewards(data, seed, arm.rewards == "centered")
            params, scalars = train(learner, data, seed)
            self._write(folder, {"algorithm": name, "seed": seed}, arm.highest, learner, params, scalars)
        return json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]

    def _write(
        self,
        folder: Path,
        facts: dict[str, Any],
        highest: bool,
        learner: LEARNERS,
        params: Any,
        scalars: dict[str, float],
    ) -> None:
        """Evaluates and stores a run.

        Args:
          folder: Its folder.
          facts: Facts of the policy.
          highest: See `Arm`.
          learner: The algorithm.
          params: Trained parameters.
          scalars: Scalars of the last training step.
        """
        result = self.evaluation.evaluate(find_actor(learner, params, self.stored, highest))
        rows = [result.normalized[task].tolist() for task in self.stored.tasks]
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(learner, ReturnConditionedCloning):
            policy = TaskQPolicy(jax.device_get(params), learner.model, self.stored.encoder)
            save_task_policy(folder, policy, self.stored.tasks, facts)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        content = {"scores": rows, "failed": result.failed, "parameters": count, "scalars": scalars}
        (folder / "scores.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(folder.name, np.round(np.mean(rows, axis=1), 3), flush=True)


def slug(name: str) -> str:
    """Name of a folder."""
    return "_".join("".join(letter if letter.isalnum() or letter == "-" else " " for letter in name).split())
