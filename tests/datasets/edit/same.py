"""What every edit keeps."""

import functools

import jax
import numpy as np

from waymax_sim.datasets.loader import load
from waymax_sim.datasets.raw_from_scenario import to_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import axis_lengths, bucket_lengths
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.validate import validate


@functools.cache
def crossing() -> Scenario:
    """A synthetic crossing with lights, links and routes."""
    return load("synthetic:0:2")[1]


def arrays(record) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path)[1:]: leaf for path, leaf in jax.tree_util.tree_flatten_with_path(record)[0]}


def assert_sound(scenario: Scenario) -> None:
    """Nothing to report, types and sizes as of a reader, zeros where nothing is valid, the indexes of this map."""
    assert validate(scenario) == []
    assert axis_lengths(scenario) == bucket_lengths(axis_lengths(scenario))
    kinds = {name: (leaf.dtype, leaf.ndim) for name, leaf in arrays(crossing()).items()}
    for name, leaf in arrays(scenario).items():
        assert isinstance(leaf, np.ndarray) and (leaf.dtype, leaf.ndim) == kinds[name], name
    log, info = scenario.log, scenario.agents
    for values in (log.xyz, log.yaw, log.velocity):
        assert not values[~log.valid].any()
    assert ((log.yaw >= -np.pi) & (log.yaw < np.pi)).all()
    free = ~info.exists
    assert (info.id[free] == -1).all() and not log.valid[:, free].any()
    assert not any(getattr(info, name)[free].any() for name in ("type", "size", "is_sdc", "to_predict", "of_interest"))
    again = to_scenario(to_raw_scene(scenario))
    assert again.agents.id[again.agents.exists].tolist() == info.id[info.exists].tolist()
    if (again.origin == scenario.origin).all():
        for part in ("roadmap", "edges", "lanes", "polylines"):
            assert_unchanged(getattr(again, part), getattr(scenario, part))


def assert_unchanged(found, expected, *but: str) -> None:
    """All arrays are the same bit by bit, except those whose names begin with one of `but`."""
    values = arrays(found)
    for name, leaf in arrays(expected).items():
        if not name.startswith(but):
            assert leaf.dtype == values[name].dtype and leaf.tobytes() == values[name].tobytes(), name
