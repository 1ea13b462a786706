"""Who may go at lights, stop signs, crosswalks and where ways cross.

Who may go holds a gate, from its grant on until the rear has left. Whoever crosses the way of somebody who holds a gate
waits; so does whoever would get in the way of a higher rank.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from waymax_sim.datasets.synthetic.paths import Paths, crossing_gates, gates_over_crosswalks
from waymax_sim.datasets.synthetic.world import ARROW_CAUTION, ARROW_STOP, CAUTION, GO, LIGHT_STEPS, STOP, World

SIGHT = 90.0  # m from which lights and stop signs are seen
FIRM, GENTLE = 2.8, 1.6  # deceleration at which one runs a yellow light; from which one looks for the gap, m/s^2
PULL_AWAY = 1.5  # m/s^2
MARGIN = 1.0  # s between leaving a gate and the next one's arrival


class RightOfWay:
    """The gates of a place and who holds them."""

    def __init__(self, world: World, paths: Paths, num_agents: int):
        gates = world.gates
        self.paths = paths
        self.crosses = crossing_gates(world)
        self.over = gates_over_crosswalks(world)
        self.rank = np.array([gate.rank for gate in gates], int)
        self.stops = np.array([gate.stops for gate in gates], bool)
        states = np.array([*world.light_states, np.full(LIGHT_STEPS, GO)])  # the last one is for gates without a light
        self.light = states[np.array([gate.light for gate in gates], int)]
        self.held = np.zeros((num_agents, len(gates)), bool)
        self.stood = np.zeros((num_agents, len(gates)), bool)
        self.since = np.full((num_agents, len(gates)), np.iinfo(int).max)

    def distances(self, path: Int[np.ndarray, " N"], front: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N C"]:
        """How far ahead each gate is that one does not hold, m."""
        away = self.paths.gate[path] - front[:, None]
        return np.where(self.held | (away < -0.8), np.inf, away)

    def step(
        self,
        step: int,
        path: Int[np.ndarray, " N"],
        arc: Float[np.ndarray, " N"],
        speed: Float[np.ndarray, " N"],
        length: Float[np.ndarray, " N"],
        gap: Float[np.ndarray, " N"],
        leader: Float[np.ndarray, " N"],
        walking: Bool[np.ndarray, " W"],
    ) -> Float[np.ndarray, " N"]:
        """Takes back and grants gates.

        Args:
          step: Counted from the beginning of the warm-up.
          path: Way of each agent.
          arc: Distance of its centre along the way, m.
          speed: m/s.
          length: Of the agent, m.
          gap: Distance to the next agent on the way, m.
          leader: Speed of that one, m/s.
          walking: Which crosswalks are taken.

        Returns:
          The distance to the line to stop at (m), infinite where there is none.
        """
        if not self.held.size:
            return np.full(len(path), np.inf)
        everybody, front = np.arange(len(path)), arc + length / 2
        is_red, is_yellow = self._colours(step)
        to_line = self.paths.gate[path] - front[:, None]
        firm = (speed * speed)[:, None] > 2 * FIRM * np.maximum(to_line, 0.1)
        closed = is_red | (is_yellow & ~firm)
        self.held &= (arc - length / 2)[:, None] < self.paths.leave[path]
        self.held &= ~((to_line > 0.0) & closed)

        away = self.distances(path, front)
        gate = np.argmin(away, axis=1)
        away = away[everybody, gate]
        self.stood[everybody, gate] |= (away < 4.0) & (speed < 0.3)
        reach = self.paths.leave[path, gate] - arc + length / 2
        may = ~closed[everybody, gate] & (~self.stops[gate] | self.stood[everybody, gate])
        near = away < speed * speed / (2 * GENTLE) + 0.5 * speed + 7.0
        room = (gap > reach - length / 2 + 1.0) | (leader > 2.5)
        asks = np.flatnonzero(near & may & room)
        self.since[asks, gate[asks]] = np.minimum(self.since[asks, gate[asks]], step)
        # Later comers pass at once what nobody else wants.
        order = np.lexsort((away[asks], self.since[asks, gate[asks]], -self.rank[gate[asks]]))
        arrival = np.where(may & room & np.isfinite(away), np.maximum(away, 0.0) / np.maximum(speed, 2.0), np.inf)
        busy = np.any(self.over & walking, axis=1)
        for agent in asks[order]:
            wanted = gate[agent]
            others = np.any(self.held[:, self.crosses[wanted]], axis=1)
            others[agent] = False
            clear = (np.sqrt(speed[agent] ** 2 + 2 * PULL_AWAY * reach[agent]) - speed[agent]) / PULL_AWAY + MARGIN
            before = self.crosses[wanted][gate] & (self.rank[gate] > self.rank[wanted]) & (arrival < clear)
            before &= ~self.held[everybody, gate]
            if not (busy[wanted] or others.any() or before.any()):
                self.held[agent, wanted] = True
        waits = ~self.held[everybody, gate] & ((near & (away < np.inf)) | (~may & (away < SIGHT)))
        return np.where(waits, np.maximum(away, 0.0), np.inf)

    def crosswalks_in_use(self) -> Bool[np.ndarray, " W"]:
        """Which crosswalks somebody may drive over."""
        return np.any(self.over[self.held.any(axis=0)], axis=0)

    def _colours(self, step: int) -> tuple[Bool[np.ndarray, " C"], Bool[np.ndarray, " C"]]:
        state = self.light[:, step]
        return (state == STOP) | (state == ARROW_STOP), (state == CAUTION) | (state == ARROW_CAUTION)
