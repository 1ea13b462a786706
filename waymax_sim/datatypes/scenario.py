"""The scenario: everything about a scene that does not change while it is simulated."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.elements import MapElements
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import RoadMap, Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.signals import Signals
from waymax_sim.pytree import Array, pytree

ID_BYTES = 64


@pytree
class Scenario:
    """One recorded scene in its local frame, of T steps and N agents. Constant: never part of a state.

    Attributes:
      id_bytes: Scenario id as UTF-8, zero-padded; read it as `scenario_id`.
      origin: World position of the local origin in whole metres, exact in float32. World = local + origin.
      timestamps: Time of each step from the first, s.
      current_step: The step called "now": the last one that a policy may know from the log.
      agents: Ids, types, sizes and roles.
      log: What was recorded, [T, N].
      roadmap: Map points and their feature table.
      edges: Road-edge segments; the road is to the left of their direction.
      lanes: Segments of lane centres in the direction of travel.
      graph: How lanes hang together, their limits and where they end in a stop line.
      elements: Short pieces of map features, and the index of which are near.
      signals: Traffic lights, [T, S].
      routes: Paths of the sdc, of the source or derived from the lanes; None where they were taken away.
      goals: Where agents are to go, or None where nobody was told.
    """

    id_bytes: UInt8[Array, " bytes"]
    origin: Float[Array, " 3"]
    timestamps: Float[Array, " T"]
    current_step: Int[Array, ""]
    agents: AgentInfo
    log: AgentState
    roadmap: RoadMap
    edges: Segments
    lanes: Segments
    graph: LaneGraph
    elements: MapElements
    signals: Signals
    routes: Routes | None
    goals: Goals | None = None

    @property
    def scenario_id(self) -> str:
        """The id of the source as text."""
        return bytes(np.asarray(self.id_bytes)).rstrip(b"\0").decode("utf-8", errors="replace")

    @property
    def num_steps(self) -> int:
        """Number of recorded steps T."""
        return self.timestamps.shape[-1]

    @property
    def num_agents(self) -> int:
        """Number of agent slots N, padding included."""
        return self.agents.id.shape[-1]
