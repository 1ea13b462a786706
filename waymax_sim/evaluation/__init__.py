"""For numbers: policies judged over whole data sets."""

from waymax_sim.evaluation.compare import compare
from waymax_sim.evaluation.evaluate import (
    Evaluation,
    Failure,
    Plan,
    SceneResult,
    evaluate_scene,
    judge_scene,
)
from waymax_sim.evaluation.folder import Folder
from waymax_sim.evaluation.info import describe
from waymax_sim.evaluation.page import page
from waymax_sim.evaluation.sharding import map_scenes, scene_key, scenes_at_once, use_all_cores
from waymax_sim.evaluation.streaming import SceneOutput, stream_scenes

__all__ = [
    "Evaluation",
    "Failure",
    "Folder",
    "Plan",
    "SceneOutput",
    "SceneResult",
    "compare",
    "describe",
    "evaluate_scene",
    "judge_scene",
    "map_scenes",
    "page",
    "scene_key",
    "scenes_at_once",
    "stream_scenes",
    "use_all_cores",
]
