"""Realism: the metrics of the Waymo Open Sim Agents Challenge as JAX functions.

An independent implementation of its definitions; see docs/realism.md.
"""

from waymax_sim.metrics.realism.config import CONFIGS, Bernoulli, Histogram, RealismConfig, RealismFeature
from waymax_sim.metrics.realism.contribution import agent_contributions, rollout_contributions
from waymax_sim.metrics.realism.features import Comparison, SceneFeatures, compare_generated, compare_rollouts
from waymax_sim.metrics.realism.score import BUCKETS, AgentLogLikelihood, Score, score
from waymax_sim.metrics.realism.tracks import (
    MAX_EVALUATED,
    EvaluatedAgents,
    RealismRollouts,
    RealismTracks,
    evaluated_mask,
    simulated_mask,
)

__all__ = [
    "BUCKETS",
    "CONFIGS",
    "MAX_EVALUATED",
    "AgentLogLikelihood",
    "Bernoulli",
    "Comparison",
    "EvaluatedAgents",
    "Histogram",
    "RealismConfig",
    "RealismFeature",
    "RealismRollouts",
    "RealismTracks",
    "SceneFeatures",
    "Score",
    "agent_contributions",
    "compare_generated",
    "compare_rollouts",
    "evaluated_mask",
    "rollout_contributions",
    "score",
    "simulated_mask",
]
