"""The planning context of the ego, the prediction of other agents, and forward simulation of candidate actions."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from behavior_models.planners.reference_path import ReferencePath, build_reference_path, path_point, project
from behavior_models.traffic.car_following import FAR
from behavior_models.traffic.stop_lines import CLOSED_STATES, STOPPING
from behavior_models.traffic.swept_path import is_level
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed
from waymax_sim.datatypes.scenario import interval_steps
from waymax_sim.datatypes.signals import CAUTION_STATES, UNKNOWN, observed_states
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation
from waymax_sim.pytree import Array, pytree, static, static_record, tree_index


@static_record
class PredictionParams:
    """Horizon and detail of the forward simulation. The values are choices of this package but where it is said.

    Attributes:
      horizon: Planning horizon, s, as in PDM (Dauner et al. 2023).
      comparison_interval: Time between two comparisons of the ego with others, s; at least one step.
      num_agents: Other agents that are predicted.
      observation_time: These are the agents with the least distance after this driving time, s.
      lateral_margin: Free space on either side of the ego, m.
      comfortable_deceleration: Deceleration up to which the ego stops at a yellow light, m/s^2.
      stopped_speed: Speed below which the ego has stopped at a stop sign, m/s.
    """

    horizon: float = 4.0
    comparison_interval: float = 0.2
    num_agents: int = 24
    observation_time: float = 3.0
    lateral_margin: float = 0.2
    comfortable_deceleration: float = 3.0
    stopped_speed: float = 0.4

    def stride(self, dt: float) -> int:
        """Steps between two comparisons, for a time step (s)."""
        return interval_steps(self.comparison_interval, dt)

    def num_steps(self, dt: float) -> int:
        """Steps of the planning horizon for a time step (s): a multiple of the stride."""
        return self.stride(dt) * interval_steps(self.horizon, self.stride(dt) * dt)


PREDICTION = PredictionParams()
EGO_DYNAMICS = Bicycle(max_acceleration=VEHICLE_LIMITS.max_deceleration)

Carry = TypeVar("Carry")


class PredictedAgents(NamedTuple):
    """Agents near the ego, predicted at constant velocity.

    Attributes:
      outline: Their boxes now.
      velocity_x: m/s.
      velocity_y: m/s.
      valid: False for padding.
    """

    outline: geometry.Boxes
    velocity_x: Float[Array, "*#b O"]
    velocity_y: Float[Array, "*#b O"]
    valid: Bool[Array, "*#b O"]

    def outline_at(self, time: Float[Array, "*#b"]) -> geometry.Boxes:
        """The predicted boxes after some time (s)."""
        x, y = self.outline.x + time * self.velocity_x, self.outline.y + time * self.velocity_y
        return self.outline._replace(x=x, y=y)


class AgentsOnPath(NamedTuple):
    """Predicted agents in the frame of the reference path, at the times of `prediction_times`.

    Attributes:
      rear: Arc length at which the box begins, m.
      center: Arc length of its center, m; `-FAR` for padding, so that it is never ahead.
      lateral: Offset of its center to the left, m.
      half_width: Half of its extent across the path plus the lateral margin, m.
      speed: Along the path, m/s.
    """

    rear: Float[Array, "T O"]
    center: Float[Array, "T O"]
    lateral: Float[Array, "T O"]
    half_width: Float[Array, "T O"]
    speed: Float[Array, "T O"]


@pytree
class PlanningContext:
    """All that a planner knows about the present and the future of one agent, the ego.

    Attributes:
      history: The ego one step ago and now, [2].
      size: Its length, width and height, m.
      reference: The reference path.
      arc_length: Position of the ego on it, m.
      agents: Other agents near the ego.
      agents_on_path: The same in the frame of the reference path.
      stop_line_index: The stop line to stop at; -1 for none.
      stop_line_s: Its arc length, m; infinite for none.
      dt: Time step, s; static.
    """

    history: AgentState
    size: Float[Array, " 3"]
    reference: ReferencePath
    arc_length: Float[Array, ""]
    agents: PredictedAgents
    agents_on_path: AgentsOnPath
    stop_line_index: Int[Array, ""]
    stop_line_s: Float[Array, ""]
    dt: float = static()

    @property
    def ego(self) -> AgentState:
        """The ego now."""
        return tree_index(self.history, 1)

    @property
    def speed(self) -> Float[Array, ""]:
        """Speed of the ego along its heading, m/s."""
        return forward_speed(self.ego)


class EgoRollouts(NamedTuple):
    """K candidate trajectories of the ego over the next T steps.

    Attributes:
      agents: The ego after each step, [T, K].
      arc_length: Position on the reference path, m.
      lateral: Offset from it to the left, m.
      action: Accelerations (m/s^2) and curvatures (1/m).
    """

    agents: AgentState
    arc_length: Float[Array, "T K"]
    lateral: Float[Array, "T K"]
    action: Float[Array, "T K 2"]


class EgoState(NamedTuple):
    """The ego at one step of K rollouts.

    Attributes:
      agents: The ego, [K].
      speed: Along its heading, m/s, signed.
      arc_length: Position of its center on the reference path, m.
      lateral: Offset to the left, m.
    """

    agents: AgentState
    speed: Float[Array, " K"]
    arc_length: Float[Array, " K"]
    lateral: Float[Array, " K"]


def planning_context(
    observation: Observation, ego_index: Int[Array, ""], cleared_stop_line: Int[Array, ""]
) -> PlanningContext:
    """The planning context of an agent.

    Args:
      observation: The present.
      ego_index: Slot of the agent.
      cleared_stop_line: The stop line at which it has stopped already, -1 for none.
    """
    # Two states give the last action.
    history = tree_index(observation.history, (slice(-2, None), ego_index))
    size, reference = observation.info.size[ego_index], build_reference_path(observation, ego_index)
    now = tree_index(history, 1)
    # All others are projected onto the same path, so gaps are differences of arc lengths.
    arc_length = project(reference, *now.xyz[:2])[0]
    agents = _nearby_agents(observation, ego_index)
    line, line_s = _next_stop_line(observation, reference, arc_length, forward_speed(now), size[0], cleared_stop_line)
    return PlanningContext(
        history=history,
        size=size,
        dt=observation.dt,
        reference=reference,
        arc_length=arc_length,
        agents=agents,
        agents_on_path=_project_agents(reference, agents, observation.dt),
        stop_line_index=line,
        stop_line_s=line_s,
    )


def prediction_times(dt: float) -> Float[Array, " T"]:
    """Times from now at which the ego is compared with others (s), now included."""
    return dt * jnp.arange(0, PREDICTION.num_steps(dt) + 1, PREDICTION.stride(dt), dtype=jnp.float32)


def _nearby_agents(observation: Observation, ego_index: Int[Array, ""]) -> PredictedAgents:
    """The other agents that can be nearest soon: by distance minus the distance that they drive."""
    now, size = observation.agents, observation.info.size
    # Selection by distance after the motion, as in the search of conflicts of traffic.
    offset = now.xyz - now.xyz[ego_index][None]
    distance, speed = geometry.norm(offset[:, :2]), geometry.norm(now.velocity)
    agent_index = jnp.arange(distance.shape[0])
    is_other = now.valid & (agent_index != ego_index) & is_level(offset[:, 2], distance)
    # Padding and agents without an extent cannot be hit.
    is_other = is_other & jnp.all(size[:, :2] != 0, axis=-1)
    nearness = jnp.where(is_other, PREDICTION.observation_time * speed - distance, -jnp.inf)
    num_agents = min(PREDICTION.num_agents, agent_index.shape[0])
    nearness, index = jax.lax.top_k(jax.lax.stop_gradient(nearness), num_agents)
    nearest = tree_index(now, index)
    # Velocities of recorded agents at rest are noise; over 4 s it would move parked cars into the lane.
    velocity = jnp.where((speed[index] > VEHICLE_LIMITS.standstill_speed)[:, None], nearest.velocity, 0.0)
    outline = geometry.Boxes.from_poses(nearest.xyz[:, :2], nearest.yaw, size[index, :2])
    return PredictedAgents(outline, velocity[:, 0], velocity[:, 1], valid=nearness > -jnp.inf)


def _project_agents(reference: ReferencePath, agents: PredictedAgents, dt: float) -> AgentsOnPath:
    time = prediction_times(dt)[:, None]
    row = jax.tree.map(lambda leaf: leaf[None], agents)
    box = row.outline_at(time)
    center, lateral, cos, sin = project(reference, box.x, box.y)
    # Extents of the rotated box along the path and across it.
    parallel = jnp.abs(cos * box.cos + sin * box.sin)
    perpendicular = jnp.abs(cos * box.sin - sin * box.cos)
    return AgentsOnPath(
        rear=center - parallel * box.half_length - perpendicular * box.half_width,
        center=jnp.where(row.valid, center, -FAR),
        lateral=lateral,
        half_width=perpendicular * box.half_length + parallel * box.half_width + PREDICTION.lateral_margin,
        speed=cos * row.velocity_x + sin * row.velocity_y,
    )


def _next_stop_line(
    observation: Observation,
    reference: ReferencePath,
    arc_length: Float[Array, ""],
    speed: Float[Array, ""],
    length: Float[Array, ""],
    cleared_stop_line: Int[Array, ""],
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """Index and arc length (m) of the next stop line with a light at which the ego can stop, or a pending stop sign."""
    distance = reference.stop - arc_length
    state = observed_states(observation.signals)
    # Stop lines without a light have the state unknown, which is no reason to stop.
    state = jnp.where(reference.light >= 0, jnp.append(state, UNKNOWN)[reference.light], UNKNOWN)
    # An ego that cannot stop before the line clears the junction: a stop behind the line would block it.
    deceleration = speed**2 / (2.0 * jnp.maximum(distance - length / 2, STOPPING.min_stop_distance))
    at_red = jnp.isin(state, jnp.asarray(CLOSED_STATES)) & (deceleration < VEHICLE_LIMITS.max_deceleration)
    at_yellow = jnp.isin(state, jnp.asarray(CAUTION_STATES)) & (deceleration < PREDICTION.comfortable_deceleration)
    line_index = jnp.arange(distance.shape[0], dtype=jnp.int32)
    # The front has to be before the line, and the ego stops once at each sign.
    at_sign = reference.stop_sign & (distance > length / 2) & (line_index != cleared_stop_line)
    stops = (distance > 0) & (at_red | at_yellow | at_sign)
    # Only the nearest line constrains the ego; later ones follow once it is cleared.
    nearest = jnp.argmin(jnp.where(stops, distance, jnp.inf)).astype(jnp.int32)
    exists = jnp.any(stops)
    return jnp.where(exists, nearest, -1), jnp.where(exists, reference.stop[nearest], jnp.inf)


def update_cleared_stop_line(context: PlanningContext, cleared_stop_line: Int[Array, ""]) -> Int[Array, ""]:
    """The last stop line at which the ego has stopped: the next one while it stands before it."""
    # From the front bumper to the line.
    distance = context.stop_line_s - context.arc_length - context.size[0] / 2
    has_stopped = (jnp.abs(context.speed) < PREDICTION.stopped_speed) & (distance < STOPPING.stop_sign_distance)
    return jnp.where((context.stop_line_index >= 0) & has_stopped, context.stop_line_index, cleared_stop_line)


def forward_simulate(
    context: PlanningContext,
    controller: Callable[[EgoState, Carry, Int[Array, ""]], tuple[Float[Array, "K 2"], Carry]],
    carry: Carry,
    num_candidates: int,
) -> EgoRollouts:
    """Closed-loop simulation of K candidates with the bicycle model.

    Args:
      context: The present.
      controller: From ego state, carry and step (0 is now) to acceleration and curvature, and the next carry.
      carry: That of the first step.
      num_candidates: K.
    """
    agents = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_candidates, *leaf.shape)), context.ego)
    arc_length = jnp.broadcast_to(context.arc_length, (num_candidates,))

    def step(loop, index):
        state, carry = loop
        action, carry = controller(state, carry, index)
        agents = EGO_DYNAMICS.apply(state.agents, action, context.dt)
        # The expected arc length is the start of the projection.
        state = _ego_state(context.reference, agents, state.arc_length + state.speed * context.dt)
        return (state, carry), EgoRollouts(agents, state.arc_length, state.lateral, action)

    first = _ego_state(context.reference, agents, arc_length)
    return jax.lax.scan(step, (first, carry), jnp.arange(PREDICTION.num_steps(context.dt), dtype=jnp.int32))[1]


def _ego_state(reference: ReferencePath, agents: AgentState, near: Float[Array, " K"]) -> EgoState:
    """Projection onto the tangent at a nearby arc length (m): a step moves the ego by less than a piece of the path."""
    point, speed = path_point(reference, near), forward_speed(agents)
    dx, dy = agents.xyz[:, 0] - point.x, agents.xyz[:, 1] - point.y
    longitudinal, lateral = point.cos * dx + point.sin * dy, point.cos * dy - point.sin * dx
    return EgoState(agents, speed, near + longitudinal, lateral)


def simulate_actions(context: PlanningContext, action: Float[Array, "T K 2"]) -> EgoRollouts:
    """Rollouts of given accelerations (m/s^2) and curvatures (1/m)."""
    return forward_simulate(context, lambda _, carry, step: (action[step], carry), (), action.shape[1])
