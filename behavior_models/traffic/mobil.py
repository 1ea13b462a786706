"""Lane changes on top of car following: when they are worth it, and safe.

Kesting, Treiber, Helbing 2007: General lane-changing model MOBIL for car-following models.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.traffic.car_following import FAR, HARDEST_BRAKING, Drivers, free_road, interaction
from behavior_models.traffic.idm import desired_speed, drive, forward_speed
from behavior_models.traffic.route_following import NUM_POINTS, SPACING, Plans, no_plans, renew, suitable_speed
from waymax_sim import geometry
from waymax_sim.datatypes.agents import VEHICLE, AgentState
from waymax_sim.datatypes.lanes import Frenet, LaneGraph, LanePath
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Observation, Policy
from waymax_sim.maps.paths import frenet, lane_of, path_ahead, segment_at
from waymax_sim.ops.batched_lookup import update_masked
from waymax_sim.pytree import Array, pytree, static_record, take

# A driver decides every so many steps, and after a change not for so many.
EVERY, PAUSE = 5, 40
# Nobody changes lanes who is slower (m/s), so near to a stop line (m), or where the road bends more (1/m): the old lane
# up to so far ahead (in points of the path), the new one until the change is over.
SLOWEST, STOP_LINE, BEND, BEND_AHEAD = 3.0, 40.0, 0.01, 12
# A change takes this time (s) and at least this way (m).
DURATION, SHORTEST = 4.0, 20.0
# Nobody may be beside a driver who changes: from so far to so far aside, and so far ahead of or behind its ends (m).
NEAREST, FURTHEST, ROOM = 1.5, 6.0, 2.0
# Agents that are given a new path at once.
BATCH = 4


@static_record
class MOBIL(Policy):
    """Intelligent drivers (see `IDM`) who change lanes where lanes lie side by side.

    A driver changes if what it gains, plus `politeness` times what those behind it gain or lose on both lanes, is more
    than `threshold`; if the new one behind it need not brake harder than `safe_braking`; and if nobody is beside it
    there. Gains are differences of the acceleration of the model, and the end of a lane counts as somebody who stands
    there. The car glides over within about four seconds. Lanes are those of the lane graph; lines that must not be
    crossed are not looked at.

    Attributes:
      politeness: What others' gains count, 0 to 1.
      threshold: Least gain for which a driver changes, m/s^2.
      safe_braking: m/s^2.
      keep_right: Added to the gain of a change to the right and taken from that of one to the left, m/s^2.
    """

    politeness: float = 0.2
    threshold: float = 0.2
    safe_braking: float = 4.0
    keep_right: float = 0.0
    dynamics = Bicycle(max_acceleration=HARDEST_BRAKING)

    def init(self, observation: Observation, key: Key[Array, ""]) -> "Changes":
        """Characters, as those of `IDM`."""
        plans = no_plans(observation, key)
        return Changes(plans, since=jnp.full(plans.made.shape, PAUSE, jnp.int32))

    def act(self, observation: Observation, carry: "Changes", key: Key[Array, ""]) -> tuple[Action, "Changes"]:
        """Acceleration along the way and curvature towards it, on the lane that is best."""
        plans, seen = renew(observation, carry.plans)
        still = jax.lax.stop_gradient((observation, plans, seen))
        changes, segment = self._decide(*still, carry.since)
        plans, seen, changes = _change(still[0], plans, seen, changes, segment)
        action, plans = drive(observation, plans, seen)
        return action, Changes(plans, since=jnp.where(changes, 0, carry.since + 1))

    def _decide(
        self, observation: Observation, plans: Plans, seen: Frenet, since: Int[Array, " N"]
    ) -> tuple[Bool[Array, " N"], Int[Array, " N"]]:
        """Who changes, and to which segment of a lane."""
        now, info, graph = observation.agents, observation.info, observation.graph
        speed = jnp.maximum(forward_speed(now), 0.0)
        lane, arc = on_lanes(plans, seen, now.valid)
        segment = segment_at(graph, jnp.maximum(lane, 0), arc)
        desired = desired_speed(plans, seen, speed)
        number = jnp.arange(speed.shape[0], dtype=jnp.int32)
        line = jnp.min(jnp.where(plans.path.stop > seen.arc_length[:, None], plans.path.stop, FAR), axis=-1)
        point = (seen.arc_length / SPACING).astype(jnp.int32)[:, None] + jnp.arange(BEND_AHEAD, dtype=jnp.int32)[None]
        bend = jnp.take_along_axis(plans.path.curvature, jnp.clip(point, 0, NUM_POINTS - 1), axis=1)
        may = (lane >= 0) & (info.type == VEHICLE) & ~plans.parked & (speed > SLOWEST) & (since >= PAUSE)
        may &= (observation.step + number) % EVERY == 0
        may &= (line - seen.arc_length > STOP_LINE) & (jnp.max(jnp.abs(bend), axis=1) < BEND)

        length = info.size[:, 0]
        occupied = beside(now, length)
        here = around(graph, (lane, arc), jnp.maximum(lane, 0), arc, length)
        best, to = jnp.full(speed.shape, self.threshold), jnp.full(speed.shape, -1, jnp.int32)
        sides = ((graph.left, -self.keep_right), (graph.right, self.keep_right))
        for (side, bias), taken in zip(sides, occupied, strict=True):
            other = side.reshape(-1)[segment]
            place = frenet(observation.lanes, graph, jnp.maximum(other, 0), now.xyz[:, :2], now.yaw)
            target = lane_of(observation.lanes, jnp.maximum(other, 0))
            there = around(graph, (lane, arc), target, place.arc_length, length)
            gain, braking = gains(speed, desired, length, plans.drivers, here, there, self.politeness)
            good = may & ~taken & (other >= 0) & (braking <= self.safe_braking) & (gain + bias > best)
            best, to = jnp.where(good, gain + bias, best), jnp.where(good, other, to)
        return to >= 0, jnp.maximum(to, 0)


@pytree
class Changes:
    """What drivers have in mind who change lanes.

    Attributes:
      plans: As those of `IDM`.
      since: Steps since the last change.
    """

    plans: Plans
    since: Int[Array, " N"]


class Neighbours(NamedTuple):
    """Who is next on a lane, ahead and behind; gaps (m) from bumper to bumper, `FAR` without anybody.

    Attributes:
      ahead: The one ahead.
      gap_ahead: To it, or to the end of the lane if that is nearer, m.
      moves_ahead: 0 where that is the end of the lane, else 1.
      behind: The one behind.
      gap_behind: m.
    """

    ahead: Int[Array, " N"]
    gap_ahead: Float[Array, " N"]
    moves_ahead: Float[Array, " N"]
    behind: Int[Array, " N"]
    gap_behind: Float[Array, " N"]


def on_lanes(plans: Plans, seen: Frenet, valid: Bool[Array, " N"]) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """The lane of each agent (-1 without one) and its arc length there (m)."""
    place = jnp.maximum(jnp.sum(plans.path.begins <= seen.arc_length[:, None], axis=-1).astype(jnp.int32) - 1, 0)
    lane, begin = (
        jnp.take_along_axis(values, place[:, None], axis=1)[:, 0] for values in (plans.path.lanes, plans.path.begins)
    )
    there = plans.has_lane & valid & (lane >= 0)
    return jnp.where(there, lane, -1), jnp.where(there, seen.arc_length - begin, 0.0)


def around(
    graph: LaneGraph,
    agents: tuple[Int[Array, " N"], Float[Array, " N"]],
    lane: Int[Array, " N"],
    arc: Float[Array, " N"],
    length: Float[Array, " N"],
) -> Neighbours:
    """Who would be next to each agent on a lane at an arc length (m); looks one lane further in both directions.

    Args:
      graph: The lane graph.
      agents: The lane of each agent (negative for none) and its arc length there, m.
      lane: The lane that each agent asks about.
      arc: Where on it, m.
      length: Lengths of the agents, m.
    """
    their_lane, their_arc = agents[0][None], agents[1][None]
    their_lane_length = graph.length[jnp.maximum(agents[0], 0)][None]
    offset = jnp.where(their_lane == lane[:, None], their_arc - arc[:, None], jnp.nan)
    for slot in range(graph.successors.shape[-1] // 2):
        after, before = graph.successors[lane, slot][:, None], graph.predecessors[lane, slot][:, None]
        on_next = (after >= 0) & (their_lane == after)
        offset = jnp.where(on_next, graph.length[lane][:, None] - arc[:, None] + their_arc, offset)
        on_last = (before >= 0) & (their_lane == before)
        offset = jnp.where(on_last, their_arc - their_lane_length - arc[:, None], offset)
    others = ~jnp.eye(lane.shape[0], dtype=bool) & ~jnp.isnan(offset)
    ahead = jnp.where(others & (offset >= 0), offset, FAR)
    behind = jnp.where(others & (offset < 0), -offset, FAR)
    both = (length[:, None] + length[None]) / 2
    first, last = jnp.argmin(ahead, axis=1).astype(jnp.int32), jnp.argmin(behind, axis=1).astype(jnp.int32)

    def gap(distance, which):
        chosen = jnp.take_along_axis(distance, which[:, None], axis=1)[:, 0]
        return jnp.where(chosen < FAR, chosen - jnp.take_along_axis(both, which[:, None], axis=1)[:, 0], FAR)

    gap_ahead = gap(ahead, first)
    ends = ~jnp.any(graph.successors[lane] >= 0, axis=1)
    end = jnp.where(ends, graph.length[lane] - arc - length / 2, FAR)
    moves = jnp.where(gap_ahead <= end, 1.0, 0.0)
    return Neighbours(first, jnp.minimum(gap_ahead, end), moves, last, gap(behind, last))


def beside(agents: AgentState, length: Float[Array, " N"]) -> tuple[Bool[Array, " N"], Bool[Array, " N"]]:
    """Whether somebody is beside each agent, on the left and on the right, on whatever lane or on none."""
    offset = agents.xyz[None, :, :2] - agents.xyz[:, None, :2]
    local = geometry.rotate(offset, -agents.yaw[:, None])
    near = jnp.abs(local[..., 0]) < (length[:, None] + length[None]) / 2 + ROOM
    near = near & agents.valid[None]
    left, right = ((sign * local[..., 1] > NEAREST) & (sign * local[..., 1] < FURTHEST) for sign in (1.0, -1.0))
    return jnp.any(near & left, axis=1), jnp.any(near & right, axis=1)


def gains(
    speed: Float[Array, " N"],
    desired: Float[Array, " N"],
    length: Float[Array, " N"],
    drivers: Drivers,
    here: Neighbours,
    there: Neighbours,
    politeness: float,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """What a change of lanes gains (m/s^2), and how hard the new one behind has to brake then (m/s^2).

    The gain is a'_c - a_c + p (a'_n - a_n + a'_o - a_o): of the driver c, of the new one behind n, and of the old one
    behind o, each with the change (') and without it.
    """

    def acceleration(who, gap, lead_speed):
        one = take(drivers, who)
        return free_road(speed[who], desired[who], one) - interaction(speed[who], gap, speed[who] - lead_speed, one)

    own = jnp.arange(speed.shape[0])
    lead_here, lead_there = speed[here.ahead] * here.moves_ahead, speed[there.ahead] * there.moves_ahead
    mine = acceleration(own, there.gap_ahead, lead_there) - acceleration(own, here.gap_ahead, lead_here)
    new = acceleration(there.behind, there.gap_behind, speed)
    far_there = jnp.minimum(there.gap_behind + length + there.gap_ahead, FAR)
    theirs = new - acceleration(there.behind, far_there, lead_there)
    far_here = jnp.minimum(here.gap_behind + length + here.gap_ahead, FAR)
    old = acceleration(here.behind, far_here, lead_here) - acceleration(here.behind, here.gap_behind, speed)
    follows, followed = there.gap_behind < FAR, here.gap_behind < FAR
    others = jnp.where(follows, theirs, 0.0) + jnp.where(followed, old, 0.0)
    return mine + politeness * others, jnp.where(follows, -new, 0.0)


class _Changed(NamedTuple):
    path: LanePath
    stopped_at: Float[Array, "*b"]
    seen: Frenet


def _change(
    observation: Observation, plans: Plans, seen: Frenet, changes: Bool[Array, " N"], segment: Int[Array, " N"]
) -> tuple[Plans, Frenet, Bool[Array, " N"]]:
    """Plans of those who change, with a path that leads over to the new lane, and who they are: nobody into a bend."""
    kept, drivers, turns = jax.lax.stop_gradient(
        (_Changed(plans.path, plans.stopped_at, seen), plans.drivers, plans.turns)
    )
    way = SPACING * jnp.arange(NUM_POINTS, dtype=jnp.float32)[None]

    def find(which):
        now = take(observation.agents, which)
        place = frenet(observation.lanes, observation.graph, segment[which], now.xyz[:, :2], now.yaw)
        path = path_ahead(
            observation.lanes, observation.graph, segment[which], place.arc_length, turns[which], NUM_POINTS, SPACING
        )
        speed = geometry.norm(now.velocity)
        path = dataclasses.replace(path, speed_limit=suitable_speed(path, take(drivers, which), speed))
        distance = jnp.maximum(DURATION * speed, SHORTEST)
        straight = jnp.all((jnp.abs(path.curvature) < BEND) | (way >= distance[:, None]), axis=1)
        nothing = jnp.zeros_like(speed)
        new = _Changed(glide(path, place.lateral, distance), nothing - 1.0, Frenet(nothing, nothing, place.heading))

        def put(old, new):
            return jnp.where(straight.reshape(-1, *[1] * (new.ndim - 1)), new, old[which])

        return jax.tree.map(put, kept, new), straight

    (path, stopped_at, new), changes = update_masked((kept, jnp.zeros_like(changes)), changes, BATCH, find)
    seen = jax.tree.map(lambda old, new: jnp.where(changes, new, old), seen, new)
    return dataclasses.replace(plans, path=path, stopped_at=stopped_at), seen, changes


def glide(path: LanePath, lateral: Float[Array, " b"], distance: Float[Array, " b"]) -> LanePath:
    """The path begun so far to its left (m), and back on it after a distance (m)."""
    part = jnp.clip(SPACING * jnp.arange(path.yaw.shape[-1], dtype=jnp.float32)[None] / distance[:, None], 0.0, 1.0)
    aside = lateral[:, None] * (1.0 - part**2 * (3.0 - 2.0 * part))
    shift = jnp.stack([-jnp.sin(path.yaw) * aside, jnp.cos(path.yaw) * aside, jnp.zeros_like(aside)], axis=-1)
    return dataclasses.replace(path, xyz=path.xyz + shift)
