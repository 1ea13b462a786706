"""The observation of policies."""

import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from waymax_sim.datatypes.agents import AgentInfo, AgentState
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.lanes import LaneGraph
from waymax_sim.datatypes.polylines import Polylines
from waymax_sim.datatypes.roadmap import RoadMap, Segments
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.signals import Signals
from waymax_sim.datatypes.state import Action, State
from waymax_sim.pytree import Array, pytree, static, tree_index


@pytree
class Observation:
    """Information up to the current step in the local frame of the scenario, common to all agents.

    Attributes:
      step: Index of the current step in the record.
      remaining_time: Time until the end of the record, s.
      controlled: Slots of the agents of the policy, -1 for empty rows and for agents whose actions do not apply now. An
        agent keeps its row during an episode. The number of rows K is static: 1 for the sdc, otherwise
        `EnvConfig.max_controlled` or all N.
      history: The last H simulated steps, oldest first, the current one included, [H, N].
      info: Ids, types, sizes and roles.
      roadmap: The map.
      lanes: Lane segments.
      graph: Lane connectivity.
      edges: Road-edge segments.
      polylines: Map features in pieces of up to 8 points, with an index for nearest-neighbor queries.
      signals: Traffic lights now, [S].
      routes: Paths of the sdc, or None. `on_route` is a navigation command and therefore observed.
      goals: Goals of agents, or None.
      log: The whole record, future included, for privileged policies; None otherwise.
      dt: Time step, s; static.
    """

    step: Int[Array, ""]
    remaining_time: Float[Array, ""]
    controlled: Int[Array, " K"]
    history: AgentState
    info: AgentInfo
    roadmap: RoadMap
    lanes: Segments
    graph: LaneGraph
    edges: Segments
    polylines: Polylines
    signals: Signals
    routes: Routes | None
    goals: Goals | None
    log: AgentState | None
    dt: float = static(default=TIME_STEP)

    @property
    def agents(self) -> AgentState:
        """Agents now, [N]."""
        return tree_index(self.history, -1)


def observe(scenario: Scenario, state: State, controlled: Int[Array, " K"], privileged: bool = False) -> Observation:
    """The observation of a state.

    Args:
      scenario: The scenario of the state.
      state: The state, with the history that policies observe.
      controlled: Slots of the agents of the policy, -1 for empty rows.
      privileged: Whether the observation includes the log.
    """
    now = state.step
    lights = scenario.signals
    signals = Signals(
        lane_id=jnp.asarray(lights.lane_id),
        state=lights.state[now],
        stop_point=lights.stop_point[now],
        valid=lights.valid[now],
    )
    return Observation(
        step=now,
        dt=scenario.time_step,
        remaining_time=(scenario.last_step - now).astype(jnp.float32) * scenario.time_step,
        controlled=controlled,
        history=state.history,
        info=scenario.agents,
        roadmap=scenario.roadmap,
        lanes=scenario.lanes,
        graph=scenario.graph,
        edges=scenario.edges,
        polylines=scenario.polylines,
        signals=signals,
        routes=scenario.routes,
        goals=scenario.goals,
        log=scenario.log if privileged else None,
    )


def scatter_actions(observation: Observation, value: Num[Array, "K A"]) -> Action:
    """Actions of all N agents from those of the rows of `observation.controlled`; all others are invalid.

    Args:
      observation: The observation.
      value: Actions of `observation.controlled`.
    """
    return scatter_row_actions(observation.controlled, value, observation.info.id.shape[0])


def scatter_row_actions(rows: Int[Array, " K"], value: Num[Array, "K A"], num_agents: int) -> Action:
    """Actions of all N agents from those of given rows; all others are invalid.

    Args:
      rows: Slots of agents, -1 for none.
      value: Actions of the rows.
      num_agents: N.
    """
    rows = jnp.where(rows >= 0, rows, num_agents)
    empty = jnp.zeros((num_agents, *value.shape[1:]), value.dtype)
    return Action(
        value=empty.at[rows].set(value, mode="drop"),
        valid=jnp.zeros(num_agents, bool).at[rows].set(True, mode="drop"),
    )
