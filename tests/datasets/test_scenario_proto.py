"""Scenario protos: the same content as a tf.Example, links between lanes, and malformed messages."""

import numpy as np
import pytest

from tests.datasets.encode import example, features_of, map_feature, message, packed, scenario_of, small_scene
from tests.datasets.same import assert_same
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.scenario_proto import scene_from_proto
from waymax_sim.datasets.formats.traffic_lights import lights_by_lane
from waymax_sim.datasets.scenarios import parse
from waymax_sim.datatypes.roadmap import CONTROLS, SUCCESSOR, kind_name


def read(fields):
    return scene_from_proto(message(fields))


@pytest.fixture
def fields():
    return scenario_of(small_scene())


def test_a_scene_comes_back(fields):
    assert_same(read(fields), small_scene())


def test_both_formats_give_the_same_content(fields):
    scene = small_scene()
    assert_same(parse(message(fields)), parse(example(features_of(scene))), ignore=("links", "speed_limit"))


def test_fields_may_come_in_any_order(fields):
    fields[2] = [track | {3: [dict(reversed(state.items())) for state in track[3]]} for track in fields[2]]
    assert_same(read(dict(reversed(fields.items()))), small_scene())


def test_absent_fields_have_their_defaults(fields):
    for number in (4, 5, 6, 7, 8, 10, 11):
        del fields[number]
    raw = read(fields)
    assert (raw.sdc_index, raw.current_step) == (-1, 0)
    # A digest of the states stands for the id.
    assert len(raw.scenario_id) == 16 and raw.scenario_id != small_scene().scenario_id
    assert not raw.of_interest.any() and not raw.to_predict.any()
    assert raw.signal_valid.shape == (5, 0)
    assert raw.point_xyz.shape == (0, 3)


def test_positions_keep_the_precision_of_doubles(fields):
    fields[2][0][3][0][2] = 8000.123456789
    assert read(fields).xyz[0, 0, 0] == 8000.123456789


def test_each_kind_has_the_code_of_tf_examples(fields):
    fields[8] = [
        {1: 1, 3: {2: 3}},
        {1: 2, 4: {1: 0}},
        {1: 3, 4: {1: 8}},
        {1: 4, 5: {}},
        {1: 5, 5: {1: 2}},
        {1: 6, 7: {2: {1: 1.0, 2: 2.0}}},
        {1: 7, 8: {}},
        {1: 8, 9: {}},
        {1: 9, 10: {}},
    ]
    raw = read(fields)
    assert raw.feature_type.tolist() == [3, 5, 13, 14, 16, 17, 18, 19, 20]
    assert [kind_name(code) for code in raw.feature_type.tolist()[5:]] == [
        "stop_sign",
        "crosswalk",
        "speed_bump",
        "driveway",
    ]
    assert raw.point_feature.tolist() == [5]
    assert raw.point_xyz.tolist() == [[1, 2, 0]]


def test_kinds_of_the_future_are_skipped(fields):
    fields[8].insert(0, {1: 99, 15: {1: 1}})
    assert_same(read(fields), small_scene())


def test_links_are_listed_once_and_only_to_lanes_of_the_map(fields):
    lane = {2: 2, 9: packed([2, 404]), 10: packed([2, 2, 3, 404]), 11: [{2: 5}, {1: 404}]}
    sign = {1: [2, 404, 3, 2]}
    fields[8] = [{1: 1, 3: lane}, {1: 2, 3: {9: [1], 10: packed([1])}}, {1: 3, 5: {}}, {1: 4, 7: sign}]
    assert read(fields).links.tolist() == [[0, 1, SUCCESSOR], [1, 0, SUCCESSOR], [3, 1, CONTROLS]]


@pytest.mark.parametrize(("number", "bad"), [(3, {2: 4}), (3, {2: -1}), (4, {1: 9}), (5, {1: 3})])
def test_types_outside_the_format_are_refused(fields, number, bad):
    fields[8].append({1: 50, number: bad})
    with pytest.raises(DataError, match="is outside 0"):
        read(fields)


def test_tracks_need_a_state_for_every_step(fields):
    fields[2][1][3].pop()
    with pytest.raises(DataError, match=r"tracks\[1\].states: has 4 states for 5 timestamps"):
        read(fields)


def test_a_scene_needs_timestamps(fields):
    del fields[1]
    with pytest.raises(DataError, match="timestamps_seconds: missing"):
        read(fields)


@pytest.mark.parametrize("index", [3, -1])
def test_tracks_to_predict_must_exist(fields, index):
    fields[11] = [{1: index}]
    with pytest.raises(DataError, match="is not one of 3 tracks"):
        read(fields)


def test_fewer_light_states_than_steps_are_lights_not_seen(fields):
    fields[7] = fields[7][:2]
    raw = read(fields)
    assert raw.signal_valid[:2].any() and not raw.signal_valid[2:].any()


def test_more_light_states_than_steps_are_refused(fields):
    fields[7].append({})
    with pytest.raises(DataError, match="6 states for 5 timestamps"):
        read(fields)


def test_of_two_lights_of_a_lane_the_first_counts(fields):
    fields[7][0] = {1: [{1: 10, 2: 1}, {1: 10, 2: 6}]}
    assert read(fields).signal_state[0].tolist() == [1, 0]


def test_a_light_without_a_state_is_seen_but_unknown(fields):
    fields[7] = [{1: {1: 10}}] * 5
    raw = read(fields)
    assert raw.signal_valid.all()
    assert not raw.signal_state.any()


def test_lights_cannot_outgrow_the_input():
    many = np.arange(50_000)
    with pytest.raises(DataError, match="50000 over 1000 steps"):
        lights_by_lane(1000, many % 1000, many, many, np.zeros((50_000, 3)))


def test_a_map_feature_is_written_as_it_was_read():
    feature = map_feature(small_scene(), 2)
    assert feature[1] == 12 and feature[5][1] == 1
