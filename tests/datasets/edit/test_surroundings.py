"""Maps cropped, lights switched and routes set."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import recorded
from tests.datasets.edit.same import assert_sound, assert_unchanged, crossing
from tests.scenes import scene
from waymax_sim.datasets import edit
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.validate import validate


def test_a_circle_around_everything_changes_nothing():
    scenario = crossing()
    assert_unchanged(edit.crop_map(scenario, (0, 0), 1e4), scenario)


@pytest.mark.parametrize("name", ["scenario_637f20cafde22ff8", "tf_example_a3bb37c25ce56418"])
def test_a_circle_around_a_recorded_map_changes_nothing(name):
    scenario = load(recorded(f"womd/{name}.tfrecord"))[0]
    assert_unchanged(edit.crop_map(scenario, (0, 0), 1e5), scenario)


@settings(max_examples=10)
@given(st.floats(-60, 60), st.floats(-60, 60), st.floats(25, 80))
def test_features_within_a_circle_are_kept_whole(x, y, radius):
    scenario = crossing()
    old = scenario.roadmap
    found = edit.crop_map(scenario, (x, y), radius)
    assert_unchanged(found, scenario, "roadmap", "edges", "lanes", "graph", "polylines", "signals")
    kept = {
        int(old.feature_id[row])
        for row in range(len(old.feature_id))
        for xyz in [old.xyz[old.valid & (old.feature == row)]]
        if len(xyz) and np.hypot(xyz[:, 0] - x, xyz[:, 1] - y).min() <= radius
    }
    new = found.roadmap
    assert set(new.feature_id[new.feature_type >= 0].tolist()) == kept
    for row, feature_id in enumerate(new.feature_id[new.feature_type >= 0].tolist()):
        before = int(np.flatnonzero(old.feature_id == feature_id)[0])
        points = new.xyz[new.valid & (new.feature == row)]
        np.testing.assert_array_equal(points, old.xyz[old.valid & (old.feature == before)])
        assert new.feature_type[row] == old.feature_type[before] and new.speed_limit[row] == old.speed_limit[before]

    def named(roadmap):
        links = roadmap.links[roadmap.links[:, 2] >= 0]
        pairs = roadmap.feature_id[links[:, :2]].tolist()
        return {(a, b, int(kind)) for (a, b), kind in zip(pairs, links[:, 2], strict=True)}

    assert named(new) == {link for link in named(old) if {*link[:2]} <= kept}
    lit = found.signals.valid.any(axis=0)
    assert set(found.signals.lane_id[lit].tolist()) == set(scenario.signals.lane_id.tolist()) & kept
    assert (found.signals.lane_id[~lit] == -1).all() and not found.signals.state[:, ~lit].any()
    reported = {"the map has no lanes", "the map has no road edges: off-road cannot be evaluated", "there is no map"}
    if not reported & set(validate(found)):
        assert_sound(found)


def test_a_map_can_be_cropped_to_nothing():
    found = edit.crop_map(crossing(), (1e5, 0), 1.0)
    assert validate(found) == ["there is no map"]
    exact = edit.crop_map(scene(), (1e5, 0), 1.0)
    assert not exact.roadmap.valid.any() and not exact.edges.valid.any()


def test_lights_are_switched():
    scenario = crossing()
    found = edit.set_lights(scenario, 4)
    assert_sound(found)
    assert_unchanged(found, scenario, "signals.state")
    valid = scenario.signals.valid
    assert (found.signals.state[valid] == 4).all() and not found.signals.state[~valid].any()
    lane = int(scenario.signals.lane_id[1])
    red_then_green = np.where(np.arange(91) < 40, 4, 6)[:, None]
    found = edit.set_lights(scenario, red_then_green, [lane])
    np.testing.assert_array_equal(found.signals.state[:, 1], red_then_green[:, 0])
    others = np.delete(np.arange(len(scenario.signals.lane_id)), 1)
    np.testing.assert_array_equal(found.signals.state[:, others], scenario.signals.state[:, others])


def test_lights_are_switched_only_where_they_are_seen():
    scenario = scene()
    valid = np.arange(21)[:, None] > 5
    state = np.where(valid, 6, 0).astype(np.int32)
    dim = dataclasses.replace(scenario, signals=dataclasses.replace(scenario.signals, valid=valid, state=state))
    assert edit.set_lights(dim, 4).signals.state[:, 0].tolist() == [0] * 6 + [4] * 15


@pytest.mark.parametrize(("state", "lanes"), [(9, None), (-1, None), (4, [123])])
def test_lights_that_cannot_be_are_refused(state, lanes):
    with pytest.raises(ValueError, match=r"a light state is not one of 0 to 8|no lights of lanes"):
        edit.set_lights(crossing(), state, lanes)


def test_routes_are_set():
    scenario = crossing()
    found = edit.set_routes(
        scenario, [np.array([[0, 0, 1], [3, 4, 1], [3, 4, 3]]), np.full((1, 3), 9.0)], [True, False]
    )
    assert_sound(found)
    assert_unchanged(found, scenario, "routes")
    routes = found.routes
    assert routes.valid.sum(axis=1).tolist()[:2] == [3, 1] and not routes.valid[2:].any()
    assert (
        routes.arc_length[0, :3].tolist() == [0, 5, 7]
        and not routes.arc_length[0, 3:].any()
        and not routes.arc_length[1].any()
    )
    assert routes.xyz[0, 1].tolist() == [3, 4, 1] and routes.on_route[:2].tolist() == [True, False]
    assert edit.set_routes(scenario, [np.zeros((2, 3))]).routes.on_route[0]
    assert edit.set_routes(scenario, []).routes is None


def test_routes_of_a_scene_without_padding_have_none():
    routes = edit.set_routes(scene(), [np.ones((5, 3))]).routes
    assert routes.xyz.shape == (1, 5, 3) and routes.valid.all()


@pytest.mark.parametrize(("paths", "flags"), [([np.full((2, 3), np.nan)], None), ([np.zeros((2, 3))], [True, True])])
def test_routes_that_cannot_be_are_refused(paths, flags):
    with pytest.raises(ValueError, match=r"not finite|2 flags for 1 paths"):
        edit.set_routes(crossing(), paths, flags)
