"""Closed-loop, multi-agent driving simulator in JAX: rollouts in recorded and synthetic scenarios, with metrics."""

from waymax_sim import log_level  # noqa: F401  (before jax)
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.agents import AgentState, select
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.datatypes.validate import validate
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Dynamics, Teleport
from waymax_sim.env import Env, EnvConfig, Observation, Policy, Trace, View, agent_centric_view, rollout
from waymax_sim.metrics import METRICS, Metric, summarize

# The version of the distribution, read by setup.py.
__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "Action",
    "AgentState",
    "Bicycle",
    "DataError",
    "Delta",
    "Discrete",
    "Dynamics",
    "Env",
    "EnvConfig",
    "Metric",
    "Observation",
    "Policy",
    "Scenario",
    "State",
    "Teleport",
    "Trace",
    "View",
    "agent_centric_view",
    "load",
    "rollout",
    "select",
    "stack_scenarios",
    "summarize",
    "validate",
]
