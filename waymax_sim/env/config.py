"""Configuration of environments."""

import dataclasses
from typing import Literal

from waymax_sim.env.selection import AgentSelector
from waymax_sim.metrics import Metric, resolve


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Rules of an environment. The time step is that of each scenario.

    Attributes:
      controlled: Agents of the caller (or of the only policy of a rollout); the log moves all others.
      max_controlled: Maximum number of agents of the caller or of the first policy, in slot order; None for no limit.
        It is the static number of rows of `Observation.controlled`, which is 1 for "sdc".
      spawn: Whether absent agents appear at their logged pose when the log becomes valid ("log"), or never.
      despawn: Whether controlled agents remain once they are valid ("never"), or disappear with the log ("log"). The
        validity of agents of the log is always that of the log.
      height_source: Whether the height of controlled agents follows the map or the log.
      goals: Goals of the scenario, or the end of the log for scenarios without goals. Policies observe either.
      metrics: Names from `METRICS`, or `Metric` objects.
      evaluated: Agents with values of per-agent metrics: all, the sdc, or the controlled agents (those of the caller or
        of the first policy) whose episode has not ended. The cost grows with their number.
      rewards: Pairs of metric and weight: the reward of an agent is the weighted sum of its valid values. With a bound
        as third entry, the weight itself is added wherever the value is worse than the bound. `goal_reached` is
        rewarded once per episode. See also `PRESETS`.
      terminate_on: Metrics that end the episode when positive for a controlled agent, or pairs of a metric and a bound
        that end it when the value is worse.
      ends: Whether a terminating metric ends the episode of all agents ("scene") or that of the agent alone ("agent").
      at_end: State of an agent after its own episode: its actions still apply ("stay"), it stops at its pose ("stop"),
        it is removed ("remove"), or it respawns at its logged start once that is free ("respawn").
      steps_per_action: Simulated steps per action: 2 decides at half the rate of the simulation.
      num_history_steps: Steps that policies observe, at least 2. The state holds more where a metric needs them.

    Raises:
      ValueError: Entries contradict each other.
    """

    controlled: AgentSelector = "sdc"
    max_controlled: int | None = None
    spawn: Literal["log", "never"] = "log"
    despawn: Literal["never", "log"] = "never"
    height_source: Literal["map", "log"] = "map"
    goals: Literal["scenario", "end_of_log"] = "scenario"
    metrics: tuple[str | Metric, ...] = ("overlap", "offroad", "log_divergence")
    evaluated: Literal["all", "sdc", "controlled"] = "all"
    rewards: tuple[tuple[str, float] | tuple[str, float, float], ...] = (("overlap", -1.0), ("offroad", -1.0))
    terminate_on: tuple[str | tuple[str, float], ...] = ()
    ends: Literal["scene", "agent"] = "scene"
    at_end: Literal["stay", "stop", "remove", "respawn"] = "stay"
    steps_per_action: int = 1
    num_history_steps: int = 2

    def __post_init__(self):
        names = resolve(self.metrics)
        for used in self._used_metrics:
            if used not in names:
                raise ValueError(f"{used!r} is rewarded or terminates but is not among metrics={tuple(names)}")
        if self.num_history_steps < 2:
            raise ValueError("num_history_steps must be at least 2: metrics compare a step with the one before")
        if self.steps_per_action < 1:
            raise ValueError(f"steps_per_action={self.steps_per_action} must be at least 1")
        if self.max_controlled is not None and self.max_controlled < 1:
            raise ValueError(f"max_controlled={self.max_controlled} must be at least 1, or None for no limit")
        if self.at_end != "stay" and self.ends == "scene":
            raise ValueError(f"at_end={self.at_end!r} is for agents that end on their own: set ends='agent'")

    @property
    def _used_metrics(self) -> list[str]:
        ends = (item if isinstance(item, str) else item[0] for item in self.terminate_on)
        return [*(term[0] for term in self.rewards), *ends]

    @property
    def uses_goals(self) -> bool:
        """Whether a metric of goals is rewarded or terminates."""
        return any(name.startswith("goal_") for name in self._used_metrics)
