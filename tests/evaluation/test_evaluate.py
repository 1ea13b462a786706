import dataclasses

import jax
import jax.numpy as jnp
import pytest

from behavior_models import ConstantVelocity, Random, Stationary
from tests.evaluation.plans import STEPS, made, plan
from tests.scenes import raw_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import Scenarios
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.agents import select
from waymax_sim.datatypes.padding import pad, size_class, sizes
from waymax_sim.env import rollout
from waymax_sim.evaluation import Evaluation, Failure, SceneResult, judge_scene, scene_key
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


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Its programs are shared by the tests here."""
    return Evaluation(made(11, 3), plan())


def flat(evaluation: Evaluation, indices, **options) -> list[SceneResult | Failure]:
    return [item for found in evaluation.results(indices, **options) for item in found]


@pytest.fixture(scope="module")
def results(evaluation) -> list[SceneResult | Failure]:
    return flat(evaluation, range(11))


def test_every_run_of_every_scene_has_a_result(evaluation, results):
    good = [item for item in results if isinstance(item, SceneResult)]
    wanted = {(index, run) for index in range(11) if index != 3 for run in evaluation.plan.runs}
    assert {(item.index, item.run) for item in good} == wanted
    assert len(good) == len(wanted) == 40
    assert all(
        (item.file, item.record, item.scenario_id) == ("made", i, f"scene {i}") for item in good for i in [item.index]
    )
    assert len({item.digest for item in good}) == 10


def test_what_cannot_be_read_gives_its_error(results):
    (failure,) = (item for item in results if isinstance(item, Failure))
    assert (failure.index, failure.run) == (3, None)
    assert str(failure.error) == "made, record 3, field data: is broken (copy it again)"


def test_numbers_are_those_of_a_plain_rollout(evaluation, results):
    scenario, env = evaluation.scenarios[4], evaluation.plan.env("log_replay")
    trace = jax.jit(lambda s, k: rollout(env, Random(), s, k, STEPS))(scenario, scene_key(1, "scene 4"))
    expected = summarize(trace.metrics, env.metrics, trace.active, select(scenario.agents, "sdc"))
    (result,) = (item for item in results if isinstance(item, SceneResult) and (item.index, item.run) == (4, RUN))
    assert list(result.values) == ["overlap", "log_divergence"]
    assert result.values["log_divergence"] > 0
    for name, value in result.values.items():
        assert value == pytest.approx(float(expected[name].value), rel=1e-5)


def test_a_result_depends_on_neither_company_nor_order(evaluation, results):
    known = {(item.index, item.run): item for item in results}
    for indices in ([7], [9, 2], range(10, 3, -1)):
        for item in flat(evaluation, indices):
            assert item == known[item.index, item.run]


def test_a_result_does_not_depend_on_the_size_of_the_class(evaluation, results):
    scenario = evaluation.scenarios[4]
    large = pad(scenario, {axis: 2 * size for axis, size in size_class(sizes(scenario)).items()})
    judge = jax.jit(lambda s, k: judge_scene(evaluation.plan.env("log_replay"), Random(), s, k, STEPS)[0])
    found = numbers(judge(large, scene_key(1, "scene 4")), ["log_divergence"])
    (result,) = (item for item in results if isinstance(item, SceneResult) and (item.index, item.run) == (4, RUN))
    assert found["log_divergence"] == pytest.approx(result.values["log_divergence"], rel=1e-5)


def test_seeds_and_scenes_draw_their_own_numbers(results):
    drawn = [
        item.values["log_divergence"] for item in results if isinstance(item, SceneResult) and item.run[0] == "random"
    ]
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


def test_one_class_of_scenes_is_one_program():
    traced = []

    class Counted(Random):
        def init(self, observation, key):
            traced.append(observation)
            return ()

    crowded = to_scenario(raw_scene(num_agents=70, num_steps=12))
    counted = Evaluation(made(9), plan(policies={"counted": Counted()}))
    assert len(flat(counted, range(9))) == 18
    assert len(traced) == 1
    assert sizes(crowded)["N"] <= size_class(sizes(crowded))["N"] == 128


def test_traffic_drives_the_others():
    others = {"log_replay": None, "stationary": Stationary()}
    changes = {"policies": {"stationary": Stationary()}, "traffic": others, "metrics": ("clearance",), "seeds": (0,)}
    scenarios = Scenarios([Given(raw_scene())])
    found = flat(Evaluation(scenarios, plan(max_steps=None, **changes)), [0])
    clearance = {item.run[1]: item.values["clearance"] for item in found}
    # 16 m apart, at 10 m/s for 1.5 s; who stops at once stays apart.
    assert clearance["log_replay"] == pytest.approx(1.0, abs=0.05)
    assert clearance["stationary"] == pytest.approx(16.0, abs=1.0)


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
