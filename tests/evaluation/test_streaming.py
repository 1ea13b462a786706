import dataclasses
import threading

import jax
import numpy as np
import pytest

from behavior_models import Random
from tests.datasets.encode import message, scenario_of, small_scene
from tests.scenes import raw_scene
from waymax_sim.datasets.encoding.tfrecord import write_records
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datatypes.padding import axis_lengths
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.evaluation import SceneOutput, scene_key, stream_scenes

pytestmark = pytest.mark.compile_heavy


@dataclasses.dataclass
class Crowds:
    """Scenes of various numbers of agents; remembers what was read, and by which thread."""

    crowds: tuple[int, ...]
    name: str = "crowds"
    read_by: list = dataclasses.field(default_factory=list)

    def __len__(self):
        return len(self.crowds)

    def read(self, record):
        self.read_by.append(threading.get_ident())
        if not self.crowds[record]:
            raise DataError("the scene has no agents")
        return raw_scene(num_agents=self.crowds[record], num_steps=12, scenario_id=f"scene {record}")


def look(scenario, key):
    return {"number": scenario.agents.exists.sum(), "draw": jax.random.uniform(key), "end": scenario.log.xyz[-1]}


def drive(scenario, key):
    env = Env(config=EnvConfig(height_source="log", metrics=("overlap", "log_divergence"), rewards=()))
    trace = rollout(env, Random(), scenario, key, num_steps=4)
    return trace.agents, trace.metrics


def test_results_come_in_order_with_their_source_and_errors():
    crowds = (3, 20, 4, 0, 9, 3, 3)
    results = list(stream_scenes(look, Scenarios([Crowds(crowds)]), chunk=2, seed=7))
    assert [(result.file, result.record) for result in results] == [("crowds", record) for record in range(7)]
    assert [record for record, result in enumerate(results) if isinstance(result, DataError)] == [3]
    assert "the scene has no agents" in str(results[3])
    for record, result in enumerate(results):
        if isinstance(result, SceneOutput):
            assert result.scenario_id == f"scene {record}"
            assert result.output["number"] == crowds[record]
            assert result.output["draw"] == jax.random.uniform(scene_key(7, f"scene {record}"))
            assert isinstance(result.output["end"], np.ndarray)


def test_scenes_of_equal_shapes_share_a_program_and_chunks():
    traced = []

    def count(scenario, key):
        traced.append(scenario.num_agents)
        return scenario.log.xyz

    results = list(stream_scenes(count, Scenarios([Crowds((3, 20, 4, 19, 5))]), chunk=3))
    assert [result.output.shape[1] for result in results] == [8, 24, 8, 24, 8]
    assert sorted(traced) == [8, 24]


def test_padding_to_given_sizes_makes_one_program_and_changes_nothing():
    scenarios = Scenarios([Crowds((3, 20, 25, 5))])
    common, traced = axis_lengths(scenarios[1]), []

    def count(scenario, key):
        traced.append(scenario.num_agents)
        return look(scenario, key)

    results = list(stream_scenes(count, scenarios, chunk=2, pad_to=common))
    assert traced == [24]
    assert [result.output["number"] for result in results if isinstance(result, SceneOutput)] == [3, 20, 5]
    assert isinstance(results[2], DataError)
    assert (results[2].file, results[2].record) == ("crowds", 2)
    assert "larger" in str(results[2])


def test_a_result_does_not_depend_on_other_scenes():
    scenarios = Scenarios([Crowds((3, 4, 5, 6, 7))])
    together = list(stream_scenes(drive, scenarios, chunk=3))
    apart = list(stream_scenes(drive, scenarios[1::2], chunk=3))
    assert [result.record for result in apart] == [1, 3]
    for result in apart:
        whole = together[result.record].output
        for ours, theirs in zip(jax.tree.leaves(result.output), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_thread_reads_ahead_but_not_everything():
    source = Crowds((3,) * 40)
    results = stream_scenes(look, Scenarios([source]), chunk=2)
    next(results)
    assert 8 <= len(source.read_by) <= 16
    assert threading.get_ident() not in source.read_by
    results.close()
    assert len(source.read_by) <= 16
    assert len(list(stream_scenes(look, Scenarios([source]), chunk=2))) == 40


def test_damaged_records_do_not_stop_the_others(tmp_path):
    write_records(tmp_path / "scenes.tfrecord", [b"\xff" * 40, message(scenario_of(small_scene()))])
    bad, good = stream_scenes(look, load(tmp_path / "scenes.tfrecord"), chunk=4)
    assert isinstance(bad, DataError)
    assert (bad.file, bad.record) == (str(tmp_path / "scenes.tfrecord"), 0)
    assert isinstance(good, SceneOutput)
    assert good.record == 1


def test_an_error_of_the_function_is_raised():
    def fail(scenario, key):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        list(stream_scenes(fail, Scenarios([Crowds((3,))]), chunk=1))


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk=0"):
        list(stream_scenes(look, Scenarios([Crowds((3,))]), chunk=0))


def test_nothing_comes_of_nothing():
    assert list(stream_scenes(look, Scenarios([]), chunk=2)) == []
