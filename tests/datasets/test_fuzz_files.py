"""Damaged files with one scene each: for any bytes or structure, the outcome is a scenario or a `DataError`."""

import copy
import json
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.encode import small_scene
from tests.datasets.encode_files import gpudrive_of, nocturne_of, scenarionet_of
from tests.datasets.test_fuzz import MAX_BYTES, MUTATIONS, check, mutate

JSON, PICKLE = (lambda record: json.dumps(record).encode()), pickle.dumps
FORMATS = {
    "gpudrive.json": (gpudrive_of(small_scene()), JSON),
    "nocturne.json": (nocturne_of(small_scene()), JSON),
    "scenarionet.pkl": (scenarionet_of(small_scene()), PICKLE),
}
JUNK = [
    None,
    True,
    -1,
    3,
    2**31,
    2**63,
    10**400,
    1e308,
    math.nan,
    math.inf,
    "",
    "7",
    "LANE_FREEWAY",
    [],
    [[]],
    [0] * 5,
    [[0.0, 1.0]] * 5,
    {},
    {"x": 1.0, "y": 2.0},
    [None] * 3,
]
ARRAYS = [np.zeros(5), np.zeros((5, 2)), np.zeros(0), np.array(1.0), np.array(["a"] * 5), np.full((5, 3), np.nan), {1}]
CHANGES = st.lists(
    st.tuples(st.lists(st.integers(0, 63), min_size=1, max_size=7), st.integers(0, 63), st.booleans()),
    min_size=1,
    max_size=3,
)


def change(record, changes, junk):
    """Replaces parts of a record by junk, or removes them; a part is given by the index at each level."""
    record = copy.deepcopy(record)
    for turns, which, removed in changes:
        inside, key = record, None
        for turn in turns:
            found = inside if key is None else inside[key]
            if not isinstance(found, (dict, list)) or not found:
                break
            inside, key = found, sorted(found)[turn % len(found)] if isinstance(found, dict) else turn % len(found)
        if key is None:
            continue
        if removed:
            del inside[key]
        else:
            inside[key] = copy.deepcopy(junk[which % len(junk)])
    return record


def damage_bytes(folder, name, mutations):
    record, encode = FORMATS[name]
    path = folder / name
    path.write_bytes(mutate(encode(record), mutations))
    check(path)


def damage_structure(folder, name, changes):
    record, encode = FORMATS[name]
    path = folder / name
    path.write_bytes(encode(change(record, changes, JUNK + ARRAYS if encode is PICKLE else JUNK)))
    check(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_damaged_bytes(folder, name, mutations):
    damage_bytes(folder, name, mutations)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(changes=CHANGES)
def test_damaged_structure(folder, name, changes):
    damage_structure(folder, name, changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_bytes_with_many_mutations(folder, name, mutations):
    damage_bytes(folder, name, mutations)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5000)
@given(changes=CHANGES)
def test_structure_with_many_mutations(folder, name, changes):
    damage_structure(folder, name, changes)


@pytest.mark.parametrize("name", FORMATS)
def test_no_damage_takes_much_memory(folder, name):
    record, encode = FORMATS[name]
    data, path = encode(record), folder / name
    tracemalloc.start()
    try:
        for at in range(20):
            path.write_bytes(mutate(data, [(5, at / 20, at, b"")]))
            check(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()
