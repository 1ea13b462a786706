"""For numbers: policies judged over whole data sets."""

from waymax_sim.evaluation.evaluate import SceneResult, evaluate, evaluate_scene, scene_key
from waymax_sim.evaluation.info import describe
from waymax_sim.evaluation.report import summarize_rows

__all__ = ["SceneResult", "describe", "evaluate", "evaluate_scene", "scene_key", "summarize_rows"]
