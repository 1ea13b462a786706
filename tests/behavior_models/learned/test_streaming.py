"""Scenarios that are replaced during a training: at fixed steps, and equal after a resumption."""

import itertools
import json

import jax
import numpy as np

from behavior_models.trainers.streaming import ScenarioStream, StreamParams
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.env import Env, EnvConfig
from waymax_sim.env.bank_loader import BankLoader

ENV = Env(config=EnvConfig(metrics=("overlap",), rewards=()))
PARAMS = StreamParams(interval=2, share=0.5)


def loader() -> BankLoader:
    scenarios = [to_scenario(raw_scene(num_agents=3, scenario_id=f"road-{i}"), pad_to_bucket=False) for i in range(7)]
    return BankLoader(scenarios, ENV, 4, seed=3)


def content(bank) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(bank)]


def test_a_resumed_stream_continues_exactly():
    stream = ScenarioStream(loader(), PARAMS)
    banks, positions = [content(stream.bank)], [stream.position()]
    for number in range(1, 11):
        stream.advance(number)
        banks.append(content(stream.bank))
        positions.append(json.loads(json.dumps(stream.position())))
    stream.close()
    # Replaced at every second step only.
    changes = [any((a != b).any() for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(banks)]
    assert changes == [number % 2 == 0 for number in range(1, 11)]
    assert positions[-1]["num_read"] == 4 + 5 * 2
    for begin in (3, 4):
        resumed = ScenarioStream(loader(), PARAMS)
        resumed.restore(positions[begin])
        for number in range(begin, 11):
            if number > begin:
                resumed.advance(number)
            for found, expected in zip(content(resumed.bank), banks[number], strict=True):
                np.testing.assert_array_equal(found, expected)
        assert resumed.position() == positions[-1]
        resumed.close()


def test_a_position_of_another_source_is_refused():
    stream = ScenarioStream(loader(), PARAMS)
    try:
        for name, value in (("source", 8), ("seed", 4), ("index", [0, 1])):
            try:
                stream.restore(stream.position() | {name: value})
            except ValueError as error:
                assert "another size" in str(error)
            else:
                raise AssertionError(name)
    finally:
        stream.close()
