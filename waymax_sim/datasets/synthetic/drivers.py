"""Driver models: acceleration as a function of the observation and the parameters of each driver, in NumPy."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

MAX_DECELERATION = 7.0  # m/s^2
STOP_LINE_MIN_GAP = 1.0  # m, desired gap to a stop line at standstill
MIN_GAP_DENOMINATOR = 0.1  # m, lower bound of gaps
MIN_DESIRED_SPEED = 0.5  # m/s, lower bound of desired speeds


@dataclasses.dataclass(frozen=True)
class DriverObservation:
    """Observation of N drivers.

    Attributes:
      speed: Own speed, m/s.
      allowed_speed: Speed limit, reduced in bends, m/s.
      gap: Distance to the leader, bumper to bumper, m; infinite without a leader.
      leader_speed: Speed of the leader, m/s.
      stop_distance: Distance to the line to stop at, m; infinite without one.
    """

    speed: Float[np.ndarray, " N"]
    allowed_speed: Float[np.ndarray, " N"]
    gap: Float[np.ndarray, " N"]
    leader_speed: Float[np.ndarray, " N"]
    stop_distance: Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class DriverParams:
    """Parameters of N drivers.

    Attributes:
      speed_factor: Desired speed divided by the allowed speed.
      time_headway: Desired time headway, s.
      min_gap: Desired gap at standstill, m.
      max_acceleration: m/s^2.
      comfortable_deceleration: m/s^2.
    """

    speed_factor: Float[np.ndarray, " N"]
    time_headway: Float[np.ndarray, " N"]
    min_gap: Float[np.ndarray, " N"]
    max_acceleration: Float[np.ndarray, " N"]
    comfortable_deceleration: Float[np.ndarray, " N"]

    def select(self, rows: np.ndarray) -> "DriverParams":
        """The parameters of some drivers."""
        return DriverParams(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


Driver = Callable[[DriverObservation, DriverParams], Float[np.ndarray, " N"]]


def draw_driver_params(count: int, rng: np.random.Generator) -> DriverParams:
    """Log-normal parameters, correlated by a common factor of aggressiveness, within limits."""
    aggressiveness = rng.normal(0.0, 1.0, count)

    def draw(median: float, correlation: float, spread: float) -> np.ndarray:
        return median * np.exp(correlation * aggressiveness + rng.normal(0.0, spread, count))

    return DriverParams(
        speed_factor=np.clip(draw(0.95, 0.06, 0.06), 0.7, 1.15),
        time_headway=np.clip(draw(1.25, -0.2, 0.15), 0.7, 2.2),
        min_gap=np.clip(draw(2.2, -0.1, 0.2), 1.4, 4.0),
        max_acceleration=np.clip(draw(1.6, 0.15, 0.15), 0.9, 2.6),
        comfortable_deceleration=np.clip(draw(2.0, 0.15, 0.1), 1.3, 3.0),
    )


def idm_acceleration(observation: DriverObservation, params: DriverParams) -> Float[np.ndarray, " N"]:
    """Acceleration by the Intelligent Driver Model (Treiber, Hennecke, Helbing 2000), m/s^2.

    A line to stop at acts as a leader at rest with a desired gap of `STOP_LINE_MIN_GAP`. Without interaction the
    deceleration is at most the comfortable one.
    """
    speed = observation.speed
    root = 2 * np.sqrt(params.max_acceleration * params.comfortable_deceleration)
    # Row 0 is the leader, row 1 the line to stop at.
    approach_rate = np.stack([speed - observation.leader_speed, speed])
    min_gap = np.stack([params.min_gap, np.full_like(speed, STOP_LINE_MIN_GAP)])
    desired_gap = min_gap + np.maximum(0.0, speed * (params.time_headway + approach_rate / root))
    gap_ratio = desired_gap / np.maximum(np.stack([observation.gap, observation.stop_distance]), MIN_GAP_DENOMINATOR)
    interaction = np.max(gap_ratio * gap_ratio, axis=0)
    speed_ratio = speed / np.maximum(params.speed_factor * observation.allowed_speed, MIN_DESIRED_SPEED)
    free = 1 - speed_ratio * speed_ratio * speed_ratio * speed_ratio
    free_acceleration = np.maximum(params.max_acceleration * free, -params.comfortable_deceleration)
    acceleration = free_acceleration - params.max_acceleration * interaction
    return np.clip(acceleration, -MAX_DECELERATION, params.max_acceleration)
