"""Motion tokens and map tokens: a NumPy oracle, the round trip, coverage, and hand-computed pieces."""

import dataclasses

import jax
import numpy as np
import pytest

from behavior_models.scene_decoder.motion_tokens import (
    TOKEN_BOXES,
    Vocabulary,
    decode,
    encode,
    load_vocabulary,
    save_vocabulary,
)
from behavior_models.scene_decoder.records import load_records, save_records
from behavior_models.scene_decoder.vocabulary import (
    VocabularyParams,
    arc,
    build_vocabulary,
    hull_tokens,
    k_disks,
    segments,
)
from tests.behavior_models.learned.decoder_scenes import MAP, record, scenario, vocabulary
from waymax_sim.pytree import stack, tree_index

_encode = jax.jit(encode, static_argnames=("restart", "closed_loop"))


def corners(pose, box):
    """Corners of a box, by complex numbers."""
    turn = np.exp(1j * pose[2])
    offsets = np.array([a * box[0] + 1j * b * box[1] for a in (1, -1) for b in (1, -1)]) / 2
    return pose[0] + 1j * pose[1] + turn * offsets


def compose(base, local):
    position = complex(base[0], base[1]) + np.exp(1j * base[2]) * complex(local[0], local[1])
    return np.array([position.real, position.imag, base[2] + local[2]])


def oracle(vocabulary, pose, valid, classes, restart=None):
    """Re-anchored tokens, one agent and one half second after another."""
    starts = np.concatenate([[0], np.cumsum(vocabulary.sizes)])
    tokens = np.full((len(pose) - 1, pose.shape[1]), -1)
    for agent, kind in enumerate(classes):
        reached = None
        for time in range(len(pose) - 1):
            if not (valid[time, agent] and valid[time + 1, agent]):
                reached = None
                continue
            base = pose[time, agent] if reached is None or time == restart else reached
            own = range(starts[kind], starts[kind + 1])
            ends = [compose(base, vocabulary.poses[token, -1].astype(float)) for token in own]
            target = corners(pose[time + 1, agent], TOKEN_BOXES[kind])
            errors = [np.abs(corners(end, TOKEN_BOXES[kind]) - target).mean() for end in ends]
            tokens[time, agent] = own[int(np.argmin(errors))]
            reached = ends[int(np.argmin(errors))]
    return tokens


def test_tokens_are_those_of_the_oracle():
    pose, valid, classes = record().pose[::5], record().valid[::5], record().classes
    for restart in (None, 2):
        encoded = _encode(vocabulary(), pose, valid, classes, restart=restart)
        np.testing.assert_array_equal(encoded.token, oracle(vocabulary(), pose.astype(float), valid, classes, restart))
    assert np.isnan(encoded.error)[np.asarray(encoded.token) < 0].all()


def test_tokens_of_decoded_tracks_are_the_same():
    rng = np.random.default_rng(0)
    classes = np.array([0, 0, 1, 2], np.int32)
    starts = np.array([0, 0, 30, 33])
    token = (starts + rng.integers(0, np.array([30, 30, 3, 3]), size=(18, 4))).astype(np.int32)
    start = rng.normal(scale=50.0, size=(4, 3)).astype(np.float32)
    poses, ends = decode(vocabulary(), start, token)
    again = _encode(vocabulary(), ends, np.ones((19, 4), bool), classes)
    np.testing.assert_array_equal(again.token, token)
    np.testing.assert_allclose(poses[4::5], ends[1:], atol=1e-5)
    assert np.asarray(again.error).max() < 1e-3


def test_tokens_selected_from_the_log_accumulate_errors():
    # 7.5 m in half a second lie between tokens of 7 and 8 m.
    pose = np.zeros((19, 1, 3), np.float32)
    pose[:, 0, 0] = 7.4 * np.arange(19)
    args = vocabulary(), pose, np.ones((19, 1), bool), np.zeros(1, np.int32)
    closed, open_loop = (np.asarray(_encode(*args, closed_loop=flag).error)[:, 0] for flag in (True, False))
    assert closed.max() < 0.51
    np.testing.assert_allclose(open_loop, 0.4 * np.arange(1, 19), atol=1e-3)


