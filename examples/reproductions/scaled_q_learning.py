"""Scaled Q-learning (Kumar et al. 2023) on four driving tasks: returns beyond those of the data, and ablations.

    python -m examples.reproductions.scaled_q_learning --out runs/scaled_q_learning

Transitions of degraded planners and random actions, whose normalized mean return is about one half (0: random actions,
1: the reference planner), train Scaled Q-learning, its ablations, a clone, and a control with permuted rewards. Each
network drives in scenes that are not in the data. Observations are agents and polylines instead of images, so the
spatial embedding of the paper is not part of the ablations. Parts in the folder are used again.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from behavior_models.networks.multi_task_q import MultiTaskQModel, ObservationNetwork
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.offline.behavior_cloning import LoggedCloning, LoggedCloningConfig
from behavior_models.offline.behaviors import RowsActor, RuleActor, noisy_actor, stack_actors
from behavior_models.offline.dataset import concatenate
from behavior_models.offline.scaled_q_learning import ScaledQConfig, ScaledQLearning
from behavior_models.offline.simulation import TASK_VIEW, TaskEpisodes, TaskSimulator
from behavior_models.offline.stored_set import StoredSet, load_set
from behavior_models.offline.task_policy import TaskActions, TaskQPolicy, save_task_policy
from behavior_models.offline.tasks import (
    TASKS,
    TRAINING_TASKS,
    TaskScenes,
    concatenate_scenes,
    draw_scenes,
)
from behavior_models.offline.transitions import Transitions, returns_to_go
from behavior_models.trainers.scaled_ql import TASK_SUPPORT
from examples.reproductions.waymax_common import Criterion, table_line
from waymax_sim.evaluation import interquartile

# Seeds of the scenes of the data and of the evaluation.
DATA_SEED = 0
TEST_SEED = 901
NUM_RESAMPLES = 2000
DISCOUNT = 0.97
# Policies of the data with their probabilities of random actions, of which the best ones are left out, and the largest
# normalized mean return of the others.
GRADES = tuple((name, epsilon) for name in ("lookahead", "slow", "hasty", "inattentive") for epsilon in (0.1, 0.3, 0.5))
MAX_DATA_SCORE = 0.52
# Widths of an element and of the features, by size of the network.
SIZES = {"small": (16, 32), "medium": (32, 64)}


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of data, runs and the report.
      num_scenes: Scenes of each task, in the data and in the evaluation.
      num_updates: Training steps of 250 gradient steps.
      seeds: Training seeds.
      quick: Few scenes and steps and one seed, to see that it runs.
    """

    out: Path
    num_scenes: int = 48
    num_updates: int = 20
    seeds: int = 3
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Arm:
    """A learner.

    Attributes:
      size: Size of the network.
      clones: Whether actions are imitated.
      loss: Loss of the values.
      normalize: Whether features are normalized.
      permuted: Whether rewards are permuted among the transitions of a task.
      mode: Whether the most likely or best action is taken, or one is sampled.
    """

    size: str = "medium"
    clones: bool = False
    loss: Any = "c51"
    normalize: bool = True
    permuted: bool = False
    mode: Any = "mode"

    def model(self, stored: StoredSet) -> MultiTaskQModel:
        """The network."""
        width, features = SIZES[self.size]
        network = ObservationNetwork(stored.encoder.spec(), NetworkConfig(width=width, trunk=features))
        is_distributional = not self.clones and self.loss != "mse"
        return MultiTaskQModel(network, stored.masks, TASK_SUPPORT, is_distributional, features, self.normalize)

    def learner(self, stored: StoredSet) -> ScaledQLearning | LoggedCloning:
        """The algorithm."""
        if self.clones:
            return LoggedCloning(self.model(stored), LoggedCloningConfig(learning_rate=1e-3))
        return ScaledQLearning(
            self.model(stored), ScaledQConfig(loss=self.loss, discount=DISCOUNT, learning_rate=1e-3, cql_weight=0.1)
        )


