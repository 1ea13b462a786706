"""The decoder of modalities: invariances, absent modalities, caches, learning, and replay from a checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.scene_decoder.modality_bed import MODALITY_BED
from behavior_models.scene_decoder.modality_decoder import ModalityConfig, ModalityModel, presence
from behavior_models.scene_decoder.modality_evaluation import drive, sample_token
from behavior_models.scene_decoder.modality_scenes import raw_scenes
from behavior_models.scene_decoder.modality_tokens import MODALITIES, stack_tokens
from behavior_models.scene_decoder.modality_training import (
    ModalityBatch,
    ModalityTraining,
    ModalityTrainingConfig,
    Teacher,
    parameter_checksum,
    permute_lights,
)
from behavior_models.training.saver import Saver
from waymax_sim.datasets.scene import to_scenario

pytestmark = pytest.mark.compile_heavy
COUNT = 6
SMALL = ModalityConfig(width=16, hidden=32, num_layers=2, num_heads=2, head_size=8)
MODEL = ModalityModel(SMALL)
ALL = presence(lead=(COUNT,))


@pytest.fixture(scope="module")
def tokens():
    return stack_tokens([to_scenario(raw, pad_to_bucket=False) for raw in raw_scenes(3, COUNT)])


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0))


@jax.jit
def logits(params, tokens, present):
    return MODEL.network(params)(tokens, present)


def test_order_within_a_modality_and_step_has_no_effect(params, tokens):
    order = np.random.default_rng(0).permutation(tokens.map.shape[1])
    permuted = dataclasses.replace(tokens, map=tokens.map[:, order], map_valid=tokens.map_valid[:, order])
    reversed_route = dataclasses.replace(tokens, route=tokens.route[:, ::-1], route_valid=tokens.route_valid[:, ::-1])
    expected = logits(params, tokens, ALL)
    for other in (permuted, reversed_route):
        np.testing.assert_allclose(logits(params, other, ALL), expected, atol=1e-4)


def test_the_time_of_a_light_has_an_effect_from_that_time_on(params, tokens):
    moved = tokens.lights.copy()
    moved[:, 5], moved[:, 9] = [0, 0, 1, 0, 26, 0], [1, 0, 0, 0, 26, 0]
    swapped = moved.copy()
    swapped[:, [5, 9]] = moved[:, [9, 5]]
    first, second = (logits(params, dataclasses.replace(tokens, lights=lights), ALL) for lights in (moved, swapped))
    difference = np.abs(first - second).max(axis=(0, 2))
    assert np.all(difference[:5] == 0.0)
    # Both have been observed from step 9 on, at different times.
    assert difference[5] > 1e-3 and difference[9:].max() > 1e-3


def test_absent_modalities_are_not_read(params, tokens):
    noise = {
        "map": {"map": tokens.map + 3},
        "route": {"route": tokens.route + 3},
        "raster": {"raster": 1 - tokens.raster},
        "lights": {"lights": 1 - tokens.lights},
        "history": {"history": (tokens.history + 1) % MODALITY_BED.num_tokens},
    }
    for name in MODALITIES:
        other = dataclasses.replace(tokens, **noise[name])
        without = presence(name, lead=(COUNT,))
        np.testing.assert_array_equal(logits(params, other, without), logits(params, tokens, without))
        assert np.abs(logits(params, other, ALL) - logits(params, tokens, ALL)).max() > 1e-3
    with pytest.raises(ValueError, match="lidar"):
        presence("lidar")


@pytest.mark.parametrize("fusion", ["joint", pytest.param("late", marks=pytest.mark.slow)])
def test_decisions_with_caches_are_those_of_all_tokens(tokens, fusion):
    model = ModalityModel(dataclasses.replace(SMALL, fusion=fusion, num_layers=1))
    params, present = model.init(jax.random.key(1)), presence("route", lead=(COUNT,))

    @jax.jit
    def compare(params, tokens):
        network = model.network(params)

        def decide(caches, inputs):
            light, ego, step = inputs
            own, caches = network.decide(caches, light, ego, step, present)
            return caches, own

        steps = jnp.arange(MODALITY_BED.num_decisions, dtype=jnp.int32)
        inputs = jnp.swapaxes(tokens.lights, 0, 1), jnp.swapaxes(tokens.ego, 0, 1), steps
        _, cached = jax.lax.scan(decide, network.begin(tokens, present), inputs)
        return jnp.swapaxes(cached, 0, 1), network(tokens, present)

    cached, full = compare(params, tokens)
    np.testing.assert_allclose(cached, full, atol=1e-4)


def test_late_fusion_has_about_as_many_parameters():
    joint, late = ModalityModel(), ModalityModel(ModalityConfig(width=24, hidden=48, head_size=8, fusion="late"))
    assert abs(late.num_parameters / joint.num_parameters - 1) < 0.05


def test_drives_are_samples_of_the_decoder(params, tokens):
    first = drive(MODEL, params, tokens, ALL, jax.random.key(0), 0.0)
    second = drive(MODEL, params, tokens, ALL, jax.random.key(1), 0.0)
    np.testing.assert_array_equal(first.token, second.token)
    expected = np.argmax(logits(params, tokens, ALL)[:, 0], axis=-1)
    np.testing.assert_array_equal(first.token[0], expected)
    assert first.state.xy.shape == (MODALITY_BED.num_decisions * MODALITY_BED.steps_per_token, COUNT, 2)
    share = np.bincount(sample_token(jnp.log(jnp.tile(jnp.asarray([[0.7, 0.3]]), (2000, 1))), jax.random.key(0), 1.0))
    assert share[0] / 2000 == pytest.approx(0.7, abs=0.04)


def test_training_learns_and_replays_from_a_checkpoint(tmp_path, tokens):
    config = ModalityTrainingConfig(num_updates=4, num_gradient_steps=10, minibatch=4, learning_rate=1e-2)
    training = ModalityTraining(MODEL, config)
    step, state = jax.jit(training.train_step), training.init(jax.random.key(0))
    saver, losses = Saver(tmp_path), []
    for number in range(4):
        if number == 2:
            saver.save(number, state)
        state, scalars = step(state, tokens)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < 0.75 * losses[0]
    number, replayed, _ = Saver(tmp_path).restore(training.init(jax.random.key(5)))
    for index in range(number, 4):
        replayed, scalars = step(replayed, tokens)
        assert float(scalars["loss"]) == losses[index]
    assert parameter_checksum(replayed.params) == parameter_checksum(state.params)
    changed = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-6), state.params)
    assert parameter_checksum(changed) != parameter_checksum(state.params)


def test_a_student_of_itself_has_no_divergence(params, tokens):
    training = ModalityTraining(MODEL, teacher=MODEL)
    batch = ModalityBatch(tokens, ALL)
    loss, scalars = jax.jit(training.loss)(params, batch, Teacher(params))
    assert float(loss) == pytest.approx(0.5 * float(scalars["cross_entropy"]), rel=1e-5)
    # Without the parameters of a teacher it learns from the labels.
    assert float(jax.jit(training.loss)(params, batch)[0]) == pytest.approx(float(scalars["cross_entropy"]), rel=1e-5)


def test_removed_modalities_are_absent_from_all_drives(tokens):
    config = ModalityTrainingConfig(minibatch=200, removed=("map",))
    present = np.asarray(ModalityTraining(MODEL, config).draw(tokens, jax.random.key(0)).present)
    assert not present[:, 0].any()
    assert np.abs(present[:, 1:].mean(axis=0) - 0.85).max() < 0.1


def test_permuted_lights_are_those_of_other_drives(tokens):
    permuted = permute_lights(tokens, jax.random.key(0))
    assert np.any(np.asarray(permuted.lights) != tokens.lights)
    np.testing.assert_allclose(np.asarray(permuted.lights).sum(axis=0), tokens.lights.sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(permuted.label, tokens.label)
