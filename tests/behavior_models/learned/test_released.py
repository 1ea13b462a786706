"""Released policies: small, reproducible, and found by name."""

import json

import pytest

from behavior_models.checkpoints import FOLDER, RELEASED
from behavior_models.networks.policy import NetworkPolicy

MAX_BYTES = 5_000_000


def test_all_released_policies_are_small():
    assert {folder.name for folder in FOLDER.iterdir() if (folder / "policy.json").exists()} == set(RELEASED)
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < MAX_BYTES


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_policy_is_made_from_synthetic_scenes_by_a_stated_command(name):
    policy = RELEASED[name]()
    assert isinstance(policy, NetworkPolicy) and policy.observes_goals and not policy.privileged
    command = json.loads((FOLDER / name / "policy.json").read_text())["facts"]["command"]
    assert command.startswith("waymax-sim train ") and "--data synthetic:0:" in command
