"""One picture of a scene. Only matplotlib objects, no pyplot and no global state: safe in threads and servers."""

from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, AgentInfo, AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array, take
from waymax_sim.viz import style
from waymax_sim.viz.road import draw_map
from waymax_sim.viz.traffic import draw_agents, draw_future, draw_lights, draw_past, flag_color

Center = Literal["sdc", "scene"] | int | tuple[float, float]

PAST_STEPS, FUTURE_STEPS = 10, 30
MARGIN = 5.0  # m around a whole scene
DPI = 100
# A legend names so many of the agents with a flag.
NAMED_AGENTS = 4


def draw(
    scenario: Scenario,
    agents: AgentState | None = None,
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

    Lanes are grey on asphalt, road lines white or yellow, road edges dark. Lights are dots, arrows triangles, and
    flashing lights hollow. Boxes are coloured by type, the sdc on its own, with a line towards the nose.
    Higher things cover lower ones. Only agents that are there now have a past and a future.

    Args:
      scenario: One scene, without a batch axis.
      agents: Agents now, [N]; the logged ones by default.
      step: Step of the lights, of the title and of what comes from the log; the current step by default.
      past: Where agents were, [H, N], oldest first, as fading lines; the last second of the log by default.
        Pass a slice without steps to draw none.
      future: Where agents will be, [F, N], as dashed lines; the next three seconds of the log by default.
        Pass a slice without steps to draw none.
      controlled: Agents that do not follow the log. When given, all others but the sdc are pale.
      flags: Masks by name, such as {"overlap": ...}: those agents get an outline and are listed in the legend.
      center: What is in the middle: the sdc, the whole scene, an agent by its index, or a point (m). An agent that
        is not there gives the whole scene.
      radius: Half the side of the view, m. The whole scene has its own.
      title: The scenario id, step and time by default; "" for none.
      size: Side of the picture, inches of 100 pixels.
      ax: Draw here instead of in a new figure.

    Raises:
      ValueError: The scenario has a batch axis, or no such step.
    """
    scenario = on_host(scenario)
    step = int(scenario.current_step) if step is None else step
    check_step(scenario, step)
    now = take(scenario.log, step) if agents is None else jax.tree.map(np.asarray, agents)
    middle, radius = views(scenario, take(now, np.newaxis), center, radius)
    ax = new_axes(size) if ax is None else ax
    scale = set_up(ax, scenario, middle, radius)
    look_at(ax, middle[0], radius)
    past = take(scenario.log, slice(max(step - PAST_STEPS, 0), step + 1)) if past is None else past
    future = logged_future(scenario, step) if future is None else future
    draw_moment(
        ax, scenario, now, scale, step=step, past=past, future=future, controlled=controlled, flags=flags, title=title
    )
    return figure_of(ax)


def to_image(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a figure as RGB."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def on_host(scenario: Scenario) -> Scenario:
    """The scenario in NumPy arrays.

    Raises:
      ValueError: It has a batch axis.
    """
    if scenario.timestamps.ndim != 1:
        raise ValueError("cannot draw a batch of scenarios; pick one, as in `take(scenarios, 0)`")
    return jax.tree.map(np.asarray, scenario)


def check_step(scenario: Scenario, step: int) -> None:
    """Raises a ValueError unless the scenario has this step."""
    if not 0 <= step < scenario.num_steps:
        raise ValueError(f"step {step} is not one of 0..{scenario.num_steps - 1}")


def views(
    scenario: Scenario, agents: AgentState, center: Center, radius: float
) -> tuple[Float[np.ndarray, "T 2"], float]:
    """The middle of the view at each of [T, N] states (m), and its radius (m).

    While the agent in the middle is not there, the view stays where it was seen last (at first: where it will be).
    """
    num_steps = len(agents.valid)
    if isinstance(center, tuple):
        return np.tile(np.asarray(center, np.float64), (num_steps, 1)), radius
    row = _followed(scenario.agents, center)
    seen = np.flatnonzero(agents.valid[:, row]) if row is not None else []
    if len(seen):
        latest = np.searchsorted(seen, np.arange(num_steps), side="right") - 1
        return agents.xyz[seen[np.maximum(latest, 0)], row, :2].astype(np.float64), radius
    points = np.concatenate([scenario.roadmap.xyz[scenario.roadmap.valid], agents.xyz[agents.valid]])[:, :2]
    if not len(points):
        return np.zeros((num_steps, 2)), radius
    low, high = points.min(axis=0), points.max(axis=0)
    return np.tile((low + high) / 2, (num_steps, 1)), float((high - low).max() / 2 + MARGIN)


def _followed(info: AgentInfo, center: Literal["sdc", "scene"] | int) -> int | None:
    """Index of the agent in the middle of the view, if any."""
    if center == "scene":
        return None
    if center == "sdc":
        return int(np.argmax(info.is_sdc)) if info.is_sdc.any() else None
    return center


def logged_future(scenario: Scenario, step: int) -> AgentState:
    """The log of the next three seconds, from now on."""
    return take(scenario.log, slice(step, step + 1 + FUTURE_STEPS))


def new_axes(size: float) -> Axes:
    """Axes that fill a new square figure with a side of `size` inches."""
    figure = Figure(figsize=(size, size), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure.add_axes((0.0, 0.0, 1.0, 1.0))


def figure_of(ax: Axes) -> Figure:
    """The figure, not the sub-figure, that holds some axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def set_up(ax: Axes, scenario: Scenario, middle: Float[np.ndarray, "T 2"], radius: float) -> float:
    """Draws what stays: the map around all the views, and a scale bar. Returns points (1/72 inch) per metre."""
    ax.set(xticks=[], yticks=[], facecolor=style.BACKGROUND, aspect="equal")
    for spine in ax.spines.values():
        spine.set_visible(False)
    scale = min(ax.bbox.width, ax.bbox.height) / figure_of(ax).dpi * 72 / (2 * radius)
    draw_map(ax, scenario.roadmap, middle.min(axis=0) - radius, middle.max(axis=0) + radius, scale)
    _draw_scale_bar(ax, radius)
    return scale


def look_at(ax: Axes, middle: Float[np.ndarray, " 2"], radius: float) -> None:
    """Moves the view."""
    ax.set_xlim(middle[0] - radius, middle[0] + radius)
    ax.set_ylim(middle[1] - radius, middle[1] + radius)


def draw_moment(
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
    """Draws what changes from step to step and returns it; arguments as of `draw`."""
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
    frame = {"facecolor": style.WHITE, "edgecolor": "none", "alpha": 0.8, "pad": 3.0}
    where = {"x": 0.015, "y": 0.985, "ha": "left", "va": "top", "transform": ax.transAxes}
    return [ax.text(s=title, fontsize=9, color=style.INK, bbox=frame, zorder=style.OVERLAY, parse_math=False, **where)]


def _draw_legend(
    ax: Axes, info: AgentInfo, present: Bool[np.ndarray, " N"], flags: Mapping[str, Bool[np.ndarray, " N"]]
) -> list[Artist]:
    handles = [Patch(facecolor=style.SDC_COLOR, edgecolor=style.INK, label="sdc")] if info.is_sdc[present].any() else []
    for kind in np.unique(info.type[present & ~info.is_sdc]).tolist():
        handles.append(Patch(facecolor=style.AGENT_COLORS[kind], label=AGENT_TYPE_NAMES[kind]))
    for name, mask in flags.items():
        flagged = info.id[present & mask].tolist()
        if flagged:
            more = f" +{len(flagged) - NAMED_AGENTS}" if len(flagged) > NAMED_AGENTS else ""
            label = f"{name}: {', '.join(map(str, flagged[:NAMED_AGENTS]))}{more}"
            handles.append(Patch(facecolor="none", edgecolor=flag_color(name), linewidth=2.0, label=label))
    if not handles:
        return []
    legend = ax.legend(
        handles=handles, loc="lower right", fontsize=8, framealpha=0.8, edgecolor="none", borderaxespad=0.8
    )
    legend.set_zorder(style.OVERLAY)
    return [legend]


def _draw_scale_bar(ax: Axes, radius: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres, about a sixth of the view."""
    power = 10.0 ** np.floor(np.log10(radius / 3))
    length = max(power * digit for digit in (1, 2, 5) if power * digit <= radius / 3 * 1.01)
    left, right, bottom = 0.02, 0.02 + length / (2 * radius), 0.025
    paper = {"facecolor": style.WHITE, "alpha": 0.8, "zorder": style.OVERLAY - 1}
    ax.add_patch(Rectangle((left - 0.01, 0.012), right - left + 0.02, 0.048, transform=ax.transAxes, **paper))
    look = {"color": style.INK, "transform": ax.transAxes, "zorder": style.OVERLAY}
    ax.plot([left, left, right, right], [bottom + 0.008, bottom, bottom, bottom + 0.008], linewidth=1.5, **look)
    ax.text((left + right) / 2, bottom + 0.006, f"{length:g} m", ha="center", va="bottom", fontsize=8, **look)
