"""Accelerator-native, multi-agent driving simulator: recorded scenes in, judged closed-loop rollouts out."""

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.agents import AgentState, select
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.datatypes.validate import validate
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Dynamics, Teleport
from waymax_sim.env import Env, EnvConfig, Observation, Policy, Trace, View, rollout, view
from waymax_sim.metrics import METRICS, Metric, summarize

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
    "load",
    "rollout",
    "select",
    "stack_scenarios",
    "summarize",
    "validate",
    "view",
]
