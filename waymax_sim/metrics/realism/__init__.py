"""Realism: the metrics of the Waymo Open Sim Agents Challenge, in the graph.

An independent implementation from a description of what is computed; see docs/realism.md.
"""

from waymax_sim.metrics.realism.config import CONFIGS, Bernoulli, Feature, Histogram, RealismConfig
from waymax_sim.metrics.realism.features import Comparison, SceneFeatures, compare, compare_generated
from waymax_sim.metrics.realism.score import BUCKETS, AgentLogLikelihood, Score, score
from waymax_sim.metrics.realism.tracks import MAX_EVALUATED, Evaluated, Rollouts, Tracks, simulated, to_evaluate

__all__ = [
    "BUCKETS",
    "CONFIGS",
    "MAX_EVALUATED",
    "AgentLogLikelihood",
    "Bernoulli",
    "Comparison",
    "Evaluated",
    "Feature",
    "Histogram",
    "RealismConfig",
    "Rollouts",
    "SceneFeatures",
    "Score",
    "Tracks",
    "compare",
    "compare_generated",
    "score",
    "simulated",
    "to_evaluate",
]
