"""The environment: configuration, transitions, interaction with policies, rollouts."""

from waymax_sim.env.assignment import Assignment, Policies
from waymax_sim.env.config import EnvConfig
from waymax_sim.env.env import Env, StepOutput
from waymax_sim.env.interaction import EpisodeState, Interaction, begin_episode, combine_outputs, interact
from waymax_sim.env.observation import Observation, observe, scatter_actions
from waymax_sim.env.policy import Policy
from waymax_sim.env.presets import PRESETS
from waymax_sim.env.rollout import Trace, rollout
from waymax_sim.env.selection import AgentSelector, Traveling, select_agents
from waymax_sim.env.view import View, agent_centric_view, valid_agent_indices

__all__ = [
    "PRESETS",
    "AgentSelector",
    "Assignment",
    "Env",
    "EnvConfig",
    "EpisodeState",
    "Interaction",
    "Observation",
    "Policies",
    "Policy",
    "StepOutput",
    "Trace",
    "Traveling",
    "View",
    "agent_centric_view",
    "begin_episode",
    "combine_outputs",
    "interact",
    "observe",
    "rollout",
    "scatter_actions",
    "select_agents",
    "valid_agent_indices",
]
