"""For numbers: policies judged over whole data sets."""

from waymax_sim.evaluation.evaluate import SceneResult, evaluate, evaluate_scene, scene_key
from waymax_sim.evaluation.info import describe
from waymax_sim.evaluation.report import summarize_rows
from waymax_sim.evaluation.sharding import map_scenes, scenes_at_once
from waymax_sim.evaluation.streaming import SceneOutput, stream_scenes

__all__ = [
    "SceneOutput",
    "SceneResult",
    "describe",
    "evaluate",
    "evaluate_scene",
    "map_scenes",
    "scene_key",
    "scenes_at_once",
    "stream_scenes",
    "summarize_rows",
]
