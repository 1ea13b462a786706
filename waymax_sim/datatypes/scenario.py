"""The scenario: all data of a scene that stay constant during simulation."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.polylines import Polylines
from waymax_sim.datatypes.roadmap import RoadMap, Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.signals import Signals
from waymax_sim.pytree import Array, pytree, static

# Bytes of an encoded scenario id.
ID_BYTES = 64
# Duration of a step, s: 10 Hz in WOMD, in synthetic scenes, and in sources that state no times.
TIME_STEP = 0.1
# Deviation from `TIME_STEP` that is jitter of the recording clock and not another time step, s.
TIME_STEP_TOLERANCE = 0.002


@pytree
class Scenario:
    """One recorded scene in its local frame, of T steps and N agents. Constant, so never part of a state.

    No axis is empty: where a scene lacks some content, such as lights, agents or a map, arrays have a row of padding.

    Attributes:
      id_bytes: Scenario id as UTF-8, zero-padded; read it as `scenario_id`.
      origin: World position of the local origin in whole meters, exact in float32. World = local + origin.
      timestamps: Time of each step from the first, s.
      current_step: Index of the current step, the last one that a policy may know from the log.
      last_step: Index of the last step of the record; later steps are padding and never simulated.
      agents: Ids, types, sizes and roles.
      log: Recorded states, [T, N].
      roadmap: Map points and their feature table.
      edges: Road-edge segments; the road is to the left of their direction.
      lanes: Segments of lane centerlines in the direction of travel.
      graph: Lane connectivity, speed limits and stop lines.
      polylines: Short pieces of map features, with an index for nearest-neighbor queries.
      signals: Traffic lights, [T, S].
      routes: Paths of the sdc, from the source or derived from the lanes; None if removed.
      goals: Goals of agents, or None.
      time_step: Duration of a step, s; static, so that scenarios of one batch share it.
    """

    id_bytes: UInt8[Array, " bytes"]
    origin: Float[Array, " 3"]
    timestamps: Float[Array, " T"]
    current_step: Int[Array, ""]
    last_step: Int[Array, ""]
    agents: AgentInfo
    log: AgentState
    roadmap: RoadMap
    edges: Segments
    lanes: Segments
    graph: LaneGraph
    polylines: Polylines
    signals: Signals
    routes: Routes | None
    goals: Goals | None = None
    time_step: float = static(default=TIME_STEP)

    @property
    def scenario_id(self) -> str:
        """The scenario id of the source as text."""
        return bytes(np.asarray(self.id_bytes)).rstrip(b"\0").decode("utf-8", errors="replace")

    @property
    def num_steps(self) -> int:
        """Number of steps T, padding included."""
        return self.timestamps.shape[-1]

    @property
    def num_remaining_steps(self) -> int:
        """Number of steps of the record after the current one; of one scenario on the host."""
        return int(self.last_step) - int(self.current_step)

    @property
    def num_agents(self) -> int:
        """Number of agent slots N, padding included."""
        return self.agents.id.shape[-1]


def clock_time_step(timestamps: Float[Array, " T"]) -> float:
    """Duration of a step of a record, s: the mean, rounded to 0.1 ms; `TIME_STEP` within its tolerance.

    Args:
      timestamps: Times of the steps, s; with fewer than two of them the result is `TIME_STEP`.
    """
    if len(timestamps) < 2:
        return TIME_STEP
    mean = (float(timestamps[-1]) - float(timestamps[0])) / (len(timestamps) - 1)
    return TIME_STEP if abs(mean - TIME_STEP) <= TIME_STEP_TOLERANCE else round(mean, 4)


def interval_steps(interval: float, time_step: float) -> int:
    """Number of time steps (s) in an interval (s), at least one."""
    return max(1, round(interval / time_step))
