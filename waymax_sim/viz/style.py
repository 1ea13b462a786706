"""Colours, widths and stacking of everything that is drawn. Widths and sizes are metres on the ground."""

import dataclasses

from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN, UNSET, VEHICLE
from waymax_sim.datatypes.roadmap import (
    CROSSWALK,
    DRIVEWAY,
    LANE_BIKE,
    LANE_TYPES,
    ROAD_EDGE_MEDIAN,
    ROAD_EDGE_TYPES,
    SPEED_BUMP,
)

BACKGROUND = "#e6e8e1"
ASPHALT = "#c3c7cc"
INK = "#20242b"
WHITE, YELLOW = "#ffffff", "#eba900"

# Places in the stack within one level of height (see `levels`), each below 1.
SURFACE, AREA, LANE, MARKING, EDGE, SIGN, TRAJECTORY, AGENT, NOSE, LIGHT, FLAG = (i / 20 for i in range(11))
# Above everything: title, legend, scale bar.
OVERLAY = 1e6


@dataclasses.dataclass(frozen=True)
class Line:
    """How a polyline looks; `dashes` are on and off lengths in line widths."""

    color: str
    width: float
    order: float
    dashes: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Area:
    """How a polygon looks."""

    face: str
    edge: str
    hatch: str | None = None


_BROKEN, _PASSING = (16.0, 24.0), (16.0, 6.0, 4.0, 6.0)
_SINGLE, _DOUBLE = 0.18, 0.36

LINES = {
    **{kind: Line("#aeb3ba", 0.12, LANE) for kind in LANE_TYPES},
    LANE_BIKE: Line("#7fae94", 0.2, LANE),
    # Road lines in the order of WOMD: unknown, then single and double ones, white before yellow.
    5: Line(WHITE, _SINGLE, MARKING),
    6: Line(WHITE, _SINGLE, MARKING, _BROKEN),
    7: Line(WHITE, _SINGLE, MARKING),
    8: Line(WHITE, _DOUBLE, MARKING),
    9: Line(YELLOW, _SINGLE, MARKING, _BROKEN),
    10: Line(YELLOW, _DOUBLE, MARKING, _BROKEN),
    11: Line(YELLOW, _SINGLE, MARKING),
    12: Line(YELLOW, _DOUBLE, MARKING),
    13: Line(YELLOW, _DOUBLE, MARKING, _PASSING),
    **{kind: Line("#3b414b", 0.35, EDGE) for kind in ROAD_EDGE_TYPES},
    ROAD_EDGE_MEDIAN: Line("#6b7280", 0.35, EDGE),
}
# Lanes lie on a strip of asphalt, so that white lines show.
LANE_WIDTH = {kind: 3.7 for kind in LANE_TYPES} | {LANE_BIKE: 1.6}

AREAS = {
    CROSSWALK: Area("#d9dce0", "#ffffff", "////"),
    SPEED_BUMP: Area("#d8c48a", "#a8862a", "xxxx"),
    DRIVEWAY: Area("#d5d7d4", "#bfc2be"),
}

STOP_SIGN_COLOR = "#c1121f"
MARKER_SIZE = 1.8

# After Okabe and Ito: told apart with every common kind of colour blindness.
AGENT_COLORS = {UNSET: "#999999", VEHICLE: "#0072b2", PEDESTRIAN: "#cc5f9b", CYCLIST: "#009e73", OTHER: "#999999"}
SDC_COLOR = "#ffc20a"
# Share of white in the colour of agents that follow the log while others are controlled.
PALENESS = 0.6

FLAG_COLORS = {"overlap": "#e8000b", "offroad": "#ff7f0e"}
OTHER_FLAG_COLOR = "#ff00ff"

GO, CAUTION, STOP, UNKNOWN = "#00a651", "#ffb000", "#e8000b", "#8a8f98"
# Per light state: colour, marker, whether it is filled. Arrows are triangles, flashing lights are hollow.
LIGHTS = (
    (UNKNOWN, "o", True),
    (STOP, "^", True),
    (CAUTION, "^", True),
    (GO, "^", True),
    (STOP, "o", True),
    (CAUTION, "o", True),
    (GO, "o", True),
    (STOP, "o", False),
    (CAUTION, "o", False),
)
