import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import ConstantVelocity, Random, Stationary
from tests.evaluation.small import STEPS, evaluate_into, read_rows, small_config, small_scenes
from tests.scenes import raw_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import select
from waymax_sim.datatypes.padding import axis_lengths, size_class_lengths
from waymax_sim.env import rollout
from waymax_sim.evaluation import Evaluation, Failure, SceneResult, html_report, scene_key
from waymax_sim.evaluation.evaluate import to_floats
from waymax_sim.evaluation.future import INTERACTION_METRICS, LOG_METRICS, NO_FUTURE_NOTE, invalid_without_future
from waymax_sim.metrics import METRICS, MetricValue, summarize

pytestmark = pytest.mark.compile_heavy

RUN = ("random", "log_replay", 1)


@dataclasses.dataclass(frozen=True)
class SingleScene:
    """A source of one scene."""

    raw: RawScene
    name: str = "single"

    def __len__(self) -> int:
        return 1

    def read(self, record: int) -> RawScene:
        return self.raw


traced = []


class CountingRandom(Random):
    """Records its traces."""

    def init(self, observation, key):
        traced.append(observation.agents.valid.shape)
        return ()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Its programs are shared by the tests here."""
    return Evaluation(small_scenes(11, 3), small_config(policies={"random": CountingRandom()}))


def flat(evaluation: Evaluation, indices, **options) -> list[SceneResult | Failure]:
    return [item for found in evaluation.results(indices, **options) for item in found]


@pytest.fixture(scope="module")
def results(evaluation) -> list[SceneResult | Failure]:
    return flat(evaluation, range(11))


def test_every_run_of_every_scene_has_a_result(evaluation, results):
    successes = [item for item in results if isinstance(item, SceneResult)]
    expected = {(index, run) for index in range(11) if index != 3 for run in evaluation.config.runs}
    assert {(item.index, item.run) for item in successes} == expected
    assert len(successes) == len(expected) == 20
    assert all(
        (item.file, item.record, item.scenario_id) == ("small", i, f"scene {i}")
        for item in successes
        for i in [item.index]
    )
    assert len({item.digest for item in successes}) == 10


def test_a_scene_that_cannot_be_read_gives_its_error(results):
    (failure,) = (item for item in results if isinstance(item, Failure))
    assert (failure.index, failure.run) == (3, None)
    assert str(failure.error) == "small, record 3, field data: is broken (copy it again)"


def test_numbers_are_those_of_a_plain_rollout_without_padding(evaluation, results):
    scenario, env = evaluation.scenarios[4], evaluation.config.env("log_replay")
    trace = jax.jit(lambda s, k: rollout(env, Random(), s, k, STEPS))(scenario, scene_key(1, "scene 4"))
    expected = summarize(trace.metrics, env.metrics, trace.active, select(scenario.agents, "sdc"))
    (result,) = (item for item in results if isinstance(item, SceneResult) and (item.index, item.run) == (4, RUN))
    assert axis_lengths(scenario)["P"] < size_class_lengths(axis_lengths(scenario))["P"]
    assert list(result.values) == ["kinematic_infeasibility", "log_divergence"]
    assert result.values["log_divergence"] > 0
    for name, value in result.values.items():
        assert value == pytest.approx(float(expected[name].value), rel=1e-5)


def test_a_result_depends_on_neither_other_scenes_nor_order(evaluation, results):
    by_key = {(item.index, item.run): item for item in results}
    for indices in ([7], [9, 2], range(10, 3, -1)):
        for item in flat(evaluation, indices):
            assert item == by_key[item.index, item.run]


def test_seeds_and_scenes_have_their_own_random_numbers(results):
    divergence = [item.values["log_divergence"] for item in results if isinstance(item, SceneResult)]
    assert len(set(divergence)) == len(divergence) == 20


def test_complete_runs_are_skipped(evaluation):
    def skip(index, run):
        return index == 1 or run != RUN

    assert [(item.index, item.run) for item in flat(evaluation, [0, 1, 2], skip=skip)] == [(0, RUN), (2, RUN)]


def test_traces_are_the_evaluated_rollouts(evaluation, results):
    scenario, (trace,) = evaluation.traces(4, [RUN])
    (result,) = (item for item in results if isinstance(item, SceneResult) and (item.index, item.run) == (4, RUN))
    divergence = trace.metrics["log_divergence"].value[:, select(scenario.agents, "sdc")]
    assert divergence.mean() == pytest.approx(result.values["log_divergence"], rel=1e-6)
    # The others follow the log.
    np.testing.assert_array_equal(trace.agents.xyz[:, 1], scenario.log.xyz[6 : 6 + STEPS, 1])


def test_a_class_of_scenes_is_one_program(evaluation, results):
    assert {axis_lengths(evaluation.scenarios[index])["N"] for index in (0, 4)} == {8}
    assert len(traced) == 1


def test_traffic_controls_the_others():
    changes = {"policies": {"stationary": Stationary()}, "traffic": {"stationary": Stationary()}}
    evaluation = Evaluation(Scenarios([SingleScene(raw_scene(num_steps=12))]), small_config(**changes, seeds=(0,)))
    scenario, (trace,) = evaluation.traces(0, evaluation.config.runs)
    now = scenario.log.xyz[5, :3, 0]
    assert trace.agents.xyz[-1, :3, 0] == pytest.approx(now, abs=1e-3)
    assert scenario.log.xyz[8, :3, 0] == pytest.approx(now + 3.0, abs=1e-3)


def test_the_nuplan_score_has_its_parts():
    columns = small_config(metrics=("nuplan_score", "log_divergence", "speeding")).columns
    assert next(iter(columns)) == "nuplan_score"
    assert columns.keys() >= {"ego_is_comfortable", "drivable_area_compliance", "comfort_violation", "speeding"}
    assert columns["nuplan_score"] == ("1", "higher")
    assert "nuplan_score" not in small_config(metrics=("speeding",)).columns


def test_a_scene_without_a_step_to_simulate_is_refused():
    scenarios = Scenarios([SingleScene(raw_scene(num_steps=6, current_step=5))])
    (failure,) = flat(Evaluation(scenarios, small_config()), [0])
    assert (failure.error.file, failure.error.record, failure.error.field) == ("single", 0, "current_step")


@pytest.mark.slow
def test_scenes_without_a_future_are_simulated_and_compared_with_nothing(tmp_path):
    """All other agents vanish where they follow the log, so that not to hit them is no merit."""
    valid = np.arange(12)[:, None] < [6, 6, 6]
    scenarios = Scenarios([SingleScene(raw_scene(num_steps=12, valid=valid))])
    metrics = ("overlap", "log_divergence", "route_progression", "kinematic_infeasibility")
    traffic = {"log_replay": None, "constant": ConstantVelocity()}
    config = small_config(metrics=metrics, traffic=traffic, policies={"steady": ConstantVelocity()}, seeds=(0,))
    evaluation = Evaluation(scenarios, config)
    among_log, among_traffic = flat(evaluation, [0])
    assert among_log.values == dict.fromkeys(metrics[:3]) | {"kinematic_infeasibility": 0.0}
    assert among_traffic.values == {"overlap": 0.0} | dict.fromkeys(metrics[1:3]) | {"kinematic_infeasibility": 0.0}
    assert among_log.notes == among_traffic.notes == (NO_FUTURE_NOTE,)
    evaluate_into(tmp_path, evaluation)
    assert [row["notes"] for row in read_rows(tmp_path)] == [[NO_FUTURE_NOTE]] * 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["notes"] == {NO_FUTURE_NOTE: 1} and summary["num_failed"] == 0
    assert NO_FUTURE_NOTE in html_report(summary)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policies": {}}, "no policies"),
        ({"metrics": ("beauty",)}, "beauty"),
        ({"agents": "vehicle", "traffic": {"constant": ConstantVelocity()}}, "only the log"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_an_invalid_configuration_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        small_config(**changes)


def test_numbers_that_are_not_finite_are_refused():
    def value(number: float, valid: bool) -> MetricValue:
        return MetricValue(value=jnp.asarray(number), valid=jnp.asarray(valid))

    assert to_floats({"a": value(2.0, True), "b": value(float("nan"), False)}, ["b", "a"]) == {"b": None, "a": 2.0}
    with pytest.raises(DataError, match="nan"):
        to_floats({"a": value(float("nan"), True)}, ["a"])


def test_metrics_without_a_future_exist():
    columns = small_config(metrics=(*METRICS, "nuplan_score")).columns.keys()
    assert columns >= LOG_METRICS | INTERACTION_METRICS
    assert invalid_without_future("all", log_traffic=True) == LOG_METRICS
    assert invalid_without_future("vehicle", log_traffic=True) == LOG_METRICS | INTERACTION_METRICS
