"""Evaluation of policies over whole data sets."""

from waymax_sim.evaluation.compare import compare_runs
from waymax_sim.evaluation.evaluate import (
    Evaluation,
    EvaluationConfig,
    Failure,
    SceneResult,
    evaluate_scene,
    simulate_and_evaluate,
)
from waymax_sim.evaluation.html_report import html_report, write_report
from waymax_sim.evaluation.report.viewers import SceneViewer, scene_viewer, worst_viewers
from waymax_sim.evaluation.run import EvaluationRun
from waymax_sim.evaluation.sharding import fit_chunk_size, map_scenes, scene_key, use_all_cores
from waymax_sim.evaluation.streaming import SceneOutput, stream_scenes

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "EvaluationRun",
    "Failure",
    "SceneOutput",
    "SceneResult",
    "SceneViewer",
    "compare_runs",
    "evaluate_scene",
    "fit_chunk_size",
    "html_report",
    "map_scenes",
    "scene_key",
    "scene_viewer",
    "simulate_and_evaluate",
    "stream_scenes",
    "use_all_cores",
    "worst_viewers",
    "write_report",
]
