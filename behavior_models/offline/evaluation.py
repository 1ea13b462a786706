"""Closed-loop evaluation of driving tasks: normalized returns of checkpoints in the same scenes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from behavior_models.offline.behaviors import TaskActor, rule_actor, stack_actors
from behavior_models.offline.expertise import normalize_returns
from behavior_models.offline.simulation import TaskSimulator
from behavior_models.offline.tasks import draw_scenes
from waymax_sim.evaluation.interquartile import stratified_interval
from waymax_sim.results_dir import Json

# Seed of the scenes of evaluations; those of logs are others.
EVALUATION_SEED = 901
# Scenes that are simulated together.
EVALUATION_GROUP = 60


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """Results of one policy.

    Attributes:
      returns: Return of each scene by task.
      failed: Share of episodes with a failure by task.
      random: Mean return of random actions by task, in the same scenes.
      reference: Mean return of the reference planner by task, in the same scenes.
    """

    returns: dict[str, Float[np.ndarray, " e"]]
    failed: dict[str, float]
    random: dict[str, float]
    reference: dict[str, float]

    @property
    def normalized(self) -> dict[str, Float[np.ndarray, " e"]]:
        """Normalized return of each scene by task: 0 for random actions, 1 for the reference planner."""
        return {
            task: normalize_returns(values, self.random[task], self.reference[task])
            for task, values in self.returns.items()
        }

    def intervals(self) -> dict[str, Json]:
        """Mean normalized return of each task with its 95 % bootstrap interval over scenes."""
        return {task: stratified_interval([values[None]], "mean") for task, values in self.normalized.items()}


class TaskEvaluation:
    """Evaluates policies in the same scenes; all share the program of the simulation.

    Args:
      tasks: Names of the tasks.
      num_scenes: Scenes of each task; a multiple of `EVALUATION_GROUP` wastes no computation.
      simulator: The simulation; its encoder is that of the policies.
      seed: Seed of the scenes.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        num_scenes: int = EVALUATION_GROUP,
        simulator: TaskSimulator | None = None,
        seed: int = EVALUATION_SEED,
    ):
        self.tasks, self.num_scenes, self.seed = tuple(tasks), num_scenes, seed
        self.simulator = simulator or TaskSimulator()
        size = min(EVALUATION_GROUP, num_scenes)
        # The last group repeats scenes, so that all have one shape.
        self._groups = {
            task: [
                draw_scenes(task, seed, [index % num_scenes for index in range(begin, begin + size)])
                for begin in range(0, num_scenes, size)
            ]
            for task in self.tasks
        }
        self.random = self._means(stack_actors([rule_actor(epsilon=1.0)] * size))
        self.reference = self._means(stack_actors([rule_actor()] * size))

    def evaluate(self, actor: TaskActor, seed: int = 0) -> TaskScores:
        """Plays every scene once.

        Args:
          actor: The policy; its parameters are arguments of the program.
          seed: Seed of its actions.
        """
        returns, failed = {}, {}
        for task in self.tasks:
            runs = [
                self.simulator.run_stepwise(actor, scenes, jax.random.fold_in(jax.random.key(seed), number))
                for number, scenes in enumerate(self._groups[task])
            ]
            returns[task] = np.concatenate([np.asarray(run.returns) for run in runs])[: self.num_scenes]
            failed[task] = float(np.mean(np.concatenate([np.asarray(run.failed) for run in runs])[: self.num_scenes]))
        return TaskScores(returns, failed, self.random, self.reference)

    def _means(self, actor: TaskActor) -> dict[str, float]:
        means: dict[str, float] = {}
        for task, groups in self._groups.items():
            key = jax.random.key(self.seed)
            runs = [np.asarray(self.simulator.run_stepwise(actor, scenes, key).returns) for scenes in groups]
            means[task] = float(np.mean(np.concatenate(runs)[: self.num_scenes]))
        return means


def evaluate_tasks(
    actor: TaskActor, tasks: Sequence[str], num_scenes: int = EVALUATION_GROUP, simulator: TaskSimulator | None = None
) -> dict[str, Json]:
    """Mean normalized return of each task with its 95 % bootstrap interval; see `TaskEvaluation` for many policies.

    Args:
      actor: The policy.
      tasks: Names of the tasks.
      num_scenes: Scenes of each task.
      simulator: The simulation; its encoder is that of the policy.
    """
    return TaskEvaluation(tasks, num_scenes, simulator).evaluate(actor).intervals()
