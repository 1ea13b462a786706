"""Conversion of a raw scene to a scenario: origin, masks, wrapping, sizes, segments, and invalid scenes."""

import dataclasses

import numpy as np
import pytest

from tests.datasets.encode import PAST, small_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import to_scenario


@pytest.fixture
def raw():
    return small_scene()


def changed(raw, field, index, value):
    values = getattr(raw, field).copy()
    values[index] = value
    return dataclasses.replace(raw, **{field: values})


def test_the_origin_is_the_current_ego_position_in_whole_meters(raw):
    scenario = to_scenario(raw)
    np.testing.assert_array_equal(scenario.origin, np.round(raw.xyz[PAST, 0]))
    assert np.abs(scenario.log.xyz[PAST, 0]).max() <= 0.5


def test_without_an_ego_the_origin_is_amid_the_agents(raw):
    expected = np.round(raw.xyz[PAST].mean(axis=0))
    for no_ego in (dataclasses.replace(raw, sdc_index=-1), changed(raw, "valid", (PAST, 0), False)):
        origin = np.round(no_ego.xyz[PAST, no_ego.valid[PAST]].mean(axis=0))
        np.testing.assert_array_equal(to_scenario(no_ego).origin, origin)
    np.testing.assert_array_equal(to_scenario(dataclasses.replace(raw, sdc_index=-1)).origin, expected)


def test_without_agents_the_origin_is_amid_the_map(raw):
    no_agent = dataclasses.replace(raw, valid=np.zeros_like(raw.valid))
    np.testing.assert_array_equal(to_scenario(no_agent).origin, np.round(raw.point_xyz.mean(axis=0)))


def test_world_positions_are_restored_within_a_millimeter(raw):
    far = dataclasses.replace(raw, xyz=raw.xyz + 90_000.123, point_xyz=raw.point_xyz + 90_000.123)
    scenario = to_scenario(far, pad_to_bucket=False)
    world = scenario.log.xyz.astype(np.float64) + scenario.origin
    np.testing.assert_allclose(world[far.valid], far.xyz[far.valid], atol=1e-3, rtol=0)
    map_world = scenario.roadmap.xyz.astype(np.float64) + scenario.origin
    np.testing.assert_allclose(map_world, far.point_xyz, atol=1e-3, rtol=0)


def test_invalid_states_hold_zeros(raw):
    raw = changed(raw, "yaw", (0, 1), np.nan)
    log = to_scenario(raw, pad_to_bucket=False).log
    for values in (log.xyz, log.yaw, log.velocity):
        assert not values[~raw.valid].any()


def test_headings_are_wrapped(raw):
    yaw = to_scenario(raw, pad_to_bucket=False).log.yaw
    assert ((yaw >= -np.pi) & (yaw < np.pi)).all()
    np.testing.assert_allclose(np.cos(yaw[PAST]), np.cos(raw.yaw[PAST]), atol=1e-6)
    np.testing.assert_allclose(np.sin(yaw[PAST]), np.sin(raw.yaw[PAST]), atol=1e-6)


@pytest.mark.parametrize("yaw", [np.pi, -np.pi, 3 * np.pi, np.nextafter(-np.pi, -4), np.nextafter(np.pi, 0), -1e-20])
def test_headings_at_the_seam_stay_inside(raw, yaw):
    found = to_scenario(changed(raw, "yaw", (PAST, 0), yaw)).log.yaw[PAST, 0]
    assert np.float32(-np.pi) <= found < np.float32(np.pi)


def test_sizes_are_those_of_now_or_of_the_nearest_valid_step(raw):
    assert to_scenario(raw).agents.size[1, 0] == 4 + 0.25 * PAST
    late = changed(raw, "valid", (slice(0, 4), 1), False)
    assert to_scenario(late).agents.size[1, 0] == 4 + 0.25 * 4
    never = changed(raw, "valid", (slice(None), 1), False)
    assert not to_scenario(never).agents.size[1].any()


def test_ids_are_exact_beyond_float32(raw):
    raw = changed(raw, "agent_id", 2, 2**24 + 1)
    scenario = to_scenario(raw)
    assert scenario.agents.id[2] == 2**24 + 1
    assert scenario.roadmap.feature_id[1] == 2**24 + 11


def test_a_lane_of_one_point_has_no_segment_and_keeps_its_row(raw):
    scenario = to_scenario(raw, pad_to_bucket=False)
    assert scenario.lanes.feature[scenario.lanes.valid].tolist() == [0, 0, 0]
    assert scenario.roadmap.feature_type.tolist() == [2, 1, 15, 18, 17]
    assert (scenario.roadmap.feature == 1).sum() == 1


