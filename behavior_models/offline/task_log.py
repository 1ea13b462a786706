"""Logs of driving tasks: episodes of mixtures of policies in the graph, and their returns."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from behavior_models.offline.behaviors import RuleActor, noisy_actor, stack_actors
from behavior_models.offline.dataset import concatenate, pack_episodes, select_streams
from behavior_models.offline.expertise import grade_mixture, normalize_returns
from behavior_models.offline.simulation import TaskEpisodes, TaskSimulator
from behavior_models.offline.tasks import TASKS, TaskScenes, draw_scenes
from behavior_models.offline.transitions import Transitions

# Scenes that are simulated together, and scenes of a task that are drawn; further episodes repeat them.
BATCH_SIZE = 64
MAX_SCENES = 512
# Normalized mean return from which datasets are near-optimal.
NEAR_OPTIMAL = 0.7
# Policies whose mean returns are the normalized returns 0 and 1.
BOUNDS = ("random:1", "lookahead:0")
# Deviation from the target at which a mixture is chosen again, and number of choices.
GRADE_TOLERANCE = 0.02
MAX_ADJUSTMENTS = 4


@dataclasses.dataclass(frozen=True)
class TaskLog:
    """Transitions of a task.

    Attributes:
      transitions: The transitions.
      returns: Return of each episode.
      failed: Share of episodes with a failure.
      num_steps: Simulated steps of the egos.
      cpu_seconds: CPU time of the simulation and of its encoding, without compilation and scenes.
    """

    transitions: Transitions
    returns: Float[np.ndarray, " e"]
    failed: float
    num_steps: int
    cpu_seconds: float


class ScenePool:
    """Scenes of a task, drawn when they are first needed; batch b has the next `BATCH_SIZE` of them.

    Args:
      task: Name of the task.
      seed: Seed of the scenes.
      max_scenes: Number of different scenes; a multiple of `BATCH_SIZE`.
    """

    def __init__(self, task: str, seed: int, max_scenes: int = MAX_SCENES):
        self.task, self.seed, self.num_batches = task, seed, max(max_scenes // BATCH_SIZE, 1)
        self._batches: dict[int, TaskScenes] = {}

    def batch(self, number: int) -> TaskScenes:
        """The scenes of a batch."""
        number %= self.num_batches
        if number not in self._batches:
            self._batches[number] = draw_scenes(
                self.task, self.seed, range(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
            )
        return self._batches[number]


def log_task(
    simulator: TaskSimulator,
    pool: ScenePool,
    actors: Sequence[RuleActor],
    num_transitions: int,
    seed: int,
    report: Callable[[int], None] | None = None,
) -> TaskLog:
    """Episodes of a mixture of policies, each of which drives equally many, until there are enough decisions.

    Args:
      simulator: The simulation.
      pool: Scenes of the task.
      actors: The policies.
      num_transitions: Smallest number of decisions.
      seed: Seed of the actions.
      report: Receives the number of decisions so far.
    """
    parts, returns, failed, count, number, num_steps, seconds = [], [], [], 0, 0, 0, 0.0
    index = TASKS[pool.task].index
    while count < num_transitions:
        # Drawn before the time is measured.
        pool.batch(number)
        begin = time.process_time()
        episodes = jax.device_get(_play(simulator, pool, actors, seed, number))
        if number:
            seconds, num_steps = seconds + time.process_time() - begin, num_steps + int(episodes.steps)
        parts.append(pack_episodes(episodes, index, len(TASKS)))
        returns.append(episodes.reward.sum(axis=0))
        failed.append(episodes.failed)
        count, number = count + int(episodes.active.sum()), number + 1
        if report is not None:
            report(min(count, num_transitions))
    joined = concatenate(parts)
    return TaskLog(joined, np.concatenate(returns), float(np.mean(np.concatenate(failed))), num_steps, seconds)


def _play(
    simulator: TaskSimulator, pool: ScenePool, actors: Sequence[RuleActor], seed: int, number: int
) -> TaskEpisodes:
    """Episodes of a batch of scenes.

    Args:
      simulator: The simulation.
      pool: Scenes of the task.
      actors: The policies, which rotate over the scenes, so that each drives in all of them.
      seed: Seed of the actions.
      number: Number of the batch.
    """
    chosen = [actors[(slot + number) % len(actors)] for slot in range(BATCH_SIZE)]
    key = jax.random.fold_in(jax.random.key(seed), number)
    return simulator.run(stack_actors(chosen), pool.batch(number), key)


def mean_returns(
    pool: ScenePool, actors: dict[str, RuleActor], num_batches: int = 1, seed: int = 0
) -> dict[str, float]:
    """Mean return of each policy, all in the same scenes.

    Args:
      pool: Scenes of the task.
      actors: Policies by name.
      num_batches: Batches of scenes.
      seed: Seed of the actions.
    """
    simulator, means = TaskSimulator(), {}
    for name, actor in actors.items():
        stacked = stack_actors([actor] * BATCH_SIZE)
        runs = [
            simulator.run(stacked, pool.batch(number), jax.random.fold_in(jax.random.key(seed), number))
            for number in range(num_batches)
        ]
        means[name] = float(np.mean([np.asarray(run.returns) for run in runs]))
    return means


def graded_candidates() -> dict[str, RuleActor]:
    """Policies of all degrees of expertise: the named ones, most of them with random actions as well."""
    names = {
        "random": (1.0,),
        "constant_speed": (0.0,),
        "slow": (0.0, 0.1),
        "hasty": (0.0, 0.1),
        "inattentive": (0.0, 0.2),
    }
    names["lookahead"] = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
    return {f"{name}:{epsilon:g}": noisy_actor(name, epsilon) for name, levels in names.items() for epsilon in levels}


def choose_mixture(pool: ScenePool, target: float) -> tuple[dict[str, RuleActor], dict[str, float]]:
    """Policies by name whose mean normalized return is near a target, and the mean returns of all candidates.

    Candidates are graded in the first scenes. The mixture is measured in all scenes, and chosen again for a shifted
    target while it deviates. Above `NEAR_OPTIMAL`, the best candidates are mixed instead of the worst ones.

    Args:
      pool: Scenes of the task.
      target: Normalized mean return.
    """
    candidates = graded_candidates()
    names, returns = list(candidates), mean_returns(pool, candidates)
    returns |= mean_returns(pool, {name: candidates[name] for name in BOUNDS}, pool.num_batches)
    random, reference = (returns[name] for name in BOUNDS)
    normalized = normalize_returns(np.array([returns[name] for name in names]), random, reference)
    shifted, results = target, []
    for _ in range(MAX_ADJUSTMENTS):
        mixture = grade_mixture(normalized, shifted, from_top=target > NEAR_OPTIMAL)
        chosen = {names[index]: candidates[names[index]] for index in mixture.policies}
        # Every policy drives in every slot of a batch.
        numbers = range(max(pool.num_batches, len(chosen)))
        runs = [_play(TaskSimulator(), pool, list(chosen.values()), 0, number) for number in numbers]
        mean = float(np.mean([normalize_returns(np.asarray(run.returns), random, reference) for run in runs]))
        results.append((abs(mean - target), chosen))
        if results[-1][0] <= GRADE_TOLERANCE:
            break
        shifted += target - mean
    return min(results, key=lambda result: result[0])[1], returns


def normalized_mean(log: TaskLog, returns: dict[str, float]) -> float:
    """Mean normalized return of the episodes of a log.

    Args:
      log: The log.
      returns: Mean returns of "random:1" and "lookahead:0" in the scenes of the task.
    """
    return float(np.mean(normalize_returns(log.returns, returns["random:1"], returns["lookahead:0"])))


def limit_streams(transitions: Transitions, num_transitions: int) -> Transitions:
    """The first streams with at least a number of decisions.

    Args:
      transitions: The set.
      num_transitions: Number of decisions.
    """
    total = np.cumsum(transitions.active.sum(axis=0))
    count = int(np.searchsorted(total, num_transitions)) + 1
    return select_streams(transitions, slice(0, count))
