"""What a metric is, and the view of one moment that metrics are computed from."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import CYCLIST, VEHICLE, AgentInfo, AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.nearest import right_of, signed_distance
from waymax_sim.maps.paths import nearest_lane
from waymax_sim.pytree import Array, pytree, take

T = TypeVar("T")


@pytree
class MetricValue:
    """A number and whether it means anything. Shape [N] per agent or [] per scene, with any leading axes.

    Attributes:
      value: In the unit of the metric; 0 where not valid.
      valid: Whether the metric is defined there.
    """

    value: Float[Array, "*lead"]
    valid: Bool[Array, "*lead"]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """One simulated moment with what metrics compare it to. What several metrics need is computed once.

    Attributes:
      scenario: The scene.
      step: Index of the moment in the record.
      history: Agents over at least two steps, oldest first; the last one is the moment, [H, N].
      dt: Step, s.
      rows: Rows of the O evaluated agents, -1 for none; None for all agents. Metrics per agent have a value for each.
    """

    scenario: Scenario
    step: Int[Array, ""]
    history: AgentState
    dt: float
    rows: Int[Array, " O"] | None = None

    @cached_property
    def agents(self) -> AgentState:
        """Agents at the moment, [N]."""
        return take(self.history, -1)

    @cached_property
    def previous(self) -> AgentState:
        """Agents one step before, [N]."""
        return take(self.history, -2)

    def once(self, compute: Callable[["Snapshot"], T]) -> T:
        """What a function makes of the moment; computed at the first call, for what several metrics share."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]

    @cached_property
    def _computed(self) -> dict[Callable, Any]:
        return {}

    def of_subjects(self, record: T) -> T:
        """The rows of the evaluated agents of any record over agents; for absent ones (-1) those of agent 0."""
        return record if self.rows is None else take(record, jnp.maximum(self.rows, 0))

    def past(self, num_steps: int) -> AgentState:
        """The judged agents over the last steps, as many as are known, [H, O]."""
        recent = take(self.history, slice(-num_steps, None))
        if self.rows is None:
            return recent
        recent = take(recent, (slice(None), jnp.maximum(self.rows, 0)))
        return dataclasses.replace(recent, valid=recent.valid & (self.rows >= 0)[None])

    @cached_property
    def subjects(self) -> AgentState:
        """The judged agents at the moment."""
        subjects = self.of_subjects(self.agents)
        if self.rows is None:
            return subjects
        return dataclasses.replace(subjects, valid=subjects.valid & (self.rows >= 0))

    @cached_property
    def info(self) -> AgentInfo:
        """What the judged agents are."""
        return self.of_subjects(self.scenario.agents)

    @cached_property
    def is_itself(self) -> Bool[Array, "O N"]:
        """Which agent is which of the judged ones."""
        everyone = jnp.arange(self.agents.valid.shape[0], dtype=jnp.int32)
        rows = everyone if self.rows is None else self.rows
        return rows[:, None] == everyone[None]

    @cached_property
    def drives(self) -> Bool[Array, " O"]:
        """Judged agents that rules of the road are for: vehicles and cyclists that are there."""
        return self.subjects.valid & ((self.info.type == VEHICLE) | (self.info.type == CYCLIST))

    @cached_property
    def wheels(self) -> Float[Array, "O 3"]:
        """Middles of the bottoms of the judged agents, m."""
        bottom = self.subjects.xyz[:, 2:] - self.info.size[:, 2:] / 2
        return jnp.concatenate([self.subjects.xyz[:, :2], bottom], axis=-1)

    @cached_property
    def nearest_lane(self) -> tuple[Int[Array, " O"], Bool[Array, " O"]]:
        """The nearest lane segment that each judged agent that drives could be following, and whether there is any."""
        rides = self.info.type == CYCLIST
        yaw = self.subjects.yaw
        return nearest_lane(self.scenario.lanes, self.scenario.graph, self.wheels, yaw, rides, self.drives)

    @cached_property
    def corners(self) -> Float[Array, "O 4 3"]:
        """Bottom corners of the boxes of the judged agents, m."""
        size = self.info.size
        xy = geometry.box_corners(self.subjects.xyz[:, :2], self.subjects.yaw, size[:, :2])
        bottom = self.subjects.xyz[:, 2] - size[:, 2] / 2
        return jnp.concatenate([xy, jnp.broadcast_to(bottom[:, None, None], (*xy.shape[:2], 1))], axis=-1)

    @cached_property
    def offroad(self) -> tuple[Bool[Array, " O"], Bool[Array, " O"]]:
        """Whether any bottom corner of each judged agent is beyond the nearest road edge, and whether one can tell."""
        present = self.subjects.valid
        asked = jnp.broadcast_to(present[:, None], self.corners.shape[:2])
        beyond, found = right_of(self.scenario.edges, self.corners, asked)
        return jnp.any(beyond, axis=-1), present & jnp.all(found, axis=-1)

    @cached_property
    def road_edge_distance(self) -> MetricValue:
        """Signed distance of the most off-road corner of each judged agent to the nearest road edge, m."""
        present = self.subjects.valid
        asked = jnp.broadcast_to(present[:, None], self.corners.shape[:2])
        distance, found = signed_distance(self.scenario.edges, self.corners, asked)
        return masked_value(jnp.max(distance, axis=-1), present & jnp.all(found, axis=-1))


@dataclasses.dataclass(frozen=True)
class Metric:
    """A named measure of one moment and how it becomes one number per scene.

    Attributes:
      name: Key in results.
      compute: From a snapshot to a value per agent or per scene.
      per: "agent" or "scene"; what is per scene is about the sdc.
      unit: Unit of the value; "1" for yes (1) or no (0) and for ratios.
      over_time: How valid steps become one number: their mean, sum, minimum, maximum or the last of them. The
        maximum of a yes-or-no metric says whether it ever happened.
      over_agents: How valid agents become one number. Scenes are always averaged, each counting once.
      better: Whether lower or higher is better.
      num_steps: Steps of history it looks at, the present one included.
    """

    name: str
    compute: Callable[[Snapshot], MetricValue]
    per: Literal["agent", "scene"]
    unit: str
    over_time: Literal["mean", "sum", "min", "max", "last"]
    over_agents: Literal["mean", "max"] = "mean"
    better: Literal["lower", "higher"] = "lower"
    num_steps: int = 2


def masked_value(value: Float[Array, "*lead"], valid: Bool[Array, "*lead"]) -> MetricValue:
    """A metric value with zeros where it is not valid."""
    return MetricValue(value=jnp.where(valid, value, 0.0), valid=valid)


def flag(condition: Bool[Array, "*lead"], valid: Bool[Array, "*lead"]) -> MetricValue:
    """A yes-or-no metric value: 1.0 where the condition holds."""
    return masked_value(condition.astype(jnp.float32), valid)
