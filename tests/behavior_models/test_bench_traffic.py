"""Rows of the benchmark that compare models of traffic."""

import json
from importlib.metadata import entry_points

import pytest

from behavior_models import bench_traffic
from waymax_sim import cli


def test_each_row_has_an_entry_point_and_a_workload():
    names = {point.name for point in entry_points(group="waymax_sim.bench") if point.name.startswith("traffic_")}
    assert names == set(bench_traffic.MODELS)
    for name in names:
        assert getattr(bench_traffic, name).args == (name,)
    with pytest.raises(AttributeError):
        getattr(bench_traffic, "traffic_of_nothing")  # noqa: B009


@pytest.mark.slow
@pytest.mark.max_programs(600)
def test_the_option_measures_these_rows(capsys):
    assert cli.main(["bench", "--quick", "--json", "--traffic"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == set(bench_traffic.MODELS)
    assert all(row["agent_steps_per_cpu_s"] > 0 for row in rows.values())
