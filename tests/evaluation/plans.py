"""Evaluations that are cheap: small scenes, few steps, a policy that draws at random."""

import dataclasses
import json
from pathlib import Path

from behavior_models import Random
from tests.scenes import raw_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene
from waymax_sim.evaluation import Evaluation, Folder, Plan

STEPS = 3


@dataclasses.dataclass(frozen=True)
class Made:
    """Scenes of a few agents; some cannot be read."""

    number: int
    broken: tuple[int, ...] = ()
    name: str = "made"

    def __len__(self) -> int:
        return self.number

    def read(self, record: int) -> RawScene:
        if record in self.broken:
            raise DataError("is broken", field="data", remedy="copy it again")
        scene = raw_scene(num_agents=2 + record % 3, num_steps=12, scenario_id=f"scene {record}")
        return dataclasses.replace(scene, xyz=scene.xyz + [0.0, 0.01 * record, 0.0])


def made(number: int, *broken: int) -> Scenarios:
    return Scenarios([Made(number, broken)])


def plan(**changes) -> Plan:
    fields = {
        "policies": {"random": Random()},
        "traffic": {"log_replay": None},
        "metrics": ("kinematic_infeasibility", "log_divergence"),
        "seeds": (0, 1),
        "max_steps": STEPS,
    }
    return Plan(**(fields | changes))


def run(out: Path, evaluation: Evaluation, shard: tuple[int, int] = (0, 1), at_most: int | None = None) -> Folder:
    """Evaluates into a folder, all of it or so many pieces of work."""
    folder = Folder(out, evaluation, "made", shard)
    folder.open()
    for count, _ in enumerate(folder.results()):
        if count == at_most:
            return folder
    folder.finish()
    return folder


def read_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
