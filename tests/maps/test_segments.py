from types import SimpleNamespace

import numpy as np

from waymax_sim.datatypes.roadmap import PADDING_COORDINATE
from waymax_sim.maps.segments import build_segments

EDGE = 15
LINE = 7
LANE = 2


def build(*lines, types=(EDGE,), kinds=None):
    lines = [np.asarray(line, np.float32).reshape(-1, 3) for line in lines]
    feature = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    points = np.concatenate([*lines, np.zeros((0, 3), np.float32)])
    return compact(build_segments(points, feature, np.asarray(kinds or [EDGE] * len(lines), int), types))


def compact(built):
    """The valid segments alone, with references among them renumbered."""
    rows = {name: getattr(built, name).reshape(-1) for name in ("previous", "next", "feature", "valid")}
    index = np.flatnonzero(rows["valid"])
    number = np.full(built.valid.size + 1, -1)
    number[index] = np.arange(len(index))
    rows = {name: values[index] for name, values in rows.items()}
    rows |= {name: number[rows[name]] for name in ("previous", "next")}
    return SimpleNamespace(start=built.start[index], end=built.end[index], **rows)


def polyline(*xy):
    return [(x, y, 0.0) for x, y in xy]


def test_segments_join_consecutive_points():
    built = build(polyline((0, 0), (1, 0), (2, 1)), polyline((5, 5), (6, 5)))
    np.testing.assert_array_equal(built.start[:, :2], [(0, 0), (1, 0), (5, 5)])
    np.testing.assert_array_equal(built.end[:, :2], [(1, 0), (2, 1), (6, 5)])
    np.testing.assert_array_equal(built.previous, [-1, 0, -1])
    np.testing.assert_array_equal(built.next, [1, -1, -1])
    np.testing.assert_array_equal(built.feature, [0, 0, 1])
    assert built.valid.all() and built.start.dtype == np.float32


def test_only_the_given_types():
    lines = [polyline((i, 0), (i, 1)) for i in range(4)]
    built = build(*lines, types=(EDGE, LANE), kinds=[LINE, EDGE, LINE, LANE])
    np.testing.assert_array_equal(built.feature, [1, 3])


def test_points_that_repeat_are_skipped_and_single_points_have_no_segment():
    built = build(
        polyline((0, 0), (0, 0), (1, 0), (1, 0)), polyline((1, 0)), polyline((1, 0), (1, 0)), polyline((1, 0), (2, 0))
    )
    np.testing.assert_array_equal(built.start[:, :2], [(0, 0), (1, 0)])
    np.testing.assert_array_equal(built.feature, [0, 3])
    np.testing.assert_array_equal(built.next, [-1, -1])


def test_a_step_in_height_alone_is_no_segment():
    built = build([(0, 0, 0), (1, 0, 0), (1, 0, 3), (2, 0, 3)])
    np.testing.assert_array_equal(built.start, [(0, 0, 0), (1, 0, 0)])
    np.testing.assert_array_equal(built.next, [1, -1])


def test_loops_close_gaps_below_one_meter():
    square = [(0, 0), (10, 0), (10, 10), (0, 10)]
    for gap, closes in ((0.0, True), (0.99, True), (1.0, False)):
        built = build(polyline((50, 0), (51, 0)), polyline(*square, (0, gap)))
        np.testing.assert_array_equal(built.previous[1:], [4 if closes else -1, 1, 2, 3])
        np.testing.assert_array_equal(built.next[1:], [2, 3, 4, 1 if closes else -1])
    apart_in_height = [(*xy, 0.0) for xy in square] + [(0, 0, 2.0)]
    assert build(apart_in_height).previous[0] == -1


def test_out_and_back_is_no_loop():
    built = build(polyline((0, 0), (9, 0), (0, 0.5)))
    np.testing.assert_array_equal(built.previous, [-1, 0])


def test_no_points_no_segments():
    for built in (build(), build(polyline((0, 0), (1, 0)), kinds=[LINE])):
        assert built.start.shape == (0, 3) and built.valid.shape == (0,)


def test_every_feature_starts_a_chunk_and_padding_is_far_away():
    points = np.zeros((14, 3), np.float32)
    points[:, 0] = np.arange(14)
    built = build_segments(points, np.repeat([0, 1, 2], [10, 1, 3]), np.full(3, EDGE), (EDGE,))
    np.testing.assert_array_equal(built.valid.sum(axis=1), [8, 1, 2])
    np.testing.assert_array_equal(built.valid[:, 0], True)
    hollow = ~built.valid
    assert (built.endpoints.swapaxes(1, 2)[hollow] == PADDING_COORDINATE).all()
    assert (built.previous[hollow] == -1).all() and (built.next[hollow] == -1).all()
    np.testing.assert_array_equal(built.start[:9, 0], np.arange(9))
    np.testing.assert_array_equal(built.end[16:18, 0], [12, 13])


def test_long_segments_are_cut_into_equal_pieces():
    built = build([(0, 0, 0), (25, 0, 5), (26, 0, 5)])
    np.testing.assert_allclose(built.end[:, 0], [25 / 3, 50 / 3, 25, 26], rtol=1e-6)
    np.testing.assert_allclose(built.end[:, 2], [5 / 3, 10 / 3, 5, 5], rtol=1e-6)
    np.testing.assert_array_equal(built.start[1:], built.end[:-1])
    np.testing.assert_array_equal(built.previous, [-1, 0, 1, 2])
    assert len(build([(0, 0, 0), (1e6, 0, 0)]).start) == 64


def test_the_length_that_is_cut_is_that_in_the_plane():
    """A slope of 10 m in the plane is one segment, as on a map without heights; one of 10.5 m is two."""
    slope = build_segments(np.array([(0, 0, 0), (10, 0, 4)], float), np.zeros(2, int), np.array([EDGE]), (EDGE,))
    assert slope.valid.sum() == 1
    longer = build_segments(np.array([(0, 0, 0), (10.5, 0, 4)], float), np.zeros(2, int), np.array([EDGE]), (EDGE,))
    np.testing.assert_allclose(longer.end[:2], [(5.25, 0, 2), (10.5, 0, 4)])
