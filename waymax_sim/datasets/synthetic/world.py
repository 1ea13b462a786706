"""A synthetic world: its map, right of way, signals, sidewalks and parking rows."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.synthetic.curves import Polyline
from waymax_sim.datatypes import roadmap
from waymax_sim.datatypes.scenario import TIME_STEP
from waymax_sim.datatypes.signals import ARROW_STOP, CAUTION, GO, STOP

NUM_STEPS = 91  # steps of a scene, as in WOMD
NUM_WARM_UP_STEPS = 60  # simulated steps before the first step of the scene
MAX_NUM_STEPS = 1200  # steps of the longest scene
NUM_LIGHT_STEPS = NUM_WARM_UP_STEPS + MAX_NUM_STEPS + 200  # steps of signal states; pedestrians look ahead
YELLOW_TIME = 3.2  # s
ALL_RED_TIME = 1.6  # s between yellow and the next green


@dataclasses.dataclass(frozen=True)
class RightOfWayRule:
    """A lane that may be entered only with the right of way.

    Attributes:
      lane: Row of the lane.
      priority: Agents yield to agents on conflicting lanes of higher priority.
      has_stop_sign: Whether agents stop before they enter the lane.
      light: Column of the light, -1 without a light.
      junction: Index of the junction. Only lanes of the same junction conflict.
    """

    lane: int
    priority: int
    has_stop_sign: bool
    light: int
    junction: int


@dataclasses.dataclass(frozen=True, eq=False)
class Crosswalk:
    """A crosswalk.

    Attributes:
      line: Center line from curb to curb, m.
      width: m.
      light: Column of the light of the lanes that the crosswalk crosses, -1 without a light.
      junction: Index of the junction.
    """

    line: Polyline
    width: float
    light: int
    junction: int


@dataclasses.dataclass(frozen=True, eq=False)
class Parking:
    """A row of parking spaces.

    Attributes:
      line: Center line of the row, m.
      is_perpendicular: Whether vehicles park perpendicular to the line, not along it.
    """

    line: Polyline
    is_perpendicular: bool


@dataclasses.dataclass
class World:
    """A world under construction.

    Attributes:
      features: Type (WOMD tf.Example code), points (m) and speed limit (m/s) of each map feature.
      links: Rows (from, to, kind) between features.
      rules: Lanes that need the right of way.
      internal_lanes: Rows of lanes that do not begin at the border of the map.
      ending_lanes: Rows of lanes that end before the border, so that vehicles have to change lanes.
      crosswalks: Crosswalks.
      sidewalks: Center lines of sidewalks, m.
      parking: Rows of parking spaces.
      lights: (row of a lane, column of `light_states`); the light is at the beginning of the lane.
      light_states: For each column the WOMD state at each step from the beginning of the warm-up on.
      num_junctions: Number of junctions.
      vehicle_density: Initial vehicles per meter of lane.
      pedestrian_density: Factor on the number of pedestrians.
    """

    features: list[tuple[int, Polyline, float]] = dataclasses.field(default_factory=list)
    links: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    rules: list[RightOfWayRule] = dataclasses.field(default_factory=list)
    internal_lanes: set[int] = dataclasses.field(default_factory=set)
    ending_lanes: set[int] = dataclasses.field(default_factory=set)
    crosswalks: list[Crosswalk] = dataclasses.field(default_factory=list)
    sidewalks: list[Polyline] = dataclasses.field(default_factory=list)
    parking: list[Parking] = dataclasses.field(default_factory=list)
    lights: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    light_states: list[Int[np.ndarray, " T"]] = dataclasses.field(default_factory=list)
    num_junctions: int = 0
    vehicle_density: float = 0.02
    pedestrian_density: float = 1.0

    def add(self, feature_type: int, xyz: Polyline, speed: float = 0.0) -> int:
        """Adds a feature and returns its row.

        Args:
          feature_type: WOMD tf.Example code.
          xyz: Points, m.
          speed: Speed limit of a lane, m/s.
        """
        self.features.append((feature_type, xyz, speed))
        return len(self.features) - 1

    def add_successors(self, *lanes: int) -> None:
        """Links each lane to the next as its successor."""
        self.links += [(a, b, roadmap.SUCCESSOR) for a, b in itertools.pairwise(lanes)]

    def add_neighbors(self, left: int, right: int) -> None:
        """Links two lanes of the same direction as neighbors."""
        self.links += [(left, right, roadmap.RIGHT_NEIGHBOR), (right, left, roadmap.LEFT_NEIGHBOR)]

    def successors(self, lane: int) -> list[int]:
        """Successors of a lane."""
        return [b for a, b, kind in self.links if a == lane and kind == roadmap.SUCCESSOR]

    def with_elevation(self, height: Callable[[Float[np.ndarray, "*b 2"]], Float[np.ndarray, "*b"]]) -> "World":
        """The same world with a height of the ground (m), a function of positions, added to all heights."""

        def raise_points(xyz: Polyline) -> Polyline:
            return np.round(np.column_stack([xyz[:, :2], xyz[:, 2] + height(xyz[:, :2])]), 6)

        return dataclasses.replace(
            self,
            features=[(kind, raise_points(xyz), speed) for kind, xyz, speed in self.features],
            crosswalks=[
                dataclasses.replace(crosswalk, line=raise_points(crosswalk.line)) for crosswalk in self.crosswalks
            ],
            sidewalks=[raise_points(line) for line in self.sidewalks],
            parking=[dataclasses.replace(row, line=raise_points(row.line)) for row in self.parking],
        )


def signal_program(phases: Sequence[tuple[set[int], float]], arrows: set[int], rng: np.random.Generator) -> list:
    """States of the lights of one junction over time, a periodic program with a random phase.

    Args:
      phases: Columns (from 0) that are green together, and the duration of green, s. Yellow and all-red follow.
      arrows: Columns that are arrow lights.
      rng: Source of the random phase.

    Returns:
      The state at each step, for each column.
    """
    columns = sorted(set().union(*(green_columns for green_columns, _ in phases)))
    length = sum(green_time + YELLOW_TIME + ALL_RED_TIME for _, green_time in phases)
    seconds = (rng.uniform(0.0, length) + TIME_STEP * np.arange(NUM_LIGHT_STEPS)) % length
    states = np.full((len(columns), len(seconds)), STOP)
    start = 0.0
    for green_columns, green_time in phases:
        for column in green_columns:
            states[column, (start <= seconds) & (seconds < start + green_time + YELLOW_TIME)] = CAUTION
            states[column, (start <= seconds) & (seconds < start + green_time)] = GO
        start += green_time + YELLOW_TIME + ALL_RED_TIME
    for column in arrows:
        states[column] -= STOP - ARROW_STOP
    return list(states)
