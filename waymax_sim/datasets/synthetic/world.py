"""A made-up place: its map, who has the right of way on it, and where people walk and park."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.synthetic.curves import Polyline
from waymax_sim.datatypes import roadmap

NUM_STEPS, TIME_STEP = 91, 0.1  # s
WARM_UP = 60  # steps before the record
LIGHT_STEPS = WARM_UP + NUM_STEPS + 200  # from the beginning of the warm-up on; people look ahead
ARROW_STOP, ARROW_CAUTION, ARROW_GO, STOP, CAUTION, GO = range(1, 7)  # WOMD light states
CAUTION_TIME, CLEARANCE_TIME = 3.2, 1.6  # s of yellow, and of red for all


@dataclasses.dataclass(frozen=True)
class Gate:
    """The right to drive on a lane, asked for at its beginning.

    Attributes:
      lane: Row of the lane.
      rank: Who has a lower rank waits for whoever comes on a lane that crosses.
      stops: Whether a stop sign stands there.
      light: Column of the light, -1 where there is none.
      place: Number of the junction. Only lanes of one junction cross.
    """

    lane: int
    rank: int
    stops: bool
    light: int
    place: int


@dataclasses.dataclass(frozen=True, eq=False)
class Crosswalk:
    """Where people cross.

    Attributes:
      way: From kerb to kerb, m.
      width: m.
      light: Column of the light whose red stops the traffic there, -1 where there is none.
      place: Number of the junction.
    """

    way: Polyline
    width: float
    light: int
    place: int


@dataclasses.dataclass(frozen=True, eq=False)
class Parking:
    """A row of parked cars along a line (m): one behind the other, or side by side."""

    line: Polyline
    sideways: bool


@dataclasses.dataclass
class World:
    """A place under construction.

    Attributes:
      features: Type (WOMD tf.Example code), points (m) and speed limit (m/s) of each map feature.
      links: Rows (from, to, kind) between features.
      gates: Lanes that one needs the right of way for.
      inner: Lanes that do not begin at the border of the place.
      endings: Lanes that end before the border of the place: one has to change.
      crosswalks: Where people cross.
      walks: Lines that people walk along, m.
      parking: Where cars stand.
      lights: (row of a lane, column of `light_states`); the light stands at the beginning of the lane.
      light_states: For each column the WOMD state at each step from the beginning of the warm-up on.
      num_places: Number of junctions.
      density: Vehicles per metre of lane to begin with.
      people: How busy the pavements are; 1 is usual.
    """

    features: list[tuple[int, Polyline, float]] = dataclasses.field(default_factory=list)
    links: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    gates: list[Gate] = dataclasses.field(default_factory=list)
    inner: set[int] = dataclasses.field(default_factory=set)
    endings: set[int] = dataclasses.field(default_factory=set)
    crosswalks: list[Crosswalk] = dataclasses.field(default_factory=list)
    walks: list[Polyline] = dataclasses.field(default_factory=list)
    parking: list[Parking] = dataclasses.field(default_factory=list)
    lights: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    light_states: list[Int[np.ndarray, " T"]] = dataclasses.field(default_factory=list)
    num_places: int = 0
    density: float = 0.02
    people: float = 1.0

    def add(self, feature_type: int, xyz: Polyline, speed: float = 0.0) -> int:
        """Adds a feature and returns its row."""
        self.features.append((feature_type, xyz, speed))
        return len(self.features) - 1

    def follow(self, *lanes: int) -> None:
        """Each lane leads to the next."""
        self.links += [(a, b, roadmap.SUCCESSOR) for a, b in itertools.pairwise(lanes)]

    def beside(self, left: int, right: int) -> None:
        """Two lanes of the same direction lie side by side."""
        self.links += [(left, right, roadmap.RIGHT_NEIGHBOR), (right, left, roadmap.LEFT_NEIGHBOR)]

    def successors(self, lane: int) -> list[int]:
        """Lanes that a lane leads to."""
        return [b for a, b, kind in self.links if a == lane and kind == roadmap.SUCCESSOR]

    def on_ground(self, height: Callable[[Float[np.ndarray, "*b 2"]], Float[np.ndarray, "*b"]]) -> "World":
        """The same place on uneven ground; `height` (m) is added to whatever height things have."""

        def up(xyz: Polyline) -> Polyline:
            return np.round(np.column_stack([xyz[:, :2], xyz[:, 2] + height(xyz[:, :2])]), 6)

        return dataclasses.replace(
            self,
            features=[(kind, up(xyz), speed) for kind, xyz, speed in self.features],
            crosswalks=[dataclasses.replace(crosswalk, way=up(crosswalk.way)) for crosswalk in self.crosswalks],
            walks=[up(walk) for walk in self.walks],
            parking=[dataclasses.replace(row, line=up(row.line)) for row in self.parking],
        )


def light_programme(phases: Sequence[tuple[set[int], float]], arrows: set[int], rng: np.random.Generator) -> list:
    """States over time of the lights of one junction, which repeat from a random moment on.

    Args:
      phases: Columns (from 0) that are open together, and for how long, s. Each phase ends in yellow, then red for all.
      arrows: Columns that are arrows.
      rng: Draws the moment.

    Returns:
      For each column the state at each step.
    """
    columns = sorted(set().union(*(opened for opened, _ in phases)))
    length = sum(green + CAUTION_TIME + CLEARANCE_TIME for _, green in phases)
    seconds = (rng.uniform(0.0, length) + TIME_STEP * np.arange(LIGHT_STEPS)) % length
    states = np.full((len(columns), len(seconds)), STOP)
    start = 0.0
    for opened, green in phases:
        for column in opened:
            states[column, (start <= seconds) & (seconds < start + green + CAUTION_TIME)] = CAUTION
            states[column, (start <= seconds) & (seconds < start + green)] = GO
        start += green + CAUTION_TIME + CLEARANCE_TIME
    for column in arrows:
        states[column] -= STOP - ARROW_STOP
    return list(states)
