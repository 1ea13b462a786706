"""Released policies: small, reproducible, and found by name."""

import json

import pytest

from behavior_models.checkpoints import FOLDER, RELEASED
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.offline.task_policy import TaskQPolicy
from behavior_models.scene_decoder.checkpoint import load_decoder
from behavior_models.scene_decoder.policy import DecoderPolicy
from behavior_models.scene_decoder.sampling import DEFAULT_TEMPERATURE

MAX_BYTES = 5_000_000
MAX_DECODER_BYTES = 2_000_000


def test_all_released_policies_are_small():
    assert {folder.name for folder in FOLDER.iterdir() if (folder / "policy.json").exists()} == set(RELEASED)
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < MAX_BYTES


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_policy_is_made_from_synthetic_scenes_by_a_stated_command(name):
    policy = RELEASED[name]()
    assert not policy.privileged
    if name == "decoder-nano":
        assert isinstance(policy, DecoderPolicy) and not getattr(policy, "observes_goals", False)
        assert sum(file.stat().st_size for file in (FOLDER / name).iterdir()) < MAX_DECODER_BYTES
        assert policy.sampling.temperature == load_decoder(FOLDER / name).sampling.temperature == DEFAULT_TEMPERATURE
    elif name == "scaled-ql":
        assert isinstance(policy, TaskQPolicy) and RELEASED[name](task="merge").model.task != policy.model.task
    else:
        assert isinstance(policy, NetworkPolicy) and policy.observes_goals
    command = json.loads((FOLDER / name / "policy.json").read_text())["facts"]["command"]
    if name == "scaled-ql":
        assert command.startswith("python -m examples.reproductions.scaled_q_learning ")
    else:
        assert command.startswith("waymax-sim train ") and "--data synthetic:0:" in command
