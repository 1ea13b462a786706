"""The segment index against a scan over all segments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import recorded
from tests.programs import jit_optimized
from tests.scenes import segments
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import PADDING_COORDINATE, Segments
from waymax_sim.maps.nearest import is_on_right_side, nearest_segment, signed_distance, squared_distance_to_all

FILES = [
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/scenario_2a1e44d405a6833f.tfrecord",
    "womd/scenario_2a173b334be3d32c.tfrecord",
    "womd/tf_example_a3bb37c25ce56418.tfrecord",
]
# Every map is a program of its own, so two of them are enough at first.
FEW = [FILES[0], *(pytest.param(file, marks=pytest.mark.slow) for file in FILES[1:3]), FILES[3]]


@jit_optimized
def compare(segments: Segments, points):
    """Excess distance (m) of the indexed result over the minimum, and whether it is the same segment."""
    index, _ = nearest_segment(segments, points, jnp.ones(len(points), bool))
    distance2 = squared_distance_to_all(segments, points)
    nearest = jnp.take_along_axis(distance2, index[:, None], axis=-1)[:, 0]
    return jnp.sqrt(nearest) - jnp.sqrt(distance2.min(axis=-1)), index == jnp.argmin(distance2, axis=-1)


def query_points(segments: Segments, count: int, seed: int = 0) -> np.ndarray:
    """Points everywhere, near segments, on them, at their ends, above and below them, and far away; `count` in all."""
    rng = np.random.default_rng(seed)
    valid = np.asarray(segments.valid).reshape(-1)
    start, end = (np.asarray(side)[valid] for side in (segments.start, segments.end))
    low, high = start.min(axis=0) - (60, 60, 2), start.max(axis=0) + (60, 60, 2)
    each = count // 8
    pick = [rng.integers(0, len(start), each) for _ in range(6)]
    level = [start[pick[0], 2], start[pick[1], 2]]
    kinds = [
        np.column_stack([rng.uniform(low[:2], high[:2], (each, 2)), level[0]]),
        rng.uniform(low, high, (each, 3)),
        start[pick[2]] + rng.normal(0, (3, 3, 0.5), (each, 3)),
        start[pick[3]] + rng.uniform(0, 1, (each, 1)) * (end - start)[pick[3]],
        end[pick[4]],
        start[pick[5]] + rng.normal(0, (2, 2, 6), (each, 3)),
        np.column_stack([rng.uniform(low[:2] - 500, high[:2] + 500, (each, 2)), level[1]]),
        np.repeat([[0.0, 0.0, 0.0]], count - 7 * each, axis=0),
    ]
    return np.concatenate(kinds).astype(np.float32)


@pytest.mark.parametrize("count", [8_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["edges", "lanes"])
@pytest.mark.parametrize("file", FEW)
def test_recorded_maps(file, kind, count):
    """Where two segments tie, either is correct."""
    nearest = getattr(load(recorded(file), pad_to_bucket=False)[0], kind)
    nearest = jax.device_put(nearest)
    points = query_points(nearest, count)
    excess, same = zip(*(compare(nearest, part) for part in np.split(points, count // 1000)), strict=True)
    assert np.abs(np.concatenate(excess)).max() <= 1e-5
    assert np.concatenate(same).mean() > 0.95


@jit_optimized
def signs(edges: Segments, points):
    """Signed distances by the index and by a scan, and sides by the index."""
    query_mask = jnp.ones(len(points), bool)
    scan, _ = signed_distance(without_index(edges), points, query_mask)
    return signed_distance(edges, points, query_mask)[0], scan, is_on_right_side(edges, points, query_mask)[0]


@pytest.mark.parametrize("file", FEW)
def test_recorded_signs(file):
    """Distance and side are those of a scan, on 4,000 points near the edges of each recorded scene."""
    edges = jax.device_put(load(recorded(file), pad_to_bucket=False)[0].edges)
    for part in np.split(query_points(edges, 4_000, seed=1), 4):
        a, b, right = map(np.asarray, signs(edges, part))
        np.testing.assert_allclose(np.abs(a), np.abs(b), atol=1e-5)
        assert (np.sign(a) == np.sign(b))[np.abs(b) > 1e-4].all()
        np.testing.assert_array_equal(right, a > 0)
    # Most leaves lie on one side of their nearest segments.
    assert (np.asarray(edges.index.side)[1:] != 0).mean() > 0.5


def without_index(segments: Segments) -> Segments:
    """The same segments with an empty index, so that all segments are compared."""
    empty = dataclasses.replace(segments.index, root=jnp.full_like(segments.index.root, -1))
    return dataclasses.replace(segments, index=empty)


def polylines():
    point = st.tuples(st.floats(-60, 60), st.floats(-60, 60), st.sampled_from([0.0, 0.3, 6.0]))
    return st.lists(st.lists(point, min_size=2, max_size=20), min_size=1, max_size=6)


@settings(max_examples=30)
@given(polylines(), st.integers(0, 1000))
def test_any_map(lines, seed):
    """Long, short, crossing, coincident and steep segments."""
    built = segments(*[np.float32(line) for line in lines])
    if not np.asarray(built.valid).any():
        return
    padded = jax.device_put(_padded(built))
    excess, _ = compare(padded, jnp.asarray(query_points(built, 256, seed)))
    assert np.abs(excess).max() <= 2e-5
    distance, scan, right = signs(padded, jnp.asarray(query_points(built, 256, seed)))
    np.testing.assert_array_equal(right, distance > 0)
    np.testing.assert_allclose(np.abs(distance), np.abs(scan), atol=2e-5)


def _padded(built: Segments) -> Segments:
    """Equal shapes for all examples, so that they share one program."""
    sizes = {"root": 64, "nodes": 32768, "lists": 65536, "side": 65536, "min_z": 65536, "max_z": 65536}
    fill = {"endpoints": PADDING_COORDINATE, "previous": -1, "next": -1, "root": -1, "nodes": -1}

    def grow(path, leaf):
        name = path[-1].name
        if name in ("corner", "cell_size"):
            return leaf
        widths = [(0, 0)] * leaf.ndim
        for axis in range(2 if name == "root" else 1):
            widths[axis] = (0, sizes.get(name, 128) - leaf.shape[axis])
        return np.pad(leaf, widths, constant_values=fill.get(name, 0))

    return jax.tree_util.tree_map_with_path(grow, built)


def test_most_lists_are_short():
    """The reason for its speed: most lists are short, and valid at the height of traffic."""
    edges = load("synthetic:0:3", pad_to_bucket=False)[1].edges
    lists = edges.index.lists
    assert (np.diff(lists, axis=1) >= 0).all() or (lists[:, :1] <= lists).all()
    long = (lists[1:, 4] != lists[1:, 0]).mean()
    assert long < 0.2


@pytest.mark.parametrize("file", FILES)
def test_the_index_is_smaller_than_the_map(file):
    scenario = load(recorded(file), pad_to_bucket=False)[0]
    indices = sum(leaf.nbytes for leaf in jax.tree.leaves((scenario.edges.index, scenario.lanes.index)))
    assert indices < sum(leaf.nbytes for leaf in jax.tree.leaves(scenario.roadmap))


def test_huge_maps_have_small_indices():
    built = segments([(0, 0), (1, 0)], [(4e6, 4e6), (4e6, 4e6 + 10)])
    assert sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(built.index)) < 2_000_000
    excess, same = compare(built, jnp.asarray([(0.5, 3, 0), (4e6 - 5, 4e6, 0), (0, 0, 0)], jnp.float32))
    assert np.abs(excess).max() < 1 and np.asarray(same).all()
