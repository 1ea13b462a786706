import dataclasses

import jax
import numpy as np
import pytest

from tests.data import recorded
from tests.scenes import busy_raw_scene, scene
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import (
    BatchBuffer,
    axis_lengths,
    bucket_lengths,
    pad,
    pad_empty_axes,
    size_class_lengths,
    stack_scenarios,
)
from waymax_sim.datatypes.roadmap import PADDING_COORDINATE
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.signals import Signals
from waymax_sim.pytree import tree_index


def busy(num_agents: int = 9):
    return to_scenario(busy_raw_scene(num_agents=num_agents), pad_to_bucket=False)


def test_axis_lengths():
    # Four lines of 201 points, two of 41 and one of 25: two edges of 200 segments, one of 40, and a loop of 24.
    expected = {"N": 9, "P": 911, "F": 7, "L": 1, "edges.C": 58, "lanes.C": 55, "S": 1, "M": 2, "R": 80}
    lengths = axis_lengths(busy())
    assert {axis: lengths[axis] for axis in expected} == expected
    assert lengths["edges.G"] == lengths["lanes.G"] == 32
    assert set(lengths) - set(axis_lengths(dataclasses.replace(scene(), routes=None))) == {"M", "R"}


def unlit(num_agents: int = 9):
    """A scene whose axes of lights and samples of routes are below their minimum length."""
    scenario = busy(num_agents)
    lights, routes = scenario.signals, scenario.routes
    no_lights = Signals(lights.lane_id[:0], lights.state[:, :0], lights.stop_point[:, :0], lights.valid[:, :0])
    points = Routes(routes.xyz[:, :1], routes.arc_length[:, :1], routes.valid[:, :1], routes.on_route)
    return dataclasses.replace(scenario, signals=no_lights, routes=points)


def test_empty_axes_become_one_row_of_padding():
    scenario = unlit()
    have, padded = axis_lengths(scenario), pad_empty_axes(scenario)
    assert (have["S"], have["R"]) == (0, 1)
    assert axis_lengths(padded) == have | {"S": 1, "R": 2}
    assert padded.signals.lane_id.tolist() == [-1] and not padded.signals.valid.any()
    np.testing.assert_array_equal(padded.routes.xyz[:, :1], scenario.routes.xyz)
    assert not padded.routes.valid[:, 1:].any() and not padded.routes.xyz[:, 1:].any()
    # All other arrays are shared.
    assert padded.roadmap.xyz is scenario.roadmap.xyz and padded.log.xyz is scenario.log.xyz
    assert jax.tree.leaves(pad_empty_axes(padded))[0] is jax.tree.leaves(padded)[0]


def test_stacked_scenes_have_no_empty_axis():
    batch = stack_scenarios([unlit(4), unlit(9)])
    assert batch.signals.lane_id.shape == (2, 1) and batch.routes.xyz.shape == (2, 2, 2, 3)
    without = {axis: length for axis, length in axis_lengths(unlit()).items() if axis not in ("S", "R")}
    assert pad(unlit(), without).signals.lane_id.shape == (1,)


