"""Drawing of agents, their trajectories and traffic lights. All arguments are NumPy arrays."""

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
from waymax_sim.viz.levels import AGENT_LIFT, group_by_level
from waymax_sim.viz.road import marker_area

# Outlines in the frame of a box of unit size; x forward, y left.
_BOX = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
_NOSE = np.array([[0.05, 0.0], [0.5, 0.0]])
# Path length below which an agent counts as parked and gets no trajectory, m; the log of parked agents jitters.
MIN_PATH_LENGTH = 0.5


def draw_agents(
    ax: Axes,
    info: AgentInfo,
    agents: AgentState,
    controlled: Bool[np.ndarray, " N"] | None,
    flags: Mapping[str, Bool[np.ndarray, " N"]],
    scale: float,
) -> list[Artist]:
    """Draws boxes with a line from the center to the front, and one outline per flag around a box.

    Args:
      ax: Axes to draw on.
      info: Constant properties of the agents.
      agents: States of the agents, [N].
      controlled: If given, all other agents except the sdc are drawn pale.
      flags: Masks by name of the agents that get an outline.
      scale: Points (1/72 inch) per meter.
    """
    present = np.flatnonzero(agents.valid & info.exists)
    fill, edge = _colors(info, controlled)
    strong = info.is_sdc if controlled is None else info.is_sdc | controlled
    artists: list[Artist] = []
    for level, chosen in group_by_level(_height(info, agents)[present]):
        rows = present[chosen]
        xy, yaw, size = agents.xyz[rows, :2], agents.yaw[rows], info.size[rows, :2]
        boxes = PolyCollection(
            _outline(_BOX, xy, yaw, size),
            facecolors=fill[rows],
            edgecolors=edge[rows],
            linewidths=np.where(strong[rows], 1.2, 0.6),
            zorder=level + style.AGENT_ZORDER,
            gid="agents",
        )
        # At least 1.5 m long, so that the heading of a pedestrian is visible.
        noses = LineCollection(
            _outline(_NOSE, xy, yaw, np.maximum(size, 1.5)),
            colors=np.where(fill[rows, :3].mean(axis=-1, keepdims=True) < 0.55, to_rgba(style.WHITE_COLOR), edge[rows]),
            linewidths=np.clip(0.25 * scale, 0.5, 1.5),
            zorder=level + style.NOSE_ZORDER,
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
            zorder=style.OVERLAY_ZORDER - 1,
            gid=f"flag {name}",
        )
        artists.append(ax.add_collection(outlines, autolim=False))
    return artists


def draw_past(
    ax: Axes, info: AgentInfo, past: AgentState, agent_mask: Bool[np.ndarray, " N"], scale: float
) -> list[Artist]:
    """Draws past positions as lines that fade towards the first state.

    Args:
      ax: Axes to draw on.
      info: Constant properties of the agents.
      past: Past states, [H, N], oldest first.
      agent_mask: Agents to draw.
      scale: Points (1/72 inch) per meter.
    """
    agent, step, xy, height = _moving_states(info, past, agent_mask)
    continues = np.flatnonzero((np.diff(agent) == 0) & (np.diff(step) == 1))
    lines = np.stack([xy[continues], xy[continues + 1]], axis=1)
    colors = _line_colors(info)[agent[continues]]
    colors[:, 3] = 0.9 * (step[continues] + 1) / len(past.valid)
    properties = {"linewidths": np.clip(0.5 * scale, 0.6, 2.5), "gid": "past"}
    return _draw_lines(ax, lines, height[continues], colors, properties)


