"""Draws the map: one collection per feature type and level."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from waymax_sim.datatypes.roadmap import LANE_TYPES, STOP_SIGN, RoadMap, kind_name
from waymax_sim.viz import style
from waymax_sim.viz.levels import LEVEL, SURFACE_LIFT, by_level

# Lines that climb by more than a level are cut to pieces of so many points, each on its own level.
PIECE_POINTS = 64


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Features, or pieces of features, as slices of the map points."""

    xy: Float[np.ndarray, "P 2"]
    start: Int[np.ndarray, " K"]
    stop: Int[np.ndarray, " K"]
    type: Int[np.ndarray, " K"]
    height: Float[np.ndarray, " K"]

    def lines(self, rows: Int[np.ndarray, " k"]) -> list[np.ndarray]:
        """Points of some pieces."""
        return [self.xy[self.start[i] : self.stop[i]] for i in rows]


class Strips(LineCollection):
    """Lines that are so many metres wide at any size of the axes, which a layout or a zoom may change later."""

    def __init__(self, lines: list[np.ndarray], metres: list[float], **look):
        super().__init__(lines, **look)
        self._metres = np.array(metres)

    def draw(self, renderer):
        """As every artist does, at the size of now."""
        assert self.axes is not None
        pixels = self.axes.bbox.width / np.ptp(self.axes.get_xlim())
        self.set_linewidth(self._metres * pixels / renderer.points_to_pixels(1.0))
        super().draw(renderer)


def draw_map(
    ax: Axes, roadmap: RoadMap, low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"], scale: float
) -> None:
    """Draws the features that reach into the rectangle from `low` to `high`.

    Args:
      ax: Where to draw.
      roadmap: Map in NumPy arrays.
      low: Lower left corner, m.
      high: Upper right corner, m.
      scale: Points (1/72 inch) per metre.
    """
    pieces = cut(roadmap)
    if not len(pieces.start):
        return
    visible = _in_view(pieces, low, high)
    _draw_asphalt(ax, pieces, visible)
    for kind in np.unique(pieces.type[visible]):
        rows = np.flatnonzero(visible & (pieces.type == kind))
        for level, chosen in by_level(pieces.height[rows]):
            _draw_features(ax, int(kind), pieces.lines(rows[chosen]), level, scale)


def cut(roadmap: RoadMap) -> Pieces:
    """The features of a map (in NumPy arrays), climbing lines in pieces that share their ends."""
    valid = roadmap.valid
    xyz, feature = roadmap.xyz[valid], roadmap.feature[valid]
    kind = roadmap.feature_type[feature]
    if not len(xyz):
        empty = np.zeros(0, int)
        return Pieces(xyz[:, :2], empty, empty, empty, np.zeros(0))
    first = np.flatnonzero(np.diff(feature, prepend=-1))
    climb = np.maximum.reduceat(xyz[:, 2], first) - np.minimum.reduceat(xyz[:, 2], first)
    run = np.repeat(np.arange(len(first)), np.diff(first, append=len(xyz)))
    cuts = (
        (climb > LEVEL)[run]
        & ((np.arange(len(xyz)) - first[run]) % PIECE_POINTS == 0)
        & np.isin(kind, list(style.LINES))
    )
    start = np.union1d(first, np.flatnonzero(cuts))
    stop = np.append(start[1:], len(xyz))
    height = np.add.reduceat(xyz[:, 2], start) / (stop - start)
    goes_on = feature[np.minimum(stop, len(xyz) - 1)] == feature[start]
    return Pieces(xyz[:, :2], start, np.minimum(stop + goes_on, len(xyz)), kind[start], height)


def _in_view(pieces: Pieces, low: np.ndarray, high: np.ndarray) -> Bool[np.ndarray, " K"]:
    smallest = np.minimum.reduceat(pieces.xy, pieces.start)
    largest = np.maximum.reduceat(pieces.xy, pieces.start)
    return np.all((largest >= low) & (smallest <= high), axis=-1)


def _draw_asphalt(ax: Axes, pieces: Pieces, visible: np.ndarray) -> None:
    rows = np.flatnonzero(visible & np.isin(pieces.type, LANE_TYPES))
    for level, chosen in by_level(pieces.height[rows] + SURFACE_LIFT):
        strips = Strips(
            pieces.lines(rows[chosen]),
            [style.LANE_WIDTH[kind] for kind in pieces.type[rows[chosen]].tolist()],
            colors=style.ASPHALT,
            capstyle="round",
            zorder=level + style.SURFACE,
            gid="asphalt",
        )
        ax.add_collection(strips, autolim=False)


def _draw_features(ax: Axes, kind: int, lines: list[np.ndarray], level: int, scale: float) -> None:
    name = kind_name(kind)
    if kind in style.LINES:
        look = style.LINES[kind]
        artist = LineCollection(
            lines,
            colors=look.color,
            linewidths=max(look.width * scale, 0.4),
            linestyles=(0, look.dashes) if look.dashes else "solid",
            zorder=level + look.order,
            gid=name,
        )
        ax.add_collection(artist, autolim=False)
    elif kind in style.AREAS:
        area = style.AREAS[kind]
        artist = PolyCollection(
            lines,
            facecolors=area.face,
            edgecolors=area.edge,
            linewidths=0.5,
            hatch=area.hatch,
            zorder=level + style.AREA,
            gid=name,
        )
        ax.add_collection(artist, autolim=False)
    elif kind == STOP_SIGN:
        where = np.stack([line[0] for line in lines])
        ax.scatter(
            *where.T,
            s=marker_area(scale),
            marker="8",
            facecolors=style.STOP_SIGN_COLOR,
            edgecolors=style.WHITE,
            linewidths=0.8,
            zorder=level + style.SIGN,
            gid=name,
        )


def marker_area(scale: float) -> float:
    """Area of a sign or light, in square points: true to scale, but legible."""
    return float(np.clip(style.MARKER_SIZE * scale, 4.0, 14.0)) ** 2
