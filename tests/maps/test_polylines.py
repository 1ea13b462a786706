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
from waymax_sim.datatypes.polylines import POINTS_PER_POLYLINE, POLYLINES_PER_GROUP
from waymax_sim.datatypes.roadmap import RoadMap
from waymax_sim.maps.nearest_polylines import nearest_polylines
from waymax_sim.maps.polylines import NUM_LISTED_GROUPS, NUM_NEAR_GROUPS, build_polylines

RECORDED = ("scenario_637f20cafde22ff8", "scenario_2a1e44d405a6833f", "scenario_2a173b334be3d32c")
NAMES = [*RECORDED, "tf_example_a3bb37c25ce56418"]

find = jax.jit(nearest_polylines, static_argnums=3)


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
        driveways=np.zeros((0, 4), np.float32),
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
    return load(recorded(f"womd/{name}.tfrecord"), pad_to_bucket=False)[0].roadmap


def query_points(roadmap: RoadMap, count: int) -> np.ndarray:
    """Points inside, outside and far outside of a map, next to its points and on them."""
    rng, xy = np.random.default_rng(7), roadmap.xyz[:, :2]
    low, high = xy.min(axis=0), xy.max(axis=0)
    on = xy[rng.integers(len(xy), size=count)]
    points = [rng.uniform(low, high, (count, 2)), rng.uniform(low - 100, high + 100, (count, 2)), on]
    points += [on + rng.normal(0, 5, on.shape), np.array([[1e4, 1e4], [-3e3, 0.0]])]
    return np.concatenate(points).astype(np.float32)


def check_nearest(xyz: np.ndarray, feature: np.ndarray, first: np.ndarray, exists: np.ndarray, points, k: int) -> None:
    """Checks the polylines that start at `first` against the distances of all polylines of a map."""
    starts = np.array([run[0] for run in oracle_view.runs(feature)], int)
    assert (exists.sum(axis=-1) == min(k, len(starts))).all()
    for at, row in zip(points, (first[i][exists[i]] for i in range(len(points))), strict=True):
        polyline = np.searchsorted(starts, row)
        assert len(set(polyline.tolist())) == len(row)
        every = np.hypot(*(xyz[:, :2].astype(float) - at).T)
        every = np.minimum.reduceat(every, starts) if len(starts) else np.zeros(0)
        # The nearest first.
        np.testing.assert_allclose(every[polyline], np.sort(every)[:k], rtol=1e-5, atol=1e-4)


def check(roadmap: RoadMap, points: np.ndarray, k: int) -> None:
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    index, exists = find(*jax.device_put((polylines, points)), jnp.ones(len(points), bool), k)
    first = polylines.first_point.reshape(-1)[index]
    check_nearest(roadmap.xyz, roadmap.feature, first, np.asarray(exists), points, k)


@pytest.mark.parametrize("seed", range(2))
def test_polylines_stay_within_a_feature(seed):
    roadmap = city(seed)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    first, count = polylines.first_point.reshape(-1), polylines.num_points.reshape(-1)
    built = {(a, n) for a, n in zip(first.tolist(), count.tolist(), strict=True) if n}
    assert built == {(run[0], len(run)) for run in oracle_view.runs(roadmap.feature)}
    assert (count > 0).sum() == len(built) and 0 <= (count == 0).sum() < POLYLINES_PER_GROUP


def test_a_group_lies_in_its_box():
    roadmap = city(3)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    for first, count, box in zip(polylines.first_point, polylines.num_points, polylines.bounding_box, strict=True):
        points = [range(a, a + n) for a, n in zip(first, count, strict=True)]
        xy = roadmap.xyz[np.concatenate([np.array(run, int) for run in points]), :2]
        np.testing.assert_array_equal(box, np.concatenate([xy.min(axis=0), xy.max(axis=0)]))


def test_group_points_are_interleaved():
    roadmap = city(3)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    assert polylines.points.shape == (len(polylines.first_point), 2, POINTS_PER_POLYLINE, POLYLINES_PER_GROUP)
    for group, row in enumerate(zip(polylines.first_point, polylines.num_points, strict=True)):
        for polyline, (first, count) in enumerate(zip(*row, strict=True)):
            present, missing = np.split(polylines.points[group, :, :, polyline], [count], axis=1)
            np.testing.assert_array_equal(present.T, roadmap.xyz[first : first + count, :2])
            assert np.isposinf(missing).all()


