import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models import ConstantVelocity, Random, Stationary
from tests.evaluation.plans import STEPS, made, plan
from tests.scenes import raw_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.agents import select
from waymax_sim.datatypes.padding import size_class, sizes
from waymax_sim.env import rollout
from waymax_sim.evaluation import Evaluation, Failure, SceneResult, scene_key
from waymax_sim.evaluation.evaluate import numbers
from waymax_sim.metrics import MetricValue, summarize

RUN = ("random", "log_replay", 1)


@dataclasses.dataclass(frozen=True)
class Given:
    """One scene that is given."""

    raw: RawScene
    name: str = "given"

    def __len__(self) -> int:
        return 1

    def read(self, record: int) -> RawScene:
        return self.raw


traced = []


class Counted(Random):
    """Counts how often it is traced."""

    def init(self, observation, key):
        traced.append(observation.agents.valid.shape)
        return ()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Its programs are shared by the tests here."""
    return Evaluation(made(11, 3), plan(policies={"random": Counted()}))


def flat(evaluation: Evaluation, indices, **options) -> list[SceneResult | Failure]:
    return [item for found in evaluation.results(indices, **options) for item in found]


@pytest.fixture(scope="module")
def results(evaluation) -> list[SceneResult | Failure]:
    return flat(evaluation, range(11))


def test_every_run_of_every_scene_has_a_result(evaluation, results):
    good = [item for item in results if isinstance(item, SceneResult)]
    wanted = {(index, run) for index in range(11) if index != 3 for run in evaluation.plan.runs}
    assert {(item.index, item.run) for item in good} == wanted
    assert len(good) == len(wanted) == 20
    assert all(
        (item.file, item.record, item.scenario_id) == ("made", i, f"scene {i}") for item in good for i in [item.index]
    )
    assert len({item.digest for item in good}) == 10


def test_what_cannot_be_read_gives_its_error(results):
    (failure,) = (item for item in results if isinstance(item, Failure))
    assert (failure.index, failure.run) == (3, None)
    assert str(failure.error) == "made, record 3, field data: is broken (copy it again)"


def test_numbers_are_those_of_a_plain_rollout_without_padding(evaluation, results):
    scenario, env = evaluation.scenarios[4], evaluation.plan.env("log_replay")
    trace = jax.jit(lambda s, k: rollout(env, Random(), s, k, STEPS))(scenario, scene_key(1, "scene 4"))
    expected = summarize(trace.metrics, env.metrics, trace.active, select(scenario.agents, "sdc"))
    (result,) = (item for item in results if isinstance(item, SceneResult) and (item.index, item.run) == (4, RUN))
    assert sizes(scenario)["P"] < size_class(sizes(scenario))["P"]
    assert list(result.values) == ["kinematic_infeasibility", "log_divergence"]
    assert result.values["log_divergence"] > 0
    for name, value in result.values.items():
        assert value == pytest.approx(float(expected[name].value), rel=1e-5)


def test_a_result_depends_on_neither_company_nor_order(evaluation, results):
    known = {(item.index, item.run): item for item in results}
    for indices in ([7], [9, 2], range(10, 3, -1)):
        for item in flat(evaluation, indices):
            assert item == known[item.index, item.run]


def test_seeds_and_scenes_draw_their_own_numbers(results):
    drawn = [item.values["log_divergence"] for item in results if isinstance(item, SceneResult)]
    assert len(set(drawn)) == len(drawn) == 20


def test_runs_that_are_done_are_skipped(evaluation):
    def skip(index, run):
        return index == 1 or run != RUN

    assert [(item.index, item.run) for item in flat(evaluation, [0, 1, 2], skip=skip)] == [(0, RUN), (2, RUN)]


def test_a_rollout_is_the_one_that_was_judged(evaluation, results):
    scenario, (trace,) = evaluation.traces(4, [RUN])
    (result,) = (item for item in results if isinstance(item, SceneResult) and (item.index, item.run) == (4, RUN))
    divergence = trace.metrics["log_divergence"].value[:, select(scenario.agents, "sdc")]
    assert divergence.mean() == pytest.approx(result.values["log_divergence"], rel=1e-6)
    # The log drives the others.
    np.testing.assert_array_equal(trace.agents.xyz[:, 1], scenario.log.xyz[6 : 6 + STEPS, 1])


def test_a_class_of_scenes_is_one_program(evaluation, results):
    assert {sizes(evaluation.scenarios[index])["N"] for index in (0, 4)} == {8}
    assert len(traced) == 1


def test_traffic_drives_the_others():
    changes = {"policies": {"stationary": Stationary()}, "traffic": {"stationary": Stationary()}}
    evaluation = Evaluation(Scenarios([Given(raw_scene(num_steps=12))]), plan(**changes, seeds=(0,)))
    scenario, (trace,) = evaluation.traces(0, evaluation.plan.runs)
    now = scenario.log.xyz[5, :3, 0]
    assert trace.agents.xyz[-1, :3, 0] == pytest.approx(now, abs=1e-3)
    assert scenario.log.xyz[8, :3, 0] == pytest.approx(now + 3.0, abs=1e-3)


def test_the_score_of_nuplan_comes_with_its_parts():
    columns = plan(metrics=("nuplan_score", "log_divergence", "speeding")).columns
    assert next(iter(columns)) == "nuplan_score"
    assert columns.keys() >= {"ego_is_comfortable", "drivable_area_compliance", "discomfort", "speeding"}
    assert columns["nuplan_score"] == ("1", "higher")
    assert "nuplan_score" not in plan(metrics=("speeding",)).columns


def test_a_scene_without_a_step_to_simulate_is_refused():
    scenarios = Scenarios([Given(raw_scene(num_steps=6, current_step=5))])
    (failure,) = flat(Evaluation(scenarios, plan()), [0])
    assert (failure.error.file, failure.error.record, failure.error.field) == ("given", 0, "current_step")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policies": {}}, "no policies"),
        ({"metrics": ("beauty",)}, "beauty"),
        ({"agents": "vehicle", "traffic": {"constant": ConstantVelocity()}}, "only the log"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        plan(**changes)


def test_numbers_that_are_not_finite_are_refused():
    def value(number: float, valid: bool) -> MetricValue:
        return MetricValue(value=jnp.asarray(number), valid=jnp.asarray(valid))

    assert numbers({"a": value(2.0, True), "b": value(float("nan"), False)}, ["b", "a"]) == {"b": None, "a": 2.0}
    with pytest.raises(DataError, match="nan"):
        numbers({"a": value(float("nan"), True)}, ["a"])
