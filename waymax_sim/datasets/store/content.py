"""Checks of the values of a stored scenario, which compiled programs use as indices without checking them."""

from typing import Any

import jax
import numpy as np

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import MAX_TIME_STEP, MIN_TIME_STEP
from waymax_sim.datatypes.padding import axis_lengths
from waymax_sim.datatypes.polylines import POINTS_PER_POLYLINE
from waymax_sim.datatypes.roadmap import CHUNK_SIZE
from waymax_sim.datatypes.scenario import Scenario

# Arrays that may have infinite values.
UNBOUNDED = ("polylines.points", "edges.index.min_z", "edges.index.max_z", "lanes.index.min_z", "lanes.index.max_z")


def check_content(scenario: Scenario) -> None:
    """Checks that numbers are finite and that codes and indices are in range.

    Args:
      scenario: The scenario, padded or not, on the host.

    Raises:
      DataError: A value is outside of its range.
    """
    ranges = _ranges(scenario)
    for path, leaf in jax.tree_util.tree_leaves_with_path(scenario):
        name, values = ".".join(key.name for key in path), np.asarray(leaf)
        if not values.size or values.dtype.kind not in "if" or name in UNBOUNDED:
            continue
        if values.dtype.kind == "f":
            # The sum of the extremes is NaN or infinite if one of the values is.
            if not np.isfinite(values.min() + values.max()):
                raise DataError("has values that are not finite", field=name)
        elif name in ranges:
            low, high = ranges[name]
            if values.min() < low or values.max() > high:
                raise DataError(f"has values outside {low}..{high}", field=name)
    grid = int(scenario.polylines.num_rows) * int(scenario.polylines.num_columns)
    if grid > len(scenario.polylines.cell_groups):
        raise DataError(f"has {grid} cells in {len(scenario.polylines.cell_groups)} rows", field="polylines.num_rows")
    if scenario.num_steps > 1 and not MIN_TIME_STEP <= scenario.time_step <= MAX_TIME_STEP:
        raise DataError(f"has a time step of {scenario.time_step} s", field="timestamps")
    if int(np.count_nonzero(scenario.agents.is_sdc)) > 1:
        raise DataError("marks several agents as the sdc", field="agents.is_sdc")


def _ranges(scenario: Scenario) -> dict[str, tuple[int, int]]:
    """Smallest and largest value of arrays of codes and indices."""
    length = axis_lengths(scenario)
    lanes, features = CHUNK_SIZE * length["lanes.C"], length["graph.F"]
    ranges: dict[str, Any] = {
        "current_step": (0, int(scenario.last_step)),
        "last_step": (0, scenario.num_steps - 1),
        "agents.type": (0, 4),
        "roadmap.feature": (0, length["F"] - 1),
        "roadmap.feature_type": (-1, 20),
        "roadmap.links": (-1, max(length["F"] - 1, 3)),
        "graph.first_segment": (0, lanes - 1),
        "graph.num_segments": (0, lanes),
        "graph.successors": (-1, features - 1),
        "graph.predecessors": (-1, features - 1),
        "graph.light": (-1, length["S"] - 1),
        "graph.stop_lines.lane": (-1, features - 1),
        "graph.left": (-1, lanes - 1),
        "graph.right": (-1, lanes - 1),
        "polylines.first_point": (0, length["P"] - 1),
        "polylines.num_points": (0, POINTS_PER_POLYLINE),
        "polylines.cell_groups": (-1, length["polylines.G"] - 1),
        "polylines.num_rows": (0, 2**31 - 1),
        "polylines.num_columns": (0, 2**31 - 1),
        "signals.state": (0, 8),
    }
    for segments in ("edges", "lanes"):
        chunks, nodes, lists = (length[f"{segments}.{axis}"] for axis in "CQL")
        ranges |= {
            f"{segments}.previous": (-1, CHUNK_SIZE * chunks - 1),
            f"{segments}.next": (-1, CHUNK_SIZE * chunks - 1),
            f"{segments}.feature": (0, features - 1),
            f"{segments}.index.root": (-lists, nodes - 1),
            f"{segments}.index.nodes": (-lists, nodes - 1),
            f"{segments}.index.lists": (0, chunks - 1),
            f"{segments}.index.side": (-1, 1),
        }
    return ranges
