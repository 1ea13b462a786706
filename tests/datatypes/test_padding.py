import dataclasses

import jax
import numpy as np
import pytest

from tests.data import recorded
from tests.scenes import busy_raw_scene, scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import Stack, bucket, pad, size_class, sizes, stack_scenarios
from waymax_sim.datatypes.roadmap import FAR
from waymax_sim.pytree import take


def busy(num_agents: int = 9):
    return to_scenario(busy_raw_scene(num_agents=num_agents), bucketed=False)


def test_sizes_are_the_lengths_of_the_axes():
    # Four lines of 201 points, two of 41 and one of 25: two edges of 200 segments, one of 40, and a loop of 24.
    expected = {"N": 9, "P": 911, "F": 7, "L": 0, "edges.C": 58, "lanes.C": 55, "S": 1, "M": 2, "R": 80}
    found = sizes(busy())
    assert {axis: found[axis] for axis in expected} == expected
    assert found["edges.G"] == found["lanes.G"] == 32
    assert set(found) - set(sizes(dataclasses.replace(scene(), routes=None))) == {"M", "R"}


@pytest.mark.parametrize(
    ("size", "rounded"), [(0, 0), (1, 8), (8, 8), (9, 16), (16, 16), (17, 24), (25, 32), (33, 48), (49, 64), (211, 256)]
)
def test_buckets(size, rounded):
    assert bucket(sizes(busy()) | {"N": size})["N"] == rounded


def test_classes_hold_their_scenes_and_are_few():
    have = sizes(busy())
    for more, agents, points in (({}, 64, 16_384), ({"N": 65}, 128, 32_768), ({"edges.C": 3000}, 256, 65_536)):
        wanted = size_class(have | more)
        assert (wanted["N"], wanted["P"]) == (agents, points)
        assert all(wanted[axis] >= size for axis, size in (have | more).items())
        assert wanted.keys() == have.keys()
        assert size_class(wanted) == wanted
    assert size_class(have | {"S": 80}) == size_class(have) | {"S": 128}
    assert pad(busy(), size_class(have)).num_agents == 64


def test_everything_about_a_map_is_rounded_together():
    have = sizes(busy())
    # 20,000 points are 4.9 units of 4096; of one more edge chunk than 6 units have, 8 units are needed.
    for more, points in (({"P": 20_000}, 24_576), ({"P": 20_000, "edges.C": 6 * 192 + 1}, 32_768)):
        rounded = bucket(have | more)
        assert rounded["P"] == points and rounded["lanes.C"] * 4096 == points * 320
        assert all(rounded[axis] >= (have | more)[axis] for axis in have)


@pytest.mark.parametrize("file", ["scenario_637f20cafde22ff8.tfrecord", "tf_example_a3bb37c25ce56418.tfrecord"])
def test_recorded_scenes_of_similar_size_share_their_map_shapes(file):
    found = bucket(sizes(load(recorded(f"womd/{file}"), bucketed=False)[0]))
    assert found["P"] == 24_576 and found["lanes.C"] == 6 * 320


def test_padding_has_the_sizes_asked_for_and_keeps_what_is_there():
    scenario = busy()
    to = {axis: size + 8 * rank for rank, (axis, size) in enumerate(sizes(scenario).items())}
    padded = pad(scenario, to)
    assert sizes(padded) == to
    for before, after in zip(jax.tree.leaves(scenario), jax.tree.leaves(padded), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after[tuple(slice(0, length) for length in np.shape(before))], before)