@pytest.mark.parametrize("num_features", [10, 300])
def test_cells_list_the_nearest_groups_by_parts(num_features):
    roadmap = city(3, num_features)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    for number, groups in enumerate(polylines.cell_groups):
        cell = np.array(divmod(number, int(polylines.num_columns)))
        center = polylines.grid_corner + polylines.cell_size * (cell + 0.5)
        outside = np.maximum(
            np.maximum(polylines.bounding_box[:, :2] - center, center - polylines.bounding_box[:, 2:]), 0.0
        )
        apart = np.pad(np.sort(np.hypot(*outside.T)), (0, NUM_LISTED_GROUPS), constant_values=np.inf)
        exists = np.where(groups < 0, np.inf, np.hypot(*outside[groups].T))
        for begin, end in (
            (0, NUM_NEAR_GROUPS),
            (NUM_NEAR_GROUPS, NUM_NEAR_GROUPS + 1),
            (NUM_NEAR_GROUPS + 1, NUM_LISTED_GROUPS),
            (NUM_LISTED_GROUPS, None),
        ):
            lot, present = groups[begin:end], groups[begin:end] >= 0
            np.testing.assert_allclose(np.sort(exists[begin:end]), apart[begin : begin + len(lot)], atol=1e-3)
            # In ascending order, padding last.
            assert (np.diff(lot[present]) > 0).all()
            assert (np.diff(present.astype(int)) <= 0).all()


def test_grouped_polylines_are_close():
    polylines = build_polylines(city(4).xyz, city(4).feature)
    width = (polylines.bounding_box[:, 2:] - polylines.bounding_box[:, :2]).max(axis=-1)
    assert np.median(width) < 20.0


@pytest.mark.parametrize("name", NAMES)
def test_the_index_is_smaller_than_the_map(name):
    roadmap = real(name)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    points = roadmap.xyz.nbytes + roadmap.feature.nbytes + roadmap.valid.nbytes
    assert sum(array.nbytes for array in jax.tree.leaves(polylines)) - polylines.points.nbytes < points
    assert polylines.points.nbytes < points


@pytest.mark.parametrize("k", [1, pytest.param(16, marks=pytest.mark.slow), 64, 100])
def test_nearest_equals_an_exhaustive_search(k):
    roadmap = city(0)
    assert build_polylines(roadmap.xyz, roadmap.feature).num_points.shape[0] > 2 * NUM_LISTED_GROUPS
    check(roadmap, query_points(roadmap, 60), k)


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in RECORDED), NAMES[-1]])
def test_nearest_equals_an_exhaustive_search_on_recorded_maps(name):
    roadmap = real(name)
    check(roadmap, query_points(roadmap, 400), 64)
    check(roadmap, query_points(roadmap, 30), 16)


def test_dense_maps_exceed_all_lists():
    # 4,000 points within a few meters, many of them equal, and a distant feature that enlarges the grid.
    rng = np.random.default_rng(1)
    crowd = np.concatenate([rng.normal(0, 2, (2000, 2)), np.zeros((2000, 2))])
    xyz = np.pad(np.concatenate([crowd, [[500.0, 300.0]]]), ((0, 0), (0, 1)))
    roadmap = road(xyz, np.append(np.arange(4000) // 5, 800))
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    assert polylines.num_points.shape[0] > 2 * NUM_LISTED_GROUPS
    check(roadmap, query_points(roadmap, 20), 64)


@given(
    st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30), st.booleans()), max_size=40),
    st.lists(st.tuples(st.integers(-90, 90), st.integers(-90, 90)), min_size=5, max_size=5),
)
def test_small_maps(points, queries):
    # Whole numbers make ties; few points make fewer polylines than k; padding keeps one compiled shape.
    feature = np.cumsum([is_new for _, _, is_new in points], dtype=int)
    feature = feature - feature[0] if len(points) else feature
    roadmap = road([(x, y, 0.0) for x, y, _ in points], feature)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    widths = ((0, 12 - polylines.num_points.shape[0]), (0, 0))
    grown = {name: np.pad(getattr(polylines, name), widths) for name in ("first_point", "num_points", "bounding_box")}
    grown["cell_groups"] = np.pad(
        polylines.cell_groups, ((0, 4 - len(polylines.cell_groups)), (0, 0)), constant_values=-1
    )
    fill = {"constant_values": np.inf}
    grown["points"] = np.pad(polylines.points, (*widths, (0, 0), (0, 0)), **fill)
    at = np.asarray(queries, np.float32)
    args = jax.device_put((dataclasses.replace(polylines, **grown), at))
    index, exists = find(*args, jnp.ones(5, bool), 10)
    check_nearest(roadmap.xyz, feature, grown["first_point"].reshape(-1)[index], np.asarray(exists), at, 10)


def test_an_empty_map_has_no_polylines():
    roadmap = road([], [])
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    index, exists = find(jax.device_put(polylines), jnp.zeros((3, 2)), jnp.ones(3, bool), 4)
    assert index.shape == (3, 4) and not exists.any()


def test_masked_points_get_no_polylines():
    roadmap = city(2)
    polylines = build_polylines(roadmap.xyz, roadmap.feature)
    points = query_points(roadmap, 1)
    query_mask = np.arange(len(points)) % 2 == 0
    _, exists = find(*jax.device_put((polylines, points, query_mask)), 8)
    assert exists[query_mask].all() and not exists[~query_mask].any()
