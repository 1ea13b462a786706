"""Difficulty of scenes from their content and log, slices by difficulty, and curriculum weights.

All of it runs in NumPy on the host: nothing is simulated or compiled. The logged future is used, so difficulty
describes scenes for reports and training, and no policy observes it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import VEHICLE, AgentState, select
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import tree_index

# Features of a scene; larger values are more difficult.
FEATURES = ("closeness", "urgency", "speed", "turn", "conflicts", "edge_closeness", "crowding")
# Slices of scenes: the most difficult share of all scenes. Each needs at least two scenes.
TOP_SHARES = {"top 1%": 0.01, "top 10%": 0.1, "top 50%": 0.5, "all": 1.0}
NUM_DECILES = 10


@dataclasses.dataclass(frozen=True)
class DifficultyParams:
    """Constants of the features. Chosen; the results are ranks, which depend little on them.

    Attributes:
      interval: Time between evaluated steps of the log, s.
      max_time_to_collision: Largest time to collision, s, as in the metric `time_to_collision`.
      max_miss_distance: Agents that would pass farther from each other do not collide, m.
      max_gap: Larger gaps to other agents and to road edges are equal, m.
      max_conflict_time: Largest time between two agents at the crossing of their paths, s.
      min_conflict_angle: Smallest angle of crossing paths, rad.
      near: Radius in which agents are counted, m.
      min_travel: Distance from which an agent travels, m, as in the selector `Traveling`.
    """

    interval: float = 0.5
    max_time_to_collision: float = 5.0
    max_miss_distance: float = 2.5
    max_gap: float = 20.0
    max_conflict_time: float = 3.0
    min_conflict_angle: float = 0.35
    near: float = 20.0
    min_travel: float = 4.0


PARAMS = DifficultyParams()


def scene_features(scenario: Scenario, agents: str = "sdc", params: DifficultyParams = PARAMS) -> dict[str, float]:
    """The features of a scene for some of its agents, from the current step to the end of the log.

    closeness: minus the smallest gap between the boxes of an agent and of another one, m. urgency: minus the smallest
    time to collision at constant velocities, s. speed: the largest speed, m/s. turn: the largest change of the heading
    from the start, rad. conflicts: the number of agents whose logged paths cross that of the agent within 3 s; the
    largest of all agents. edge_closeness: minus the smallest distance from a center to a road edge, m. crowding: mean
    number of others within 20 m at the start.

    Args:
      scenario: One scenario in host memory.
      agents: The agents that a policy will control, a `Selector`.
      params: Constants.

    Returns:
      NaN for a feature that is undefined: all of them without any agent, gaps without others or road edges.
    """
    mask = agent_mask(scenario, agents, params)
    rows = np.flatnonzero(mask & np.asarray(scenario.log.valid)[int(scenario.current_step)])
    if not len(rows):
        return dict.fromkeys(FEATURES, np.nan)
    log = _sampled_log(scenario, params)
    gap, time = pairwise_risk(log, np.asarray(scenario.agents.size), rows, params)
    own: AgentState = tree_index(log, (slice(None), rows))
    turn = np.abs((own.yaw - own.yaw[:1] + np.pi) % (2 * np.pi) - np.pi)
    center = np.linalg.norm(log.xyz[0, rows, None, :2] - log.xyz[0, None, :, :2], axis=-1)
    is_near = (center < params.near) & log.valid[0][None]
    return {
        "closeness": -_smallest(gap),
        "urgency": -_smallest(time),
        "speed": float(np.max(np.linalg.norm(own.velocity, axis=-1), initial=0.0, where=own.valid)),
        "turn": float(np.max(turn, initial=0.0, where=own.valid)),
        "conflicts": float(np.max(count_conflicts(log, rows, params))),
        "edge_closeness": -_smallest(edge_distance(scenario, own, params)),
        "crowding": float(np.mean(is_near.sum(axis=1) - 1)),
    }


def agent_mask(scenario: Scenario, agents: str, params: DifficultyParams = PARAMS) -> Bool[np.ndarray, " N"]:
    """The agents of a selector, as `select_agents` selects them, in NumPy.

    Args:
      scenario: One scenario in host memory.
      agents: A `Selector`.
      params: Constants.
    """
    info = scenario.agents
    if agents != "traveling":
        return np.asarray(select(info, agents))
    first, xy = int(scenario.current_step), np.asarray(scenario.log.xyz)[..., :2]
    valid = np.asarray(scenario.log.valid)[first:]
    last = first + np.max(np.where(valid, np.arange(len(valid))[:, None], 0), axis=0)
    travel = np.linalg.norm(xy[last, np.arange(xy.shape[1])] - xy[first], axis=-1)
    is_vehicle = np.asarray(info.exists) & (np.asarray(info.type) == VEHICLE)
    return is_vehicle & valid[0] & (travel > params.min_travel)


def pairwise_risk(
    log: AgentState, size: Float[np.ndarray, "N 3"], rows: Int[np.ndarray, " O"], params: DifficultyParams
) -> tuple[Float[np.ndarray, "T O N"], Float[np.ndarray, "T O N"]]:
    """Gaps (m) between boxes, and times to collision (s) at constant velocities; NaN where a state is not valid.

    The gap is that of `geometry.box_separation`, limited to `max_gap`. The time is the gap over the closing speed of
    the centers, for agents that would pass each other within `max_miss_distance`.

    Args:
      log: States, [T, N].
      size: Boxes, m.
      rows: The evaluated agents.
      params: Constants.
    """
    offset = (log.xyz[:, None, :, :2] - log.xyz[:, rows, None, :2]).astype(float)
    motion = (log.velocity[:, None] - log.velocity[:, rows, None]).astype(float)
    gap = _box_gap(offset, log.yaw[:, rows, None], log.yaw[:, None], size[rows, None, :2], size[None, :, :2])
    distance, speed = np.linalg.norm(offset, axis=-1), np.linalg.norm(motion, axis=-1)
    closing = -np.sum(offset * motion, axis=-1) / np.maximum(distance, 1e-6)
    miss = np.abs(offset[..., 0] * motion[..., 1] - offset[..., 1] * motion[..., 0]) / np.maximum(speed, 1e-6)
    approaches = (closing > 1e-6) & (miss < params.max_miss_distance)
    time = np.where(approaches, np.maximum(gap, 0.0) / np.maximum(closing, 1e-6), np.inf)
    time = np.minimum(np.where(gap <= 0, 0.0, time), params.max_time_to_collision)
    is_self = rows[:, None] == np.arange(log.valid.shape[1])[None]
    valid = log.valid[:, rows, None] & log.valid[:, None] & ~is_self[None]
    return np.where(valid, np.minimum(gap, params.max_gap), np.nan), np.where(valid, time, np.nan)


def _box_gap(
    offset: Float[np.ndarray, "T O N 2"],
    yaw: Float[np.ndarray, "T O 1"],
    other_yaw: Float[np.ndarray, "T 1 N"],
    size: Float[np.ndarray, "O 1 2"],
    other_size: Float[np.ndarray, "1 N 2"],
) -> Float[np.ndarray, "T O N"]:
    """The largest gap (m) along the axes of two boxes, negative where they overlap (separating-axis test).

    Args:
      offset: Vectors from the boxes to the others, m.
      yaw: Headings, rad.
      other_yaw: Headings of the others, rad.
      size: Length and width, m.
      other_size: Length and width of the others, m.
    """
    turn = other_yaw - yaw
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    gaps = []
    for angle, own, other in ((yaw, size, other_size), (other_yaw, other_size, size)):
        along = offset[..., 0] * np.cos(angle) + offset[..., 1] * np.sin(angle)
        across = offset[..., 1] * np.cos(angle) - offset[..., 0] * np.sin(angle)
        gaps.append(np.abs(along) - (own[..., 0] + other[..., 0] * cos + other[..., 1] * sin) / 2)
        gaps.append(np.abs(across) - (own[..., 1] + other[..., 0] * sin + other[..., 1] * cos) / 2)
    return np.max(gaps, axis=0)


def count_conflicts(
    log: AgentState, rows: Int[np.ndarray, " O"], params: DifficultyParams = PARAMS
) -> Int[np.ndarray, " O"]:
    """Number of agents whose logged paths cross those of given agents, both at nearly the same time.

    Args:
      log: States at equal intervals, [T, N].
      rows: The agents.
      params: Constants.
    """
    xy, valid = log.xyz[..., :2].astype(float), log.valid[:-1] & log.valid[1:]
    start, along = xy[:-1].swapaxes(0, 1), np.diff(xy, axis=0).swapaxes(0, 1)
    # Segments of agent i by those of agent j, [O, N, T - 1, T - 1].
    a, u = start[rows][:, None, :, None], along[rows][:, None, :, None]
    b, v = start[None, :, None], along[None, :, None]
    determinant = _cross(u, v)
    safe = np.where(np.abs(determinant) > 1e-9, determinant, np.inf)
    own, other = _cross(b - a, v) / safe, _cross(b - a, u) / safe
    lengths = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
    crosses = (own >= 0) & (own < 1) & (other >= 0) & (other < 1) & np.isfinite(safe)
    crosses &= np.abs(determinant) > np.sin(params.min_conflict_angle) * lengths
    step = np.arange(len(valid))
    delay = params.interval * np.abs((step[:, None] + own) - (step[None] + other))
    both = valid.T[rows][:, None, :, None] & valid.T[None, :, None]
    return np.any(crosses & both & (delay <= params.max_conflict_time), axis=(2, 3)).sum(axis=1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def edge_distance(
    scenario: Scenario, agents: AgentState, params: DifficultyParams = PARAMS
) -> Float[np.ndarray, "T O"]:
    """Distance (m) from centers to the nearest point of a road edge, at most `max_gap`; NaN without edges.

    Args:
      scenario: The scenario.
      agents: States, [T, O].
      params: Constants.
    """
    valid = np.asarray(scenario.edges.valid).reshape(-1)
    start, end = (np.asarray(point)[valid, :2].astype(float) for point in (scenario.edges.start, scenario.edges.end))
    if not len(start):
        return np.full(agents.valid.shape, np.nan)
    # Only segments near the agents matter.
    points = agents.xyz[..., :2].reshape(-1, 2).astype(float)
    used = points[agents.valid.reshape(-1)]
    low, high = used.min(axis=0) - params.max_gap, used.max(axis=0) + params.max_gap
    is_near = np.all((np.maximum(start, end) > low) & (np.minimum(start, end) < high), axis=1)
    start, along = start[is_near], (end - start)[is_near]
    offset = points[:, None] - start[None]
    share = np.sum(offset * along[None], axis=-1) / np.maximum(np.sum(along**2, axis=-1), 1e-9)[None]
    nearest = offset - np.clip(share, 0.0, 1.0)[..., None] * along[None]
    distance = np.min(np.linalg.norm(nearest, axis=-1), axis=1, initial=params.max_gap).reshape(agents.valid.shape)
    return np.where(agents.valid, distance, np.nan)


def _sampled_log(scenario: Scenario, params: DifficultyParams) -> AgentState:
    """The log from the current step on, at the interval of the features."""
    stride = max(1, round(params.interval / scenario.time_step))
    log: AgentState = tree_index(scenario.log, slice(int(scenario.current_step), int(scenario.last_step) + 1, stride))
    return AgentState(*(np.asarray(leaf) for leaf in (log.xyz, log.yaw, log.velocity, log.valid)))


def _smallest(values: np.ndarray) -> float:
    return float(np.nanmin(values)) if np.any(~np.isnan(values)) else np.nan


def difficulty_scores(features: Sequence[dict[str, float]]) -> Float[np.ndarray, " S"]:
    """Computed difficulty of scenes in [0, 1]: the mean percentile rank over the features.

    Ranks are among the given scenes; equal values share the mean of their ranks. Undefined features are left out of
    the mean, and a scene without any has the score NaN.

    Args:
      features: `scene_features` of each scene.
    """
    table = np.array([[row[name] for name in FEATURES] for row in features], float).reshape(-1, len(FEATURES))
    ranks = np.stack([percentile_ranks(column) for column in table.T], axis=-1)
    count = (~np.isnan(ranks)).sum(axis=-1)
    return np.divide(np.nansum(ranks, axis=-1), count, out=np.full(len(ranks), np.nan), where=count > 0)


def percentile_ranks(values: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Share of the other defined values that are smaller, half of the equal ones included; NaN for NaN."""
    defined = np.sort(values[~np.isnan(values)])
    below, until = np.searchsorted(defined, values, "left"), np.searchsorted(defined, values, "right")
    ranks = (below + until - 1) / 2 / max(len(defined) - 1, 1)
    return np.where(np.isnan(values), np.nan, ranks if len(defined) > 1 else 0.5)


