"""Damaged inputs of all readers: the outcome is a scene or a `DataError`, in bounded time and memory."""

import random
import sys
from pathlib import Path

import pytest

from tests.field.fuzz import OK, REFUSED, run_case
from tests.field.targets import targets

READERS = (
    "tf.Example",
    "Scenario proto",
    "TFRecord",
    "GPUDrive",
    "Nocturne",
    "ScenarioNet",
    "CommonRoad",
    "Argoverse table",
    "Argoverse map",
    "store",
    "submission",
    "npz",
)


def run_mutations(folder: Path, name: str, start: int, count: int) -> set[str]:
    if sys.platform != "linux":
        pytest.skip("the limits of memory and time need Linux")
    known = targets(folder)
    assert tuple(known) == READERS
    target, path = known[name], folder / "case"
    path.mkdir()
    target.prepare(path)
    path /= target.name
    return {run_case(target, path, target.damage(random.Random(f"{name} {n}"))) for n in range(start, start + count)}


@pytest.mark.parametrize("name", READERS)
def test_mutations_are_scenes_or_errors(tmp_path, name):
    assert run_mutations(tmp_path, name, 0, 40) <= {OK, REFUSED}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutations_are_scenes_or_errors(tmp_path, name):
    assert run_mutations(tmp_path, name, 10**6, 3000) <= {OK, REFUSED}
