"""Scaling curves: cost of a scene-step over the number of agents, map points and scenes at once."""

from pathlib import Path
from typing import Any

Json = dict[str, Any]
AXES = {"agents": "agents", "map_points": "map points", "batch": "scenes at once"}


def plot(results: Json, path: Path) -> None:
    """Writes a picture with a panel per axis; dashed is brute force as measured in the same run.

    Args:
      results: From `run`.
      path: File to write, such as one ending in .png.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        for number, (name, rows) in enumerate(curves(results, axis).items()):
            sizes = [row[axis] for row in rows]
            cost = [row["wall_ms_per_scene_step"] for row in rows]
            panel.plot(sizes, cost, "o-", color=f"C{number}", label=name)
            slow = [(row[axis], row["wall_ms_per_scene_step"] * ratio) for row in rows if (ratio := _ratio(row))]
            if slow:
                panel.plot(*zip(*slow, strict=True), "x--", color=f"C{number}", label=f"{name}, brute force")
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis])
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    panels[0].set_ylabel("wall time per scene-step (ms)")
    figure.savefig(path, dpi=120)


def curves(results: Json, axis: str) -> dict[str, list[Json]]:
    """Rows in order of one axis, the other two as in most rows; by name, for those with two sizes or more.

    Args:
      results: From `run`.
      axis: "agents", "map_points" or "batch".
    """
    timed = [row for row in results["rows"] if row["wall_ms_per_scene_step"] is not None]
    others = [name for name in AXES if name != axis]
    sizes = [tuple(row[name] for name in others) for row in timed]
    usual = max(sizes, key=sizes.count, default=())
    found: dict[str, list[Json]] = {}
    for row, size in zip(timed, sizes, strict=True):
        if size == usual:
            found.setdefault(row["name"], []).append(row)
    return {name: sorted(rows, key=lambda row: row[axis]) for name, rows in found.items() if len(rows) > 1}


def _ratio(row: Json) -> float | None:
    return row["ratio_to_brute_force"]
