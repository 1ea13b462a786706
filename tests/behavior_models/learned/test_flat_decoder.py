"""The flat back-end of the scene decoder: invariances, staircase mask and cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.scene_decoder.flat_decoder import FlatConfig, FlatModel, flat_tokens
from tests.behavior_models.learned.decoder_scenes import model, record, rigid_motion, vocabulary
from waymax_sim.pytree import tree_index

pytestmark = pytest.mark.compile_heavy
CONFIG = FlatConfig(model().config, num_lanes=12, num_edges=6, num_stops=2, num_route=3)
FLAT = FlatModel(CONFIG)
PARAMS = FLAT.init(jax.random.key(0))


def valid():
    return record().valid[:-1:5]


@jax.jit
def logits(record):
    prefix, steps, _ = flat_tokens(vocabulary(), record, CONFIG)
    network = FLAT.network(PARAMS)
    classes = jnp.broadcast_to(record.classes[None], steps.token.shape)
    return network.logits(network.encode(prefix, steps), classes)


def test_logits_do_not_depend_on_the_frame_of_the_scene():
    own, moved = (logits(item)[valid()] for item in (record(), rigid_motion(record(), 2.0, (20.0, -40.0))))
    assert np.ptp(own[own > -1e8]) > 0.5
    np.testing.assert_allclose(moved, own, atol=5e-4)


def test_tokens_see_no_later_step_and_their_neighbors_at_the_same_one():
    own = logits(record())
    pose = record().pose.copy()
    pose[48:, 1, 0] += 3.0
    later = logits(dataclasses.replace(record(), pose=pose))
    # Step 10 begins at 5.0 s; the token that leads there is the target of step 9.
    np.testing.assert_allclose(later[:10], own[:10], atol=1e-5)
    assert np.abs(later[10:, 0] - own[10:, 0]).max() > 1e-4


def test_steps_with_a_cache_equal_the_whole_sequence():
    def run(record):
        prefix, steps, _ = flat_tokens(vocabulary(), record, CONFIG)
        network = FLAT.network(PARAMS)
        memory = network.start(prefix, *steps.valid.shape)

        def step(memory, time):
            features, memory = network.step(memory, tree_index(steps, time))
            return memory, network.logits(features, record.classes)

        return jax.lax.scan(step, memory, jnp.arange(18))[1]

    np.testing.assert_allclose(jax.jit(run)(record())[valid()], logits(record())[valid()], atol=1e-4)
