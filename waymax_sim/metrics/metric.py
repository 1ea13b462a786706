"""The metric record, and the snapshot of one step that metrics are computed from."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, VEHICLE, AgentInfo, AgentState, is_finite
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.nearest import is_on_right_side, signed_distance
from waymax_sim.maps.paths import nearest_lane
from waymax_sim.pytree import Array, pytree, tree_index

T = TypeVar("T")


@pytree
class MetricValue:
    """A value and its validity. Shape [N] per agent or [] per scene, with any leading axes.

    Attributes:
      value: In the unit of the metric; 0 where not valid.
      valid: Whether the metric is defined.
    """

    value: Float[Array, "*lead"]
    valid: Bool[Array, "*lead"]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One simulated step, its history and its scenario. Quantities that several metrics need are computed once.

    Attributes:
      scenario: The scenario.
      step: Index of the step in the record.
      history: Agents over at least two steps, oldest first; the last one is the present step, [H, N].
      rows: Rows of the O evaluated agents, -1 for padding; None for all agents. Metrics per agent have O values.
    """

    scenario: Scenario
    step: Int[Array, ""]
    history: AgentState
    rows: Int[Array, " O"] | None = None

    @property
    def dt(self) -> float:
        """Time step, s."""
        return self.scenario.time_step

    @cached_property
    def agents(self) -> AgentState:
        """Agents at the present step, [N]."""
        return tree_index(self.history, -1)

    @cached_property
    def previous(self) -> AgentState:
        """Agents one step earlier, [N]."""
        return tree_index(self.history, -2)

    @property
    def is_finite(self) -> Bool[Array, ""]:
        """Whether all valid agents have finite states, now and one step earlier."""
        recent = tree_index(self.history, slice(-2, None))
        return jnp.all(is_finite(recent) | ~recent.valid)

    def cached(self, compute: Callable[["Snapshot"], T]) -> T:
        """The result of a function of the snapshot, computed at its first call and shared between metrics."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]

    @cached_property
    def _computed(self) -> dict[Callable, Any]:
        return {}

    def select_evaluated(self, record: T) -> T:
        """The rows of the evaluated agents of any record over agents; padding (-1) selects agent 0."""
        return record if self.rows is None else tree_index(record, jnp.maximum(self.rows, 0))

    def past(self, num_steps: int) -> AgentState:
        """The evaluated agents over the last `num_steps` steps, or fewer if the history is shorter, [H, O]."""
        recent = tree_index(self.history, slice(-num_steps, None))
        if self.rows is None:
            return recent
        recent = tree_index(recent, (slice(None), jnp.maximum(self.rows, 0)))
        return dataclasses.replace(recent, valid=recent.valid & (self.rows >= 0)[None])

    @cached_property
    def evaluated_agents(self) -> AgentState:
        """The evaluated agents at the present step, [O]."""
        agents = self.select_evaluated(self.agents)
        if self.rows is None:
            return agents
        return dataclasses.replace(agents, valid=agents.valid & (self.rows >= 0))

    @cached_property
    def info(self) -> AgentInfo:
        """Types and sizes of the evaluated agents."""
        return self.select_evaluated(self.scenario.agents)

    @cached_property
    def is_self(self) -> Bool[Array, "O N"]:
        """Whether an evaluated agent and an agent are the same."""
        all_rows = jnp.arange(self.agents.valid.shape[0], dtype=jnp.int32)
        rows = all_rows if self.rows is None else self.rows
        return rows[:, None] == all_rows[None]

    @cached_property
    def is_wheeled(self) -> Bool[Array, " O"]:
        """Evaluated agents that are subject to traffic rules: valid vehicles and cyclists."""
        return self.evaluated_agents.valid & ((self.info.type == VEHICLE) | (self.info.type == CYCLIST))

    @cached_property
    def ground_points(self) -> Float[Array, "O 3"]:
        """Centers of the bottom faces of the boxes of the evaluated agents, m."""
        bottom = self.evaluated_agents.xyz[:, 2:] - self.info.size[:, 2:] / 2
        return jnp.concatenate([self.evaluated_agents.xyz[:, :2], bottom], axis=-1)

    @cached_property
    def nearest_lane(self) -> tuple[Int[Array, " O"], Bool[Array, " O"]]:
        """The nearest lane segment that each wheeled evaluated agent could follow, and whether there is one."""
        is_cyclist = self.info.type == CYCLIST
        yaw = self.evaluated_agents.yaw
        return nearest_lane(
            self.scenario.lanes, self.scenario.graph, self.ground_points, yaw, is_cyclist, self.is_wheeled
        )

    @cached_property
    def corners(self) -> Float[Array, "O 4 3"]:
        """Bottom corners of the boxes of the evaluated agents, m."""
        size = self.info.size
        xy = geometry.box_corners(self.evaluated_agents.xyz[:, :2], self.evaluated_agents.yaw, size[:, :2])
        bottom = self.evaluated_agents.xyz[:, 2] - size[:, 2] / 2
        return jnp.concatenate([xy, jnp.broadcast_to(bottom[:, None, None], (*xy.shape[:2], 1))], axis=-1)

    @cached_property
    def offroad_corners(self) -> tuple[Bool[Array, "O 4"], Bool[Array, " O"]]:
        """Bottom corners of evaluated agents that are beyond the nearest road edge, and the validity of agents."""
        present = self.evaluated_agents.valid
        query_mask = jnp.broadcast_to(present[:, None], self.corners.shape[:2])
        is_beyond, has_edge = is_on_right_side(self.scenario.edges, self.corners, query_mask)
        return is_beyond & query_mask, present & jnp.all(has_edge, axis=-1)

    @cached_property
    def offroad(self) -> tuple[Bool[Array, " O"], Bool[Array, " O"]]:
        """Whether any bottom corner of an evaluated agent is beyond the nearest road edge, and the validity of this."""
        is_beyond, valid = self.offroad_corners
        return jnp.any(is_beyond, axis=-1), valid

    @cached_property
    def road_edge_distance(self) -> MetricValue:
        """Signed distance of the most off-road corner of each evaluated agent to the nearest road edge, m."""
        present = self.evaluated_agents.valid
        query_mask = jnp.broadcast_to(present[:, None], self.corners.shape[:2])
        distance, has_edge = signed_distance(self.scenario.edges, self.corners, query_mask)
        return masked_value(jnp.max(distance, axis=-1), present & jnp.all(has_edge, axis=-1))


@dataclasses.dataclass(frozen=True)
class Metric:
    """A named measure of one step, and its aggregation to one number per scene.

    Attributes:
      name: Key in results.
      compute: From a snapshot to a value per agent or per scene.
      per: "agent" or "scene"; metrics per scene are about the sdc.
      unit: Unit of the value; "1" for yes (1) or no (0) and for ratios.
      over_time: Aggregation of the valid steps: their mean, sum, minimum, maximum, the last of them, or "onset". The
        maximum of a yes-or-no metric is 1 if it ever happened. The onset is the same for agents to which it does not
        apply at their first valid step, and not valid for the others.
      over_agents: Aggregation of the valid agents. Scenes are always averaged, each counting once.
      better: Whether lower or higher is better.
      num_steps: Number of steps of history that it needs, the present one included.
      duration: History that it needs, s; the longer of both counts.
    """

    name: str
    compute: Callable[[Snapshot], MetricValue]
    per: Literal["agent", "scene"]
    unit: str
    over_time: Literal["mean", "sum", "min", "max", "last", "onset"]
    over_agents: Literal["mean", "max"] = "mean"
    better: Literal["lower", "higher"] = "lower"
    num_steps: int = 2
    duration: float = 0.0

    def history_steps(self, time_step: float) -> int:
        """Number of steps of history for a time step (s), the present one included."""
        return max(self.num_steps, 1 + round(self.duration / time_step))


def masked_value(value: Float[Array, "*lead"], valid: Bool[Array, "*lead"]) -> MetricValue:
    """A metric value with zeros where it is not valid."""
    return MetricValue(value=jnp.where(valid, value, 0.0), valid=valid)


def flag(condition: Bool[Array, "*lead"], valid: Bool[Array, "*lead"]) -> MetricValue:
    """A yes-or-no metric value: 1.0 where the condition holds."""
    return masked_value(condition.astype(jnp.float32), valid)
