"""Deficits of safety margins: penalties that begin before a collision and before the road edge.

Source: the reward terms of "Imitation Is Not Enough" (Lu et al. 2023), with the opposite sign.
"""

from typing import NamedTuple

import jax.numpy as jnp

from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.metrics.clearance import distance_to_nearest
from waymax_sim.metrics.metric import MetricValue, Snapshot, masked_value


class MarginParams(NamedTuple):
    """Margins. Source: Lu et al. 2023, except for the largest deficit to the road edge, which is chosen.

    Attributes:
      clearance: Distance to the nearest other vehicle below which the deficit begins, m.
      edge: Distance to the road edge below which the deficit begins, m.
      max_edge_deficit: Largest deficit to the road edge, m: reached 1 m off the road.
    """

    clearance: float = 1.0
    edge: float = 1.0
    max_edge_deficit: float = 2.0


MARGINS = MarginParams()


def clearance_deficit(snapshot: Snapshot, params: MarginParams = MARGINS) -> MetricValue:
    """Distance that an agent lacks to a clearance of 1 m to the nearest other vehicle (m); 1 where they overlap.

    Valid where there is another vehicle on its level.
    """
    nearest = distance_to_nearest(snapshot, snapshot.scenario.agents.type == VEHICLE)
    return masked_value(jnp.maximum(params.clearance - nearest.value, 0.0), nearest.valid)


def edge_deficit(snapshot: Snapshot, params: MarginParams = MARGINS) -> MetricValue:
    """Distance that the most off-road corner of an agent lacks to a point 1 m inside the road edge (m), at most 2.

    Valid where the map has road edges.
    """
    edge = snapshot.road_edge_distance
    return masked_value(jnp.clip(edge.value + params.edge, 0.0, params.max_edge_deficit), edge.valid)
