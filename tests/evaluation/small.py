"""Small evaluations: scenes of a few agents, few steps, and a policy with random actions."""

import dataclasses
import json
from pathlib import Path

from behavior_models import Random
from tests.scenes import raw_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene
from waymax_sim.evaluation import Evaluation, EvaluationConfig, EvaluationRun

STEPS = 3


@dataclasses.dataclass(frozen=True)
class SmallSource:
    """Scenes of a few agents; some cannot be read."""

    number: int
    broken: tuple[int, ...] = ()
    name: str = "small"

    def __len__(self) -> int:
        return self.number

    def read(self, record: int) -> RawScene:
        if record in self.broken:
            raise DataError("is broken", field="data", remedy="copy it again")
        scene = raw_scene(num_agents=2 + record % 3, num_steps=12, scenario_id=f"scene {record}")
        return dataclasses.replace(scene, xyz=scene.xyz + [0.0, 0.01 * record, 0.0])


def small_scenes(number: int, *broken: int) -> Scenarios:
    return Scenarios([SmallSource(number, broken)])


def small_config(**changes) -> EvaluationConfig:
    fields = {
        "policies": {"random": Random()},
        "traffic": {"log_replay": None},
        "metrics": ("kinematic_infeasibility", "log_divergence"),
        "seeds": (0, 1),
        "max_steps": STEPS,
    }
    return EvaluationConfig(**(fields | changes))


def evaluate_into(
    out: Path, evaluation: Evaluation, shard: tuple[int, int] = (0, 1), max_count: int | None = None
) -> EvaluationRun:
    """Evaluates into a directory, completely or up to `max_count` pieces of work."""
    run = EvaluationRun(out, evaluation, "small", shard)
    run.open()
    for count, _ in enumerate(run.results()):
        if count == max_count:
            return run
    run.finish()
    return run


def read_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def read_tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
