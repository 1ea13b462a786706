"""Pedestrians on sidewalks and crosswalks."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from waymax_sim.datasets.synthetic.curves import SAMPLE_SPACING, Polyline, offset_left, resample, yaw_along
from waymax_sim.datasets.synthetic.paths import interpolate
from waymax_sim.datasets.synthetic.world import NUM_LIGHT_STEPS, Crosswalk, World
from waymax_sim.datatypes.scenario import TIME_STEP
from waymax_sim.datatypes.signals import STOP, STOP_STATES


class PedestrianParams(NamedTuple):
    """Parameters of pedestrians; all are chosen."""

    mean_speed: float = 1.25  # m/s
    speed_spread: float = 0.3  # m/s, standard deviation
    min_speed: float = 0.4  # m/s
    max_speed: float = 1.9  # m/s
    max_acceleration: float = 1.5  # m/s^2; deceleration is at most twice this
    approach_length: float = 12.0  # m walked before and after a crosswalk
    curb_distance: float = 0.7  # m before the curb at which pedestrians wait
    personal_length: float = 1.5  # m ahead that pedestrians keep free
    personal_half_width: float = 1.0  # m to each side that pedestrians keep free
    min_initial_distance: float = 1.6  # m between pedestrians
    sidewalk_rate: float = 0.45  # expected pedestrians per sidewalk


PEDESTRIAN_PARAMS = PedestrianParams()


@dataclasses.dataclass
class Pedestrians:
    """N pedestrians; fields from `arc` on change over time.

    Attributes:
      samples: x, y, z (m) and yaw (rad) along each path, `SAMPLE_SPACING` apart.
      length: Length of each path, m.
      crosswalk: Index of the crosswalk on the path; the number of crosswalks without one.
      curbs: Arc lengths at which the road begins and ends, m; infinite without a crosswalk.
      desired_speed: m/s.
      arc: Arc length, m.
      speed: m/s.
      may_cross: Whether the pedestrian may be on the road.
      is_waiting: Whether the pedestrian waits for vehicles at a crosswalk that lights permit to enter.
    """

    samples: Float[np.ndarray, "N K 4"]
    length: Float[np.ndarray, " N"]
    crosswalk: np.ndarray
    curbs: Float[np.ndarray, "N 2"]
    desired_speed: Float[np.ndarray, " N"]
    arc: Float[np.ndarray, " N"]
    speed: Float[np.ndarray, " N"]
    may_cross: Bool[np.ndarray, " N"]
    is_waiting: Bool[np.ndarray, " N"]

    def poses(self) -> Float[np.ndarray, "N 4"]:
        """Current x, y, z (m) and yaw (rad)."""
        return interpolate(self.samples, np.arange(len(self.arc)), np.clip(self.arc, 0.0, self.length))

    def present(self) -> Bool[np.ndarray, " N"]:
        """Whether each pedestrian is between the ends of the path."""
        return (self.arc > 0.0) & (self.arc < self.length)

    def occupied_crosswalks(self, num_crosswalks: int) -> Bool[np.ndarray, " W"]:
        """Whether a pedestrian is on each crosswalk or waits to enter it."""
        is_occupied = np.zeros(num_crosswalks + 1, bool)
        is_crossing = self.may_cross & (self.arc < self.curbs[:, 1] + 0.4)
        is_occupied[self.crosswalk[is_crossing | self.is_waiting]] = True
        return is_occupied[:-1]

    def step(self, step: int, traffic_stops: np.ndarray, is_reserved: Bool[np.ndarray, " W"]) -> None:
        """Advances all pedestrians by one step.

        Args:
          step: Step since the beginning of the warm-up.
          traffic_stops: Whether lights stop the traffic at each step and crosswalk, see `traffic_stop_table`.
          is_reserved: Whether a vehicle may pass over each crosswalk.
        """
        is_at_curb = np.abs(self.arc - self.curbs[:, 0] + PEDESTRIAN_PARAMS.curb_distance) < 0.5
        for i in np.flatnonzero(is_at_curb & ~self.may_cross):
            num_steps = int((self.curbs[i, 1] - self.arc[i]) / self.desired_speed[i] / TIME_STEP)
            self.is_waiting[i] = traffic_stops[step : step + num_steps, self.crosswalk[i]].all()
            self.may_cross[i] = self.is_waiting[i] and not is_reserved[self.crosswalk[i]]
        self.is_waiting &= ~self.may_cross
        target_speed = np.where(is_at_curb & ~self.may_cross, 0.0, self.desired_speed)
        target_speed[self._is_obstructed()] = 0.0
        max_change = PEDESTRIAN_PARAMS.max_acceleration * TIME_STEP
        new_speed = self.speed + np.clip(target_speed - self.speed, -2 * max_change, max_change)
        self.arc = np.round(self.arc + TIME_STEP * (self.speed + new_speed) / 2, 6)
        self.speed = np.round(new_speed, 6)

    def _is_obstructed(self) -> Bool[np.ndarray, " N"]:
        """Whether a slower pedestrian is right ahead, or one of equal speed and lower index.

        An absent pedestrian is obstructed while another one is near the beginning of the path.
        """
        x, y, _, yaw = self.poses().T
        dx, dy = x - x[:, None], y - y[:, None]
        cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        longitudinal, lateral = cos * dx + sin * dy, cos * dy - sin * dx
        is_ahead = (longitudinal > 0.0) & (longitudinal < PEDESTRIAN_PARAMS.personal_length)
        is_ahead &= np.abs(lateral) < PEDESTRIAN_PARAMS.personal_half_width
        present = self.present()
        is_slower = self.speed < self.speed[:, None] - 1e-3
        is_first = np.tril(np.ones(is_ahead.shape, bool), -1) & (self.speed < self.speed[:, None] + 1e-3)
        is_near = dx * dx + dy * dy < PEDESTRIAN_PARAMS.min_initial_distance * PEDESTRIAN_PARAMS.min_initial_distance
        is_near &= ~present[:, None]
        return (present & ((is_ahead & (is_slower | is_first)) | is_near)).any(axis=1)


def draw_pedestrians(world: World, rng: np.random.Generator) -> Pedestrians:
    """Draws pedestrians at crosswalks and on sidewalks."""
    paths, crosswalks, curbs, arcs, speeds, positions = [], [], [], [], [], []

    def add(path: Polyline, crosswalk: int, curb: tuple[float, float], arc: float) -> None:
        position = path[int(np.clip(arc / SAMPLE_SPACING, 0, len(path) - 1)), :2]
        if any(np.hypot(*(position - other)) < PEDESTRIAN_PARAMS.min_initial_distance for other in positions):
            return
        positions.append(position)
        paths.append(path)
        crosswalks.append(crosswalk)
        curbs.append(curb)
        arcs.append(arc)
        speed = rng.normal(PEDESTRIAN_PARAMS.mean_speed, PEDESTRIAN_PARAMS.speed_spread)
        speeds.append(float(np.clip(speed, PEDESTRIAN_PARAMS.min_speed, PEDESTRIAN_PARAMS.max_speed)))

    approach = PEDESTRIAN_PARAMS.approach_length
    for index, crosswalk in enumerate(world.crosswalks):
        for slot in rng.permutation(4)[: rng.poisson(world.pedestrian_density)].tolist():
            path = _crossing_path(crosswalk, slot)
            curb = approach, SAMPLE_SPACING * (len(path) - 1) - approach
            if curb[1] - curb[0] > 3.0:
                add(path, index, curb, rng.uniform(-6.0, approach - PEDESTRIAN_PARAMS.curb_distance - 0.6))
    for sidewalk in world.sidewalks:
        for _ in range(rng.poisson(PEDESTRIAN_PARAMS.sidewalk_rate * world.pedestrian_density)):
            path = resample(offset_left(sidewalk, rng.uniform(-0.25, 0.25)))
            end = SAMPLE_SPACING * (len(path) - 1)
            add(path, len(world.crosswalks), (np.inf, np.inf), rng.uniform(-10.0, end))
    count, max_samples = len(paths), max([len(path) for path in paths], default=2)
    samples = np.zeros((count, max_samples, 4))
    for row, path in enumerate(paths):
        values = np.column_stack([path, yaw_along(path)])
        samples[row] = np.pad(values, [(0, max_samples - len(path)), (0, 0)], mode="edge")
    return Pedestrians(
        samples=np.round(samples, 9),
        length=np.array([SAMPLE_SPACING * (len(path) - 1) for path in paths]),
        crosswalk=np.array(crosswalks, int),
        curbs=np.array(curbs).reshape(-1, 2),
        desired_speed=np.array(speeds),
        arc=np.array(arcs),
        speed=np.array(speeds),
        may_cross=np.zeros(count, bool),
        is_waiting=np.zeros(count, bool),
    )


def _crossing_path(crosswalk: Crosswalk, slot: int) -> Polyline:
    """A path over a crosswalk in one of four slots: 0 and 1 lead forward, 2 and 3 back, at two lateral offsets."""
    line = crosswalk.line
    direction = line[-1] - line[0]
    direction = np.array([*(direction[:2] / np.hypot(direction[0], direction[1])), 0.0])
    approach = PEDESTRIAN_PARAMS.approach_length * direction
    path = resample(np.stack([line[0] - approach, *line[[0, -1]], line[-1] + approach]))
    path = path[:: 1 if slot < 2 else -1]
    return resample(offset_left(path, -0.35 - 0.95 * (slot % 2)))


def traffic_stop_table(world: World) -> Bool[np.ndarray, "T W"]:
    """Whether the traffic over each crosswalk has to stop, at each step; always true without lights."""
    # The last column is for crosswalks without a light, whose column is -1.
    states = [*world.light_states, np.full(NUM_LIGHT_STEPS, STOP)]
    columns = [np.isin(states[crosswalk.light], STOP_STATES) for crosswalk in world.crosswalks]
    return np.array(columns, bool).reshape(-1, NUM_LIGHT_STEPS).T