def draw_future(
    ax: Axes, info: AgentInfo, future: AgentState, agent_mask: Bool[np.ndarray, " N"], scale: float
) -> list[Artist]:
    """Draws future positions as dashed lines, interrupted where an agent is not valid.

    Args:
      ax: Axes to draw on.
      info: Constant properties of the agents.
      future: Future states, [F, N].
      agent_mask: Agents to draw.
      scale: Points (1/72 inch) per meter.
    """
    agent, step, xy, height = _moving_states(info, future, agent_mask)
    if not len(agent):
        return []
    first = np.flatnonzero((np.diff(agent, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 1))
    colors = _line_colors(info)[agent[first]]
    properties = {"linewidths": np.clip(0.25 * scale, 0.6, 1.5), "linestyles": (0, (2.5, 1.5)), "gid": "future"}
    return _draw_lines(ax, np.split(xy, first[1:]), height[first], colors, properties)


def draw_lights(ax: Axes, signals: Signals, step: int, scale: float) -> list[Artist]:
    """Draws the lights of one step at their stop points: one collection per state and level.

    Args:
      ax: Axes to draw on.
      signals: Traffic lights of the record.
      step: Step in the record.
      scale: Points (1/72 inch) per meter.
    """
    artists: list[Artist] = []
    states, valid = signals.state[step], signals.valid[step]
    for state in np.unique(states[valid]).tolist():
        color, marker, is_filled = style.LIGHT_STYLES[state]
        position = signals.stop_point[step, valid & (states == state)]
        for level, rows in group_by_level(position[:, 2] + AGENT_LIFT):
            lights = ax.scatter(
                *position[rows, :2].T,
                s=marker_area(scale),
                marker=marker,
                facecolors=color if is_filled else "none",
                edgecolors=style.INK_COLOR if is_filled else color,
                linewidths=0.7 if is_filled else 2.0,
                zorder=level + style.LIGHT_ZORDER,
                gid=f"light {SIGNAL_STATE_NAMES[state]}",
            )
            artists.append(lights)
    return artists


def flag_color(name: str) -> str:
    """Color of the outline of agents with a flag."""
    return style.FLAG_COLORS.get(name, style.OTHER_FLAG_COLOR)


def _moving_states(info: AgentInfo, states: AgentState, agent_mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Agent index, step, position and height of the states of moving agents, sorted by agent and step."""
    valid = states.valid & agent_mask[None]
    both_valid = valid[1:] & valid[:-1]
    distance = np.linalg.norm(np.diff(states.xyz[..., :2], axis=0), axis=-1)
    is_moving = np.where(both_valid, distance, 0.0).sum(axis=0) > MIN_PATH_LENGTH
    agent, step = np.nonzero((valid & is_moving[None]).T)
    return agent, step, states.xyz[step, agent, :2], _height(info, states)[step, agent]


def _draw_lines(ax: Axes, lines, height: np.ndarray, colors: np.ndarray, properties: dict) -> list[Artist]:
    artists: list[Artist] = []
    for level, rows in group_by_level(height):
        chosen = [lines[row] for row in rows]
        collection = LineCollection(chosen, colors=colors[rows], zorder=level + style.TRAJECTORY_ZORDER, **properties)
        artists.append(ax.add_collection(collection, autolim=False))
    return artists


def _height(info: AgentInfo, agents: AgentState) -> np.ndarray:
    """Height that determines the drawing order (m): the bottom of the box plus `AGENT_LIFT`."""
    return agents.xyz[..., 2] - info.size[:, 2] / 2 + AGENT_LIFT


def _colors(info: AgentInfo, controlled: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """RGBA colors of boxes and of their outlines, [N, 4] each."""
    palette = np.array([to_rgba(color) for _, color in sorted(style.AGENT_COLORS.items())])
    fill = np.where(info.is_sdc[:, None], to_rgba(style.SDC_COLOR), palette[info.type])
    if controlled is not None:
        pale = ~controlled & ~info.is_sdc
        fill[pale] += style.PALENESS * (1.0 - fill[pale])
    strong = info.is_sdc if controlled is None else info.is_sdc | controlled
    edge = np.where(strong[:, None], to_rgba(style.INK_COLOR), fill * [0.45, 0.45, 0.45, 1.0])
    return fill, edge


def _line_colors(info: AgentInfo) -> np.ndarray:
    """RGBA colors of trajectories, [N, 4]: those of the boxes, but dark for the sdc (road lines are yellow too)."""
    fill, _ = _colors(info, None)
    return np.where(info.is_sdc[:, None], to_rgba(style.INK_COLOR), fill)


def _outline(shape: np.ndarray, xy: np.ndarray, yaw: np.ndarray, size: np.ndarray) -> list[np.ndarray]:
    """A shape [C, 2] in the frame of a unit box, scaled and transformed to each of k agents: k arrays [C, 2].

    NumPy, because JAX would compile a program for every k.
    """
    local = shape[None] * size[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, y = local[..., 0], local[..., 1]
    return list(np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + xy[:, None])
