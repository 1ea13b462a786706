import dataclasses

import jax
import numpy as np
import pytest

from tests.scenes import busy_raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.padding import Sizes, pad, sizes, stack_scenarios
from waymax_sim.pytree import take


def busy(num_agents: int = 9):
    return to_scenario(busy_raw_scene(num_agents=num_agents), bucketed=False)


def test_sizes_are_the_lengths_of_the_axes():
    # Four lines of 201 points, two of 41 and one of 25.
    expected = Sizes(
        agents=9, points=911, features=7, links=0, edges=464, lanes=440, signals=1, routes=2, route_points=80
    )
    assert sizes(busy()) == expected
    assert sizes(scene()).routes == sizes(scene()).route_points == 0


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(0, 0), (1, 8), (8, 8), (9, 12), (12, 12), (13, 16), (17, 24), (25, 32), (33, 48), (49, 64), (20_000, 24_576)],
)
def test_buckets(size, bucket):
    assert Sizes(*[size] * 9).bucket() == Sizes(*[bucket] * 9)


def test_buckets_waste_at_most_a_third():
    for size in range(8, 3000):
        bucket = Sizes(*[size] * 9).bucket().agents
        assert size <= bucket < 1.5 * size


def test_padding_has_the_sizes_asked_for_and_keeps_what_is_there():
    scenario = busy()
    to = Sizes(agents=10, points=950, features=9, links=3, edges=500, lanes=441, signals=4, routes=5, route_points=99)
    padded = pad(scenario, to)
    assert sizes(padded) == to
    for before, after in zip(jax.tree.leaves(scenario), jax.tree.leaves(padded), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after[tuple(slice(0, length) for length in np.shape(before))], before)


def test_padding_is_not_valid_and_refers_to_nothing():
    scenario = busy()
    have = sizes(scenario)
    padded = pad(scenario, Sizes(*(size + 3 for size in dataclasses.astuple(have))))
    agents, roadmap = padded.agents, padded.roadmap
    assert not agents.exists[have.agents :].any() and (agents.id[have.agents :] == -1).all()
    assert not padded.log.valid[:, have.agents :].any() and not padded.log.xyz[:, have.agents :].any()
    assert not roadmap.valid[have.points :].any()
    for values in (roadmap.feature_id, roadmap.feature_type):
        assert (values[have.features :] == -1).all()
    assert (roadmap.links == -1).all()
    for segments, count in ((padded.edges, have.edges), (padded.lanes, have.lanes)):
        assert not segments.valid[count:].any()
        assert (segments.previous[count:] == -1).all() and (segments.next[count:] == -1).all()
    assert (padded.signals.lane_id[have.signals :] == -1).all() and not padded.signals.valid[:, have.signals :].any()
    assert not padded.routes.valid[have.routes :].any() and not padded.routes.valid[:, have.route_points :].any()
    assert not padded.routes.on_route[have.routes :].any()


def test_padding_cannot_cut():
    scenario = busy()
    with pytest.raises(ValueError, match="larger"):
        pad(scenario, dataclasses.replace(sizes(scenario), edges=10))


def test_stacked_scenes_keep_their_content():
    scenarios = [busy(4), busy(9)]
    batch = stack_scenarios(scenarios)
    common = sizes(scenarios[0]).union(sizes(scenarios[1]))
    assert batch.log.xyz.shape == (2, 21, 9, 3) and batch.current_step.shape == (2,)
    for index, scenario in enumerate(scenarios):
        jax.tree.map(np.testing.assert_array_equal, take(batch, index), pad(scenario, common))
        assert take(batch, index).scenario_id == "made-up"


def test_what_does_not_stack_is_refused():
    with pytest.raises(ValueError, match="no scenarios"):
        stack_scenarios([])
    with pytest.raises(ValueError, match="numbers of steps"):
        stack_scenarios([scene(), scene(num_steps=11)])
    with pytest.raises(ValueError, match="routes"):
        stack_scenarios([scene(), busy()])
