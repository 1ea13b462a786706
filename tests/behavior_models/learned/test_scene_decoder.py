"""The scene decoder: invariances, equality of training, cache and policy, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.scene_decoder.checkpoint import decoder_policy, load_decoder, save_decoder
from behavior_models.scene_decoder.closed_loop import ClosedLoopConfig, ClosedLoopTraining, coverage, visit
from behavior_models.scene_decoder.decoder import class_mask
from behavior_models.scene_decoder.modalities import Modalities
from behavior_models.scene_decoder.realism_reward import (
    RealismRewardConfig,
    RealismTraining,
    leave_one_out,
    standardize,
)
from behavior_models.scene_decoder.sampling import TokenSampling, sample_tokens
from behavior_models.scene_decoder.tracks import build_tracks, scene_tracks
from behavior_models.scene_decoder.training import (
    DecoderTraining,
    DecoderTrainingConfig,
    mean_nll,
    token_log_probs,
    track_nll,
)
from tests.behavior_models.learned.decoder_scenes import (
    TOKENS,
    model,
    params,
    record,
    rigid_motion,
    scenario,
    vocabulary,
)
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.metrics.realism import CONFIGS, RealismRollouts, compare_rollouts, score
from waymax_sim.pytree import stack, tree_index

pytestmark = pytest.mark.compile_heavy
KEY = jax.random.key(0)


_tokens = jax.jit(lambda record: scene_tracks(vocabulary(), record, TOKENS))


@jax.jit
def _logits(params, inputs, modalities):
    network = model().network(params)
    return network.logits(network.encode(inputs, modalities), inputs.classes)


def logits(params, record, modalities=None):
    return _logits(params, _tokens(record)[0], modalities)


def valid_rows(record):
    return record.valid[:-1:5].T


def test_logits_do_not_depend_on_the_frame_of_the_scene():
    own = logits(params(), record())[valid_rows(record())]
    assert np.ptp(own[own > -1e8]) > 0.5
    for angle, shift in ((1.0, (30.0, -70.0)), (2.5, (200.0, 100.0))):
        moved = logits(params(), rigid_motion(record(), angle, shift))[valid_rows(record())]
        np.testing.assert_allclose(moved, own, atol=1e-4)


def test_logits_permute_with_agents_and_do_not_see_padding_or_agents_beyond_the_radius():
    own = logits(params(), record())
    order = np.array([3, 4, 0, 2, 1])
    agents = ("size", "classes", "is_sdc", "is_traveling")
    permuted = dataclasses.replace(
        record(),
        **{name: getattr(record(), name)[:, order] for name in ("pose", "velocity", "valid")},
        **{name: getattr(record(), name)[order] for name in agents},
    )
    np.testing.assert_array_equal(logits(params(), permuted), own[order])
    # The last slot is padding. As an agent far away it has no influence either.
    pose, valid = record().pose.copy(), record().valid.copy()
    pose[:, 4], valid[:, 4] = (900.0, 0.0, 0.0), True
    far = logits(params(), dataclasses.replace(record(), pose=pose, valid=valid))
    np.testing.assert_array_equal(far[:4], own[:4])
    pose[:, 4] = pose[:, 0] + np.asarray([8.0, 0.0, 0.0], np.float32)
    near = logits(params(), dataclasses.replace(record(), pose=pose, valid=valid))
    assert np.abs(near[0] - own[0]).max() > 1e-3


def test_steps_with_a_cache_equal_whole_tracks():
    inputs, _ = _tokens(record())
    own, network = logits(params(), record()), model().network(params())

    def step(cache, time):
        part = tree_index(inputs, (slice(None), time))
        hidden, cache = network.step(part, time, cache)
        return cache, network.logits(hidden, part.classes)

    _, stepwise = jax.jit(lambda: jax.lax.scan(step, model().empty_cache(5), jnp.arange(18)))()
    valid = valid_rows(record())
    np.testing.assert_allclose(np.swapaxes(stepwise, 0, 1)[valid], own[valid], atol=1e-4)


def test_absent_modalities_have_no_influence():
    own, lead = logits(params(), record(), Modalities.select(lead=(5,))), (5,)
    np.testing.assert_allclose(own, logits(params(), record()), atol=1e-5)
    unlit = dataclasses.replace(record(), lights=np.zeros_like(record().lights))
    without = Modalities.select("lights", lead=lead)
    np.testing.assert_array_equal(logits(params(), unlit, without), logits(params(), record(), without))
    assert np.abs(logits(params(), unlit) - own).max() > 1e-3
    for name in ("map", "route", "agents", "history"):
        changed = logits(params(), record(), Modalities.select(name, lead=lead))
        assert np.abs(changed - own)[:2].max() > 1e-3, name
    # Without history a token depends on nothing but its own time: the next-to-last motion has no influence.
    with pytest.raises(ValueError, match="unknown modalities"):
        Modalities.select("radar")


def _policy(**sampling):
    return decoder_policy(model(), params(), vocabulary(), TokenSampling.create(**sampling), route=True)


_ENV = Env(
    config=EnvConfig(controlled="all", spawn="never", metrics=(), rewards=(), num_history_steps=11),
)
_run = jax.jit(lambda policy, scenario, key: rollout(_ENV, policy, scenario, key, 80, record=("agents",)))


def test_the_policy_decides_as_the_network_is_trained():
    trace = _run(_policy(temperature=0.0), pad_to_class(scenario()), jax.random.key(0))
    # Greedy: the pose after half a second is that of the most likely token at the current step.
    best = np.argmax(logits(params(), record())[:, 2], axis=-1)
    agents = trace.agents
    for agent in (0, 1, 3):
        slot = int(np.argmin(np.abs(record().pose[10, :, :2] - scenario().log.xyz[10, agent, :2]).sum(axis=-1)))
        start, end = record().pose[10, slot], vocabulary().poses[best[slot], -1]
        cos, sin = np.cos(start[2]), np.sin(start[2])
        xy = start[:2] + np.array([cos * end[0] - sin * end[1], sin * end[0] + cos * end[1]])
        np.testing.assert_allclose(agents.xyz[4, agent, :2], xy, atol=1e-3)
        np.testing.assert_allclose(agents.yaw[4, agent], start[2] + end[2], atol=1e-4)
    assert not np.asarray(agents.valid)[:, 2].any()


def test_sampled_rollouts_repeat_with_their_key_and_differ_without():
    first, same, other = (
        _run(_policy(), pad_to_class(scenario()), jax.random.key(seed)).agents.xyz for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert np.isfinite(first).all() and np.abs(first - other)[79].max() > 1.0


def test_sampling_is_limited_by_rank_probability_and_temperature():
    scores = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 400)
    draw = jax.jit(lambda sampling: sample_tokens(jnp.repeat(scores, 400, axis=0), sampling, keys, 4))

    def counts(**options):
        return np.bincount(draw(TokenSampling.create(**{"temperature": 1.0} | options)), minlength=4) / 400

    np.testing.assert_allclose(counts(), [0.5, 0.3, 0.15, 0.05], atol=0.08)
    assert (counts(top_k=2)[2:] == 0).all() and (counts(nucleus=0.7)[2:] == 0).all()
    np.testing.assert_allclose(counts(top_k=2)[:2], [0.625, 0.375], atol=0.08)
    assert counts(temperature=0.0)[0] == 1 and counts(nucleus=0.01)[0] == 1
    sharp = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(counts(temperature=0.5), sharp / sharp.sum(), atol=0.08)
    with pytest.raises(ValueError, match="nucleus=0"):
        TokenSampling.create(nucleus=0.0)


def test_tokens_of_other_classes_are_never_likely():
    mask = np.asarray(class_mask((30, 3, 3), jnp.asarray([0, 1, 2])))
    assert mask.sum(axis=1).tolist() == [30, 3, 3] and mask[1, 30:33].all()
    own = np.asarray(logits(params(), record()))
    pedestrian = int(np.flatnonzero(np.asarray(record().classes) == 1)[0])
    assert (own[pedestrian, :, :30] == -1e9).all() and (own[pedestrian, :, 30:33] > -1e8).all()


def test_stored_decoders_are_restored(tmp_path):
    policy = _policy(temperature=0.7, top_k=5)
    save_decoder(tmp_path / "policy", policy, {"command": "none"})
    restored = load_decoder(tmp_path / "policy")
    assert jax.tree.structure(restored) == jax.tree.structure(policy)
    for own, other in zip(jax.tree.leaves(restored), jax.tree.leaves(policy), strict=True):
        np.testing.assert_array_equal(own, other)
    (tmp_path / "policy" / "policy.json").write_text('{"version": 1, "kind": "q"}')
    with pytest.raises(ValueError, match="scene_decoder"):
        load_decoder(tmp_path / "policy")


@functools.partial(jax.jit, static_argnums=2)
def _visit(params, record, config):
    return visit(model(), params, vocabulary(), record, config, KEY)


def _visited(**config):
    return jax.device_get(_visit(params(), record(), ClosedLoopConfig(**config)))


def test_closed_loop_states_range_from_the_tokens_of_the_log_to_greedy_rollouts():
    inputs, target = _tokens(record())
    everything = _visited(num_best=model().config.num_tokens)
    # All tokens: the visited states are those of the tokens of the log, and so are the labels.
    np.testing.assert_array_equal(everything.target[:, 2:], np.asarray(target)[:, 2:])
    np.testing.assert_array_equal(everything.inputs.token, inputs.token)
    np.testing.assert_allclose(everything.inputs.features.own, inputs.features.own, atol=1e-4)
    assert (everything.target[:, :2] == -1).all()
    # One token: greedy, as the policy at temperature 0.
    greedy = _visited(num_best=1)
    best = np.argmax(logits(params(), record())[:, 2], axis=-1)
    np.testing.assert_array_equal(greedy.inputs.token[:3, 3], best[:3])
    # Samples of few tokens leave the log further behind than the closest ones of all.
    sampled = _visited(num_best=6, choice="sample")
    assert np.nanmean(sampled.distance) > 2 * np.nanmean(everything.distance)
    assert np.nanmean(greedy.distance) > 2 * np.nanmean(everything.distance)


@pytest.mark.slow
def test_closed_loop_training_reduces_the_distance_of_visited_states():
    optimization = DecoderTrainingConfig(num_steps=6, num_updates=5, minibatch=6, learning_rate=1e-2, warmup=1)
    training = ClosedLoopTraining(model(), ClosedLoopConfig(num_best=3, num_scenes=2, max_parked=1), optimization)
    data = jax.device_put((vocabulary(), stack([record(), record()])))
    state, step, rows = training.init(KEY, params()), jax.jit(training.train_step), []
    for _ in range(6):
        state, scalars = step(state, data)
        rows.append(jax.device_get(scalars))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["visited_distance"] < 0.7 * rows[0]["visited_distance"]


def test_coverage_is_the_share_of_labels_among_the_most_likely_tokens():
    log_probs = np.log(np.array([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]))
    assert coverage(log_probs, np.array([[1, 2]]), (1, 2)) == {1: 0.5, 2: 1.0}
    assert coverage(log_probs, np.array([[-1, 0]]), (1, 2)) == {1: 0.0, 2: 0.0}


def _tracks():
    return build_tracks(vocabulary(), [record()], TOKENS)


def test_training_learns_the_tokens_of_a_scene():
    tracks, config = (
        _tracks(),
        DecoderTrainingConfig(num_steps=8, num_updates=5, minibatch=4, learning_rate=1e-2, warmup=2),
    )
    assert len(tracks) == 4 and tracks.is_traveling.all()
    training = DecoderTraining(model(), config)
    state, step = training.init(KEY), jax.jit(training.train_step)
    before, data = mean_nll(track_nll(model(), state.params, tracks)), jax.device_put(tracks)
    for _ in range(8):
        state, scalars = step(state, data)
    after = track_nll(model(), state.params, tracks)
    assert np.isfinite(scalars["loss"]) and mean_nll(after) < 0.5 * before
    # The same arrays, and NaN where no token is recorded; a mask without tracks has no mean.
    assert (np.isnan(after) == (tracks.target < 0)).all() and np.isnan(mean_nll(after, np.zeros(4, bool)))
    # Initial loss: about the logarithm of the number of tokens of the class.
    assert 0.5 * np.log(30) < before < 2 * np.log(30)


@functools.partial(jax.jit, static_argnums=2)
def _loss(params, tracks, config):
    return DecoderTraining(model(), config).loss(params, tracks, None)


def test_label_smoothing_adds_the_mean_cross_entropy_of_the_class():
    tracks, share = _tracks(), 0.2
    losses = [float(_loss(params(), tracks, DecoderTrainingConfig(label_smoothing=value))) for value in (0.0, share)]
    log_probs = np.asarray(jax.jit(model().log_probs)(params(), tracks.inputs))
    mask = np.asarray(class_mask((30, 3, 3), tracks.inputs.classes))
    uniform = -np.where(mask, log_probs, 0.0).sum(axis=-1) / mask.sum(axis=-1)
    expected = (1 - share) * losses[0] + share * uniform[tracks.target >= 0].mean()
    np.testing.assert_allclose(losses[1], expected, rtol=1e-4)


@pytest.mark.slow
def test_rewards_are_leave_one_out_differences_of_the_metric():
    scene = pad_to_class(scenario())
    agents = _run_four(_policy(), scene, jax.random.split(KEY, 4))
    rollouts = RealismRollouts(np.asarray(agents.xyz), np.asarray(agents.yaw))
    reward, meta = jax.device_get(_rewards(scene, rollouts))
    np.testing.assert_allclose(reward.sum(), 0.0, atol=1e-6)
    np.testing.assert_allclose(meta, float(_meta(scene, rollouts)), rtol=1e-5)
    others = [
        float(_meta(scene, jax.tree.map(lambda leaf, own=own: np.delete(leaf, own, 0), rollouts))) for own in range(4)
    ]
    np.testing.assert_allclose(reward, np.mean(others) - np.array(others), atol=1e-5)
    np.testing.assert_allclose(np.mean(np.square(standardize(reward))), 1.0, rtol=1e-4)
    assert (standardize(jnp.full(4, jnp.nan)) == 0).all()


_run_four = jax.jit(
    lambda policy, scenario, keys: jax.vmap(
        lambda key: rollout(_ENV, policy, scenario, key, 80, record=("agents",)).agents
    )(keys)
)
_rewards = jax.jit(lambda scenario, rollouts: leave_one_out(compare_rollouts(scenario, rollouts), CONFIGS["2025"]))
_meta = jax.jit(lambda scenario, rollouts: score(compare_rollouts(scenario, rollouts), CONFIGS["2025"]).meta_metric)


@pytest.mark.slow
def test_the_policy_gradient_raises_the_probability_of_rewarded_rollouts():
    training = RealismTraining(model(), RealismRewardConfig(num_rollouts=4, num_slots=5, kl_weight=0.0))
    inputs, target, reward, _ = jax.jit(training.sample)(params(), vocabulary(), pad_to_class(scenario()), KEY)
    # The tokens of the rollouts are found again: they are the ones that lead to the simulated poses.
    assert (np.asarray(target)[:, :3, 2:] >= 0).all() and (np.asarray(target)[..., :2] == -1).all()
    assert reward.shape == (4,)
    wanted = jnp.asarray([1.5, -0.5, -0.5, -0.5])
    value, gradient = jax.jit(jax.value_and_grad(training.loss, has_aux=True))(
        params(), params(), inputs, target, wanted
    )
    assert abs(float(value[1])) < 1e-5
    moved = jax.tree.map(lambda leaf, slope: leaf - 0.02 * slope, params(), gradient)

    @jax.jit
    def likelihood(values):
        own, tokens = jax.tree.map(lambda leaf: leaf[0], (inputs, target))
        log_probs = token_log_probs(model().log_probs(values, own), tokens)
        return jnp.sum(jnp.where(tokens >= 0, log_probs, 0.0))

    assert likelihood(moved) > likelihood(params()) + 0.1