def top_slices(scores: Float[np.ndarray, " S"]) -> dict[str, Int[np.ndarray, " n"]]:
    """Indices of the most difficult scenes: the shares of `TOP_SHARES` that have at least two scenes."""
    order = _hardest_first(scores)
    sizes = {name: round(share * len(order)) for name, share in TOP_SHARES.items()}
    return {name: np.sort(order[:size]) for name, size in sizes.items() if size >= 2}


def deciles(scores: Float[np.ndarray, " S"]) -> list[Int[np.ndarray, " n"]]:
    """Indices of scenes by decile, the easiest first; none with fewer than two scenes per decile."""
    order = _hardest_first(scores)[::-1]
    return [] if len(order) < 2 * NUM_DECILES else [np.sort(part) for part in np.array_split(order, NUM_DECILES)]


def curriculum_weights(
    scores: Float[np.ndarray, " S"], share: float = 0.1, mixture: float = 0.5
) -> Float[np.ndarray, " S"]:
    """Weights of random draws (`ScenarioBank.weights`) that prefer the most difficult scenes; their sum is 1.

    Training on the most difficult 10 % is that of Lu et al. 2022 ("Imitation Is Not Enough"), here mixed with uniform
    draws.

    Args:
      scores: Difficulty of each scene; scenes with NaN are only drawn uniformly.
      share: Share of the scenes that are preferred; at least one scene.
      mixture: Probability of a draw among these scenes.

    Raises:
      ValueError: A share is not in (0, 1], the mixture not in [0, 1], or no score is defined.
    """
    if not 0 < share <= 1 or not 0 <= mixture <= 1:
        raise ValueError(f"share={share} must be in (0, 1], and mixture={mixture} in [0, 1]")
    order = _hardest_first(scores)
    if not len(order):
        raise ValueError("no scene has a difficulty")
    hardest = order[: max(1, round(share * len(order)))]
    weights = np.full(len(scores), (1 - mixture) / len(scores))
    weights[hardest] += mixture / len(hardest)
    return weights.astype(np.float32)


def _hardest_first(scores: Float[np.ndarray, " S"]) -> Int[np.ndarray, " n"]:
    """Indices of the scenes with a score; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])]
