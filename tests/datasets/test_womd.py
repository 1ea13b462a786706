"""WOMD tf.Examples: slots, sentinels, and missing or invalid features."""

import dataclasses

import numpy as np
import pytest

from tests.datasets.encode import PAST, example, features_of, message, packed, small_scene
from tests.datasets.same import assert_same
from waymax_sim.datasets.encoding.tf_example import decode_example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.womd import scene_from_example
from waymax_sim.datasets.scene import to_scenario

NOT_IN_EXAMPLES = ("links", "speed_limit")


def read(features):
    return scene_from_example(decode_example(example(features)))


@pytest.fixture
def features():
    return features_of(small_scene())


def test_a_scene_comes_back(features):
    raw = read(features)
    assert_same(raw, small_scene(), ignore=NOT_IN_EXAMPLES)
    assert raw.links.shape == (0, 3)
    assert not raw.speed_limit.any()


def test_slot_counts_are_inferred():
    for slots, samples, lights in ((3, 14, 2), (9, 40, 5)):
        raw = read(features_of(small_scene(), slots, samples, lights))
        assert_same(raw, small_scene(), ignore=NOT_IN_EXAMPLES)


def required():
    optional = {"scenario/id"}
    return sorted(features_of(small_scene()).keys() - optional)


@pytest.mark.parametrize("key", required())
def test_a_missing_feature_is_named(features, key):
    del features[key]
    with pytest.raises(DataError, match="missing feature") as caught:
        read(features)
    assert caught.value.field == key


@pytest.mark.parametrize("key", required())
def test_a_feature_of_a_wrong_size_is_named(features, key):
    features[key] = features[key].ravel()[:-1]
    with pytest.raises(DataError, match=r"\d") as caught:
        read(features)
    # A shorter list of ids is indistinguishable from longer lists of all other features.
    assert key in (caught.value.field, "state/id", "roadgraph_samples/id", "traffic_light_state/current/id")


def test_a_wrong_size_names_both_sizes(features):
    features["state/current/x"] = np.zeros(7, np.float32)
    with pytest.raises(DataError, match="state/current/x: has 7 values, expected 4"):
        read(features)


def test_bytes_are_not_numbers(features):
    features["state/current/x"] = [b"12"]
    with pytest.raises(DataError, match="bytes, expected numbers"):
        read(features)


def test_only_one_means_valid(features):
    features["state/current/valid"] = np.array([1, -1, 2, 0])
    raw = read(features)
    assert raw.valid[PAST].tolist() == [True, False, False]


def test_empty_slots_in_between_are_dropped(features):
    for name in ("id", "type"):
        features[f"state/{name}"][1] = -1
    for period in ("past", "current", "future"):
        features[f"state/{period}/valid"][1] = 0
    raw = read(features)
    assert raw.agent_id.tolist() == [3, 2**24 + 2]
    assert raw.of_interest.tolist() == [False, True]


def test_a_slot_without_a_type_stays_while_it_is_seen(features):
    features["state/type"][1] = -1
    raw = read(features)
    assert raw.agent_id.tolist() == [3, 7, 2**24 + 2]
    assert raw.agent_type.tolist() == [1, 0, 2]


def test_no_slots_are_refused(features):
    features["state/id"] = np.zeros(0, np.float32)
    with pytest.raises(DataError, match="state/id: has no slots"):
        read(features)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.5])
def test_ids_that_are_no_whole_numbers_are_refused(features, bad):
    features["state/id"][0] = bad
    with pytest.raises(DataError, match="state/id: has values that are not integers"):
        read(features)


def test_two_egos_are_refused(features):
    features["state/is_sdc"][1] = 1
    with pytest.raises(DataError, match="marks 2 agents as the sdc"):
        read(features)


def test_no_ego(features):
    features["state/is_sdc"][:] = 0
    assert read(features).sdc_index == -1


def test_times_of_the_ego_are_used_where_it_is_seen(features):
    features["state/current/timestamp_micros"][1] = 999_999_999
    np.testing.assert_allclose(read(features).timestamps, small_scene().timestamps)


def test_times_of_others_fill_the_gaps(features):
    features["state/past/timestamp_micros"][0] = -1
    np.testing.assert_allclose(read(features).timestamps, small_scene().timestamps)


def test_times_that_run_backwards_become_regular_steps(features):
    for period in ("past", "current", "future"):
        features[f"state/{period}/timestamp_micros"][:] = 5
    np.testing.assert_allclose(read(features).timestamps, np.arange(5) * 0.1)


def test_a_scene_without_an_id_gets_one_from_its_content(features):
    del features["scenario/id"]
    first = read(features).scenario_id
    assert len(first) == 16
    assert read(features).scenario_id == first
    features["state/current/x"][0, 0] += 1
    assert read(features).scenario_id != first


