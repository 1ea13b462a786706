"""Driving tasks from scenarios of any source: the path that the ego drove, and the agents near it. On the host.

A scenario becomes a scene of a task, so that all programs, rewards and policies of driving tasks apply to it. Agents
have the boxes of tasks. Before and after its record an agent keeps its velocity, and the route continues straight.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float

from behavior_models.offline.task_scenes import (
    AGENT_SLOTS,
    CURRENT_STEP,
    RECORD_STEPS,
    Mover,
    Points,
    TaskScene,
    Track,
    arc_length,
)
from behavior_models.offline.tasks import TaskScenes, build_scenes
from waymax_sim.datatypes.agents import PEDESTRIAN
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.signals import GO_STATES, STOP_STATES

# Families that scenarios are searched for.
RECORDED_TASKS = ("following", "red_light")
# Shortest path of an ego, largest speed at the start, m/s, and length of the straight end of a route, m.
MIN_PATH = 20.0
MAX_START_SPEED = 13.0
ROUTE_END = 240.0
PATH_SPACING = 2.0  # m
# Distance of a leader, lateral distance from the route, m, and speed, m/s.
LEADER_RANGE = (6.0, 45.0)
MAX_LEADER_LATERAL = 1.0
MIN_LEADER_SPEED = 2.0
# Arc length of a stop line, m, lateral distance of its stop point, m, and latest begin of green, s.
LINE_RANGE = (8.0, 80.0)
MAX_STOP_LATERAL = 2.0
MAX_RED = 12.0
# Distance between stop line and goal as in the synthetic family, m.
GOAL_AFTER_LINE = 45.0


def recorded_scenes(task: str, scenarios: Iterable[Scenario]) -> TaskScenes | None:
    """Scenes of a task, one for each scenario in which the situation of the task occurs at the present.

    Args:
      task: Name of the task, one of `RECORDED_TASKS`.
      scenarios: Scenarios on the host with steps of 0.1 s.

    Returns:
      The scenes; None without any.

    Raises:
      ValueError: The task has no recorded scenes.
    """
    finders = {"following": find_following, "red_light": find_red_light}
    if task not in finders:
        raise ValueError(f"{task!r} is not taken from scenarios; those tasks are {', '.join(RECORDED_TASKS)}")
    scenes = [(finders[task](scenario), scenario.scenario_id) for scenario in scenarios]
    drawn = [(scene, f"{task}-{name}") for scene, name in scenes if scene is not None]
    return build_scenes(task, drawn) if drawn else None


def find_following(scenario: Scenario) -> TaskScene | None:
    """The scene of an ego behind a moving vehicle; None in other situations."""
    scene = _scene(scenario)
    if scene is None:
        return None
    for mover in scene.movers:
        at, lateral = _project(scene.route, mover.track[CURRENT_STEP][None])
        speed = np.hypot(*(mover.track[CURRENT_STEP] - mover.track[CURRENT_STEP - 1])) / TIME_STEP
        later, _ = _project(scene.route, mover.track[CURRENT_STEP + 10][None])
        in_range = LEADER_RANGE[0] <= at[0] <= LEADER_RANGE[1] and lateral[0] <= MAX_LEADER_LATERAL
        if in_range and speed >= MIN_LEADER_SPEED and later[0] > at[0] and not mover.is_pedestrian:
            return scene
    return None


def find_red_light(scenario: Scenario) -> TaskScene | None:
    """The scene of an ego before a red light that turns green in the record; None in other situations."""
    scene, current = _scene(scenario), int(scenario.current_step)
    if scene is None:
        return None
    signals, position = scenario.signals, _to_ego(scenario)
    for slot in np.flatnonzero(np.asarray(signals.valid)[current]):
        state = np.where(np.asarray(signals.valid)[current:, slot], np.asarray(signals.state)[current:, slot], -1)
        at, lateral = _project(scene.route, position(np.asarray(signals.stop_point)[current, slot, :2])[None])
        is_near = LINE_RANGE[0] <= at[0] <= LINE_RANGE[1] and lateral[0] <= MAX_STOP_LATERAL
        green = np.flatnonzero(np.isin(state, GO_STATES))
        if is_near and state[0] in STOP_STATES and len(green) and green[0] * TIME_STEP <= MAX_RED:
            line = float(at[0])
            changes = {"stop_line": line, "red_until": float(green[0] * TIME_STEP), "goal": line + GOAL_AFTER_LINE}
            return scene._replace(**changes)
    return None


def _scene(scenario: Scenario) -> TaskScene | None:
    """The ego with its path, and the nearest agents, in the frame of the ego; None for an ego that hardly moves."""
    current, ego = int(scenario.current_step), np.flatnonzero(np.asarray(scenario.agents.is_sdc))
    valid, xy = np.asarray(scenario.log.valid), np.asarray(scenario.log.xyz)[..., :2]
    if abs(scenario.time_step - TIME_STEP) > 1e-6 or not len(ego) or not valid[current, ego[0]]:
        return None
    position, last = _to_ego(scenario), int(scenario.last_step) + 1
    own = position(xy[current:last, ego[0]][valid[current:last, ego[0]]])
    speed = float(np.hypot(*np.asarray(scenario.log.velocity)[current, ego[0]]))
    if len(own) < 2 or arc_length(own)[-1] < MIN_PATH or speed > MAX_START_SPEED:
        return None
    others = np.flatnonzero(valid[current] & ~np.asarray(scenario.agents.is_sdc))
    distance = np.hypot(*(xy[current, others] - xy[current, ego[0]]).T)
    movers = [
        Mover(
            _track(position(xy[:last, slot]), valid[:last, slot], current),
            float(np.asarray(scenario.log.yaw)[current, slot] - np.asarray(scenario.log.yaw)[current, ego[0]]),
            is_pedestrian=int(np.asarray(scenario.agents.type)[slot]) == PEDESTRIAN,
        )
        for slot in others[np.argsort(distance, kind="stable")][: AGENT_SLOTS - 1]
    ]
    return TaskScene(_route(own), speed, movers)


def _to_ego(scenario: Scenario):
    """The function from positions of the scenario to those in the frame of the ego at the present."""
    current, ego = int(scenario.current_step), int(np.argmax(np.asarray(scenario.agents.is_sdc)))
    origin, yaw = np.asarray(scenario.log.xyz)[current, ego, :2], float(np.asarray(scenario.log.yaw)[current, ego])
    rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return lambda xy: (np.asarray(xy, float) - origin) @ rotation


def _route(path: Points) -> Points:
    """A path with equal spacing and a straight end; shorter steps, such as those at rest, are left out."""
    points = [path[0]]
    for point in path[1:]:
        if np.hypot(*(point - points[-1])) >= PATH_SPACING:
            points.append(point)
    direction = points[-1] - points[-2]
    direction = direction / np.hypot(*direction)
    at = np.arange(PATH_SPACING, max(ROUTE_END - arc_length(np.array(points))[-1], PATH_SPACING) + 1e-6, PATH_SPACING)
    return np.concatenate([points, points[-1] + at[:, None] * direction])


def _track(xy: Float[np.ndarray, "t 2"], valid: Bool[np.ndarray, " t"], current: int) -> Track:
    """Positions at the steps of a task: interpolated between valid steps, at constant velocity outside of them.

    Args:
      xy: Logged positions.
      valid: Valid steps; at least the current one.
      current: Index of the current step.
    """
    known = np.flatnonzero(valid)
    steps = current + np.arange(RECORD_STEPS) - CURRENT_STEP
    inside = np.stack([np.interp(steps, known, column) for column in xy[known].T], axis=-1)
    if len(known) < 2:
        return inside
    before, after = (np.clip(bound, 0, None)[:, None] for bound in (known[0] - steps, steps - known[-1]))
    first = (xy[known[1]] - xy[known[0]]) / (known[1] - known[0])
    last = (xy[known[-1]] - xy[known[-2]]) / (known[-1] - known[-2])
    return inside - before * first + after * last


def _project(route: Points, xy: Float[np.ndarray, "q 2"]) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Arc length of the nearest point of a route, m, and the distance to it, m; before its begin, negative arc length.

    Args:
      route: The route.
      xy: Positions.
    """
    start, step = route[:-1], np.diff(route, axis=0)
    length = np.hypot(*step.T)
    share = np.einsum("qsd,sd->qs", xy[:, None] - start[None], step) / length**2
    low = np.where(np.arange(len(step)) == 0, -np.inf, 0.0)
    share = np.clip(share, low, 1.0)
    distance = np.hypot(*np.moveaxis(xy[:, None] - (start + share[..., None] * step), -1, 0))
    nearest, rows = distance.argmin(axis=1), np.arange(len(xy))
    at = arc_length(route)[nearest] + share[rows, nearest] * length[nearest]
    return at, distance[rows, nearest]
