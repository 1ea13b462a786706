"""The scenario: all data of a scene that stay constant during simulation."""

import html

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int, UInt8

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.polylines import Polylines
from waymax_sim.datatypes.roadmap import RoadMap, Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.signals import Signals
from waymax_sim.pytree import Array, describe, pytree, static
from waymax_sim.text import printable

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

    def __repr__(self) -> str:
        if not self._is_one_on_host:
            return describe(self)
        return f"Scenario({self.scenario_id!r}: {', '.join(f'{value} {name}' for name, value in self._facts.items())})"

    def _repr_html_(self) -> str:
        """A table of facts for notebooks."""
        facts = self._facts if self._is_one_on_host else {"": describe(self)}
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in facts.items()
        )
        title = html.escape(printable(self.scenario_id)) if self._is_one_on_host else "Scenario"
        return f"<table><caption>{title}</caption>{rows}</table>"

    @property
    def _is_one_on_host(self) -> bool:
        """Whether this is one scenario whose arrays have values: no batch, no tracers, no placeholders."""
        arrays = (
            self.timestamps,
            self.id_bytes,
            self.log.valid,
            self.agents.exists,
            self.roadmap.valid,
            self.current_step,
        )
        known = all(isinstance(array, jax.Array | np.ndarray) and not isinstance(array, Tracer) for array in arrays)
        return known and self.timestamps.ndim == 1

    @property
    def _facts(self) -> dict[str, str]:
        """Facts for display by name; padding is not counted."""
        now = int(self.current_step)
        exists, valid = np.asarray(self.agents.exists), np.asarray(self.log.valid)
        return {
            "agents": f"{int(exists.sum())}",
            "valid now": f"{int((valid[now] & exists).sum())}",
            "steps": f"{int(self.last_step) + 1}",
            "s per step": f"{self.time_step:g}",
            "current step": f"{now}",
            "map points": f"{int(np.asarray(self.roadmap.valid).sum())}",
            "lights": f"{int(np.asarray(self.signals.valid).any(axis=0).sum())}",
        }

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
