"""Encoder of tf.Examples: restored scenes, the features of a recorded one, and dropped content."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from tests.data import recorded
from tests.datasets.encode import example, features_of, small_scene
from tests.datasets.random_scenes import random_scene, scene_arguments
from tests.datasets.same import assert_same, in_order
from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.encoding.tf_example import decode_example
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats import write_womd
from waymax_sim.datasets.formats.write_womd import encode_tf_example, serialize_example
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import parse
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.synthetic import synthetic_scene

NOT_IN_EXAMPLES = ("links", "speed_limit")


def assert_same_routes(found: RawScene, expected: RawScene, **tolerance) -> None:
    assert (found.routes is None) == (expected.routes is None)
    if found.routes is not None and expected.routes is not None:
        valid = expected.routes.valid
        np.testing.assert_array_equal(found.routes.valid, valid)
        np.testing.assert_array_equal(found.routes.on_route, expected.routes.on_route)
        np.testing.assert_allclose(found.routes.xyz[valid], expected.routes.xyz[valid], **tolerance)
        np.testing.assert_allclose(found.routes.arc_length[valid], expected.routes.arc_length[valid], **tolerance)


def test_a_scene_comes_back():
    raw = small_scene()
    assert_same(parse(encode_tf_example(raw)), raw, ignore=NOT_IN_EXAMPLES)


def test_the_features_are_those_of_the_slow_encoder():
    raw = small_scene()
    hidden = {name: getattr(raw, name).copy() for name in ("xyz", "yaw", "velocity", "size")}
    for values in hidden.values():
        values[~raw.valid] = -1
    found = write_womd.tf_example_features(raw)
    expected = features_of(dataclasses.replace(raw, **hidden), 128, 20_000, 16)
    for name, values in expected.items():
        if isinstance(values, list):
            assert found[name] == values
        else:
            # Unused light slots of recorded examples are 0, not -1.
            values = values.clip(0) if name.endswith("/valid") else values
            np.testing.assert_array_equal(found[name].ravel(), values.ravel(), err_msg=name)
            assert found[name].dtype == values.dtype
    new = {name.rpartition("/")[2] for name in found.keys() - expected.keys()}
    assert new == {"dir", "speed", "vel_yaw", "timestamp_micros", "difficulty_level"}, new


def test_the_bytes_are_those_of_the_slow_encoder():
    features = write_womd.tf_example_features(small_scene(), num_points=20)
    assert serialize_example(features) == example(features)


# More agents than slots are tested below.
@settings(max_examples=40)
@given(scene_arguments(agents=9) | scene_arguments(agents=0, lights=0) | scene_arguments(agents=128, features=2))
def test_any_scene_comes_back(arguments):
    raw = random_scene(**arguments)
    without_agents = ("timestamps",) if not len(raw.agent_id) else ()
    found = parse(encode_tf_example(raw, num_points=64))
    assert_same(found, raw, ignore=(*NOT_IN_EXAMPLES, *without_agents, "routes"))
    assert_same_routes(found, raw, rtol=0)


@pytest.mark.parametrize("index", range(3))
def test_synthetic_scenes_come_back(index):
    raw = in_order(synthetic_scene(7, index))
    found = parse(encode_tf_example(raw))
    for name in ("agent_id", "agent_type", "valid", "feature_id", "feature_type", "signal_state", "to_predict"):
        np.testing.assert_array_equal(getattr(found, name), getattr(raw, name))
    # 9 km from the world origin, float32 is exact within 0.5 mm.
    for name in ("xyz", "yaw", "velocity", "size"):
        np.testing.assert_allclose(
            getattr(found, name)[raw.valid], getattr(raw, name)[raw.valid], atol=5e-4, rtol=0, err_msg=name
        )
    np.testing.assert_allclose(found.point_xyz, raw.point_xyz, atol=5e-4, rtol=0)
    np.testing.assert_allclose(found.timestamps, raw.timestamps, atol=5e-7, rtol=0)
    assert_same_routes(found, raw, atol=5e-4, rtol=0)


def test_a_recorded_example_is_written_as_it_was():
    index = tfrecord.index_records(str(recorded("womd/tf_example_a3bb37c25ce56418.tfrecord")))
    original = decode_example(tfrecord.read_record(index, 0))
    data = encode_tf_example(parse(tfrecord.read_record(index, 0)))
    written = decode_example(data)
    assert len(data) == index.length[0]
    assert written.keys() == original.keys()
    derived = {"speed": 2e-6, "vel_yaw": 5e-7, "dir": 2e-4}
    for name, values in original.items():
        found = written[name]
        if isinstance(values, list):
            assert found == values
            continue
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
        atol = derived.get(name.rpartition("/")[2], 0.0)
        if name == "roadgraph_samples/dir":
            # The map of the original was truncated inside its last feature, so the direction of its end is not zero.
            found, values = found[:-3], values[:-3]
        np.testing.assert_allclose(found, values, rtol=0, atol=atol, err_msg=name)


def test_a_recorded_scene_with_too_much_is_cut():
    raw = load(recorded("womd/scenario_2a1e44d405a6833f.tfrecord")).read(0)
    found = parse(encode_tf_example(raw))
    agents, now = np.isin(raw.agent_id, found.agent_id), raw.current_step
    assert agents.sum() == 128
    assert agents[raw.sdc_index] and agents[raw.to_predict | raw.of_interest].all() and agents[raw.valid[now]].all()
    np.testing.assert_array_equal(found.valid, raw.valid[:, agents])
    assert found.agent_id[found.sdc_index] == raw.agent_id[raw.sdc_index]
    features = np.isin(raw.feature_id, found.feature_id)
    assert 19_000 < len(found.point_xyz) <= 20_000
    np.testing.assert_allclose(found.point_xyz, raw.point_xyz[features[raw.point_feature]], rtol=0, atol=5e-4)
    assert len(parse(encode_tf_example(raw, num_points=30_000)).point_xyz) == len(raw.point_xyz)


def test_selection_of_too_many_agents():
    raw = random_scene(0, steps=3, agents=140, features=0, lights=0, paths=0)
    valid = np.zeros_like(raw.valid)
    valid[raw.current_step, [*range(120), 130]] = True
    valid[raw.current_step - 1, 120:] = True
    marked = np.arange(140) >= 135
    away = np.arange(140.0)
    xyz = np.broadcast_to(np.stack([away, 0 * away, 0 * away], axis=-1), raw.xyz.shape).copy()
    none = np.zeros(140, bool)
    raw = dataclasses.replace(raw, valid=valid, sdc_index=130, to_predict=marked, of_interest=none, xyz=xyz)
    # 130 is the sdc, 135 to 139 are marked, 0 to 119 are valid now, and two more fit: those nearest to the sdc.
    assert write_womd.select_agents(raw).tolist() == [*range(120), *range(129, 132), *range(135, 140)]
    # Without a mark, those nearest to the mean of the valid ones (69.5, so 70) come first.
    near = dataclasses.replace(raw, valid=np.ones_like(valid), sdc_index=-1, to_predict=none)
    assert set(write_womd.select_agents(near)) == set(np.argsort(np.abs(away - 70), kind="stable")[:128])


def test_the_nearest_features_are_kept_whole():
    raw = small_scene()  # 4, 1, 4, 3 and 1 points; the sdc is at (8002.5, -3000.25) now
    assert np.bincount(raw.point_feature[write_womd.select_points(raw, 9)], minlength=5).tolist() == [4, 1, 0, 0, 1]
    assert write_womd.select_points(raw, 13).all() and not write_womd.select_points(raw, 0).any()
    assert parse(encode_tf_example(raw, num_points=9)).feature_id.tolist() == [10, 2**24 + 11, 14]


def test_the_nearest_lights_are_kept():
    raw = random_scene(3, steps=2, agents=1, features=0, lights=20, paths=0)
    stop = np.full((2, 20, 3), 19.0)
    stop[..., 0] = np.arange(20)[::-1]
    raw = dataclasses.replace(
        raw,
        xyz=np.full_like(raw.xyz, 19.0),
        signal_stop_point=stop,
        signal_valid=np.ones((2, 20), bool),
        signal_state=np.ones((2, 20), int),
    )
    assert parse(encode_tf_example(raw)).signal_lane_id.tolist() == raw.signal_lane_id[:16].tolist()


def test_directions_lead_to_the_next_sample():
    direction = write_womd.tf_example_features(small_scene(), num_points=20)["roadgraph_samples/dir"]
    loop = [[1, 0, 0], [0, 1, 0], [-np.sqrt(0.5), -np.sqrt(0.5), 0], [0, 0, 0]]
    np.testing.assert_allclose(direction[5:9], loop, atol=1e-7)
    assert not direction[[3, 4, 11, 12]].any() and (direction[13:] == -1).all()


def test_speeds_and_courses_follow_from_velocities():
    found = write_womd.tf_example_features(small_scene())
    np.testing.assert_allclose(found["state/current/speed"][:4, 0], [10, np.hypot(8, 0.5), np.hypot(1.5, 0.25), -1])
    course = [0, np.arctan2(-0.5, 8), np.arctan2(0.25, 1.5), -1]
    np.testing.assert_allclose(found["state/current/vel_yaw"][:4, 0], course, rtol=1e-6)


def test_times_before_zero_begin_at_zero():
    raw = small_scene()
    found = parse(encode_tf_example(dataclasses.replace(raw, timestamps=raw.timestamps - 5)))
    np.testing.assert_allclose(found.timestamps, raw.timestamps)


def test_ids_that_float32_cannot_hold_are_refused():
    raw = dataclasses.replace(small_scene(), agent_id=np.array([3, 7, 2**24 + 1]))
    with pytest.raises(DataError, match="agent_id: has ids that are not exact in float32"):
        encode_tf_example(raw)


def test_features_that_readers_would_join_are_refused():
    raw = dataclasses.replace(small_scene(), feature_id=np.zeros(5, int), feature_type=np.array([2, 1, 15, 15, 17]))
    with pytest.raises(DataError, match="the same id and type"):
        encode_tf_example(raw)


def test_impossible_numbers_are_refused():
    raw = dataclasses.replace(small_scene(), point_xyz=np.full((13, 3), np.nan))
    with pytest.raises(DataError, match="point_xyz"):
        encode_tf_example(raw)
