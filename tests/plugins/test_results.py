"""Results are reported under the text that the user gave, whatever characters it has."""

import json
from pathlib import Path

import pytest

from waymax_sim.cli import main

NO_NOISE = "noisy_constant_velocity:velocity_noise=0,position_noise=0.0,yaw_noise=0"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> str:
    """A checkpoint of constant velocity, with a path that is markup to `rich` and to HTML."""
    name = 'runs/a,b[/red]<i>&"c"'
    (tmp_path / name).mkdir(parents=True)
    loader = {"loader": "tests.plugins.packages:load_constant_velocity"}
    (tmp_path / name / "policy.json").write_text(json.dumps(loader))
    monkeypatch.chdir(tmp_path)
    return name


def read_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_evaluate(checkpoint, tmp_path, capsys):
    policies = ["constant_velocity", NO_NOISE, "behavior_models:ConstantVelocity", checkpoint]
    options = ["--out", "out", "--metrics", "log_divergence", "--steps", "2"]
    assert main(["evaluate", "synthetic:0:1", "--policy", *policies, *options]) == 0
    rows = read_rows(tmp_path / "out")
    assert [row["policy"] for row in rows] == policies
    assert [row["log_divergence"] for row in rows] == pytest.approx([rows[0]["log_divergence"]] * 4)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["conditions"]["policies"]) == policies
    page = (tmp_path / "out" / "report.html").read_text()
    assert "runs/a,b[/red]&lt;i&gt;&amp;&quot;c&quot;" in page and "<i>" not in page
    assert f" {checkpoint} " in capsys.readouterr().out
    assert main(["compare", "out", "out", "--json"]) == 0
    assert main(["compare", "out", "out"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "runs"}


def test_realism(checkpoint, tmp_path, monkeypatch, capsys):
    # Scores take long to compile, and do not depend on the text.
    monkeypatch.setattr("waymax_sim.evaluation.realism.run.evaluate_realism", lambda *args, **options: iter(()))
    for out, policy in {"a": NO_NOISE, "b": checkpoint}.items():
        assert main(["realism", "synthetic:0:1", "--policy", policy, "--out", out, "--rollouts", "2"]) == 1
        summary = json.loads((tmp_path / out / "summary.json").read_text())
        assert summary["conditions"]["policy"] == policy
        assert policy in "".join(capsys.readouterr().out.split("\n"))
