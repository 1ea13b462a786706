"""What a policy may see."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.elements import MapElements
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.roadmap import RoadMap, Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import Signals
from waymax_sim.datatypes.state import State
from waymax_sim.pytree import Array, pytree, take


@pytree
class Observation:
    """The world as it is known now, in the local frame of the scene, shared by all agents.

    Attributes:
      step: Index of the present moment in the record.
      dt: Time step, s.
      history: The last H simulated steps, oldest first; the last one is now, [H, N].
      info: Ids, types, sizes and roles.
      roadmap: The map.
      lanes: Lane segments.
      graph: How lanes hang together.
      edges: Road-edge segments.
      elements: Short pieces of map features, and the index of which are near.
      signals: Traffic lights now, [S].
      routes: Paths of the sdc, or None. `on_route` is an instruction where to go, and is not hidden.
      goals: Where agents were told to go, or None where nobody was.
      log: The whole record, future included, for privileged policies; None for all others.
    """

    step: Int[Array, ""]
    dt: Float[Array, ""]
    history: AgentState
    info: AgentInfo
    roadmap: RoadMap
    lanes: Segments
    graph: LaneGraph
    edges: Segments
    elements: MapElements
    signals: Signals
    routes: Routes | None
    goals: Goals | None
    log: AgentState | None

    @property
    def agents(self) -> AgentState:
        """Agents now, [N]."""
        return take(self.history, -1)


def observe(scenario: Scenario, state: State, dt: float, *, privileged: bool = False) -> Observation:
    """What a policy sees in `state`. Only a privileged one sees the log."""
    now = state.step
    lights = scenario.signals
    signals = Signals(
        lane_id=lights.lane_id,
        state=lights.state[now],
        stop_point=lights.stop_point[now],
        valid=lights.valid[now],
    )
    return Observation(
        step=now,
        dt=jnp.asarray(dt, jnp.float32),
        history=state.history,
        info=scenario.agents,
        roadmap=scenario.roadmap,
        lanes=scenario.lanes,
        graph=scenario.graph,
        edges=scenario.edges,
        elements=scenario.elements,
        signals=signals,
        routes=scenario.routes,
        goals=scenario.goals,
        log=scenario.log if privileged else None,
    )
