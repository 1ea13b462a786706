"""Right of way at lights, stop signs, crosswalks and conflicts between crossing or merging lanes.

A rule is granted to an agent and remains granted until the rear of the agent has left its lane. An agent waits while a
conflicting rule is granted to another agent, or while an agent of higher priority would arrive too soon.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic.paths import Paths, conflicting_rules, rules_over_crosswalks
from waymax_sim.datasets.synthetic.world import NUM_LIGHT_STEPS, World
from waymax_sim.datatypes.signals import CAUTION_STATES, GO, STOP_STATES


class RightOfWayParams(NamedTuple):
    """Parameters of yielding; chosen so that the traffic is free of collisions (`tests/datasets/synthetic`)."""

    visibility: float = 90.0  # m at which lights and stop signs are visible
    yellow_deceleration: float = 2.8  # m/s^2 above which an agent passes a yellow light
    approach_deceleration: float = 1.6  # m/s^2, braking distance at which an agent requests a rule
    approach_time: float = 0.5  # s added to that distance
    approach_distance: float = 7.0  # m added to that distance
    start_acceleration: float = 1.5  # m/s^2 assumed of an agent that enters
    time_margin: float = 1.0  # s between leaving a lane and the arrival of the next agent
    min_arrival_speed: float = 2.0  # m/s assumed of arriving agents
    stop_sign_distance: float = 4.0  # m before a stop sign within which an agent stops
    standstill_speed: float = 0.3  # m/s
    overrun: float = 0.8  # m by which a front bumper may pass a line and still wait
    exit_gap: float = 1.0  # m of free room behind the lane
    min_leader_speed: float = 2.5  # m/s of a leader that will make room


YIELD_PARAMS = RightOfWayParams()


class RightOfWay:
    """The rules of a world and the agents that they are granted to.

    Args:
      world: The world.
      paths: Its paths.
      num_agents: Number of agents N.
    """

    def __init__(self, world: World, paths: Paths, num_agents: int):
        rules = world.rules
        self.paths = paths
        self.conflicts = conflicting_rules(world)
        self.is_over_crosswalk = rules_over_crosswalks(world)
        self.priority = np.array([rule.priority for rule in rules], int)
        self.has_stop_sign = np.array([rule.has_stop_sign for rule in rules], bool)
        # The last row is for rules without a light, whose column is -1.
        states = np.array([*world.light_states, np.full(NUM_LIGHT_STEPS, GO)])
        self.light = states[np.array([rule.light for rule in rules], int)]
        self.is_granted = np.zeros((num_agents, len(rules)), bool)
        self.has_stopped = np.zeros((num_agents, len(rules)), bool)
        self.request_step = np.full((num_agents, len(rules)), np.iinfo(int).max)

    def distances(self, path: Int[np.ndarray, " N"], front: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N C"]:
        """Distance to each rule ahead that is not granted, m; infinite for others."""
        distance = self.paths.rule_begin[path] - front[:, None]
        return np.where(self.is_granted | (distance < -YIELD_PARAMS.overrun), np.inf, distance)

    def step(
        self,
        step: int,
        path: Int[np.ndarray, " N"],
        arc: Float[np.ndarray, " N"],
        speed: Float[np.ndarray, " N"],
        length: Float[np.ndarray, " N"],
        gap: Float[np.ndarray, " N"],
        leader_speed: Float[np.ndarray, " N"],
        is_occupied: Bool[np.ndarray, " W"],
    ) -> Float[np.ndarray, " N"]:
        """Revokes and grants rules.

        Args:
          step: Step since the beginning of the warm-up.
          path: Row of the path of each agent.
          arc: Arc length of its center, m.
          speed: m/s.
          length: Length of the agent, m.
          gap: Distance to the leader, m.
          leader_speed: m/s.
          is_occupied: Whether pedestrians are on each crosswalk or wait to enter it.

        Returns:
          Distance to the line to stop at (m); infinite without one.
        """
        if not self.is_granted.size:
            return np.full(len(path), np.inf)
        agents, front = np.arange(len(path)), arc + length / 2
        is_red, is_yellow = self._light_masks(step)
        line_distance = self.paths.rule_begin[path] - front[:, None]
        passes_yellow = (speed * speed)[:, None] > 2 * YIELD_PARAMS.yellow_deceleration * np.maximum(line_distance, 0.1)
        is_closed = is_red | (is_yellow & ~passes_yellow)
        self.is_granted &= (arc - length / 2)[:, None] < self.paths.rule_end[path]
        self.is_granted &= ~((line_distance > 0.0) & is_closed)

        distances = self.distances(path, front)
        rule = np.argmin(distances, axis=1)
        distance = distances[agents, rule]
        is_at_line = (distance < YIELD_PARAMS.stop_sign_distance) & (speed < YIELD_PARAMS.standstill_speed)
        self.has_stopped[agents, rule] |= is_at_line
        clearing_distance = self.paths.rule_end[path, rule] - arc + length / 2
        is_permitted = ~is_closed[agents, rule] & (~self.has_stop_sign[rule] | self.has_stopped[agents, rule])
        braking_distance = speed * speed / (2 * YIELD_PARAMS.approach_deceleration)
        is_near = distance < braking_distance + YIELD_PARAMS.approach_time * speed + YIELD_PARAMS.approach_distance
        has_room = gap > clearing_distance - length / 2 + YIELD_PARAMS.exit_gap
        has_room |= leader_speed > YIELD_PARAMS.min_leader_speed
        requests = np.flatnonzero(is_near & is_permitted & has_room)
        self.request_step[requests, rule[requests]] = np.minimum(self.request_step[requests, rule[requests]], step)
        # By priority, then first come, first served, then by distance.
        order = np.lexsort(
            (distance[requests], self.request_step[requests, rule[requests]], -self.priority[rule[requests]])
        )
        arrival = np.maximum(distance, 0.0) / np.maximum(speed, YIELD_PARAMS.min_arrival_speed)
        arrival = np.where(is_permitted & has_room & np.isfinite(distance), arrival, np.inf)
        is_pedestrian_ahead = np.any(self.is_over_crosswalk & is_occupied, axis=1)
        for agent in requests[order]:
            requested = rule[agent]
            conflicting = np.any(self.is_granted[:, self.conflicts[requested]], axis=1)
            conflicting[agent] = False
            clearing_time = (
                _travel_time(float(speed[agent]), float(clearing_distance[agent])) + YIELD_PARAMS.time_margin
            )
            has_priority = self.conflicts[requested][rule] & (self.priority[rule] > self.priority[requested])
            has_priority &= (arrival < clearing_time) & ~self.is_granted[agents, rule]
            if not (is_pedestrian_ahead[requested] or conflicting.any() or has_priority.any()):
                self.is_granted[agent, requested] = True
        waits = (is_near & (distance < np.inf)) | (~is_permitted & (distance < YIELD_PARAMS.visibility))
        waits &= ~self.is_granted[agents, rule]
        return np.where(waits, np.maximum(distance, 0.0), np.inf)

    def reserved_crosswalks(self) -> Bool[np.ndarray, " W"]:
        """Whether a rule whose lane passes over each crosswalk is granted."""
        return np.any(self.is_over_crosswalk[self.is_granted.any(axis=0)], axis=0)

    def _light_masks(self, step: int) -> tuple[Bool[np.ndarray, " C"], Bool[np.ndarray, " C"]]:
        """Whether the light of each rule is red, and whether it is yellow."""
        state = self.light[:, step]
        return np.isin(state, STOP_STATES), np.isin(state, CAUTION_STATES)


def _travel_time(speed: float, distance: float) -> float:
    """Time (s) to cover a distance (m) at the start acceleration."""
    acceleration = YIELD_PARAMS.start_acceleration
    return (np.sqrt(speed**2 + 2 * acceleration * distance) - speed) / acceleration
