"""Image of a scene by matplotlib, without pyplot and its global state: safe in threads and servers."""

import io
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, AgentInfo, AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Trace
from waymax_sim.pytree import Array, tree_index
from waymax_sim.viz import style
from waymax_sim.viz.road import draw_map
from waymax_sim.viz.traffic import draw_agents, draw_future, draw_lights, draw_past, flag_color

Center = Literal["sdc", "scene"] | int | tuple[float, float]

PAST_STEPS = 10
FUTURE_STEPS = 30
SCENE_MARGIN = 5.0  # m, around a whole scene
DPI = 100  # pixels per inch
# Ids per flag in the legend.
MAX_LEGEND_IDS = 4


def draw(
    scenario: Scenario,
    agents: AgentState | Trace | None = None,
    *,
    step: int | None = None,
    past: AgentState | None = None,
    future: AgentState | None = None,
    controlled: Bool[Array, " N"] | None = None,
    flags: Mapping[str, Bool[Array, " N"]] | None = None,
    center: Center = "sdc",
    radius: float = 60.0,
    title: str | None = None,
    size: float = 8.0,
    ax: Axes | None = None,
) -> Figure:
    """Draws a scene from above, north (y of the local frame) up. Save it with `figure.savefig`.

    Lanes are gray on asphalt, road lines white or yellow, road edges dark. Lights are dots, arrows triangles, and
    flashing lights hollow. Boxes are colored by type, the sdc has its own color, and a line points to the front.
    Higher objects cover lower ones. Only agents that are valid now have a past and a future.

    Args:
      scenario: One scene, without a batch axis.
      agents: Current states, [N], or a rollout of the scene; those of the log by default.
      step: Step of the lights, the title and the logged states; the current step by default, of a rollout its last one.
      past: Past states, [H, N], oldest first, drawn as fading lines; the last second of the rollout or log by default.
        Pass a slice without steps to draw none.
      future: Future states, [F, N], drawn as dashed lines; the next three seconds of the log by default.
        Pass a slice without steps to draw none.
      controlled: Agents that do not follow the log. When given, all others except the sdc are pale.
      flags: Masks by name, such as {"overlap": ...}: these agents get an outline and are listed in the legend.
      center: Center of the view: the sdc, the whole scene, an agent by its index, or a point (m). An agent that is
        not valid gives the whole scene.
      radius: Half the side of the view, m. The whole scene has its own.
      title: The scenario id, step and time by default; "" for none.
      size: Side of the image, inches of 100 pixels.
      ax: Axes to draw on instead of a new figure.

    Raises:
      ValueError: The scenario or rollout has a batch axis, or no such step; or the rollout has no agents.
    """
    scenario = to_host(scenario)
    if isinstance(agents, Trace):
        agents, step, past = _entry(agents, step, past)
    step = int(scenario.current_step) if step is None else step
    check_step(scenario, step)
    now = tree_index(scenario.log, step) if agents is None else jax.tree.map(np.asarray, agents)
    centers, radius = view_centers(scenario, tree_index(now, np.newaxis), center, radius)
    ax = create_axes(size) if ax is None else ax
    scale = draw_static(ax, scenario, centers, radius)
    set_view(ax, centers[0], radius)
    past = tree_index(scenario.log, slice(max(step - PAST_STEPS, 0), step + 1)) if past is None else past
    future = logged_future(scenario, step) if future is None else future
    draw_dynamic(
        ax, scenario, now, scale, step=step, past=past, future=future, controlled=controlled, flags=flags, title=title
    )
    return root_figure(ax)


def trace_states(trace: Trace) -> tuple[Int[np.ndarray, " T"], AgentState]:
    """Steps and agents [T, N] of a rollout until the end of the record.

    Raises:
      ValueError: The rollout has a batch axis, no agents or no active step.
    """
    if trace.agents is None:
        raise ValueError("the trace has no agents; record them: rollout(..., record=('agents', 'metrics'))")
    if trace.step.ndim != 1:
        raise ValueError("the trace has a batch axis; pick one rollout, as in `tree_index(trace, 0)`")
    rows = np.flatnonzero(trace.active)
    if not len(rows):
        raise ValueError("the trace has no active step: it begins at the end of the record")
    return np.asarray(trace.step)[rows], tree_index(jax.tree.map(np.asarray, trace.agents), rows)