def test_padding_is_not_valid_and_refers_to_nothing():
    scenario = busy()
    have = sizes(scenario)
    padded = pad(scenario, {axis: size + 8 for axis, size in have.items()})
    agents, roadmap, routes = padded.agents, padded.roadmap, padded.routes
    assert not agents.exists[have["N"] :].any() and (agents.id[have["N"] :] == -1).all()
    assert not padded.log.valid[:, have["N"] :].any() and not padded.log.xyz[:, have["N"] :].any()
    assert not roadmap.valid[have["P"] :].any()
    for values in (roadmap.feature_id, roadmap.feature_type):
        assert (values[have["F"] :] == -1).all()
    assert (roadmap.links == -1).all()
    for segments, count in ((padded.edges, have["edges.C"]), (padded.lanes, have["lanes.C"])):
        assert not segments.valid[count:].any()
        assert (segments.ends[count:] == FAR).all()
        assert (segments.previous[count:] == -1).all() and (segments.next[count:] == -1).all()
        grid = segments.index.root
        assert (grid[-8:] == -1).all() and (grid[:, -8:] == -1).all() and (segments.index.nodes[-8:] == -1).all()
    graph, rows, chunks = padded.graph, have["graph.F"], have["lanes.C"]
    assert (graph.successors[rows:] == -1).all() and (graph.light[rows:] == -1).all() and not graph.count[rows:].any()
    assert (graph.left[chunks:] == -1).all() and (graph.right[chunks:] == -1).all()
    assert (padded.signals.lane_id[have["S"] :] == -1).all() and not padded.signals.valid[:, have["S"] :].any()
    assert not routes.valid[have["M"] :].any() and not routes.valid[:, have["R"] :].any()
    assert not routes.on_route[have["M"] :].any()


def test_padding_cannot_cut():
    scenario = busy()
    with pytest.raises(ValueError, match=r"larger than asked in edges\.C"):
        pad(scenario, sizes(scenario) | {"edges.C": 8})


def test_stacked_scenes_keep_their_content():
    scenarios = [busy(4), busy(9)]
    batch = stack_scenarios(scenarios)
    common = {axis: max(sizes(one)[axis] for one in scenarios) for axis in sizes(scenarios[0])}
    assert batch.log.xyz.shape == (2, 21, 9, 3) and batch.current_step.shape == (2,)
    for index, scenario in enumerate(scenarios):
        jax.tree.map(np.testing.assert_array_equal, take(batch, index), pad(scenario, common))
        assert take(batch, index).scenario_id == "made-up"


def test_a_batch_is_used_without_a_copy():
    """On a CPU; and it is one piece of memory, for large pages."""
    batch = jax.tree.leaves(stack_scenarios([busy(4), busy(9)]))
    begins = [leaf.ctypes.data for leaf in batch]
    assert [jax.device_put(leaf).unsafe_buffer_pointer() for leaf in batch if leaf.size] == [
        begin for begin, leaf in zip(begins, batch, strict=True) if leaf.size
    ]
    assert max(begins) - min(begins) <= sum(leaf.nbytes + 64 for leaf in batch)


def test_the_larger_type_of_numbers_is_taken():
    narrow, wide = busy(4), busy(4)
    wide = dataclasses.replace(
        wide, elements=dataclasses.replace(wide.elements, cells=wide.elements.cells.astype(np.int32) + 70_000)
    )
    for scenarios in ([narrow, wide], [wide, narrow]):
        batch = stack_scenarios(scenarios)
        for index, scenario in enumerate(scenarios):
            np.testing.assert_array_equal(batch.elements.cells[index], scenario.elements.cells)


def test_what_a_stack_has_room_for():
    scenario = busy(4)
    stack = Stack([scenario], sizes(scenario) | {"N": 6}, 2)
    assert stack.holds(scenario) and stack.holds(busy(6)) and not stack.holds(busy(7))
    assert not stack.holds(dataclasses.replace(scenario, routes=None))
    cells = scenario.elements.cells.astype(np.int32)
    assert not stack.holds(dataclasses.replace(scenario, elements=dataclasses.replace(scenario.elements, cells=cells)))


def test_what_does_not_stack_is_refused():
    with pytest.raises(ValueError, match="no scenarios"):
        stack_scenarios([])
    with pytest.raises(ValueError, match="numbers of steps"):
        stack_scenarios([scene(), scene(num_steps=11)])
    with pytest.raises(ValueError, match="routes"):
        stack_scenarios([scene(), dataclasses.replace(scene(), routes=None)])
