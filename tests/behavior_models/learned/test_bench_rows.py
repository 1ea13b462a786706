"""Benchmark rows of trainings: their parts run, and the steps of agents are counted."""

import jax
import pytest

from behavior_models import bench


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_ppo", "train_bc", "train_sac"])
def test_the_parts_of_a_training_step_run(name, monkeypatch):
    monkeypatch.setattr(bench, "BANK_DATA", "synthetic:0:2")
    workload = getattr(bench, name)()
    assert "total" in workload["calls"] and workload["calls"].keys() <= {"total", "collect", "fit"}
    results = {part: call(0) for part, call in workload["calls"].items()}
    assert all(jax.tree.leaves(result) for result in results.values())
    assert workload["agent_steps"] > 0 and workload["batch"] > 0
