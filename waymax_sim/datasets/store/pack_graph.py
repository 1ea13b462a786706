"""What is known of lanes, as small integers."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.store.layout import CURVATURE
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import Segments


class GraphNumbers(NamedTuple):
    """A lane graph without what follows from the map.

    Attributes:
      num_segments: Number of lane segments.
      num_successors: Number of links to successors.
      num_predecessors: Number of links to predecessors.
      num_left: Number of segments that have another one on the left.
      num_right: The same on the right.
      integers: All that is discrete, and curvatures in steps.
      floats: Places of stop lines.
      flags: Which links were inferred, and which segments have another one on either side.
    """

    num_segments: int
    num_successors: int
    num_predecessors: int
    num_left: int
    num_right: int
    integers: list[Int[np.ndarray, "..."]]
    floats: list[Float[np.ndarray, "..."]]
    flags: list[Bool[np.ndarray, "..."]]


def graph_numbers(graph: LaneGraph, lanes: Segments) -> GraphNumbers:
    """The counterpart of `unpack_graph.graph_from`."""
    index = np.flatnonzero(lanes.valid)
    curvature = np.round(graph.curvature.reshape(-1)[index].astype(np.float64) / CURVATURE)
    sides = [side.reshape(-1)[index] for side in (graph.left, graph.right)]
    # Along two lanes what lies across is mostly as many segments away as before.
    away = [np.diff((side - index)[side >= 0], prepend=0) for side in sides]
    linked = [table >= 0 for table in (graph.successors, graph.predecessors)]
    row = np.arange(len(graph.first))[:, None]
    links = [(table - row)[has] for table, has in zip((graph.successors, graph.predecessors), linked, strict=True)]
    lines = graph.stop_lines
    controls = [lines.lane, graph.light[lines.lane], graph.stop_sign[lines.lane]]
    return GraphNumbers(
        num_segments=len(index),
        num_successors=len(links[0]),
        num_predecessors=len(links[1]),
        num_left=len(away[0]),
        num_right=len(away[1]),
        integers=[
            *(has.sum(axis=1) for has in linked),
            *links,
            *controls,
            np.diff(np.clip(curvature, -(2**30), 2**30).astype(np.int64), prepend=0),
            *away,
        ],
        floats=[graph.stop[lines.lane], lines.xyz, lines.yaw],
        flags=[graph.inferred, *(side >= 0 for side in sides)],
    )