def test_lights_that_change_slots_stay_in_their_column(features):
    # Lane 10 is alone in slot 0 at the first step; at the fourth, the other lane is observed.
    ids = features["traffic_light_state/past/id"], features["traffic_light_state/future/id"]
    assert ids[0][0, 0] != ids[1][0, 0]
    raw = read(features)
    np.testing.assert_array_equal(raw.signal_valid, small_scene().signal_valid)
    np.testing.assert_array_equal(raw.signal_state, small_scene().signal_state)


def test_lights_may_be_absent():
    scene = small_scene()
    dark = dataclasses.replace(
        scene,
        signal_lane_id=np.zeros(0, int),
        signal_state=np.zeros((5, 0), int),
        signal_stop_point=np.zeros((5, 0, 3)),
        signal_valid=np.zeros((5, 0), bool),
    )
    for slots in (0, 3):
        assert_same(read(features_of(dark, lights=slots)), dark, ignore=NOT_IN_EXAMPLES)


def test_a_map_may_be_absent(features):
    features["roadgraph_samples/valid"][:] = 0
    raw = read(features)
    assert len(raw.feature_id) == len(raw.point_xyz) == 0
    assert not to_scenario(raw).roadmap.valid.any()


def without_groups(features, *groups):
    """The features of no group, as where a testing split lacks them."""
    return {key: values for key, values in features.items() if not key.startswith(groups)}


def test_an_example_without_a_map_or_lights_loads(features):
    raw = read(without_groups(features, "roadgraph_samples/", "traffic_light_state/"))
    assert raw.point_xyz.shape == (0, 3) and not raw.feature_id.size and raw.signal_valid.shape == (5, 0)
    assert {"map", "lights"} <= set(raw.missing_fields) and not {"map", "lights"} & set(read(features).missing_fields)
    np.testing.assert_array_equal(raw.xyz[raw.valid], small_scene().xyz[small_scene().valid])
    assert not to_scenario(raw).roadmap.valid.any()


def test_an_example_without_a_future_loads(features):
    """Of five steps, three are past and present."""
    expected, num_known = small_scene(), PAST + 1
    raw = read(without_groups(features, "state/future/", "traffic_light_state/future/"))
    assert (len(raw.timestamps), raw.current_step) == (num_known, PAST)
    np.testing.assert_array_equal(raw.valid, expected.valid[:num_known])
    np.testing.assert_array_equal(raw.signal_valid, expected.signal_valid[:num_known])
    # States may have a future that lights lack.
    unlit = read(without_groups(features, "traffic_light_state/future/"))
    np.testing.assert_array_equal(unlit.valid, expected.valid)
    np.testing.assert_array_equal(unlit.signal_valid[:num_known], expected.signal_valid[:num_known])
    assert not unlit.signal_valid[num_known:].any()


def test_a_gap_in_a_feature_does_not_split_it(features):
    features["roadgraph_samples/valid"][1] = 0
    raw = read(features)
    assert raw.feature_id.tolist() == small_scene().feature_id.tolist()
    assert np.bincount(raw.point_feature).tolist() == [3, 1, 4, 3, 1]


def test_routes_are_read_where_present(features):
    xyz = np.arange(2 * 3 * 3, dtype=np.float32) + 8000
    valid = np.array([1, 1, 1, 1, 0, -1])
    features |= {
        "path_samples/xyz": xyz,
        "path_samples/valid": valid,
        "path_samples/arc_length": np.array([0, 1, 2, 0, -1, -1], np.float32),
        "path_samples/on_route": np.array([1, 0]),
    }
    raw = read(features)
    np.testing.assert_array_equal(raw.routes.xyz, xyz.reshape(2, 3, 3))
    assert raw.routes.valid.tolist() == [[True] * 3, [True, False, False]]
    routes = to_scenario(raw, pad_to_bucket=False).routes
    assert routes.arc_length.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert routes.on_route.tolist() == [True, False]
    features["path_samples/valid"] = valid[:-1]
    with pytest.raises(DataError, match="5 values for 2 paths"):
        read(features)


def test_lists_need_not_be_packed():
    values = {"a": {3: {1: [5, -1, 2**40]}}, "b": {2: {1: [np.float32(1.5), np.float32(-2)]}}, "c": {}, "d": {3: {}}}
    data = message({1: {1: [{1: key, 2: feature} for key, feature in values.items()]}})
    found = decode_example(data)
    assert found["a"].tolist() == [5, -1, 2**40]
    assert found["b"].tolist() == [1.5, -2]
    assert found.keys() == {"a", "b", "d"}


def test_the_last_feature_of_a_name_counts():
    entries = [{1: "a", 2: {3: {1: packed([n])}}} for n in (1, 2)]
    assert decode_example(message({1: {1: entries}}))["a"].tolist() == [2]


def test_a_feature_of_two_kinds_is_refused():
    data = message({1: {1: {1: "a", 2: {3: {1: packed([1])}, 2: {1: [np.float32(1)]}}}}})
    with pytest.raises(DataError, match="field a: has values of several types"):
        decode_example(data)