def test_a_closed_edge_is_a_ring(raw):
    edges = to_scenario(raw, pad_to_bucket=False).edges
    count = int(edges.valid.sum())
    assert count >= 3  # long sides are cut
    assert edges.next[edges.valid].tolist() == [*range(1, count), 0]
    assert edges.previous[edges.valid].tolist() == [count - 1, *range(count - 1)]


def test_an_open_lane_has_two_ends(raw):
    lanes = to_scenario(raw, pad_to_bucket=False).lanes
    assert lanes.next[lanes.valid].tolist() == [1, 2, -1]
    assert lanes.previous[lanes.valid].tolist() == [-1, 0, 1]


def test_repeated_points_make_no_segments(raw):
    raw = changed(raw, "point_xyz", 2, raw.point_xyz[1])
    lanes = to_scenario(raw, pad_to_bucket=False).lanes
    lengths = np.linalg.norm(lanes.end - lanes.start, axis=-1)[lanes.valid.reshape(-1)]
    np.testing.assert_allclose(lengths, [1, 2])


def test_padding_adds_nothing(raw):
    exact, padded = to_scenario(raw, pad_to_bucket=False), to_scenario(raw)
    assert exact.num_agents == 3 and padded.num_agents == 8
    assert padded.agents.exists.sum() == 3 and padded.agents.is_sdc.sum() == 1
    assert padded.log.valid.sum() == exact.log.valid.sum()
    assert padded.edges.valid.sum() == exact.edges.valid.sum() and padded.lanes.valid.sum() == 3
    assert (padded.agents.id[3:] == -1).all()


def test_ids_are_text_again(raw):
    assert to_scenario(raw).scenario_id == raw.scenario_id


def test_long_ids_keep_their_start_and_stay_different(raw):
    for text in ("ü" * 99, "a" * 70):
        ids = [to_scenario(dataclasses.replace(raw, scenario_id=text + end)).scenario_id for end in ("x", "y", "y")]
        assert ids[0] != ids[1] == ids[2]
        assert all(each.startswith(text[:23]) and len(each.encode()) <= 64 for each in ids)
    whole = "b" * 64
    assert to_scenario(dataclasses.replace(raw, scenario_id=whole)).scenario_id == whole
    # The id of a scenario that is read again does not change.
    again = dataclasses.replace(raw, scenario_id=ids[0])
    assert to_scenario(again).scenario_id == ids[0]


@pytest.mark.parametrize(
    ("field", "index", "value"),
    [
        ("xyz", (PAST, 0, 0), np.nan),
        ("xyz", (PAST, 0, 0), 1e9),
        ("yaw", (PAST, 0), np.inf),
        ("velocity", (PAST, 0, 1), -np.inf),
        ("size", (PAST, 0, 1), np.nan),
        ("point_xyz", (0, 2), np.nan),
        ("speed_limit", 0, np.nan),
        ("signal_stop_point", (PAST, 0, 0), np.inf),
        ("timestamps", 1, np.nan),
        ("agent_id", 0, 2**31),
        ("feature_id", 0, -(2**31) - 1),
        ("signal_lane_id", 0, 2**40),
        ("agent_type", 0, 5),
        ("agent_type", 0, -1),
        ("point_feature", 0, 5),
        ("feature_type", 0, 21),
        ("links", (0, 1), 5),
        ("links", (0, 0), -1),
        ("links", (0, 2), 4),
        ("signal_state", (PAST, 0), 9),
    ],
)
def test_impossible_values_are_refused(raw, field, index, value):
    with pytest.raises(DataError) as caught:
        to_scenario(changed(raw, field, index, value))
    assert caught.value.field == field


@pytest.mark.parametrize(("field", "value"), [("current_step", 5), ("current_step", -1), ("sdc_index", 3)])
def test_indices_outside_the_scene_are_refused(raw, field, value):
    with pytest.raises(DataError) as caught:
        to_scenario(dataclasses.replace(raw, **{field: value}))
    assert caught.value.field == field


def test_errors_name_their_location():
    error = DataError("is wrong", field="x", remedy="try y")
    assert str(error) == "field x: is wrong (try y)"
    located = error.with_location(file="a.tfrecord", record=3)
    assert str(located) == "a.tfrecord, record 3, field x: is wrong (try y)"
    assert str(located.with_location(file="b", record=4)) == str(located)