@pytest.mark.parametrize(
    ("size", "rounded"), [(0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (17, 24), (25, 32), (33, 48), (49, 64), (211, 256)]
)
def test_buckets(size, rounded):
    assert bucket_lengths(axis_lengths(busy()) | {"N": size})["N"] == rounded


def test_size_classes_hold_their_scenes_and_are_few():
    have = axis_lengths(busy())
    for more, agents, points in (({}, 64, 16_384), ({"N": 65}, 128, 32_768), ({"edges.C": 3000}, 256, 65_536)):
        wanted = size_class_lengths(have | more)
        assert (wanted["N"], wanted["P"]) == (agents, points)
        assert all(wanted[axis] >= size for axis, size in (have | more).items())
        assert wanted.keys() == have.keys()
        assert size_class_lengths(wanted) == wanted
    assert size_class_lengths(have | {"S": 80}) == size_class_lengths(have) | {"S": 128}
    assert pad(busy(), size_class_lengths(have)).num_agents == 64


def test_map_axes_are_rounded_together():
    have = axis_lengths(busy())
    # 20,000 points are 4.9 units of 4096; of one more edge chunk than 6 units have, 8 units are needed.
    for more, points in (({"P": 20_000}, 24_576), ({"P": 20_000, "edges.C": 6 * 192 + 1}, 32_768)):
        rounded = bucket_lengths(have | more)
        assert rounded["P"] == points and rounded["lanes.C"] * 4096 == points * 320
        assert all(rounded[axis] >= (have | more)[axis] for axis in have)


@pytest.mark.parametrize("file", ["scenario_637f20cafde22ff8.tfrecord", "tf_example_a3bb37c25ce56418.tfrecord"])
def test_recorded_scenes_share_their_map_shapes(file):
    lengths = bucket_lengths(axis_lengths(load(recorded(f"womd/{file}"), pad_to_bucket=False)[0]))
    assert lengths["P"] == 24_576 and lengths["lanes.C"] == 6 * 320


def test_padding_has_the_given_lengths_and_keeps_the_content():
    scenario = busy()
    to = {axis: size + 8 * rank for rank, (axis, size) in enumerate(axis_lengths(scenario).items())}
    padded = pad(scenario, to)
    assert axis_lengths(padded) == to
    for before, after in zip(jax.tree.leaves(scenario), jax.tree.leaves(padded), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after[tuple(slice(0, length) for length in np.shape(before))], before)


def test_padding_is_invalid_and_has_no_references():
    scenario = busy()
    have = axis_lengths(scenario)
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
        assert (segments.endpoints[count:] == PADDING_COORDINATE).all()
        assert (segments.previous[count:] == -1).all() and (segments.next[count:] == -1).all()
        grid = segments.index.root
        assert (grid[-8:] == -1).all() and (grid[:, -8:] == -1).all() and (segments.index.nodes[-8:] == -1).all()
    graph, rows, chunks = padded.graph, have["graph.F"], have["lanes.C"]
    assert (
        (graph.successors[rows:] == -1).all()
        and (graph.light[rows:] == -1).all()
        and not graph.num_segments[rows:].any()
    )
    assert (graph.left[chunks:] == -1).all() and (graph.right[chunks:] == -1).all()
    assert (padded.signals.lane_id[have["S"] :] == -1).all() and not padded.signals.valid[:, have["S"] :].any()
    assert not routes.valid[have["M"] :].any() and not routes.valid[:, have["R"] :].any()
    assert not routes.on_route[have["M"] :].any()


def test_padding_cannot_shrink_an_axis():
    scenario = busy()
    with pytest.raises(ValueError, match=r"axes edges\.C are longer"):
        pad(scenario, axis_lengths(scenario) | {"edges.C": 8})


def test_stacked_scenes_keep_their_content():
    scenarios = [busy(4), busy(9)]
    batch = stack_scenarios(scenarios)
    common = {axis: max(axis_lengths(one)[axis] for one in scenarios) for axis in axis_lengths(scenarios[0])}
    assert batch.log.xyz.shape == (2, 21, 9, 3) and batch.current_step.shape == (2,)
    for index, scenario in enumerate(scenarios):
        jax.tree.map(np.testing.assert_array_equal, tree_index(batch, index), pad(scenario, common))
        assert tree_index(batch, index).scenario_id == "synthetic"


def test_a_batch_is_used_without_a_copy():
    """On a CPU; it is one allocation, for large pages."""
    batch = jax.tree.leaves(stack_scenarios([busy(4), busy(9)]))
    begins = [leaf.ctypes.data for leaf in batch]
    assert [jax.device_put(leaf).unsafe_buffer_pointer() for leaf in batch if leaf.size] == [
        begin for begin, leaf in zip(begins, batch, strict=True) if leaf.size
    ]
    assert max(begins) - min(begins) <= sum(leaf.nbytes + 64 for leaf in batch)


def test_the_wider_dtype_is_taken():
    narrow, wide = busy(4), busy(4)
    wide = dataclasses.replace(
        wide,
        polylines=dataclasses.replace(wide.polylines, cell_groups=wide.polylines.cell_groups.astype(np.int32) + 70_000),
    )
    for scenarios in ([narrow, wide], [wide, narrow]):
        batch = stack_scenarios(scenarios)
        for index, scenario in enumerate(scenarios):
            np.testing.assert_array_equal(batch.polylines.cell_groups[index], scenario.polylines.cell_groups)


def test_scenarios_that_fit_into_a_buffer():
    scenario = busy(4)
    buffer = BatchBuffer([scenario], axis_lengths(scenario) | {"N": 6}, 2)
    assert buffer.fits(scenario) and buffer.fits(busy(6)) and not buffer.fits(busy(7))
    assert not buffer.fits(dataclasses.replace(scenario, routes=None))
    cells = scenario.polylines.cell_groups.astype(np.int32)
    assert not buffer.fits(
        dataclasses.replace(scenario, polylines=dataclasses.replace(scenario.polylines, cell_groups=cells))
    )


def test_scenarios_that_do_not_stack_are_refused():
    with pytest.raises(ValueError, match="no scenarios"):
        stack_scenarios([])
    with pytest.raises(ValueError, match="numbers of steps"):
        stack_scenarios([scene(), scene(num_steps=11)])
    with pytest.raises(ValueError, match="routes"):
        stack_scenarios([scene(), dataclasses.replace(scene(), routes=None)])
