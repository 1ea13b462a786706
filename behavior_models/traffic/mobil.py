"""Lane changes on top of car following: incentive and safety criterion.

Kesting, Treiber, Helbing 2007: General lane-changing model MOBIL for car-following models.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.traffic.car_following import FAR, IDMParams, free_acceleration, interaction_deceleration
from behavior_models.traffic.idm import desired_speed, drive
from behavior_models.traffic.lane_neighbors import LaneNeighbors, lane_neighbors, lane_positions
from behavior_models.traffic.route_following import (
    ROUTE_FOLLOWING,
    DriverState,
    desired_speed_profile,
    init_driver_state,
    update_paths,
)
from behavior_models.traffic.vehicle import VEHICLE_LIMITS
from waymax_sim import geometry
from waymax_sim.datatypes.agents import VEHICLE, AgentState, forward_speed
from waymax_sim.datatypes.lanes import Frenet, LanePath
from waymax_sim.datatypes.scenario import interval_steps
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation, Policy
from waymax_sim.maps.paths import lane_path, segment_at, segment_frenet, segment_lane
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class LaneChangeParams:
    """Conditions and shape of lane changes that are no options of the policy. The values are choices of this package.

    Attributes:
      decision_interval: Time between two decisions of a driver, s.
      cooldown: Time after a lane change without another one, s.
      min_speed: Speed below which no lane is changed, m/s; the bicycle cannot move sideways at rest.
      stop_line_distance: Distance to a stop line within which no lane is changed, m.
      max_curvature: Curvature of the road above which no lane is changed, 1/m.
      curvature_points: Points of the old path ahead that are checked for it; the new path until the change is over.
      duration: Duration of a lane change, s.
      min_distance: Lower bound of its length, m.
      min_lateral_distance: Lateral distance from which an agent is on a neighboring lane, m.
      max_lateral_distance: Lateral distance up to which it is, m.
      longitudinal_margin: Free space ahead of and behind the bumpers that a change needs, m.
      batch_size: Agents per batch of path assignment.
    """

    decision_interval: float = 0.5
    cooldown: float = 4.0
    min_speed: float = 3.0
    stop_line_distance: float = 40.0
    max_curvature: float = 0.01
    curvature_points: int = 12
    duration: float = 4.0
    min_distance: float = 20.0
    min_lateral_distance: float = 1.5
    max_lateral_distance: float = 6.0
    longitudinal_margin: float = 2.0
    batch_size: int = 4


LANE_CHANGE = LaneChangeParams()


@static_record
class MOBIL(Policy):
    """Drivers of `IDM` with lane changes by MOBIL (Kesting, Treiber, Helbing 2007).

    A driver changes to a neighboring lane if its gain in acceleration, plus `politeness` times the gains of the
    followers on both lanes, exceeds `threshold`; if the new follower need not brake harder than `safe_braking`; and if
    no agent is alongside. Gains are differences of the acceleration of the model; the end of a lane counts as a
    stationary vehicle. A change takes about four seconds. Lanes are those of the lane graph; lines that must not be
    crossed are ignored.

    Attributes:
      politeness: Weight of the gains of others (p), 0 to 1.
      threshold: Least gain for a change, m/s^2.
      safe_braking: Highest deceleration of the new follower (b_safe), m/s^2.
      keep_right: Bias towards the right lane (a_bias), m/s^2: added to the gain of a change to the right, subtracted
        from that of one to the left.
    """

    politeness: float = 0.2
    threshold: float = 0.2
    safe_braking: float = 4.0
    keep_right: float = 0.0
    dynamics = Bicycle(max_acceleration=VEHICLE_LIMITS.max_deceleration)

    def init(self, observation: Observation, key: Key[Array, ""]) -> "LaneChangeState":
        """Drivers as those of `IDM`, with the cooldown of lane changes over."""
        drivers = init_driver_state(observation, key)
        steps = jnp.full(drivers.is_initialized.shape, interval_steps(LANE_CHANGE.cooldown, observation.dt), jnp.int32)
        return LaneChangeState(drivers, steps_since_change=steps)

    def act(
        self, observation: Observation, carry: "LaneChangeState", key: Key[Array, ""]
    ) -> tuple[Action, "LaneChangeState"]:
        """Acceleration along the path and curvature towards it, on the best lane."""
        drivers, position = update_paths(observation, carry.drivers)
        # The choice of a lane is discrete and has no gradient.
        constant = jax.lax.stop_gradient((observation, drivers, position))
        changes, segment = self._decide(*constant, carry.steps_since_change)
        drivers, position, changes = _change_lanes(constant[0], drivers, position, changes, segment)
        action, drivers = drive(observation, drivers, position)
        steps = jnp.where(changes, 0, carry.steps_since_change + 1)
        return action, LaneChangeState(drivers, steps_since_change=steps)

    def _decide(
        self, observation: Observation, drivers: DriverState, position: Frenet, steps_since_change: Int[Array, " N"]
    ) -> tuple[Bool[Array, " N"], Int[Array, " N"]]:
        """Whether each agent changes lanes, and the segment of the new lane."""
        now, graph, length = observation.agents, observation.graph, observation.info.size[:, 0]
        speed = jnp.maximum(forward_speed(now), 0.0)
        lane, arc_length = lane_positions(drivers, position, now.valid)
        segment = segment_at(graph, jnp.maximum(lane, 0), arc_length)
        # The desired speed is that of the current lane: neighboring lanes have nearly the same limits.
        desired = desired_speed(drivers, position, speed)
        has_waited = steps_since_change >= interval_steps(LANE_CHANGE.cooldown, observation.dt)
        may_change = (lane >= 0) & (speed > LANE_CHANGE.min_speed) & has_waited
        may_change &= _may_change(observation, drivers, position)

        on_lanes = lane, arc_length
        current = lane_neighbors(graph, on_lanes, jnp.maximum(lane, 0), arc_length, length)
        # The threshold keeps drivers from changing for a marginal gain.
        best_gain = jnp.full(speed.shape, self.threshold)
        best_segment = jnp.full(speed.shape, -1, jnp.int32)
        sides = ((graph.left, -self.keep_right), (graph.right, self.keep_right))
        for (neighbor, bias), is_occupied in zip(sides, is_alongside(now, length), strict=True):
            # The neighbor is that of the segment under the agent, so lanes may start or end anywhere.
            target = neighbor.reshape(-1)[segment]
            target_position = segment_frenet(observation.lanes, graph, jnp.maximum(target, 0), now.xyz[:, :2], now.yaw)
            target_lane = segment_lane(observation.lanes, jnp.maximum(target, 0))
            new = lane_neighbors(graph, on_lanes, target_lane, target_position.arc_length, length)
            gain, braking = incentive(speed, desired, length, drivers.idm, current, new, self.politeness)
            is_safe = ~is_occupied & (target >= 0) & (braking <= self.safe_braking)
            is_best = may_change & is_safe & (gain + bias > best_gain)
            best_gain = jnp.where(is_best, gain + bias, best_gain)
            best_segment = jnp.where(is_best, target, best_segment)
        return best_segment >= 0, jnp.maximum(best_segment, 0)


def _may_change(observation: Observation, drivers: DriverState, position: Frenet) -> Bool[Array, " N"]:
    """Vehicles whose turn to decide it is, and that are not before a stop line or a curve.

    At a stop line a changing vehicle would block two lanes. In curves neighbors are not lateral to each other.
    """
    params, path = LANE_CHANGE, drivers.path
    agent_index = jnp.arange(drivers.is_parked.shape[0], dtype=jnp.int32)
    # Drivers decide at different steps, so two of them rarely choose the same gap.
    is_due = (observation.step + agent_index) % interval_steps(params.decision_interval, observation.dt) == 0
    stop = jnp.min(jnp.where(path.stop > position.arc_length[:, None], path.stop, FAR), axis=-1)
    point = (position.arc_length / ROUTE_FOLLOWING.spacing).astype(jnp.int32)[:, None]
    point = point + jnp.arange(params.curvature_points, dtype=jnp.int32)[None]
    point = jnp.clip(point, 0, ROUTE_FOLLOWING.num_points - 1)
    is_straight = jnp.max(jnp.abs(jnp.take_along_axis(path.curvature, point, axis=1)), axis=1) < params.max_curvature
    # The parameters of the model are those of cars; cyclists keep their lane.
    is_driving = (observation.info.type == VEHICLE) & ~drivers.is_parked
    return is_driving & is_due & (stop - position.arc_length > params.stop_line_distance) & is_straight


@pytree
class LaneChangeState:
    """State of N drivers that change lanes.

    Attributes:
      drivers: As those of `IDM`.
      steps_since_change: Steps since the last lane change.
    """

    drivers: DriverState
    steps_since_change: Int[Array, " N"]


def is_alongside(agents: AgentState, length: Float[Array, " N"]) -> tuple[Bool[Array, " N"], Bool[Array, " N"]]:
    """Whether an agent is alongside each agent, on the left and on the right, on any lane or on none.

    The gaps of the model are measured along lanes; this check also covers agents between lanes.
    """
    params, offset = LANE_CHANGE, agents.xyz[None, :, :2] - agents.xyz[:, None, :2]
    local = geometry.rotate(offset, -agents.yaw[:, None])
    # Margins ahead of both bumpers.
    overlaps = jnp.abs(local[..., 0]) < (length[:, None] + length[None]) / 2 + params.longitudinal_margin
    overlaps = overlaps & agents.valid[None]
    left, right = (
        (sign * local[..., 1] > params.min_lateral_distance) & (sign * local[..., 1] < params.max_lateral_distance)
        for sign in (1.0, -1.0)
    )
    return jnp.any(overlaps & left, axis=1), jnp.any(overlaps & right, axis=1)


def incentive(
    speed: Float[Array, " N"],
    desired: Float[Array, " N"],
    length: Float[Array, " N"],
    idm: IDMParams,
    current: LaneNeighbors,
    new: LaneNeighbors,
    politeness: float,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The gain of a lane change (m/s^2), and the deceleration of the new follower after it (m/s^2).

    The gain is a'_c - a_c + p (a'_n - a_n + a'_o - a_o) for the driver c, the new follower n and the old follower o,
    with (') and without the change.

    Args:
      speed: Speeds, m/s.
      desired: Desired speeds, m/s.
      length: Lengths, m.
      idm: Parameters of the drivers.
      current: Neighbors on the lane of each agent.
      new: Neighbors on the target lane.
      politeness: Weight p of the gains of others.
    """

    def acceleration(agent_index, gap, lead_speed):
        own_speed, params = speed[agent_index], tree_index(idm, agent_index)
        free = free_acceleration(own_speed, desired[agent_index], params)
        return free - interaction_deceleration(own_speed, gap, own_speed - lead_speed, params)

    own = jnp.arange(speed.shape[0])
    current_lead_speed = speed[current.leader] * current.leader_speed_factor
    new_lead_speed = speed[new.leader] * new.leader_speed_factor
    # c: the driver itself.
    own_gain = acceleration(own, new.leader_gap, new_lead_speed)
    own_gain = own_gain - acceleration(own, current.leader_gap, current_lead_speed)
    # Without the agent between them, the follower follows the leader.
    # n: the new follower, behind the driver and behind its leader.
    new_acceleration = acceleration(new.follower, new.follower_gap, speed)
    new_gap = jnp.minimum(new.follower_gap + length + new.leader_gap, FAR)
    new_gain = new_acceleration - acceleration(new.follower, new_gap, new_lead_speed)
    # o: the old follower, which gets the leader of the driver.
    old_gap = jnp.minimum(current.follower_gap + length + current.leader_gap, FAR)
    old_gain = acceleration(current.follower, old_gap, current_lead_speed)
    old_gain = old_gain - acceleration(current.follower, current.follower_gap, speed)
    has_new_follower, has_old_follower = new.follower_gap < FAR, current.follower_gap < FAR
    other_gains = jnp.where(has_new_follower, new_gain, 0.0) + jnp.where(has_old_follower, old_gain, 0.0)
    return own_gain + politeness * other_gains, jnp.where(has_new_follower, -new_acceleration, 0.0)


