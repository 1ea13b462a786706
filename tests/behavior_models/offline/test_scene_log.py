"""Logs of plain scenes by the rules of self-play."""

import dataclasses

import numpy as np
import pytest

from behavior_models.offline import command
from behavior_models.offline.dataset import load_transitions, read_description
from behavior_models.offline.scene_log import scene_policy, split_policy
from behavior_models.training.presets import DISCRETE_BICYCLE, SELF_PLAY_VIEW


def test_policies_with_probabilities_of_random_actions():
    assert split_policy("lookahead") == ("lookahead", 0.0)
    assert split_policy("runs/policy:0.25") == ("runs/policy", 0.25)
    for text in ("lookahead:often", "lookahead:1.5", "lookahead:nan"):
        with pytest.raises(ValueError, match="probability"):
            split_policy(text)


def test_tasks_have_a_fixed_number_of_neighbors(tmp_path):
    with pytest.raises(SystemExit, match="--neighbors"):
        command.log(tmp_path, policies=("random",), tasks=("merge",), neighbors=16)


def test_policies_of_scenes_by_name():
    policy, epsilon = scene_policy("idm:0.5")
    assert (type(policy).__name__, epsilon) == ("IDM", 0.5)
    assert scene_policy("random")[1] == 1.0
    with pytest.raises(ValueError, match="nobody"):
        scene_policy("nobody")


@pytest.mark.slow
def test_logged_scenes_have_the_transitions_of_all_vehicles(tmp_path):
    options = {"policies": ("constant_speed", "random"), "data": "synthetic:0:4", "transitions": 600, "neighbors": 16}
    assert command.log(tmp_path, **options) == 0
    transitions = load_transitions(tmp_path, dataclasses.replace(SELF_PLAY_VIEW, num_agents=17).spec())
    facts = read_description(tmp_path)["facts"]
    assert facts["transitions"] == transitions.count >= 600
    assert np.isfinite(facts["mean_return"])
    assert not np.any(transitions.ended & ~transitions.active)
    hold = int(DISCRETE_BICYCLE.encode(np.zeros((1, 2), np.float32))[0, 0])
    share = np.mean(transitions.action[transitions.active] == hold)
    assert 0.3 < share < 0.8
