"""The command `waymax-sim train decoder`, scores of recorded scenes, and the baselines of their likelihood."""

import json

import jax
import numpy as np
import pytest

from behavior_models.scene_decoder.checkpoint import load_decoder
from behavior_models.scene_decoder.motion_tokens import TOKEN_BOXES
from behavior_models.scene_decoder.scoring import frozen_features, surprise
from examples.reproductions import scene_decoder as reproduction
from examples.reproductions.scene_decoder_baselines import (
    TokenTable,
    baseline_nll,
    mixture_nll,
    nll_by_speed,
    velocity_kernel,
)
from tests.behavior_models.learned.decoder_scenes import model, params, record, vocabulary
from tests.behavior_models.learned.test_motion_tokens import corners
from waymax_sim.cli import main

SCENES = "synthetic:0:2"


@pytest.mark.slow
@pytest.mark.max_programs(400)
def test_a_decoder_is_trained_resumed_tuned_and_evaluated(tmp_path, capsys):
    out, args = tmp_path / "bc", ("train", "decoder", "--data", SCENES, "--held-out", "synthetic:901:2")
    assert main([*args, "--out", str(out), "--steps", "10"]) == 0
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 10 and line["eval/nll"] < 5 and line["eval/nll_traveling"] > 0
    # Records and motion tokens are stored, and a finished training is not run again.
    assert (out / "scenes" / "records_00000.npz").exists() and (out / "vocabulary.npz").exists()
    before = (out / "policy" / "weights.npz").read_bytes()
    assert main([*args, "--out", str(out), "--steps", "10"]) == 0
    assert (out / "policy" / "weights.npz").read_bytes() == before
    for objective in ("cat-k", "top-k", "realism"):
        tuned = tmp_path / objective
        options = ("--objective", objective, "--start", str(out / "policy"), "--steps", "1", "--out", str(tuned))
        assert main(["train", "decoder", "--data", SCENES, *options]) == 0
        line = json.loads((tuned / "log.jsonl").read_text())
        assert line["kl"] >= 0 if objective == "realism" else line["visited_distance"] > 0
    assert main([*args, "--out", str(tmp_path / "none"), "--objective", "cat-k"]) == 2
    assert "--start" in capsys.readouterr().err
    policy = str(tmp_path / "realism" / "policy")
    assert (
        main(["evaluate", SCENES, "--policy", "stationary", "--traffic", policy, "--out", str(tmp_path / "out")]) == 0
    )
    assert load_decoder(tmp_path / "realism" / "policy").model.config.sizes[0] > 100
    options = reproduction.Options(tmp_path / "reproduction", out / "policy", quick=True)
    reproduction.main(options)
    assert "synthetic: decoder / bigram" in capsys.readouterr().out


def _policy():
    from behavior_models.scene_decoder.checkpoint import decoder_policy

    return decoder_policy(model(), params(), vocabulary())


@pytest.mark.compile_heavy
def test_surprise_is_the_mean_negative_log_likelihood_of_an_agent():
    policy = _policy()
    whole, future = (np.asarray(surprise(policy, record(), first=first)) for first in (0, 2))
    assert np.isfinite(whole[:4]).all() and np.isnan(whole[4])
    # Of 18 tokens the first two are history.
    assert np.isfinite(future[:4]).all() and not np.allclose(whole[:3], future[:3])
    features = np.asarray(frozen_features(policy, record()))
    assert features.shape == (5, 18, 16) and np.isfinite(features).all()


def test_velocity_kernels_fall_with_the_distance_of_corners():
    kernel = velocity_kernel(vocabulary(), 0.1)
    np.testing.assert_allclose(kernel[:30, :30].sum(axis=1), 1.0, rtol=1e-5)
    assert (kernel[:30, 30:] == 0).all()
    ends = np.asarray(vocabulary().poses)[:, -1].astype(float)
    distance = np.abs(corners(ends[4], TOKEN_BOXES[0]) - corners(ends[5], TOKEN_BOXES[0])).mean()
    np.testing.assert_allclose(kernel[4, 5] / kernel[4, 4], np.exp(-distance / 0.1), rtol=1e-4)


def test_baselines_are_frequencies_of_tokens_and_pairs():
    # 6 of 9 vehicle tokens repeat the previous one.
    train = TokenTable(np.array([3, 3, 3, 4, 4, 4, 3, 4, 36]), np.array([3, 3, 3, 4, 4, 4, 4, 3, 3]), np.zeros(9, int))
    test = TokenTable(np.array([3, 4, 36]), np.array([3, 4, 4]), np.zeros(3, int))
    nll = baseline_nll(vocabulary(), train, test)
    probability = np.array([5.1, 4.1, 4.1]) / 12.0
    np.testing.assert_allclose(nll["unigram"], -np.log(probability))
    np.testing.assert_allclose(np.exp(-nll["same token"])[:2], probability[:2] / 3 + 2 / 3)
    np.testing.assert_allclose(nll["same token"][2], nll["unigram"][2])
    np.testing.assert_allclose(np.exp(-nll["bigram"])[0], (3 + 2 * probability[0]) / (4 + 2))
    assert (nll["constant velocity"][:2] < 0.1).all()


def test_likelihoods_by_speed_are_means_over_the_speed_of_the_previous_token():
    # Tokens 0, 4 and 28 travel 0, 1 and 9 m in half a second; token 36 is none.
    table = TokenTable(np.array([0, 4, 28, 28, 36]), np.zeros(5, int), np.zeros(5, int))
    rows = nll_by_speed(vocabulary(), table, {"own": np.array([1.0, 2.0, 3.0, 5.0, 100.0])})
    assert rows == {
        "0 to 1 m/s": {"count": 1, "own": 1.0},
        "1 to 5 m/s": {"count": 1, "own": 2.0},
        "15 to inf m/s": {"count": 2, "own": 4.0},
    }


def test_mixtures_average_probabilities():
    expected = -np.log([0.75 * 0.5 + 0.25 * 0.1, 0.25])
    nll = np.array([-np.log(0.5), np.inf]), np.array([-np.log(0.1), 0.0])
    np.testing.assert_allclose(mixture_nll(*nll, share=0.25), expected)


def test_criteria_fail_without_numbers():
    scores = dict.fromkeys(reproduction.SCORES, 0.5)
    rows = {"decoder": [scores] * 3, "stationary": [scores | {"meta_metric": float("nan")}] * 3, "idm": [scores] * 3}
    criteria = reproduction.realism_criteria("synthetic", rows)
    assert [item.passed for item in criteria] == [False, True, True]
    assert jax.tree.leaves(reproduction.Options(out=reproduction.RELEASED, quick=True).reduced().rollouts) == [2]
