import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from behavior_models import ConstantVelocity, Random
from tests.datasets.encode import message, scenario_of, small_scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import Scenarios, load
from waymax_sim.datasets.tfrecord import write_records
from waymax_sim.datatypes.agents import select
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.evaluation import SceneResult, evaluate, scene_key
from waymax_sim.evaluation.evaluate import numbers
from waymax_sim.metrics import METRICS, MetricValue, summarize

ENV = Env(config=EnvConfig(controlled="vehicle", metrics=tuple(METRICS), rewards=()))


def scenes(folder: Path, *ids: str, **changes) -> Scenarios:
    records = [message(scenario_of(dataclasses.replace(small_scene(), scenario_id=name, **changes))) for name in ids]
    write_records(folder / "scenes.tfrecord", records)
    return load(folder / "scenes.tfrecord")


def test_numbers_are_those_of_a_plain_rollout():
    scenarios = load("synthetic:3:1")
    scenario = scenarios[0]
    (result,) = evaluate(scenarios, ENV, ConstantVelocity())
    num_steps = scenario.num_steps - 1 - int(scenario.current_step)
    trace = jax.jit(lambda s: rollout(ENV, ConstantVelocity(), s, jax.random.key(7), num_steps))(scenario)
    expected = summarize(trace.metrics, METRICS, trace.active, select(scenario.agents, "vehicle"))
    assert (result.file, result.record, result.scenario_id) == ("synthetic:3:1", 0, scenario.scenario_id)
    assert list(result.values) == list(METRICS)
    assert result.values["log_divergence"] > 0
    for name, value in result.values.items():
        assert (value is not None) == bool(expected[name].valid)
        assert value is None or value == pytest.approx(float(expected[name].value), rel=1e-6, abs=1e-6)


def test_draws_depend_on_seed_and_scene_but_not_on_order(tmp_path):
    scenarios = scenes(tmp_path, "a", "b")

    def divergence(seed: int, indices: list[int]) -> dict[str, float]:
        results = evaluate(scenarios, ENV, Random(), seed=seed, indices=indices)
        return {result.scenario_id: result.values["log_divergence"] for result in results}

    assert divergence(0, [0, 1]) == divergence(0, [1, 0])
    assert divergence(0, [0, 1])["a"] != divergence(0, [0, 1])["b"]
    assert divergence(0, [0]) != divergence(1, [0])
    assert jnp.all(jax.random.key_data(scene_key(0, "a")) == jax.random.key_data(scene_key(0, "a")))


def test_no_more_steps_are_simulated_than_asked_for(tmp_path):
    scenarios = scenes(tmp_path, "a")
    (one,) = evaluate(scenarios, ENV, Random(), max_steps=1)
    (two,) = evaluate(scenarios, ENV, Random(), max_steps=2)
    (all_two,) = evaluate(scenarios, ENV, Random(), max_steps=100)
    assert one.values["log_divergence"] < two.values["log_divergence"] == all_two.values["log_divergence"]


def test_scenes_of_equal_shapes_share_one_program(tmp_path):
    traced = []

    class Counted(Random):
        def init(self, observation, key):
            traced.append(observation)
            return ()

    assert len(list(evaluate(scenes(tmp_path, "a", "b", "c"), ENV, Counted()))) == 3
    assert len(traced) == 1


def test_a_scene_that_cannot_be_used_gives_its_error(tmp_path):
    last = len(small_scene().timestamps) - 1
    (error,) = evaluate(scenes(tmp_path, "a", current_step=last), ENV, Random())
    assert isinstance(error, DataError)
    assert (error.file, error.record, error.field) == (str(tmp_path / "scenes.tfrecord"), 0, "current_step")


def test_a_damaged_record_does_not_stop_the_others(tmp_path):
    write_records(tmp_path / "scenes.tfrecord", [message(scenario_of(small_scene())), b"\xff" * 40])
    good, bad = evaluate(load(tmp_path / "scenes.tfrecord"), ENV, Random())
    assert isinstance(good, SceneResult)
    assert isinstance(bad, DataError)
    assert bad.record == 1


def test_numbers_that_are_not_finite_are_refused():
    def value(number: float, valid: bool) -> MetricValue:
        return MetricValue(value=jnp.asarray(number), valid=jnp.asarray(valid))

    assert numbers({"a": value(2.0, True), "b": value(float("nan"), False)}, ["b", "a"]) == {"b": None, "a": 2.0}
    with pytest.raises(DataError, match="nan"):
        numbers({"a": value(float("nan"), True)}, ["a"])
