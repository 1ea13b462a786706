"""Batches: order, shards, filters, shapes, and exact resumption."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.datasets.encode import message, scenario_of, small_scene
from tests.datasets.test_loader import flip
from waymax_sim.datasets.batches import Batches, Position
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.padding import axis_lengths, stack_scenarios
from waymax_sim.pytree import tree_index

ROOT = Path(__file__).parents[2]
NAMES = "abcdefghijk"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Eleven small scenes; every third one has a single agent."""
    fields, records = scenario_of(small_scene()), []
    for number, name in enumerate(NAMES):
        tracks = fields[2][:1] if number % 3 == 0 else fields[2]
        roles = {4: [], 11: []} if number % 3 == 0 else {}
        records.append(message(fields | {5: name, 2: tracks} | roles))
    file = tmp_path_factory.mktemp("batches") / "scenes.tfrecord"
    tfrecord.write_records(file, records)
    return file


def names(batch) -> str:
    return "".join(bytes(row).rstrip(b"\0").decode() for row in batch.id_bytes)


def all_names(batches: Batches) -> list[str]:
    return [names(batch) for batch in batches]


def test_without_a_seed_the_order_is_that_of_the_source(path):
    assert all_names(load(path, batch_size=4)) == ["abcd", "efgh", "ijk"]


def test_a_seed_gives_an_order_that_differs_by_epoch(path):
    batches = load(path, batch_size=11, shuffle_seed=3, num_epochs=3)
    orders = all_names(batches)
    assert all(sorted(order) == list(NAMES) for order in orders) and len({*orders, NAMES}) == 4
    assert all_names(batches) == orders
    assert all_names(load(path, batch_size=11, shuffle_seed=4, num_epochs=3)) != orders


def test_an_incomplete_batch_is_completed_in_the_next_epoch(path):
    got = all_names(load(path, batch_size=4, shuffle_seed=0, num_epochs=2))
    assert [len(batch) for batch in got] == [4, 4, 4, 4, 4, 2]
    assert sorted("".join(got)) == sorted(2 * NAMES)


def test_infinite_epochs(path):
    batches = iter(load(path, batch_size=8, num_epochs=None))
    assert [names(next(batches)) for _ in range(4)] == ["abcdefgh", "ijkabcde", "fghijkab", "cdefghij"]
    batches.close()


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_processes_shard_every_epoch(path, count):
    for epoch in range(2):
        options = {"shuffle_seed": 1, "resume_from": Position(epoch), "num_epochs": epoch + 1}
        shares = ["".join(all_names(load(path, batch_size=2, shard=(i, count), **options))) for i in range(count)]
        assert sorted("".join(shares)) == list(NAMES)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


SHARE = """
import sys
from waymax_sim.datasets.loader import load
for batch in load(sys.argv[1], batch_size=2, shuffle_seed=1, shard=(int(sys.argv[2]), 2)):
    print(*(bytes(row).rstrip(b"\\0").decode() for row in batch.id_bytes), sep="", end="")
"""


def test_two_processes_cover_the_data_once(path):
    command = [sys.executable, "-c", SHARE, str(path)]
    runs = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for i in range(2)]
    shares = [run.communicate()[0] for run in runs]
    assert sorted("".join(shares)) == list(NAMES) and abs(len(shares[0]) - len(shares[1])) <= 1


@pytest.mark.parametrize("several", [False, True])
def test_a_pass_resumes_exactly(path, several):
    scenarios = load(path)
    small, large = axis_lengths(scenarios[0]), axis_lengths(scenarios[1]) | {"N": 16}
    pad_to = [small | {"N": 8}, large] if several else None
    options = {"shuffle_seed": 5, "num_epochs": 3, "shard": (1, 2), "pad_to": pad_to}
    passing = iter(load(path, batch_size=2, **options))
    got, positions = [], [passing.position]
    for batch in passing:
        got.append(names(batch))
        positions.append(passing.position)
    for done, position in enumerate(positions):
        saved = Position(**json.loads(json.dumps(dataclasses.asdict(position))))
        assert all_names(load(path, batch_size=2, resume_from=saved, **options)) == got[done:]


def test_scenes_are_filtered_by_facts(path):
    assert all_names(load(path, batch_size=8, filter=lambda info: info.num_agents > 1)) == ["bcefhik"]
    assert all_names(load(path, batch_size=2, filter=lambda info: False, num_epochs=None)) == []


def test_invalid_scenes_are_skipped_and_named(path, tmp_path):
    broken = tmp_path / "broken.tfrecord"
    broken.write_bytes(path.read_bytes())
    flip(broken, 40)
    passing = iter(load(broken, batch_size=4))
    assert names(next(passing)) == "bcde"
    assert [(error.file, error.record) for error in passing.problems] == [(str(broken), 0)]
    assert [names(batch) for batch in passing] == ["fghi", "jk"]


def test_all_batches_have_the_given_shape(path):
    to = {axis: size + 8 for axis, size in axis_lengths(load(path)[1]).items()}
    batches = list(load(path, batch_size=3, pad_to=to))
    assert {axis: size for axis, size in to.items() if axis != "G"} == axis_lengths(tree_index(batches[0], 0))
    assert len({tuple(leaf.shape[1:] for leaf in jax.tree.leaves(batch)) for batch in batches}) == 1


def test_scenes_of_many_sizes_are_padded_to_the_largest_of_a_batch(path):
    """Also if the previous scenes of the batch are smaller."""
    scenes = load(path, pad_to_bucket=False)
    for number, batch in enumerate(load(path, batch_size=4, pad_to_bucket=False)):
        expected = stack_scenarios([*scenes[4 * number : 4 * number + 4]])
        jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_scenes_go_with_the_first_sizes_that_hold_them(path):
    unpadded = load(path, pad_to_bucket=False)
    small, large = axis_lengths(unpadded[0]), axis_lengths(unpadded[1])
    batches = list(load(path, batch_size=3, pad_to=[small, large], pad_to_bucket=False))
    assert [(names(batch), batch.agents.id.shape[1]) for batch in batches] == [
        ("bce", 3),
        ("adg", 1),
        ("fhi", 3),
        ("j", 1),
        ("k", 3),
    ]


def test_scenes_that_are_too_large_are_named(path):
    unpadded = load(path, pad_to_bucket=False)
    passing = iter(load(path, batch_size=8, pad_to=axis_lengths(unpadded[0]), pad_to_bucket=False))
    assert [names(batch) for batch in passing] == ["adgj"]
    assert len(passing.problems) == 7 and "larger" in str(passing.problems[0])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"shard": (2, 2)}, {"shard": (0, 0)}, {"shard": (-1, 2)}])
def test_invalid_options_are_refused(path, options):
    with pytest.raises(ValueError):
        load(path, **({"batch_size": 2} | options))


def test_options_of_batches_need_a_batch_size(path):
    with pytest.raises(TypeError, match="shuffle_seed"):
        load(path, shuffle_seed=3)
