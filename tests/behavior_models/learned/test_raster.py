"""The raster against a sequential renderer, and its invariance, masks and storage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from behavior_models.encoders.raster import Raster
from tests.oracle_raster import render
from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.goals import Goals
from waymax_sim.env.bank import build_bank
from waymax_sim.env.encoder import ObservationEncoder

# 40 rows are no multiple of the bits of a word.
RASTER = Raster(size=40, resolution=0.8, behind=10.0, history_stride=2, points_per_segment=2)
CONFIG = ws.EnvConfig(
    controlled="all", goals="end_of_log", metrics=(), rewards=(), num_history_steps=RASTER.num_history_steps
)
ENV = ws.Env(config=CONFIG)
SLOTS = (0, 3, 7)


@pytest.fixture(scope="module")
def raw():
    """Agents of all types around, three lights, two paths, and an invalid agent."""
    made = busy_raw_scene()
    steps, states = len(made.timestamps), [4, 2, 6, 0]
    stop = made.xyz[0, made.sdc_index] + np.array([[5.3, 3.1, 0.0], [-4.2, 8.0, 0.0], [1.0, -6.4, 0.0], [9.0, 4.0, 0]])
    valid = made.valid.copy()
    valid[:, SLOTS], valid[:, 5] = True, False
    return dataclasses.replace(
        made,
        valid=valid,
        signal_lane_id=np.full(4, int(made.feature_id[0])),
        signal_state=np.broadcast_to(states, (steps, 4)),
        signal_stop_point=np.broadcast_to(stop, (steps, 4, 3)).copy(),
        signal_valid=np.broadcast_to([True, True, False, True], (steps, 4)).copy(),
    )


@jax.jit
def observe(scenario):
    return ENV.observe(scenario, ENV.initial_state(scenario, jax.random.key(0)))


@jax.jit
def encode(observation):
    return RASTER(observation)


@pytest.fixture(scope="module")
def observation(raw):
    return jax.device_get(observe(ENV.prepare(to_scenario(raw, pad_to_bucket=False))))


def images(rows) -> np.ndarray:
    return np.asarray(rows)[:, : np.prod(RASTER.image_shape)].reshape(-1, *RASTER.image_shape)


def test_images_are_those_of_a_sequential_renderer(observation):
    drawn = images(encode(observation))
    assert isinstance(RASTER, ObservationEncoder)
    for slot in SLOTS:
        expected = render(RASTER, observation, slot)
        certain = ~expected.uncertain
        assert certain.mean() > 0.97
        exact = np.ones(len(RASTER.channels), bool)
        exact[1:3] = False
        np.testing.assert_allclose(
            drawn[slot][..., exact][certain[..., exact]], expected.values[..., exact][certain[..., exact]], atol=1e-6
        )
        # One level of the mean direction.
        np.testing.assert_allclose(
            drawn[slot][..., 1:3][certain[..., 1:3]], expected.values[..., 1:3][certain[..., 1:3]], atol=1.01 / 127
        )
    assert all(drawn[0][..., channel].any() for channel in range(len(RASTER.channels)))
    assert not drawn[list(SLOTS[1:])][..., 3].any(), "the route is that of the sdc"
    assert len(np.unique(drawn[..., 5:])) == 4, "three types and empty cells"


def test_images_do_not_depend_on_the_frame(raw, observation):
    angle, shift = 2.3, np.array([310.0, -45.0, 0.0])
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = dataclasses.replace(
        raw,
        xyz=raw.xyz @ turn.T + shift,
        yaw=raw.yaw + angle,
        velocity=raw.velocity @ turn[:2, :2].T,
        point_xyz=raw.point_xyz @ turn.T + shift,
        signal_stop_point=raw.signal_stop_point @ turn.T + shift,
        routes=dataclasses.replace(raw.routes, xyz=raw.routes.xyz @ turn.T + shift),
    )
    rows = encode(observe(ENV.prepare(to_scenario(moved, pad_to_bucket=False))))
    drawn, expected = images(rows), images(encode(observation))
    assert (np.abs(drawn - expected) > 1.01 / 127).mean() < 2e-3
    size = np.prod(RASTER.image_shape)
    np.testing.assert_allclose(rows[:, size:], np.asarray(encode(observation))[:, size:], atol=1e-2)


def test_invalid_agents_leave_nothing(observation):
    valid = observation.history.valid.copy()
    valid[:, 1:] = False
    alone = dataclasses.replace(observation.history, valid=valid)
    broken = dataclasses.replace(alone, xyz=np.where(valid[..., None], alone.xyz, np.nan).astype(np.float32))
    rows = [np.asarray(encode(dataclasses.replace(observation, history=item))) for item in (alone, broken)]
    np.testing.assert_array_equal(*rows)
    assert not rows[0][1:].any() and rows[0][0].any()
    occupied = (images(rows[0])[0, ..., 5:] > 0).sum(axis=(0, 1))
    length, width = observation.info.size[0, :2]
    assert occupied[0] == pytest.approx(length * width / RASTER.resolution**2, rel=0.5)


def test_agents_that_are_not_finite_leave_nothing(observation):
    xyz = observation.history.xyz.copy()
    xyz[-1, 3] = np.nan
    rows = np.asarray(
        encode(dataclasses.replace(observation, history=dataclasses.replace(observation.history, xyz=xyz)))
    )
    assert np.isfinite(rows).all() and not rows[3].any() and rows[0].any()


def test_rows_without_an_agent_are_zero(observation):
    controlled = observation.controlled.copy()
    controlled[2] = -1
    rows = np.asarray(encode(dataclasses.replace(observation, controlled=controlled)))
    expected = np.asarray(encode(observation))
    assert not rows[2].any() and expected[2].any()
    np.testing.assert_array_equal(np.delete(rows, 2, axis=0), np.delete(expected, 2, axis=0))


def test_rows_are_stored_exactly(observation):
    rows = np.asarray(encode(observation))
    stored = jax.jit(RASTER.quantize)(rows)
    assert stored.dtype == np.uint8 and stored.shape[-1] == rows.shape[-1] + 3 * (5 + 6)
    np.testing.assert_array_equal(jax.jit(RASTER.dequantize)(stored), rows)
    levels = np.arange(256, dtype=np.uint8)
    every = np.zeros((256, stored.shape[-1]), np.uint8)
    every[:, :8] = levels[:, None]
    every[0, 1:3] = 1  # -127 is the least level of a signed channel
    np.testing.assert_array_equal(RASTER.quantize(RASTER.dequantize(every)), every)


def test_scalars(observation):
    ego = np.asarray(encode(observation))[3, np.prod(RASTER.image_shape) :]
    now, past = (jax.tree.map(lambda leaf, step=step: leaf[step, 3], observation.history) for step in (-1, -3))

    def speed(state):
        return state.velocity @ [np.cos(state.yaw), np.sin(state.yaw)]

    turned = (now.yaw - past.yaw + np.pi) % (2 * np.pi) - np.pi
    expected = [speed(now) / 10, (speed(now) - speed(past)) / 0.2 / 5, turned / 0.2, *observation.info.size[3, :2] / 5]
    np.testing.assert_allclose(ego[:5], np.clip(expected, -10, 10), rtol=1e-4, atol=1e-5)
    offset = observation.goals.xy[3] - now.xyz[:2]
    distance = np.hypot(*offset)
    angle = np.arctan2(offset[1], offset[0]) - now.yaw
    goal = [
        1,
        distance * np.cos(angle) / 20,
        distance * np.sin(angle) / 20,
        np.cos(angle),
        np.sin(angle),
        np.log1p(distance) / 4,
    ]
    np.testing.assert_allclose(ego[5:], goal, rtol=1e-3, atol=1e-4)


def test_scenes_of_a_bank_have_equal_images(raw, observation):
    bank = build_bank([to_scenario(raw, pad_to_bucket=False)], ENV)
    rows = jax.jit(lambda bank: RASTER(observe(bank.scenario(jnp.int32(0)))))(bank)
    expected = images(encode(observation))
    valid = np.asarray(observation.history.valid[-1])
    assert (np.abs(images(rows)[: len(valid)] - expected) > 1.01 / 127).mean() < 1e-3


def test_options():
    assert Raster(num_history=0, goal=False).spec().features[0].shape == (64, 64, 6)
    assert Raster().spec().size == 64 * 64 * 8 + 11 and Raster().num_history_steps == 11
    assert Raster(behind=8.0).spec().difference(Raster().spec().to_dict()) is not None
    with pytest.raises(ValueError, match="must be positive"):
        Raster(size=0)


def test_too_little_history_is_refused(observation):
    with pytest.raises(ValueError, match="num_history_steps=11"):
        Raster()(observation)


def test_no_map_no_route_no_goals(observation):
    goals = Goals(np.zeros_like(observation.goals.xy), np.zeros_like(observation.goals.valid))
    bare = dataclasses.replace(observation, routes=None, goals=goals)
    rows = np.asarray(jax.jit(RASTER.__call__)(bare))
    assert not images(rows)[..., 3].any() and not rows[:, -6:].any()
