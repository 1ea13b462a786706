"""Learned difficulty: a logistic regression on the initial scene that predicts failures of a policy."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.evaluation.difficulty import PARAMS, DifficultyParams, edge_distance, pairwise_risk
from waymax_sim.pytree import tree_index
from waymax_sim.results_dir import Json

# Features of an agent at the start. All but the goal are part of the initial scene.
AGENT_FEATURES = (
    "speed",
    "goal_distance",
    "speed_deficit",
    "goal_angle",
    "gap",
    "time_to_collision",
    "num_near",
    "num_moving_near",
    "edge_distance",
    "length",
)
# Newton steps of the fit, and the change of a coefficient at which it has converged.
MAX_NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-8
MIN_MOVING_SPEED = 1.0  # m/s


def agent_features(
    scenario: Scenario, rows: Int[np.ndarray, " O"], params: DifficultyParams = PARAMS
) -> Float[np.ndarray, "O F"]:
    """Features of agents at the current step, in the order of `AGENT_FEATURES`.

    Speed (m/s), distance (m) and absolute bearing (rad) of the goal, mean speed that the goal requires minus the speed
    (m/s), gap (m) and time to collision (s) of the nearest other agent, numbers of other and of moving agents within
    20 m, distance to the road edge (m), length (m). Goals are those of the scenario, else the ends of the log.

    Args:
      scenario: One scenario in host memory.
      rows: Slots of the agents, which are valid.
      params: Constants.
    """
    first = int(scenario.current_step)
    now = AgentState(*(np.asarray(leaf)[first][None] for leaf in _leaves(scenario.log)))
    own: AgentState = tree_index(now, (slice(None), rows))
    gap, time = (
        np.where(np.isnan(values), limit, values)[0].min(axis=-1)
        for values, limit in zip(
            pairwise_risk(now, np.asarray(scenario.agents.size), rows, params),
            (params.max_gap, params.max_time_to_collision),
            strict=True,
        )
    )
    speed = np.linalg.norm(own.velocity[0], axis=-1)
    to_goal = _goals(scenario)[rows] - own.xyz[0, :, :2]
    distance = np.linalg.norm(to_goal, axis=-1)
    angle = np.abs((np.arctan2(to_goal[:, 1], to_goal[:, 0]) - own.yaw[0] + np.pi) % (2 * np.pi) - np.pi)
    duration = max(scenario.num_remaining_steps, 1) * scenario.time_step
    center = np.linalg.norm(own.xyz[0, :, None, :2] - now.xyz[0, None, :, :2], axis=-1)
    is_near = (center < params.near) & now.valid[0][None] & (rows[:, None] != np.arange(now.valid.shape[1])[None])
    is_moving = np.linalg.norm(now.velocity[0], axis=-1) > MIN_MOVING_SPEED
    edge = edge_distance(scenario, own, params)[0]
    columns = (
        speed,
        distance,
        distance / duration - speed,
        angle,
        gap,
        time,
        is_near.sum(axis=1),
        (is_near & is_moving[None]).sum(axis=1),
        np.where(np.isnan(edge), params.max_gap, edge),
        np.asarray(scenario.agents.size)[rows, 0],
    )
    return np.stack(columns, axis=-1).astype(float)


def _leaves(log: AgentState) -> tuple:
    return log.xyz, log.yaw, log.velocity, log.valid


def _goals(scenario: Scenario) -> Float[np.ndarray, "N 2"]:
    if scenario.goals is not None:
        return np.asarray(scenario.goals.xy)
    valid = np.asarray(scenario.log.valid) & (np.arange(scenario.num_steps) >= int(scenario.current_step))[:, None]
    last = np.max(np.where(valid, np.arange(len(valid))[:, None], 0), axis=0)
    return np.asarray(scenario.log.xyz)[last, np.arange(scenario.num_agents), :2]


@dataclasses.dataclass(frozen=True)
class DifficultyModel:
    """A logistic regression on standardized features, their squares and their products.

    Attributes:
      center: Means of the features.
      scale: Standard deviations of the features.
      coefficients: Of the constant and the terms.
    """

    center: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]
    coefficients: Float[np.ndarray, " P"]

    def predict(self, features: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """Probability of a failure."""
        return _logistic(_design(features, self.center, self.scale) @ self.coefficients)

    def to_json(self) -> Json:
        """The model as plain values."""
        return {name: value.tolist() for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Json) -> "DifficultyModel":
        """The model of `to_json`."""
        return cls(**{field.name: np.asarray(stored[field.name], float) for field in dataclasses.fields(cls)})


def fit_difficulty(
    features: Float[np.ndarray, "n F"], failed: Bool[np.ndarray, " n"], ridge: float = 3.0
) -> DifficultyModel:
    """Fits a model by Newton steps on the penalized log-likelihood (ridge logistic regression).

    Args:
      features: Features of agents.
      failed: Whether the policy failed to reach the goal without harm.
      ridge: Weight of the squared coefficients, without the constant.

    Raises:
      ValueError: All agents failed, or none.
    """
    label = np.asarray(failed, float)
    if label.min(initial=1.0) == label.max(initial=0.0) or not len(label):
        raise ValueError("a model of failures needs agents that failed and agents that did not")
    center, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    design = _design(features, center, scale)
    penalty = ridge * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    coefficients = np.zeros(design.shape[1])
    for _ in range(MAX_NEWTON_STEPS):
        probability = _logistic(design @ coefficients)
        gradient = design.T @ (label - probability) - penalty @ coefficients
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design + penalty
        change = np.linalg.solve(hessian + 1e-9 * np.eye(len(hessian)), gradient)
        coefficients = coefficients + change
        if np.max(np.abs(change)) < NEWTON_TOLERANCE:
            break
    return DifficultyModel(center, scale, coefficients)


def _design(features: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The constant, the features within three standard deviations, and their products."""
    values = np.clip((features - center[None]) / scale[None], -3.0, 3.0)
    first, second = np.triu_indices(values.shape[1])
    return np.concatenate([np.ones((len(values), 1)), values, values[:, first] * values[:, second]], axis=1)


def _logistic(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -50.0, 50.0)))


def area_under_curve(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> float:
    """Probability that an agent with the label has a larger score than one without; NaN without both kinds.

    Source: the rank statistic of Mann and Whitney 1947; equal scores count one half.
    """
    positive, negative = np.sort(score[label]), score[~label]
    if not len(positive) or not len(negative):
        return np.nan
    below, until = np.searchsorted(positive, negative, "left"), np.searchsorted(positive, negative, "right")
    return float(1 - np.mean((below + until) / 2) / len(positive))