def test_disks_cover_all_segments_and_hull_tokens_reach_beyond_them():
    rng = np.random.default_rng(1)
    lengths, turns = rng.uniform(1.0, 6.0, 400), rng.uniform(-0.2, 0.2, 400)
    moving = np.stack([arc(length, turn) for length, turn in zip(lengths, turns, strict=True)])
    tokens, uncovered = k_disks(moving, 0, 400, 0.3, np.random.default_rng(0))
    assert uncovered == 0 and len(tokens) < 400 and (tokens[0] == 0).all()
    pose = np.concatenate([np.zeros((1, 400, 3)), np.moveaxis(moving[:, -1:], 0, 1)]).astype(np.float32)
    covering = Vocabulary(np.concatenate([tokens, tokens[:1], tokens[:1]]).astype(np.float32), (len(tokens), 1, 1))
    encoded = _encode(covering, pose, np.ones((2, 400), bool), np.zeros(400, np.int32))
    # Means of disks may be off their segments by the radius.
    assert np.asarray(encoded.error).max() < 0.6
    assert k_disks(moving, 0, 5, 0.1, np.random.default_rng(0))[1] > 0.5
    hull = hull_tokens(moving, 44, VocabularyParams())
    assert (
        len(hull) == 44
        and np.abs(hull[:, -1, 2]).max() > np.abs(moving[:, -1, 2]).max() > np.abs(tokens[:, -1, 2]).max()
    )
    assert hull[:, -1, 0].max() > moving[:, -1, 0].max()
    # An arc of 90 degrees and radius 2 / pi * 3.
    np.testing.assert_allclose(arc(3.0, np.pi / 2)[-1], [6 / np.pi, 6 / np.pi, np.pi / 2], rtol=1e-6)


def test_a_vocabulary_is_built_by_class_and_stored(tmp_path):
    parts = [segments(record().pose, record().valid, record().classes)]
    assert [part.shape[1:] for part in parts[0]] == [(5, 3)] * 3 and len(parts[0][2]) == 0
    # The turning vehicle drives 0.5 s at 10 m/s.
    np.testing.assert_allclose(np.linalg.norm(parts[0][0][:40, -1, :2], axis=-1).max(), 5.0, atol=0.02)
    built, info = build_vocabulary(parts, VocabularyParams(sizes=(30, 4, 3), num_hull=(12, 0, 2)))
    assert built.sizes[1] == 2 and built.sizes[2] == 1 and built.sizes[0] <= 30 and len(info["uncovered"]) == 3
    save_vocabulary(tmp_path / "tokens.npz", built)
    restored = load_vocabulary(tmp_path / "tokens.npz")
    np.testing.assert_array_equal(restored.poses, built.poses)
    broken = dataclasses.replace(built, poses=np.full_like(built.poses, np.nan))
    save_vocabulary(tmp_path / "broken.npz", broken)
    with pytest.raises(ValueError, match="not finite"):
        load_vocabulary(tmp_path / "broken.npz")


def test_map_tokens_of_a_straight_road():
    lanes, edges, (x, y, _) = record().map.lanes, record().map.edges, scenario().origin
    # 200 m in pieces of about 6 m: 33 of each lane and edge; the points are 1 m apart.
    assert lanes.valid.sum() == 66 and edges.valid.sum() == 66
    assert set(np.round(lanes.pose[lanes.valid][:, 1] + y, 3)) == {0.0, 3.5}
    eastward = lanes.valid & (lanes.pose[:, 1] == -y)
    # The first piece has the points from -100 to -94 m.
    np.testing.assert_allclose(np.sort(lanes.pose[eastward, 0])[:2] + x, [-96.5, -90.5], atol=0.6)
    assert np.abs(lanes.pose[eastward, 2]).max() == 0
    np.testing.assert_allclose(np.abs(lanes.pose[lanes.valid & ~eastward, 2]), np.pi, atol=1e-6)
    np.testing.assert_allclose(lanes.features[lanes.valid][:, 0].sum() * 6.0, 400.0, atol=0.1)
    np.testing.assert_allclose(lanes.features[lanes.valid][:, 1:], [[0, 13.4 / 20, 0, 0]] * 66, atol=1e-5)
    # The light is green at all steps; the stop line is at its stop point.
    assert record().map.stops.valid.sum() == 1 and record().lights[:, 0].tolist() == [[0, 0, 1, 0]] * 19
    np.testing.assert_allclose(record().map.stops.pose[0, :2] + [x, y], [0.0, 0.0], atol=0.6)


def test_records_are_restored(tmp_path):
    stacked = stack([record(), record()])
    save_records(tmp_path / "records.npz", stacked)
    restored = tree_index(load_records(tmp_path / "records.npz"), 1)
    assert jax.tree.structure(restored) == jax.tree.structure(record())
    for own, other in zip(jax.tree.leaves(restored), jax.tree.leaves(record()), strict=True):
        np.testing.assert_array_equal(own, other)
    assert MAP.num_lanes == len(restored.map.lanes.valid)
    # Slots: agents that are present now, then the one that appears later, then padding.
    assert restored.valid[10].tolist() == [True, True, True, False, False]
    assert restored.valid[:, 3].sum() == 59 and not restored.valid[:, 4].any()