CONTROL = "permuted rewards (control)"
ARMS = {
    "Scaled Q-learning": Arm(),
    "cloning": Arm(clones=True),
    "cloning, sampled": Arm(clones=True, mode="sample"),
    CONTROL: Arm(permuted=True),
    "squared error": Arm(loss="mse"),
    "features not normalized": Arm(normalize=False),
    "small": Arm(size="small"),
    "small, squared error, not normalized": Arm(size="small", loss="mse", normalize=False),
    "squared error, not normalized": Arm(loss="mse", normalize=False),
}


def draw(tasks: tuple[str, ...], seed: int, num_scenes: int) -> TaskScenes:
    """The first scenes of each task."""
    return concatenate_scenes([draw_scenes(name, seed, range(num_scenes)) for name in tasks])


def planner(name: str, epsilon: float, num_scenes: int) -> RuleActor:
    """A rule-based policy with random actions, in each scene.

    Args:
      name: Name of the policy.
      epsilon: Probability of a random action.
      num_scenes: Number of scenes.
    """
    return stack_actors([noisy_actor(name, epsilon)] * num_scenes)


def to_transitions(episodes: TaskEpisodes, scenes: TaskScenes, tasks: tuple[str, ...]) -> Transitions:
    """Episodes as transitions; the row after the last decision has its observation."""
    index = np.zeros(len(TASKS), np.int32)
    index[[TASKS[name].index for name in tasks]] = np.arange(len(tasks))

    def extend(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return np.concatenate([values, np.zeros_like(values[:1])])

    reward, ended, truncated, active = (
        extend(each) for each in (episodes.reward, episodes.ended, episodes.truncated, episodes.active)
    )
    return Transitions(
        observation=np.asarray(episodes.observation),
        action=extend(episodes.action),
        reward=reward,
        ended=ended,
        truncated=truncated,
        active=active,
        task=index[np.asarray(scenes.task)],
        return_to_go=returns_to_go(reward, ended | truncated, active),
        num_tasks=len(tasks),
    )


def collect(study: Study, simulator: TaskSimulator, tasks: tuple[str, ...], folder: Path) -> StoredSet:
    """The data in a folder, collected if there are none.

    Args:
      study: The study.
      simulator: Plays the scenes.
      tasks: Names of the tasks.
      folder: The folder.
    """
    if not (folder / "dataset.json").exists():
        scenes = draw(tasks, DATA_SEED, study.num_scenes)

        def play(name: str, epsilon: float, seed: int) -> TaskEpisodes:
            return simulator.run(planner(name, epsilon, len(scenes.task)), scenes, jax.random.key(seed))

        episodes = [play(name, epsilon, 1000 + index) for index, (name, epsilon) in enumerate(GRADES)]
        bounds = [mean_returns(play("lookahead", epsilon, 0), len(tasks)) for epsilon in (1.0, 0.0)]
        scores = [np.mean(_normalize(mean_returns(each, len(tasks)), *bounds)) for each in episodes]
        selected = select_grades(np.array(scores))
        transitions = concatenate([to_transitions(episodes[index], scenes, tasks) for index in selected])
        grades = [[*GRADES[index], float(scores[index])] for index in selected]
        StoredSet(transitions, TASK_VIEW, tasks).save(folder, grades=grades)
    return load_set(folder)


def select_grades(scores: np.ndarray) -> list[int]:
    """The largest number of the worst policies whose mean score is at most `MAX_DATA_SCORE`."""
    order = np.argsort(scores)
    means = np.cumsum(scores[order]) / np.arange(1, len(scores) + 1)
    return [int(index) for index in order[means <= MAX_DATA_SCORE]]


def mean_returns(episodes: TaskEpisodes, num_tasks: int) -> np.ndarray:
    """Mean return in the scenes of each task [K]."""
    return np.asarray(episodes.returns).reshape(num_tasks, -1).mean(axis=1)


_train_q = jax.jit(ScaledQLearning.train_step, static_argnums=0)
_train_clone = jax.jit(LoggedCloning.train_step, static_argnums=0)


def train(arm: Arm, stored: StoredSet, seed: int, num_updates: int, params: Any = None) -> Any:
    """Parameters of a trained network, and the scalars of its last step.

    Args:
      arm: The learner.
      stored: The data.
      seed: Training seed.
      num_updates: Training steps.
      params: Initial parameters; random by default.
    """
    data = stored.transitions
    if arm.permuted:
        data = dataclasses.replace(data, reward=_permute(data, seed))
    learner, data = arm.learner(stored), jax.device_put(data)
    state, scalars = learner.init(jax.random.key(seed), params), {}
    for _ in range(num_updates):
        state, scalars = (_train_clone if arm.clones else _train_q)(learner, state, data)
    return state.params, {name: float(value) for name, value in scalars.items()}


def _permute(data: Transitions, seed: int) -> np.ndarray:
    """Rewards permuted among the decisions of each task."""
    rng, reward = np.random.default_rng(seed), np.array(data.reward)
    for task in range(data.num_tasks):
        rows = np.asarray(data.active) & (np.asarray(data.task) == task)[None]
        reward[rows] = rng.permutation(reward[rows])
    return reward


class Evaluation:
    """Normalized returns in scenes that are not in the data.

    Args:
      study: The study.
      simulator: Plays the scenes.
      tasks: Names of the tasks.
    """

    def __init__(self, study: Study, simulator: TaskSimulator, tasks: tuple[str, ...]):
        self._simulator, self._tasks = simulator, tasks
        self._scenes = draw(tasks, TEST_SEED, study.num_scenes)
        count = len(self._scenes.task)
        self.reference, self.random = (self._returns(planner("lookahead", epsilon, count)) for epsilon in (0.0, 1.0))

    def score(self, model: MultiTaskQModel, params: Any, mode: Any = "mode") -> np.ndarray:
        """Scores of the policy in each task [K].

        Args:
          model: The network.
          params: Parameters.
          mode: See `TaskQPolicy`.
        """
        index = [0] * len(TASKS)
        for position, name in enumerate(self._tasks):
            index[TASKS[name].index] = position
        return self.normalize(self._returns(RowsActor(params, TaskActions(model, mode, tuple(index)))))

    def normalize(self, returns: np.ndarray) -> np.ndarray:
        """Returns with random actions as 0 and those of the planner as 1."""
        return _normalize(returns, self.random, self.reference)

    def _returns(self, actor: Any) -> np.ndarray:
        episodes = self._simulator.run(actor, self._scenes, jax.random.key(7))
        return mean_returns(episodes, len(self._tasks))


def _normalize(returns: np.ndarray, random: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return (returns - random) / (reference - random)


def data_scores(study: Study, stored: StoredSet, evaluation: Evaluation) -> np.ndarray:
    """Normalized mean return of the episodes of the data in each task."""
    first = np.asarray(stored.transitions.return_to_go)[0]
    task = np.asarray(stored.transitions.task)
    return evaluation.normalize(np.array([first[task == index].mean() for index in range(len(stored.tasks))]))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all entries."""
    return float(interquartile.interquartile_mean(np.ravel(scores)))


def resampled(scores: np.ndarray) -> np.ndarray:
    """Interquartile means of bootstrap samples of seeds within each task; scores are [S, K]."""
    rng, (num_seeds, num_tasks) = np.random.default_rng(0), scores.shape
    draws = rng.integers(num_seeds, size=(NUM_RESAMPLES, num_seeds, num_tasks))
    return np.array([interquartile_mean(np.take_along_axis(scores, each, axis=0)) for each in draws])


def main(study: Study) -> None:
    """Collects, trains, drives, and writes report.json."""
    if study.quick:
        study = dataclasses.replace(study, num_scenes=2, num_updates=1, seeds=1)
    simulator = TaskSimulator()
    stored = collect(study, simulator, TRAINING_TASKS, study.out / "data")
    evaluation = Evaluation(study, dataclasses.replace(simulator, records_observation=False), TRAINING_TASKS)
    rows = {name: [] for name in ARMS}
    for seed in range(study.seeds):
        for name, arm in ARMS.items():
            rows[name].append(stored_scores(study, name, arm, stored, evaluation, seed))
    scores = {name: np.array(values) for name, values in rows.items()}
    scores["data"] = np.repeat(data_scores(study, stored, evaluation)[None], study.seeds, axis=0)
    report(study, scores, evaluation)


def stored_scores(
    study: Study, name: str, arm: Arm, stored: StoredSet, evaluation: Evaluation, seed: int
) -> list[float]:
    """Scores of a run in the folder, trained if there is none.

    Args:
      study: The study.
      name: Name of the arm.
      arm: The learner.
      stored: The data.
      evaluation: The evaluation.
      seed: Training seed.
    """
    folder = study.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
    if not (folder / "scores.json").exists():
        params, scalars = train(arm, stored, seed, study.num_updates)
        model = arm.model(stored)
        score = evaluation.score(model, params, arm.mode).tolist()
        facts = {"algorithm": name, "seed": seed}
        save_task_policy(folder, TaskQPolicy(jax.device_get(params), model, TASK_VIEW), stored.tasks, facts)
        (folder / "scores.json").write_text(json.dumps({"scores": score, "scalars": scalars}) + "\n", encoding="utf-8")
        print(name, seed, np.round(score, 3), flush=True)
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))["scores"]


def report(study: Study, scores: dict[str, np.ndarray], evaluation: Evaluation) -> None:
    """Prints the table and the criteria, and writes report.json."""
    names = ("IQM", "low", "high", *TRAINING_TASKS)
    print(table_line("learner", dict(zip(names, names, strict=True))))
    for name, rows in scores.items():
        low, high = np.quantile(resampled(rows), (0.025, 0.975))
        values = interquartile_mean(rows), float(low), float(high), *rows.mean(axis=0)
        print(table_line(name, {key: f"{value:.2f}" for key, value in zip(names, values, strict=True)}))
    criteria = find_criteria(scores)
    for criterion in criteria:
        print(criterion)
    facts = {
        "study": {name: str(value) for name, value in vars(study).items()},
        "random": evaluation.random.tolist(),
        "reference": evaluation.reference.tolist(),
        "scores": {name: rows.tolist() for name, rows in scores.items()},
        "criteria": [dataclasses.asdict(each) | {"passed": each.passed} for each in criteria],
    }
    (study.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def find_criteria(scores: dict[str, np.ndarray]) -> list[Criterion]:
    """The statements of the paper at this scale, and that of the control."""
    iqm = functools.cache(lambda name: interquartile_mean(scores[name]))
    samples = functools.cache(lambda name: resampled(scores[name]))

    def low(first: str, second: str) -> float:
        return float(np.quantile(samples(first) - samples(second), 0.025))

    own = "Scaled Q-learning"
    slope = iqm(own) - iqm("small")
    ablated = iqm("squared error, not normalized") - iqm("small, squared error, not normalized")
    return [
        Criterion("Q1 gain over the data", iqm(own) - iqm("data"), low=0.15),
        Criterion("Q1 lower 95 % bound of this gain", low(own, "data"), low=0.0),
        Criterion("Q1 gain over cloning", iqm(own) - iqm("cloning"), low=0.1),
        Criterion("Q1 lower 95 % bound of this gain", low(own, "cloning"), low=0.0),
        Criterion(
            "control: gain of permuted rewards over cloning",
            iqm("permuted rewards (control)") - iqm("cloning"),
            high=0.02,
        ),
        Criterion("Q2 gain of the larger network", slope, low=0.0),
        Criterion("Q2 share of this gain without both ingredients", ablated / slope if slope > 0 else np.nan, high=0.5),
        Criterion("Q3 loss without distributions", iqm(own) - iqm("squared error"), low=0.05),
        Criterion("Q3 loss without normalized features", iqm(own) - iqm("features not normalized"), low=0.05),
    ]


if __name__ == "__main__":
    main(tyro.cli(Study))
