"""Agents added, dropped, moved and changed, by hand and at random."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from behavior_models import ConstantVelocity
from tests.datasets.edit.same import assert_sound, assert_unchanged, crossing
from tests.scenes import scene
from waymax_sim.datasets import edit
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.env import Env, EnvConfig, rollout

MASKS = st.lists(st.booleans(), min_size=crossing().num_agents, max_size=crossing().num_agents)


def ids(scenario):
    return scenario.agents.id[scenario.agents.exists]


@settings(max_examples=15)
@given(MASKS)
def test_any_agents_can_be_dropped(mask):
    scenario = crossing()
    mask = np.array(mask) & ~scenario.agents.is_sdc & (scenario.agents.type != 1)
    found = edit.drop_agents(scenario, mask)
    assert_sound(found)
    assert_unchanged(found, scenario, "agents", "log")
    stay = scenario.agents.exists & ~mask
    for record, other in ((found.agents, scenario.agents), (found.log, scenario.log)):
        for a, b in zip(jax.tree.leaves(record), jax.tree.leaves(other), strict=True):
            axis = int(record is found.log)
            np.testing.assert_array_equal(np.compress(stay, a, axis), np.compress(stay, b, axis))
    assert (found.agents.exists == stay).all()


def test_agents_are_dropped_by_selector_mask_or_id():
    scenario = crossing()
    some = ids(scenario)[[3, 5]]
    by_id = edit.drop_agents(scenario, some.tolist())
    assert_unchanged(by_id, edit.drop_agents(scenario, jnp.isin(scenario.agents.id, some)))
    assert set(ids(scenario)) - set(ids(by_id)) == set(some)
    alone = edit.drop_agents(scenario, "others")
    assert (alone.agents.exists == scenario.agents.is_sdc).all()
    assert alone.routes is scenario.routes and edit.drop_agents(scenario, "sdc").routes is None
    assert_unchanged(edit.drop_agents(scenario, []), scenario)


@pytest.mark.parametrize("agents", ["unknown", [123456], np.ones(3, bool), [-1]])
def test_unknown_agents_are_refused(agents):
    with pytest.raises(ValueError, match=r"unknown selector|no agents|a mask has shape"):
        edit.drop_agents(crossing(), agents)


def test_an_agent_moves_along_from_where_it_is_now():
    scenario = crossing()
    found = edit.add_agent(scenario, (3, -2, 0.5), 0.25, velocity=(4, -1), agent_type=CYCLIST, size=(2, 1, 1.5))
    assert_sound(found)
    row = int(np.flatnonzero(found.agents.exists & ~scenario.agents.exists)[0])
    assert found.agents.id[row] == ids(scenario).max() + 1 and found.agents.type[row] == CYCLIST
    time = (np.arange(91) - 10) * 0.1
    expected = np.stack([3 + 4 * time, -2 - time, 0 * time + 0.5], axis=-1)
    np.testing.assert_allclose(found.log.xyz[:, row], expected, atol=1e-5)
    assert (found.log.velocity[:, row] == (4, -1)).all() and (found.log.yaw[:, row] == 0.25).all()
    assert found.agents.size[row].tolist() == [2, 1, 1.5] and found.log.valid[:, row].all()
    assert not found.agents.is_sdc[row]
    assert_unchanged(edit.drop_agents(found, [int(found.agents.id[row])]), scenario)


def test_an_agent_follows_a_track_and_a_mask():
    scenario = crossing()
    time = scenario.timestamps
    positions = np.stack([time**2, 2 * time, np.ones_like(time)], axis=-1)
    valid = time > 1.95
    found = edit.add_agent(scenario, positions, np.full(91, 4.0), valid=valid, agent_id=77)
    assert_sound(found)
    row = int(np.flatnonzero(found.agents.id == 77)[0])
    assert (found.log.valid[:, row] == valid).all() and not found.log.xyz[~valid, row].any()
    np.testing.assert_allclose(found.log.xyz[valid, row], positions[valid], rtol=1e-6)
    middle = valid & (time < 8.95)
    np.testing.assert_allclose(found.log.velocity[middle, row, 0], 2 * time[middle], rtol=1e-3)
    np.testing.assert_allclose(found.log.velocity[middle, row, 1], 2, rtol=1e-4)
    np.testing.assert_allclose(found.log.yaw[valid, row], 4 - 2 * np.pi, atol=1e-6)


def test_a_velocity_that_is_given_is_kept():
    positions = np.zeros((91, 3))
    found = edit.add_agent(crossing(), positions, 0.0, velocity=(1, 2), agent_id=77)
    row = int(np.flatnonzero(found.agents.id == 77)[0])
    assert (found.log.velocity[:, row] == (1, 2)).all() and not found.log.xyz[:, row].any()


def test_scenes_grow_when_no_slot_is_free():
    full = scene(num_agents=3)
    one = edit.add_agent(full, (0, 3, 0), 0.0)
    assert one.num_agents == 4 and one.agents.exists.all()
    scenario = edit.drop_agents(crossing(), "none")
    for _ in range(10):
        scenario = edit.add_agent(scenario, (0, 0, 0), 0.0)
    assert_sound(scenario)
    assert len(ids(scenario)) == len(ids(crossing())) + 10
    assert len(np.unique(ids(scenario))) == len(ids(scenario))


@pytest.mark.parametrize(
    "arguments",
    [
        {"xyz": (np.nan, 0, 0)},
        {"yaw": np.inf},
        {"velocity": (np.nan, 0)},
        {"size": (1, np.inf, 1)},
        {"xyz": np.zeros((90, 3))},
        {"agent_type": 5},
        {"agent_id": int(crossing().agents.id[0])},
    ],
)
def test_invalid_agents_are_refused(arguments):
    with pytest.raises(ValueError, match=r"finite|broadcast|agent_type|already"):
        edit.add_agent(crossing(), **({"xyz": (0, 0, 0), "yaw": 0.0} | arguments))


def test_traffic_of_another_scene_keeps_its_world_positions():
    scenario = crossing()
    shift = np.array([30, -7, 0], np.float32)
    other = dataclasses.replace(load("synthetic:0:5")[4], origin=scenario.origin + shift)
    found = edit.add_traffic(scenario, other)
    assert_unchanged(found, scenario, "agents", "log")
    count, more = len(ids(scenario)), len(ids(other))
    assert len(ids(found)) == count + more == len(np.unique(ids(found)))
    assert found.agents.is_sdc.sum() == 1
    rows = np.flatnonzero(found.agents.exists)[count:]
    source = other.log.valid[:, other.agents.exists]
    moved = found.log.xyz[:, rows][source] - other.log.xyz[:, other.agents.exists][source]
    np.testing.assert_allclose(moved, np.broadcast_to(shift, moved.shape), atol=2e-5)
    np.testing.assert_array_equal(found.log.yaw[:, rows], other.log.yaw[:, other.agents.exists])
    np.testing.assert_array_equal(found.log.xyz[:, :count], scenario.log.xyz[:, :count])
    taken = np.isin(ids(other), ids(scenario))
    np.testing.assert_array_equal(found.agents.id[rows][~taken], ids(other)[~taken])


def test_traffic_of_the_same_scene_duplicates_all_agents():
    scenario = crossing()
    assert_sound(edit.add_traffic(scenario, edit.move_agents(scenario, "all", (0, 0, 30))))


def test_traffic_of_another_clock_is_refused():
    with pytest.raises(ValueError, match="differ"):
        edit.add_traffic(crossing(), edit.shift_start(crossing(), 1))


def test_agents_are_moved():
    scenario = crossing()
    mask = scenario.agents.is_sdc
    found = edit.move_agents(scenario, "sdc", (1, -2, 0.5))
    assert_sound(found)
    assert_unchanged(found, scenario, "log.xyz")
    np.testing.assert_array_equal(found.log.xyz[:, ~mask], scenario.log.xyz[:, ~mask])
    seen = scenario.log.valid & mask
    np.testing.assert_allclose(
        (found.log.xyz - scenario.log.xyz)[seen], np.tile([1, -2, 0.5], (seen.sum(), 1)), atol=1e-5
    )
    drift = np.zeros((91, 1, 3))
    drift[:, 0, 1] = np.linspace(0, 1, 91)
    found = edit.move_agents(scenario, "sdc", drift)
    np.testing.assert_allclose((found.log.xyz - scenario.log.xyz)[:, mask][:, 0, 1], drift[:, 0, 1], atol=1e-5)


def test_types_are_set():
    scenario = crossing()
    who = [int(ids(scenario)[2])]
    found = edit.set_types(scenario, who, PEDESTRIAN)
    assert_sound(found)
    assert_unchanged(found, scenario, "agents.type")
    assert found.agents.type[2] == PEDESTRIAN
    np.testing.assert_array_equal(np.delete(found.agents.type, 2), np.delete(scenario.agents.type, 2))
    with pytest.raises(ValueError, match="agent_type 5 is not one of 0 to 4"):
        edit.set_types(scenario, who, 5)


def test_boxes_are_scaled_from_their_undersides():
    scenario = crossing()
    mask = edit.agent_mask(scenario, "vehicle")
    found = edit.scale_boxes(scenario, "vehicle", (1.5, 1, 2))
    assert_sound(found)
    assert_unchanged(found, scenario, "agents.size", "log.xyz")
    np.testing.assert_allclose(found.agents.size[mask], scenario.agents.size[mask] * [1.5, 1, 2], rtol=1e-6)
    np.testing.assert_array_equal(found.agents.size[~mask], scenario.agents.size[~mask])

    def underside(each):
        return (each.log.xyz[..., 2] - each.agents.size[:, 2] / 2)[scenario.log.valid]

    np.testing.assert_allclose(underside(found), underside(scenario), atol=1e-5)
    np.testing.assert_array_equal(found.log.xyz[..., :2], scenario.log.xyz[..., :2])


def test_another_agent_becomes_the_sdc():
    scenario = crossing()
    speed = np.linalg.norm(scenario.log.velocity[10], axis=-1)
    row = int(np.argmax(np.where(scenario.agents.is_sdc | (scenario.agents.type != VEHICLE), 0.0, speed)))
    found = edit.set_sdc(scenario, int(scenario.agents.id[row]))
    assert_sound(found)
    assert_unchanged(
        dataclasses.replace(found, routes=None), dataclasses.replace(scenario, routes=None), "agents.is_sdc"
    )
    assert np.flatnonzero(found.agents.is_sdc).tolist() == [row]
    # Its own routes begin beside it.
    begin = found.routes.xyz[found.routes.valid[:, 0], 0, :2]
    assert len(begin) and np.linalg.norm(begin - scenario.log.xyz[10, row, :2], axis=-1).min() < 3
    with pytest.raises(ValueError, match="no agents"):
        edit.set_sdc(scenario, -1)


def test_an_edited_scene_rolls_out():
    """Slots that are free between agents stay empty in the jitted graph, and an added agent drives."""
    scenario = scene(num_agents=4)
    scenario = pad(scenario, axis_lengths(scenario) | {"N": 8})
    holes = edit.add_agent(edit.drop_agents(scenario, [101]), (60, 0, 0.75), 0.0, velocity=(10, 0), agent_id=500)
    assert np.flatnonzero(holes.agents.exists).tolist() == [0, 1, 2, 3]
    holes = edit.drop_agents(holes, [102])
    env = Env(config=EnvConfig(controlled="all", metrics=("log_divergence",), rewards=()))
    trace = jax.jit(lambda s, k: rollout(env, ConstantVelocity(), s, k, 10))(holes, jax.random.key(0))
    xyz, valid = np.asarray(trace.agents.xyz), np.asarray(trace.agents.valid)
    assert valid[-1].tolist() == [True, True, False, True, False, False, False, False]
    # 10 m/s for a second from 60 m, or from 0 and -60 m.
    np.testing.assert_allclose(xyz[-1, [0, 1, 3], 0], [10, 70, -50], atol=1e-3)
    divergence = trace.metrics["log_divergence"]
    np.testing.assert_array_equal(divergence.valid, valid)
    assert np.max(divergence.value) < 1e-2
