"""Draws what moves or changes: agents, where they were and will be, lights. Everything arrives in NumPy arrays."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES, Signals
from waymax_sim.viz import style
from waymax_sim.viz.levels import AGENT_LIFT, by_level
from waymax_sim.viz.road import marker_area

# Outlines in the frame of a box of unit size: x forward, y left.
_BOX = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
_NOSE = np.array([[0.05, 0.0], [0.5, 0.0]])
# Who moves less than this is parked: a jittering log would be a blot (m).
MIN_TRAVEL = 0.5


def draw_agents(
    ax: Axes,
    info: AgentInfo,
    agents: AgentState,
    controlled: Bool[np.ndarray, " N"] | None,
    flags: Mapping[str, Bool[np.ndarray, " N"]],
    scale: float,
) -> list[Artist]:
    """Draws boxes with a line from the centre to the nose, and one more outline around a box per flag.

    With `controlled`, the other agents but the sdc are pale.
    """
    present = np.flatnonzero(agents.valid & info.exists)
    fill, edge = _colors(info, controlled)
    strong = info.is_sdc if controlled is None else info.is_sdc | controlled
    artists: list[Artist] = []
    for level, chosen in by_level(_height(info, agents)[present]):
        rows = present[chosen]
        xy, yaw, size = agents.xyz[rows, :2], agents.yaw[rows], info.size[rows, :2]
        boxes = PolyCollection(
            _outline(_BOX, xy, yaw, size),
            facecolors=fill[rows],
            edgecolors=edge[rows],
            linewidths=np.where(strong[rows], 1.2, 0.6),
            zorder=level + style.AGENT,
            gid="agents",
        )
        # Longer than small boxes, so that a pedestrian has a visible heading too.
        noses = LineCollection(
            _outline(_NOSE, xy, yaw, np.maximum(size, 1.5)),
            colors=np.where(fill[rows, :3].mean(axis=-1, keepdims=True) < 0.55, to_rgba(style.WHITE), edge[rows]),
            linewidths=np.clip(0.25 * scale, 0.5, 1.5),
            zorder=level + style.NOSE,
            gid="noses",
        )
        artists += [ax.add_collection(boxes, autolim=False), ax.add_collection(noses, autolim=False)]
    for margin, (name, mask) in enumerate(flags.items(), start=1):
        rows = present[mask[present]]
        if not len(rows):
            continue
        size = info.size[rows, :2] + 0.5 * margin
        outlines = PolyCollection(
            _outline(_BOX, agents.xyz[rows, :2], agents.yaw[rows], size),
            facecolors="none",
            edgecolors=flag_color(name),
            linewidths=np.clip(0.4 * scale, 1.2, 3.0),
            zorder=style.OVERLAY - 1,
            gid=f"flag {name}",
        )
        artists.append(ax.add_collection(outlines, autolim=False))
    return artists


def draw_past(ax: Axes, info: AgentInfo, past: AgentState, who: Bool[np.ndarray, " N"], scale: float) -> list[Artist]:
    """Draws where the agents `who` were over [H, N] states: lines that fade towards the first state."""
    agent, step, xy, height = _travelled(info, past, who)
    goes_on = np.flatnonzero((np.diff(agent) == 0) & (np.diff(step) == 1))
    lines = np.stack([xy[goes_on], xy[goes_on + 1]], axis=1)
    colors = _line_colors(info)[agent[goes_on]]
    colors[:, 3] = 0.9 * (step[goes_on] + 1) / len(past.valid)
    look = {"linewidths": np.clip(0.5 * scale, 0.6, 2.5), "gid": "past"}
    return _draw_lines(ax, lines, height[goes_on], colors, look)


def draw_future(
    ax: Axes, info: AgentInfo, future: AgentState, who: Bool[np.ndarray, " N"], scale: float
) -> list[Artist]:
    """Draws where the agents `who` will be over [F, N] states: dashed lines, interrupted while unseen."""
    agent, step, xy, height = _travelled(info, future, who)
    if not len(agent):
        return []
    first = np.flatnonzero((np.diff(agent, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 1))
    colors = _line_colors(info)[agent[first]]
    look = {"linewidths": np.clip(0.25 * scale, 0.6, 1.5), "linestyles": (0, (2.5, 1.5)), "gid": "future"}
    return _draw_lines(ax, np.split(xy, first[1:]), height[first], colors, look)


def draw_lights(ax: Axes, signals: Signals, step: int, scale: float) -> list[Artist]:
    """Draws the lights of one step at their stop points: one collection per state and level."""
    artists: list[Artist] = []
    states, valid = signals.state[step], signals.valid[step]
    for state in np.unique(states[valid]).tolist():
        color, marker, is_filled = style.LIGHTS[state]
        where = signals.stop_point[step, valid & (states == state)]
        for level, rows in by_level(where[:, 2] + AGENT_LIFT):
            lights = ax.scatter(
                *where[rows, :2].T,
                s=marker_area(scale),
                marker=marker,
                facecolors=color if is_filled else "none",
                edgecolors=style.INK if is_filled else color,
                linewidths=0.7 if is_filled else 2.0,
                zorder=level + style.LIGHT,
                gid=f"light {SIGNAL_STATE_NAMES[state]}",
            )
            artists.append(lights)
    return artists


def flag_color(name: str) -> str:
    """Colour of the outline of agents with a flag."""
    return style.FLAG_COLORS.get(name, style.OTHER_FLAG_COLOR)


def _travelled(info: AgentInfo, states: AgentState, who: np.ndarray) -> tuple[np.ndarray, ...]:
    """Agents, steps, positions and heights of the states of who travels, agent by agent and in order."""
    valid = states.valid & who[None]
    both = valid[1:] & valid[:-1]
    moved = np.linalg.norm(np.diff(states.xyz[..., :2], axis=0), axis=-1)
    travels = np.where(both, moved, 0.0).sum(axis=0) > MIN_TRAVEL
    agent, step = np.nonzero((valid & travels[None]).T)
    return agent, step, states.xyz[step, agent, :2], _height(info, states)[step, agent]


def _draw_lines(ax: Axes, lines, height: np.ndarray, colors: np.ndarray, look: dict) -> list[Artist]:
    artists: list[Artist] = []
    for level, rows in by_level(height):
        chosen = [lines[row] for row in rows]
        collection = LineCollection(chosen, colors=colors[rows], zorder=level + style.TRAJECTORY, **look)
        artists.append(ax.add_collection(collection, autolim=False))
    return artists


def _height(info: AgentInfo, agents: AgentState) -> np.ndarray:
    """Height at which agents are stacked (m): somewhat above the bottom of the box."""
    return agents.xyz[..., 2] - info.size[:, 2] / 2 + AGENT_LIFT


def _colors(info: AgentInfo, controlled: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """RGBA of boxes and of their outlines, [N, 4]."""
    palette = np.array([to_rgba(color) for _, color in sorted(style.AGENT_COLORS.items())])
    fill = np.where(info.is_sdc[:, None], to_rgba(style.SDC_COLOR), palette[info.type])
    if controlled is not None:
        pale = ~controlled & ~info.is_sdc
        fill[pale] += style.PALENESS * (1.0 - fill[pale])
    strong = info.is_sdc if controlled is None else info.is_sdc | controlled
    edge = np.where(strong[:, None], to_rgba(style.INK), fill * [0.45, 0.45, 0.45, 1.0])
    return fill, edge


def _line_colors(info: AgentInfo) -> np.ndarray:
    """RGBA of trajectories, [N, 4]: as the boxes, but that of the sdc must not pass for a road line."""
    fill, _ = _colors(info, None)
    return np.where(info.is_sdc[:, None], to_rgba(style.INK), fill)


def _outline(shape: np.ndarray, xy: np.ndarray, yaw: np.ndarray, size: np.ndarray) -> list[np.ndarray]:
    """A shape in the frame of a unit box, put around each of k agents: k times [corners, 2].

    In NumPy, as jax would compile anew for every number of agents.
    """
    local = shape[None] * size[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, y = local[..., 0], local[..., 1]
    return list(np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + xy[:, None])