def _entry(trace: Trace, step: int | None, past: AgentState | None) -> tuple[AgentState, int, AgentState]:
    """Agents at a step of a rollout, the step, and the agents of the second before it."""
    steps, agents = trace_states(trace)
    step = int(steps[-1]) if step is None else step
    rows = np.flatnonzero(steps == step)
    if not len(rows):
        raise ValueError(f"step {step} is not one of {steps[0]}..{steps[-1]}, the steps of the trace")
    row = int(rows[0])
    past = tree_index(agents, slice(max(row - PAST_STEPS, 0), row + 1)) if past is None else past
    return tree_index(agents, row), step, past


def to_image(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a figure as RGB."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_host(scenario: Scenario) -> Scenario:
    """The scenario in NumPy arrays.

    Raises:
      ValueError: It has a batch axis.
    """
    if scenario.timestamps.ndim != 1:
        raise ValueError("cannot draw a batch of scenarios; pick one, as in `tree_index(scenarios, 0)`")
    return jax.tree.map(np.asarray, scenario)


def check_step(scenario: Scenario, step: int) -> None:
    """Raises a ValueError unless the scenario has this step."""
    if not 0 <= step < scenario.num_steps:
        raise ValueError(f"step {step} is not one of 0..{scenario.num_steps - 1}")


def view_centers(
    scenario: Scenario, agents: AgentState, center: Center, radius: float
) -> tuple[Float[np.ndarray, "T 2"], float]:
    """Centers of the view at each of T steps (m), and its radius (m).

    While the followed agent is not valid, the view stays at its last valid position (before the first valid step: at
    the first one).

    Args:
      scenario: One scene in NumPy arrays.
      agents: States, [T, N].
      center: See `draw`.
      radius: See `draw`.
    """
    num_steps = len(agents.valid)
    if isinstance(center, tuple):
        return np.tile(np.asarray(center, np.float64), (num_steps, 1)), radius
    agent_index = _followed_index(scenario.agents, center)
    valid_steps = np.flatnonzero(agents.valid[:, agent_index]) if agent_index is not None else []
    if len(valid_steps):
        latest = np.searchsorted(valid_steps, np.arange(num_steps), side="right") - 1
        return agents.xyz[valid_steps[np.maximum(latest, 0)], agent_index, :2].astype(np.float64), radius
    points = np.concatenate([scenario.roadmap.xyz[scenario.roadmap.valid], agents.xyz[agents.valid]])[:, :2]
    if not len(points):
        return np.zeros((num_steps, 2)), radius
    low, high = points.min(axis=0), points.max(axis=0)
    return np.tile((low + high) / 2, (num_steps, 1)), float((high - low).max() / 2 + SCENE_MARGIN)


def _followed_index(info: AgentInfo, center: Literal["sdc", "scene"] | int) -> int | None:
    """Index of the agent that the view follows, if any."""
    if center == "scene":
        return None
    if center == "sdc":
        return int(np.argmax(info.is_sdc)) if info.is_sdc.any() else None
    return center


def logged_future(scenario: Scenario, step: int) -> AgentState:
    """Logged states of the next three seconds, the given step included."""
    return tree_index(scenario.log, slice(step, step + 1 + FUTURE_STEPS))


class SceneFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def create_axes(size: float) -> Axes:
    """Axes that fill a new square figure of the given side, inches."""
    figure = SceneFigure(figsize=(size, size), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure.add_axes((0.0, 0.0, 1.0, 1.0))


def root_figure(ax: Axes) -> Figure:
    """The top-level figure of axes, which may belong to a subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def draw_static(ax: Axes, scenario: Scenario, centers: Float[np.ndarray, "T 2"], radius: float) -> float:
    """Draws the elements that do not change over time: the map in all views and a scale bar.

    Args:
      ax: Axes to draw on.
      scenario: One scene in NumPy arrays.
      centers: Center of the view at each step, m.
      radius: Half the side of the view, m.

    Returns:
      Points (1/72 inch) per meter.
    """
    ax.set(xticks=[], yticks=[], facecolor=style.BACKGROUND_COLOR, aspect="equal")
    for spine in ax.spines.values():
        spine.set_visible(False)
    scale = min(ax.bbox.width, ax.bbox.height) / root_figure(ax).dpi * 72 / (2 * radius)
    draw_map(ax, scenario.roadmap, centers.min(axis=0) - radius, centers.max(axis=0) + radius, scale)
    _draw_scale_bar(ax, radius)
    return scale


def set_view(ax: Axes, center: Float[np.ndarray, " 2"], radius: float) -> None:
    """Sets the visible square.

    Args:
      ax: Axes.
      center: Center, m.
      radius: Half the side, m.
    """
    ax.set_xlim(center[0] - radius, center[0] + radius)
    ax.set_ylim(center[1] - radius, center[1] + radius)


def draw_dynamic(
    ax: Axes,
    scenario: Scenario,
    agents: AgentState,
    scale: float,
    *,
    step: int,
    past: AgentState,
    future: AgentState,
    controlled: Bool[Array, " N"] | None = None,
    flags: Mapping[str, Bool[Array, " N"]] | None = None,
    title: str | None = None,
) -> list[Artist]:
    """Draws the elements that change over time: agents, trajectories, lights, title and legend.

    Args:
      ax: Axes to draw on.
      scenario: One scene in NumPy arrays.
      agents: See `draw`.
      scale: Points (1/72 inch) per meter, as `draw_static` returns them.
      step: See `draw`.
      past: See `draw`.
      future: See `draw`.
      controlled: See `draw`.
      flags: See `draw`.
      title: See `draw`.

    Returns:
      The artists, which the caller removes before the next frame.
    """
    info = scenario.agents
    present = agents.valid & info.exists
    past, future = (jax.tree.map(np.asarray, states) for states in (past, future))
    flags = {name: np.asarray(mask) for name, mask in (flags or {}).items()}
    controlled = None if controlled is None else np.asarray(controlled)
    if title is None:
        title = f"{scenario.scenario_id}   step {step}   {scenario.timestamps[step]:.1f} s"
    return [
        *draw_past(ax, info, past, present, scale),
        *draw_future(ax, info, future, present, scale),
        *draw_agents(ax, info, agents, controlled, flags, scale),
        *draw_lights(ax, scenario.signals, step, scale),
        *_draw_title(ax, title),
        *_draw_legend(ax, info, present, flags),
    ]


def _draw_title(ax: Axes, title: str) -> list[Artist]:
    if not title:
        return []
    frame = {"facecolor": style.WHITE_COLOR, "edgecolor": "none", "alpha": 0.8, "pad": 3.0}
    anchor = {"x": 0.015, "y": 0.985, "ha": "left", "va": "top", "transform": ax.transAxes}
    font = {"fontsize": 9, "color": style.INK_COLOR, "parse_math": False}
    return [ax.text(s=title, bbox=frame, zorder=style.OVERLAY_ZORDER, **anchor, **font)]


def _draw_legend(
    ax: Axes, info: AgentInfo, present: Bool[np.ndarray, " N"], flags: Mapping[str, Bool[np.ndarray, " N"]]
) -> list[Artist]:
    handles = []
    if info.is_sdc[present].any():
        handles.append(Patch(facecolor=style.SDC_COLOR, edgecolor=style.INK_COLOR, label="sdc"))
    for kind in np.unique(info.type[present & ~info.is_sdc]).tolist():
        handles.append(Patch(facecolor=style.AGENT_COLORS[kind], label=AGENT_TYPE_NAMES[kind]))
    for name, mask in flags.items():
        flagged = info.id[present & mask].tolist()
        if flagged:
            more = f" +{len(flagged) - MAX_LEGEND_IDS}" if len(flagged) > MAX_LEGEND_IDS else ""
            label = f"{name}: {', '.join(map(str, flagged[:MAX_LEGEND_IDS]))}{more}"
            handles.append(Patch(facecolor="none", edgecolor=flag_color(name), linewidth=2.0, label=label))
    if not handles:
        return []
    legend = ax.legend(
        handles=handles, loc="lower right", fontsize=8, framealpha=0.8, edgecolor="none", borderaxespad=0.8
    )
    legend.set_zorder(style.OVERLAY_ZORDER)
    return [legend]


def _draw_scale_bar(ax: Axes, radius: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten meters, about a sixth of the view."""
    power = 10.0 ** np.floor(np.log10(radius / 3))
    length = max(power * digit for digit in (1, 2, 5) if power * digit <= radius / 3 * 1.01)
    left, right, bottom = 0.02, 0.02 + length / (2 * radius), 0.025
    background = {"facecolor": style.WHITE_COLOR, "alpha": 0.8, "zorder": style.OVERLAY_ZORDER - 1}
    ax.add_patch(Rectangle((left - 0.01, 0.012), right - left + 0.02, 0.048, transform=ax.transAxes, **background))
    properties = {"color": style.INK_COLOR, "transform": ax.transAxes, "zorder": style.OVERLAY_ZORDER}
    ax.plot([left, left, right, right], [bottom + 0.008, bottom, bottom, bottom + 0.008], linewidth=1.5, **properties)
    ax.text((left + right) / 2, bottom + 0.006, f"{length:g} m", ha="center", va="bottom", fontsize=8, **properties)
