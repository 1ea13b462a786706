"""The bed of modalities: a driver without violations, and tokens that are read from scenarios at the right step."""

import dataclasses

import jax
import numpy as np
import pytest

from behavior_models.scene_decoder.modality_bed import (
    MODALITY_BED,
    draw_situations,
    drive_expert,
    nearest_token,
    road_middle,
    token_values,
)
from behavior_models.scene_decoder.modality_evaluation import drive_metrics, expert_drives, mean_value, straight_middle
from behavior_models.scene_decoder.modality_scenes import raw_scenes
from behavior_models.scene_decoder.modality_tokens import scene_tokens
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.signals import CAUTION, GO, STOP
from waymax_sim.datatypes.validate import validate

COUNT = 24
SITUATIONS = draw_situations(7, COUNT)


@pytest.fixture(scope="module")
def raws():
    return raw_scenes(7, COUNT)


@pytest.fixture(scope="module")
def tokens(raws):
    return [scene_tokens(to_scenario(raw, pad_to_bucket=False)) for raw in raws]


def test_the_driver_violates_no_rule():
    own = road_middle(SITUATIONS.bend, SITUATIONS.exit)
    states = drive_expert(SITUATIONS, own, np.int32(7))
    metrics = drive_metrics(expert_drives(states), SITUATIONS, straight_middle(SITUATIONS))
    for name in ("off_road", "closed_lane", "red_light", "off_route"):
        assert mean_value(metrics[name]) == 0.0, name
    assert mean_value(metrics["lateral_error"]) < 0.15
    # A driver of other situations does.
    other = jax.tree.map(lambda leaf: leaf[::-1], SITUATIONS)
    metrics = drive_metrics(expert_drives(states), other, straight_middle(other))
    for name, least in (("off_road", 0.1), ("closed_lane", 0.3), ("red_light", 0.05), ("off_route", 0.3)):
        assert mean_value(metrics[name]) > least, name


def test_choices_are_balanced_and_do_not_depend_on_their_number():
    many = draw_situations(7, 600)
    np.testing.assert_array_equal(many.light[:COUNT], SITUATIONS.light)
    np.testing.assert_array_equal(many.bend[:COUNT], SITUATIONS.bend)
    assert abs(np.mean(many.closed)) < 0.15
    assert np.all(np.abs(np.bincount(many.exit) / 600 - 1 / 3) < 0.08)
    # Independent: no correlation of any pair.
    rows = np.stack([many.bend, many.closed, many.exit, many.style, many.speed, many.light[:, 40] == STOP])
    assert np.abs(np.corrcoef(rows) - np.eye(6)).max() < 0.15


def test_motion_tokens_are_next_to_their_values():
    token = np.arange(MODALITY_BED.num_tokens, dtype=np.int32)
    acceleration, curvature = (np.asarray(values) for values in token_values(token))
    np.testing.assert_array_equal(nearest_token(acceleration + 0.2, curvature - 0.009), token)


def test_lights_are_read_at_the_step_of_each_decision(raws, tokens):
    decisions = MODALITY_BED.first_step + MODALITY_BED.steps_per_token * np.arange(MODALITY_BED.num_decisions)
    for row, own in enumerate(tokens):
        expected = SITUATIONS.light[row, decisions]
        kinds = np.stack([expected == STOP, expected == CAUTION, expected == GO, expected == 0], axis=-1)
        np.testing.assert_array_equal(own.lights[:, :4], kinds)
        # The stop point is straight ahead: it does not show the bend.
        assert np.hypot(*own.lights[0, 4:]) == pytest.approx(MODALITY_BED.line, abs=0.1)
    # A shift of the record by one decision shows.
    raw = next(raw for raw in raws if (np.diff(raw.signal_state[decisions, 0]) != 0).any())
    late = np.roll(raw.signal_state, MODALITY_BED.steps_per_token, axis=0)
    shifted = scene_tokens(to_scenario(dataclasses.replace(raw, signal_state=late), pad_to_bucket=False))
    original = scene_tokens(to_scenario(raw, pad_to_bucket=False))
    assert np.any(shifted.lights != original.lights)
    np.testing.assert_array_equal(shifted.lights[1:], original.lights[:-1])


def test_each_modality_shows_its_choice(tokens):
    zero_curvature = np.argmin(np.abs(MODALITY_BED.curvatures))
    for row, own in enumerate(tokens):
        # Occupied cells are on the closed side: patches 0 and 2 are on the right, 1 and 3 on the left.
        occupied = own.raster.sum(axis=-1)
        right, left = occupied[0] + occupied[2], occupied[1] + occupied[3]
        assert (left > right) == (SITUATIONS.closed[row] > 0) and left + right >= 9
        acceleration = MODALITY_BED.accelerations.index(MODALITY_BED.styles[SITUATIONS.style[row]])
        np.testing.assert_array_equal(own.history, acceleration * len(MODALITY_BED.curvatures) + zero_curvature)
        turn = own.route[own.route_valid][:, 0]
        bend = SITUATIONS.bend[row] * (MODALITY_BED.bend[1] - MODALITY_BED.bend[0])
        exit_turn = (
            MODALITY_BED.exit_curvature
            * (MODALITY_BED.junction[1] - MODALITY_BED.junction[0])
            * (1 - SITUATIONS.exit[row])
        )
        # The route is that behind the junction, so it does not contain the bend.
        assert turn.sum() == pytest.approx(exit_turn, abs=0.3)
        # Map pieces of the two lanes before the junction turn by the bend.
        assert own.map[own.map_valid][:10, 4].sum() == pytest.approx(2 * bend, abs=0.1)
        np.testing.assert_allclose(own.ego[0, :4], [0, 0, 1, 0], atol=1e-3)
        assert own.ego[0, 4] == pytest.approx(SITUATIONS.speed[row], abs=0.02)


def test_scenes_are_valid(raws):
    assert validate(to_scenario(raws[0], pad_to_bucket=False)) == [
        "the map has no road edges: off-road cannot be evaluated"
    ]


def test_scenarios_without_the_needed_record_are_refused(raws):
    steps = np.arange(len(raws[0].valid))[:, None]
    short = dataclasses.replace(raws[0], valid=np.broadcast_to(steps < 100, raws[0].valid.shape).copy())
    with pytest.raises(ValueError, match="complete record"):
        scene_tokens(to_scenario(short, pad_to_bucket=False))
    lost = dataclasses.replace(raws[0], routes=dataclasses.replace(raws[0].routes, on_route=np.zeros(3, bool)))
    with pytest.raises(ValueError, match="no path on route"):
        scene_tokens(to_scenario(lost, pad_to_bucket=False))