class _LaneChange(NamedTuple):
    """New values of the fields of `DriverState` of the same names, and the positions on the new paths."""

    path: LanePath
    last_stop: Float[Array, "*b"]
    position: Frenet


def _change_lanes(
    observation: Observation,
    drivers: DriverState,
    position: Frenet,
    changes: Bool[Array, " N"],
    segment: Int[Array, " N"],
) -> tuple[DriverState, Frenet, Bool[Array, " N"]]:
    """Drivers with paths to the new lanes, their positions, and which of them change.

    A lane that bends before the change is over is rejected: the lateral motion would add to that of the curve.
    """
    old = _LaneChange(drivers.path, drivers.last_stop, position)
    # The loop over batches has no reverse-mode gradient.
    old, idm, turns = jax.lax.stop_gradient((old, drivers.idm, drivers.turns))
    lanes, graph, params = observation.lanes, observation.graph, ROUTE_FOLLOWING
    points = params.spacing * jnp.arange(params.num_points, dtype=jnp.float32)[None]

    def find_paths(index):
        now, start = tree_index(observation.agents, index), segment[index]
        # The new path starts at the projection of the agent; its offset becomes the lateral motion.
        on_lane = segment_frenet(lanes, graph, start, now.xyz[:, :2], now.yaw)
        path = lane_path(lanes, graph, start, on_lane.arc_length, turns[index], params.num_points, params.spacing)
        speed = geometry.norm(now.velocity)
        path = dataclasses.replace(path, speed_limit=desired_speed_profile(path, tree_index(idm, index), speed))
        # A minimum length bounds the angle to the lane at low speeds.
        distance = jnp.maximum(LANE_CHANGE.duration * speed, LANE_CHANGE.min_distance)
        is_straight = (jnp.abs(path.curvature) < LANE_CHANGE.max_curvature) | (points >= distance[:, None])
        is_accepted, zero = jnp.all(is_straight, axis=1), jnp.zeros_like(speed)
        path = lane_change_path(path, on_lane.lateral, distance)
        new = _LaneChange(path, zero - 1.0, Frenet(zero, zero, on_lane.heading))

        def select(old, new):
            return jnp.where(is_accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old[index])

        return jax.tree.map(select, old, new), is_accepted

    initial = old, jnp.zeros_like(changes)
    new, changes = update_masked(initial, changes, LANE_CHANGE.batch_size, find_paths)
    position = jax.tree.map(lambda old, new: jnp.where(changes, new, old), position, new.position)
    return dataclasses.replace(drivers, path=new.path, last_stop=new.last_stop), position, changes


def lane_change_path(path: LanePath, lateral: Float[Array, " b"], distance: Float[Array, " b"]) -> LanePath:
    """The path with a lateral offset that decays to zero as the cubic 1 - 3 t^2 + 2 t^3, without lateral jumps.

    Args:
      path: Paths along the new lanes.
      lateral: Offset to the left at the start, m.
      distance: Arc length at which the offset is zero, m.
    """
    # Fraction t of the lane change at each point.
    fraction = ROUTE_FOLLOWING.spacing * jnp.arange(path.yaw.shape[-1], dtype=jnp.float32)[None] / distance[:, None]
    fraction = jnp.clip(fraction, 0.0, 1.0)
    offset = lateral[:, None] * (1.0 - fraction**2 * (3.0 - 2.0 * fraction))
    shift = jnp.stack([-jnp.sin(path.yaw) * offset, jnp.cos(path.yaw) * offset, jnp.zeros_like(offset)], axis=-1)
    return dataclasses.replace(path, xyz=path.xyz + shift)
