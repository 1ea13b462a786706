"""Driving tasks: scenes, rewards, actions and horizon of each family.

All tasks have the actions `ROUTE_ACTIONS`, decide every 0.5 s for at most 15 s, and control the ego alone. They replace
the games of Kumar et al. 2023: Offline Q-learning on diverse multi-task data both scales and generalizes.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.offline import task_scenes as scenes
from behavior_models.offline.actions import ROUTE_ACTIONS
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array, pytree, stack

STEPS_PER_DECISION = 5
TASK_DECISIONS = scenes.NUM_FUTURE_STEPS // STEPS_PER_DECISION


@pytree
class RewardParams:
    """Terms of the reward. The values are choices of this package: the return of good driving is about 0.5 to 1.

    Attributes:
      progress_distance: Distance along the route that is worth 1, m.
      time: Cost per second.
      acceleration: Cost per second at 3 m/s^2, in proportion to the square.
      lateral_speed: Cost per meter of lateral motion from or to the route.
      headway: Cost per second at a time headway of 0 to the vehicle ahead, decreasing linearly to 0 at `min_headway`.
      min_headway: s.
      speeding: Cost per second and m/s above the speed limit.
      failure: Cost of a collision, of crossing the line of a red light and of leaving the corridor; each is terminal.
      min_lateral: Right border of the corridor relative to the route, m.
      max_lateral: Left border, m.
    """

    progress_distance: Float[Array, "*E"] | float = 100.0
    time: Float[Array, "*E"] | float = 0.0
    acceleration: Float[Array, "*E"] | float = 0.01
    lateral_speed: Float[Array, "*E"] | float = 0.005
    headway: Float[Array, "*E"] | float = 0.0
    min_headway: Float[Array, "*E"] | float = 1.5
    speeding: Float[Array, "*E"] | float = 0.05
    failure: Float[Array, "*E"] | float = 1.0
    min_lateral: Float[Array, "*E"] | float = -1.75
    max_lateral: Float[Array, "*E"] | float = 1.75


@dataclasses.dataclass(frozen=True)
class DrivingTask:
    """A family of scenes with its reward and its actions.

    Attributes:
      name: Name.
      generate: Draws a scene.
      reward: Terms of the reward.
      is_lateral: Whether the ego chooses lateral offsets; otherwise it stays on the route.
      num_decisions: Decisions of the longest episode.
      decision_interval: Time between decisions, s.
      reference: Name of the planner whose mean return is the normalized return 1 (`behavior_models.offline.behaviors`).
    """

    name: str
    generate: scenes.SceneGenerator
    reward: RewardParams
    is_lateral: bool = False
    num_decisions: int = TASK_DECISIONS
    decision_interval: float = 0.5
    reference: str = "lookahead"

    @property
    def index(self) -> int:
        """Position in `TASKS`."""
        return list(TASKS).index(self.name)


_FOLLOW = RewardParams(progress_distance=180.0, headway=0.1)
_CROSS = {"time": 0.02}
TASKS = {
    task.name: task
    for task in (
        DrivingTask("following", scenes.following, _FOLLOW),
        DrivingTask("merge", scenes.merge, RewardParams(progress_distance=120.0, headway=0.05, **_CROSS)),
        DrivingTask("left_turn", scenes.left_turn, RewardParams(progress_distance=75.0, **_CROSS)),
        DrivingTask("roundabout", scenes.roundabout, RewardParams(progress_distance=95.0, headway=0.03, **_CROSS)),
        DrivingTask("red_light", scenes.red_light, RewardParams(progress_distance=90.0, **_CROSS)),
        DrivingTask("pedestrians", scenes.pedestrians, RewardParams(progress_distance=70.0, **_CROSS)),
        DrivingTask(
            "stopped_car",
            scenes.stopped_car,
            RewardParams(progress_distance=100.0, max_lateral=4.0, **_CROSS),
            is_lateral=True,
        ),
        DrivingTask(
            "narrow_passage",
            scenes.narrow_passage,
            RewardParams(progress_distance=80.0, min_lateral=-2.5, max_lateral=4.0, **_CROSS),
            is_lateral=True,
        ),
        DrivingTask("cut_in", scenes.cut_in, _FOLLOW),
    )
}
# Tasks of the multi-task experiments, and tasks that are held out for transfer.
TRAINING_TASKS = ("following", "merge", "red_light", "narrow_passage")
HELD_OUT_TASKS = ("roundabout", "cut_in")


@pytree
class TaskScenes:
    """E scenes of any tasks, for one simulation.

    Attributes:
      scenario: The scenarios.
      task: Index of the task in `TASKS`.
      mask: Actions of the task.
      reward: Terms of the reward.
      goal: Arc length of the goal on the route, m.
      limit: Speed limit, m/s.
    """

    scenario: Scenario
    task: Int[Array, " E"]
    mask: Bool[Array, "E L"]
    reward: RewardParams
    goal: Float[Array, " E"]
    limit: Float[Array, " E"]


def draw_scenes(task: str, seed: int, indices: Sequence[int]) -> TaskScenes:
    """Scenes of a task; a pair of seed and index gives the same scene.

    Args:
      task: Name of the task.
      seed: Seed of a series of scenes.
      indices: Indices in the series.

    Raises:
      ValueError: The task does not exist.
    """
    if task not in TASKS:
        raise ValueError(f"{task!r} is no driving task; the tasks are {', '.join(TASKS)}")
    own = TASKS[task]
    drawn = (own.generate(np.random.default_rng([seed, own.index, index])) for index in indices)
    return build_scenes(task, [(scene, f"{task}-{seed}-{index}") for scene, index in zip(drawn, indices, strict=True)])


def build_scenes(task: str, drawn: Sequence[tuple[scenes.TaskScene, str]]) -> TaskScenes:
    """Scenes of a task for the simulation.

    Args:
      task: Name of the task.
      drawn: Scenes with the ids of their scenarios.
    """
    own, rows = TASKS[task], []
    for scene, name in drawn:
        scenario = scenes.build_scenario(scene, name)
        reward = RewardParams(*(np.asarray(value, np.float32) for value in dataclasses.astuple(own.reward)))
        mask = np.asarray(ROUTE_ACTIONS.mask(own.is_lateral))
        numbers = np.asarray(scene.goal, np.float32), np.asarray(scene.limit, np.float32)
        rows.append((scenario, np.asarray(own.index, np.int32), mask, reward, *numbers))
    return TaskScenes(*stack(rows))


def concatenate_scenes(parts: Sequence[TaskScenes]) -> TaskScenes:
    """The scenes of all parts, in order."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
