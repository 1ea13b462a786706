"""Interactive viewer of a scene: one self-contained HTML page without network requests."""

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Trace
from waymax_sim.text import printable
from waymax_sim.viz.draw import to_host
from waymax_sim.viz.packing import encode, pack

PAGE_DIR = Path(__file__).with_name("page")
SCRIPTS = (
    "scene.js",
    "lanes.js",
    "camera.js",
    "draw.js",
    "markers.js",
    "timeline.js",
    "facts.js",
    "pointer.js",
    "export.js",
    "link.js",
    "controls.js",
)
# Height of the page in a notebook, pixels.
NOTEBOOK_HEIGHT = 720


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of the viewer; notebooks display it as the value of a cell.

    Attributes:
      html: The whole page.
    """

    html: str

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the page to a file that any browser opens, and returns its path."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"<viewer, {len(self.html) / 1e3:.0f} kB: the value of a notebook cell, or `save(path)` for browsers>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="Scene viewer" srcdoc="{html.escape(self.html)}" '
            f'style="width: 100%; height: {NOTEBOOK_HEIGHT}px; border: 0"></iframe>'
        )


def viewer(
    scenario: Scenario,
    traces: Trace | Mapping[str, Trace] | None = None,
    drivers: Mapping[str, Sequence[str]] | None = None,
) -> Page:
    """An interactive page of a scene that compares rollouts with each other and with the log.

    Positions are stored to about 1 cm, headings to 0.01 rad, speeds to 0.1 m/s, and metrics to a thousandth of their
    largest value. Metrics are stored for the sdc and for the agents that the log does not control.

    Args:
      scenario: One scene, without a batch axis.
      traces: A rollout of it, or several by name to compare side by side; by default the log alone. A trace must
        record "agents"; events and curves need "metrics".
      drivers: Names of the policies of each rollout, in the order of its assignment, by the name of the rollout. By
        default the first policy has the name of the rollout, and further ones have numbers.

    Returns:
      The page; `page.save("scene.html")` writes it.

    Raises:
      ValueError: The scenario or a trace has a batch axis, a trace has no agents or no active step, or it is of
        another scene.
    """
    scenario = to_host(scenario)
    traces = {"simulation": traces} if isinstance(traces, Trace) else dict(traces or {})
    for name, trace in traces.items():
        _check(name, trace, scenario)
    page = (PAGE_DIR / "viewer.html").read_text(encoding="utf-8")
    parts = {
        "title": html.escape(printable(scenario.scenario_id)),
        "style": (PAGE_DIR / "style.css").read_text(encoding="utf-8"),
        "script": "\n".join((PAGE_DIR / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "scene": encode(pack(scenario, traces, drivers)),
    }
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return Page(page)


def _check(name: str, trace: Trace, scenario: Scenario) -> None:
    """Raises a ValueError unless the trace is a rollout of the scenario with agents."""
    if trace.agents is None:
        raise ValueError(f"trace {name!r} has no agents; record them: rollout(..., record=('agents', 'metrics'))")
    if trace.step.ndim != 1:
        raise ValueError(f"trace {name!r} has a batch axis; pick one, as in `tree_index(trace, 0)`")
    if not np.asarray(trace.active).any():
        raise ValueError(f"trace {name!r} has no active step")
    if trace.agents.valid.shape[-1] != scenario.num_agents or np.max(trace.step) >= scenario.num_steps:
        raise ValueError(f"trace {name!r} is not of this scene: it has another number of agents or steps")
