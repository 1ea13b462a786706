import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle_view
from tests.data import recorded
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.elements import GROUP, NUM_ELEMENT_POINTS
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.maps.elements import NUM_LISTED, NUM_NEAR, build_elements
from waymax_sim.maps.nearby import nearest_elements

RECORDED = ("scenario_637f20cafde22ff8", "scenario_2a1e44d405a6833f", "scenario_2a173b334be3d32c")
NAMES = [*RECORDED, "tf_example_a3bb37c25ce56418"]

find = jax.jit(nearest_elements, static_argnums=3)


def road(xyz, feature) -> RoadMap:
    """A map of points and nothing else."""
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    count = 0 if not len(xyz) else int(np.max(feature)) + 1
    return RoadMap(
        xyz=xyz,
        feature=np.asarray(feature, np.int32),
        valid=np.ones(len(xyz), bool),
        feature_id=np.arange(count, dtype=np.int32),
        feature_type=np.full(count, 2, np.int32),
        speed_limit=np.zeros(count, np.float32),
        links=np.zeros((0, 3), np.int32),
    )


def city(seed: int, num_features: int = 300, extent: float = 150.0) -> RoadMap:
    """Wavy lines of 1 to 120 points with starts that are shared, and one spot that is crowded."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(-extent, extent, (num_features // 2, 2))
    lines = []
    for index in range(num_features):
        steps = np.arange(rng.integers(1, 120))[:, None] * 0.5
        yaw = rng.uniform(-np.pi, np.pi) + 0.02 * steps
        lines.append(starts[index % len(starts)] + steps * np.concatenate([np.cos(yaw), np.sin(yaw)], axis=-1))
    lines += [rng.normal(0, 1.0, (8, 2)) for _ in range(90)]
    feature = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    xy = np.concatenate(lines)
    return road(np.concatenate([xy, np.zeros((len(xy), 1))], axis=-1), feature)


@functools.cache
def real(name: str) -> RoadMap:
    return load(recorded(f"womd/{name}.tfrecord"), bucketed=False)[0].roadmap


def places(roadmap: RoadMap, count: int) -> np.ndarray:
    """Places inside, outside and far outside of a map, next to its points and on them."""
    rng, xy = np.random.default_rng(7), roadmap.xyz[:, :2]
    low, high = xy.min(axis=0), xy.max(axis=0)
    on = xy[rng.integers(len(xy), size=count)]
    found = [rng.uniform(low, high, (count, 2)), rng.uniform(low - 100, high + 100, (count, 2)), on]
    found += [on + rng.normal(0, 5, on.shape), np.array([[1e4, 1e4], [-3e3, 0.0]])]
    return np.concatenate(found).astype(np.float32)


def check_found(xyz: np.ndarray, feature: np.ndarray, first: np.ndarray, found: np.ndarray, points, k: int) -> None:
    """Checks the elements that start at `first` where `found` against the distances of all elements of a map."""
    starts = np.array([run[0] for run in oracle_view.runs(feature)], int)
    assert (found.sum(axis=-1) == min(k, len(starts))).all()
    for at, row in zip(points, (first[i][found[i]] for i in range(len(points))), strict=True):
        element = np.searchsorted(starts, row)
        assert len(set(element.tolist())) == len(row)
        every = np.hypot(*(xyz[:, :2].astype(float) - at).T)
        every = np.minimum.reduceat(every, starts) if len(starts) else np.zeros(0)
        # The nearest first.
        np.testing.assert_allclose(every[element], np.sort(every)[:k], rtol=1e-5, atol=1e-4)


def check(roadmap: RoadMap, points: np.ndarray, k: int) -> None:
    elements = build_elements(roadmap.xyz, roadmap.feature)
    index, found = find(*jax.device_put((elements, points)), jnp.ones(len(points), bool), k)
    first = elements.first.reshape(-1)[index]
    check_found(roadmap.xyz, roadmap.feature, first, np.asarray(found), points, k)


@pytest.mark.parametrize("seed", range(2))
def test_elements_are_runs_of_one_feature(seed):
    roadmap = city(seed)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    first, count = elements.first.reshape(-1), elements.count.reshape(-1)
    built = {(a, n) for a, n in zip(first.tolist(), count.tolist(), strict=True) if n}
    assert built == {(run[0], len(run)) for run in oracle_view.runs(roadmap.feature)}
    assert (count > 0).sum() == len(built) and 0 <= (count == 0).sum() < GROUP


def test_a_group_lies_in_its_box():
    roadmap = city(3)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    for first, count, box in zip(elements.first, elements.count, elements.box, strict=True):
        points = [range(a, a + n) for a, n in zip(first, count, strict=True)]
        xy = roadmap.xyz[np.concatenate([np.array(run, int) for run in points]), :2]
        np.testing.assert_array_equal(box, np.concatenate([xy.min(axis=0), xy.max(axis=0)]))


def test_points_of_a_group_stand_side_by_side():
    roadmap = city(3)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    assert elements.points.shape == (len(elements.first), 2, NUM_ELEMENT_POINTS, GROUP)
    for group, row in enumerate(zip(elements.first, elements.count, strict=True)):
        for element, (first, count) in enumerate(zip(*row, strict=True)):
            there, missing = np.split(elements.points[group, :, :, element], [count], axis=1)
            np.testing.assert_array_equal(there.T, roadmap.xyz[first : first + count, :2])
            assert np.isposinf(missing).all()


@pytest.mark.parametrize("num_features", [10, 300])
def test_cells_list_the_nearest_groups_lot_by_lot(num_features):
    roadmap = city(3, num_features)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    for number, listed in enumerate(elements.cells):
        cell = np.array(divmod(number, int(elements.columns)))
        centre = elements.low + elements.side * (cell + 0.5)
        outside = np.maximum(np.maximum(elements.box[:, :2] - centre, centre - elements.box[:, 2:]), 0.0)
        apart = np.pad(np.sort(np.hypot(*outside.T)), (0, NUM_LISTED), constant_values=np.inf)
        found = np.where(listed < 0, np.inf, np.hypot(*outside[listed].T))
        for begin, end in ((0, NUM_NEAR), (NUM_NEAR, NUM_NEAR + 1), (NUM_NEAR + 1, NUM_LISTED), (NUM_LISTED, None)):
            lot, there = listed[begin:end], listed[begin:end] >= 0
            np.testing.assert_allclose(np.sort(found[begin:end]), apart[begin : begin + len(lot)], atol=1e-3)
            # In ascending order, and what is none behind.
            assert (np.diff(lot[there]) > 0).all()
            assert (np.diff(there.astype(int)) <= 0).all()


def test_elements_of_a_group_are_close_together():
    elements = build_elements(city(4).xyz, city(4).feature)
    width = (elements.box[:, 2:] - elements.box[:, :2]).max(axis=-1)
    assert np.median(width) < 20.0


@pytest.mark.parametrize("name", NAMES)
def test_the_index_is_smaller_than_the_map(name):
    roadmap = real(name)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    points = roadmap.xyz.nbytes + roadmap.feature.nbytes + roadmap.valid.nbytes
    assert sum(array.nbytes for array in jax.tree.leaves(elements)) - elements.points.nbytes < points
    assert elements.points.nbytes < points


@pytest.mark.parametrize("k", [1, pytest.param(16, marks=pytest.mark.slow), 64, 100])
def test_nearest_equals_a_search_of_the_whole_map(k):
    roadmap = city(0)
    assert build_elements(roadmap.xyz, roadmap.feature).count.shape[0] > 2 * NUM_LISTED
    check(roadmap, places(roadmap, 60), k)


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in RECORDED), NAMES[-1]])
def test_nearest_equals_a_search_of_recorded_maps(name):
    roadmap = real(name)
    check(roadmap, places(roadmap, 400), 64)
    check(roadmap, places(roadmap, 30), 16)


def test_a_crowd_that_no_list_can_hold():
    # 4,000 points within a few metres, many at the same place, and a lonely far feature that widens the grid.
    rng = np.random.default_rng(1)
    crowd = np.concatenate([rng.normal(0, 2, (2000, 2)), np.zeros((2000, 2))])
    xyz = np.pad(np.concatenate([crowd, [[500.0, 300.0]]]), ((0, 0), (0, 1)))
    roadmap = road(xyz, np.append(np.arange(4000) // 5, 800))
    elements = build_elements(roadmap.xyz, roadmap.feature)
    assert elements.count.shape[0] > 2 * NUM_LISTED
    check(roadmap, places(roadmap, 20), 64)


@given(
    st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30), st.booleans()), max_size=40),
    st.lists(st.tuples(st.integers(-90, 90), st.integers(-90, 90)), min_size=5, max_size=5),
)
def test_small_maps(points, queries):
    # Whole numbers make ties; few points make fewer elements than asked for; padding keeps one compiled shape.
    feature = np.cumsum([is_new for _, _, is_new in points], dtype=int)
    feature = feature - feature[0] if len(points) else feature
    roadmap = road([(x, y, 0.0) for x, y, _ in points], feature)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    widths = ((0, 12 - elements.count.shape[0]), (0, 0))
    grown = {name: np.pad(getattr(elements, name), widths) for name in ("first", "count", "box")}
    grown["cells"] = np.pad(elements.cells, ((0, 4 - len(elements.cells)), (0, 0)), constant_values=-1)
    fill = {"constant_values": np.inf}
    grown["points"] = np.pad(elements.points, (*widths, (0, 0), (0, 0)), **fill)
    at = np.asarray(queries, np.float32)
    args = jax.device_put((dataclasses.replace(elements, **grown), at))
    index, found = find(*args, jnp.ones(5, bool), 10)
    check_found(roadmap.xyz, feature, grown["first"].reshape(-1)[index], np.asarray(found), at, 10)


def test_an_empty_map_has_nothing_near():
    roadmap = road([], [])
    elements = build_elements(roadmap.xyz, roadmap.feature)
    index, found = find(jax.device_put(elements), jnp.zeros((3, 2)), jnp.ones(3, bool), 4)
    assert index.shape == (3, 4) and not found.any()


def test_who_does_not_ask_gets_nothing():
    roadmap = city(2)
    elements = build_elements(roadmap.xyz, roadmap.feature)
    points = places(roadmap, 1)
    asks = np.arange(len(points)) % 2 == 0
    _, found = find(*jax.device_put((elements, points, asks)), 8)
    assert found[asks].all() and not found[~asks].any()
