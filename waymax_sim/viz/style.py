"""Colors, widths and drawing order. Widths and sizes are meters on the ground."""

import dataclasses

from waymax_sim.datatypes import signals
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

BACKGROUND_COLOR = "#e6e8e1"
ASPHALT_COLOR = "#c3c7cc"
INK_COLOR = "#20242b"
WHITE_COLOR = "#ffffff"
YELLOW_COLOR = "#eba900"

# Drawing order within one level of height (see `levels`); all below 1.
SURFACE_ZORDER = 0.0
AREA_ZORDER = 0.05
LANE_ZORDER = 0.1
MARKING_ZORDER = 0.15
EDGE_ZORDER = 0.2
SIGN_ZORDER = 0.25
TRAJECTORY_ZORDER = 0.3
AGENT_ZORDER = 0.35
NOSE_ZORDER = 0.4
LIGHT_ZORDER = 0.45
# Title, legend and scale bar are drawn above all levels.
OVERLAY_ZORDER = 1e6


@dataclasses.dataclass(frozen=True)
class LineStyle:
    """Appearance of a polyline.

    Attributes:
      color: Color.
      width: Width on the ground, m.
      zorder: Drawing order within a level of height.
      dashes: Alternating on and off lengths in units of the width; None for a solid line.
    """

    color: str
    width: float
    zorder: float
    dashes: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class AreaStyle:
    """Appearance of a polygon: colors of face and edge, hatch pattern of matplotlib."""

    face: str
    edge: str
    hatch: str | None = None


# Dashes of broken lines and of double lines that may be crossed from one side, line widths.
_BROKEN = (16.0, 24.0)
_PASSING = (16.0, 6.0, 4.0, 6.0)
# Widths of single and double road lines, m.
_SINGLE = 0.18
_DOUBLE = 0.36

LINE_STYLES = {
    **{kind: LineStyle("#aeb3ba", 0.12, LANE_ZORDER) for kind in LANE_TYPES},
    LANE_BIKE: LineStyle("#7fae94", 0.2, LANE_ZORDER),
    # Road lines in the order of WOMD: unknown, then single and double ones, white before yellow.
    5: LineStyle(WHITE_COLOR, _SINGLE, MARKING_ZORDER),
    6: LineStyle(WHITE_COLOR, _SINGLE, MARKING_ZORDER, _BROKEN),
    7: LineStyle(WHITE_COLOR, _SINGLE, MARKING_ZORDER),
    8: LineStyle(WHITE_COLOR, _DOUBLE, MARKING_ZORDER),
    9: LineStyle(YELLOW_COLOR, _SINGLE, MARKING_ZORDER, _BROKEN),
    10: LineStyle(YELLOW_COLOR, _DOUBLE, MARKING_ZORDER, _BROKEN),
    11: LineStyle(YELLOW_COLOR, _SINGLE, MARKING_ZORDER),
    12: LineStyle(YELLOW_COLOR, _DOUBLE, MARKING_ZORDER),
    13: LineStyle(YELLOW_COLOR, _DOUBLE, MARKING_ZORDER, _PASSING),
    **{kind: LineStyle("#3b414b", 0.35, EDGE_ZORDER) for kind in ROAD_EDGE_TYPES},
    ROAD_EDGE_MEDIAN: LineStyle("#6b7280", 0.35, EDGE_ZORDER),
}
# Width of the asphalt below a lane, m; white lines are visible on asphalt only.
LANE_WIDTH = {kind: 3.7 for kind in LANE_TYPES} | {LANE_BIKE: 1.6}

AREA_STYLES = {
    CROSSWALK: AreaStyle("#d9dce0", "#ffffff", "////"),
    SPEED_BUMP: AreaStyle("#d8c48a", "#a8862a", "xxxx"),
    DRIVEWAY: AreaStyle("#d5d7d4", "#bfc2be"),
}

STOP_SIGN_COLOR = "#c1121f"
MARKER_SIZE = 1.8  # m, of signs and lights

# Palette of Okabe and Ito (2008), distinguishable with the common forms of color blindness.
AGENT_COLORS = {UNSET: "#999999", VEHICLE: "#0072b2", PEDESTRIAN: "#cc5f9b", CYCLIST: "#009e73", OTHER: "#999999"}
SDC_COLOR = "#ffc20a"
# Share of white in the color of agents that follow the log while others are controlled.
PALENESS = 0.6

FLAG_COLORS = {"overlap": "#e8000b", "offroad": "#ff7f0e"}
OTHER_FLAG_COLOR = "#ff00ff"

GO_COLOR = "#00a651"
CAUTION_COLOR = "#ffb000"
STOP_COLOR = "#e8000b"
UNKNOWN_COLOR = "#8a8f98"
_LIGHT_COLORS = {
    **dict.fromkeys((*signals.STOP_STATES, signals.FLASHING_STOP), STOP_COLOR),
    **dict.fromkeys((*signals.CAUTION_STATES, signals.FLASHING_CAUTION), CAUTION_COLOR),
    **dict.fromkeys(signals.GO_STATES, GO_COLOR),
}
_ARROWS = (signals.ARROW_STOP, signals.ARROW_CAUTION, signals.ARROW_GO)
_FLASHING = (signals.FLASHING_STOP, signals.FLASHING_CAUTION)
# Color, marker and fill of each light state. Arrows are triangles, flashing lights are hollow.
LIGHT_STYLES = tuple(
    (_LIGHT_COLORS.get(state, UNKNOWN_COLOR), "^" if state in _ARROWS else "o", state not in _FLASHING)
    for state in range(len(signals.SIGNAL_STATE_NAMES))
)
