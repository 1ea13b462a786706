"""Drawing of the map."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from waymax_sim.datatypes.roadmap import LANE_TYPES, STOP_SIGN, RoadMap, kind_name
from waymax_sim.viz import style
from waymax_sim.viz.levels import LEVEL_HEIGHT, SURFACE_LIFT, group_by_level

# Points of a piece: lines that climb by more than a level are split, so that each piece has its own level.
MAX_PIECE_POINTS = 64


@dataclasses.dataclass(frozen=True)
class FeaturePieces:
    """Features, or pieces of features, as slices of the map points.

    Attributes:
      xy: Valid map points, m.
      start: First point of each piece.
      stop: End of each piece (exclusive).
      feature: Row of each piece in the feature table.
      type: Feature type of each piece.
      height: Mean height of each piece, m.
    """

    xy: Float[np.ndarray, "P 2"]
    start: Int[np.ndarray, " K"]
    stop: Int[np.ndarray, " K"]
    feature: Int[np.ndarray, " K"]
    type: Int[np.ndarray, " K"]
    height: Float[np.ndarray, " K"]

    def lines(self, rows: Int[np.ndarray, " k"]) -> list[np.ndarray]:
        """Points of the pieces at the given indices."""
        return [self.xy[self.start[i] : self.stop[i]] for i in rows]


class DataWidthLines(LineCollection):
    """Lines with a width in data units (m), which holds after the layout or the view has changed."""

    def __init__(self, lines: list[np.ndarray], widths: list[float], **properties):
        super().__init__(lines, **properties)
        self._widths = np.array(widths)

    def draw(self, renderer):
        """Draws at the current size of the axes."""
        assert self.axes is not None
        pixels = self.axes.bbox.width / np.ptp(self.axes.get_xlim())
        self.set_linewidth(self._widths * pixels / renderer.points_to_pixels(1.0))
        super().draw(renderer)


def draw_map(
    ax: Axes, roadmap: RoadMap, low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"], scale: float
) -> None:
    """Draws the features that intersect the rectangle from `low` to `high`: one collection per type and level.

    Args:
      ax: Axes to draw on.
      roadmap: Map in NumPy arrays.
      low: Lower left corner, m.
      high: Upper right corner, m.
      scale: Points (1/72 inch) per meter.
    """
    pieces = split_features(roadmap)
    if not len(pieces.start):
        return
    visible = _in_view(pieces, low, high)
    _draw_asphalt(ax, pieces, visible)
    for kind in np.unique(pieces.type[visible]):
        rows = np.flatnonzero(visible & (pieces.type == kind))
        for level, chosen in group_by_level(pieces.height[rows]):
            _draw_features(ax, int(kind), pieces.lines(rows[chosen]), level, scale)


def split_features(roadmap: RoadMap) -> FeaturePieces:
    """The features of a map (in NumPy arrays). Lines that climb by more than a level are split into pieces that share
    their endpoints."""
    valid = roadmap.valid
    xyz, feature = roadmap.xyz[valid], roadmap.feature[valid]
    kind = roadmap.feature_type[feature]
    if not len(xyz):
        empty = np.zeros(0, int)
        return FeaturePieces(xyz[:, :2], empty, empty, empty, empty, np.zeros(0))
    first = np.flatnonzero(np.diff(feature, prepend=-1))
    climb = np.maximum.reduceat(xyz[:, 2], first) - np.minimum.reduceat(xyz[:, 2], first)
    run = np.repeat(np.arange(len(first)), np.diff(first, append=len(xyz)))
    is_split = (
        (climb > LEVEL_HEIGHT)[run]
        & ((np.arange(len(xyz)) - first[run]) % MAX_PIECE_POINTS == 0)
        & np.isin(kind, list(style.LINE_STYLES))
    )
    start = np.union1d(first, np.flatnonzero(is_split))
    stop = np.append(start[1:], len(xyz))
    height = np.add.reduceat(xyz[:, 2], start) / (stop - start)
    continues = feature[np.minimum(stop, len(xyz) - 1)] == feature[start]
    stop = np.minimum(stop + continues, len(xyz))
    return FeaturePieces(xyz[:, :2], start, stop, feature[start], kind[start], height)


def _in_view(pieces: FeaturePieces, low: np.ndarray, high: np.ndarray) -> Bool[np.ndarray, " K"]:
    smallest = np.minimum.reduceat(pieces.xy, pieces.start)
    largest = np.maximum.reduceat(pieces.xy, pieces.start)
    return np.all((largest >= low) & (smallest <= high), axis=-1)


def _draw_asphalt(ax: Axes, pieces: FeaturePieces, visible: np.ndarray) -> None:
    rows = np.flatnonzero(visible & np.isin(pieces.type, LANE_TYPES))
    for level, chosen in group_by_level(pieces.height[rows] + SURFACE_LIFT):
        strips = DataWidthLines(
            pieces.lines(rows[chosen]),
            [style.LANE_WIDTH[kind] for kind in pieces.type[rows[chosen]].tolist()],
            colors=style.ASPHALT_COLOR,
            capstyle="round",
            zorder=level + style.SURFACE_ZORDER,
            gid="asphalt",
        )
        ax.add_collection(strips, autolim=False)


def _draw_features(ax: Axes, kind: int, lines: list[np.ndarray], level: int, scale: float) -> None:
    name = kind_name(kind)
    if kind in style.LINE_STYLES:
        line = style.LINE_STYLES[kind]
        artist = LineCollection(
            lines,
            colors=line.color,
            linewidths=max(line.width * scale, 0.4),
            linestyles=(0, line.dashes) if line.dashes else "solid",
            zorder=level + line.zorder,
            gid=name,
        )
        ax.add_collection(artist, autolim=False)
    elif kind in style.AREA_STYLES:
        area = style.AREA_STYLES[kind]
        artist = PolyCollection(
            lines,
            facecolors=area.face,
            edgecolors=area.edge,
            linewidths=0.5,
            hatch=area.hatch,
            zorder=level + style.AREA_ZORDER,
            gid=name,
        )
        ax.add_collection(artist, autolim=False)
    elif kind == STOP_SIGN:
        position = np.stack([points[0] for points in lines])
        ax.scatter(
            *position.T,
            s=marker_area(scale),
            marker="8",
            facecolors=style.STOP_SIGN_COLOR,
            edgecolors=style.WHITE_COLOR,
            linewidths=0.8,
            zorder=level + style.SIGN_ZORDER,
            gid=name,
        )


def marker_area(scale: float) -> float:
    """Area of the marker of a sign or light, square points: to scale within legible limits."""
    return float(np.clip(style.MARKER_SIZE * scale, 4.0, 14.0)) ** 2
