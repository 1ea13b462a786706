"""Options of the flat view against sequential versions: history, lights as a set, goal and route left out."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import waymax_sim as ws
from tests.oracle_view import agents_in_view, history_in_frame, in_frame
from tests.scenes import busy_raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.env.flat_view import FlatView

K, E, H, STRIDE, L = 5, 3, 2, 2, 4
PLAIN = FlatView("all", K, E)
FULL = FlatView("all", K, E, num_history=H, history_stride=STRIDE, lights="set", num_lights=L)
BARE = FlatView("all", K, E, lights="none", goal=False, route=False)
LIGHT_CODES = ((1, 4, 7), (2, 5, 8), (3, 6))


@pytest.fixture(scope="module")
def observation():
    """Agents all around, and three lights, of which one is not observed."""
    raw = busy_raw_scene()
    steps, lights = len(raw.timestamps), 3
    rng = np.random.default_rng(3)
    stop = raw.xyz[0, raw.sdc_index] + np.array([[5.0, 3.0, 0.0], [-20.0, 8.0, 0.0], [40.0, -9.0, 0.0]])
    raw = dataclasses.replace(
        raw,
        signal_lane_id=np.full(lights, int(raw.feature_id[0])),
        signal_state=rng.integers(1, 9, (steps, lights)),
        signal_stop_point=np.broadcast_to(stop, (steps, lights, 3)).copy(),
        signal_valid=np.broadcast_to([True, True, False], (steps, lights)).copy(),
    )
    config = ws.EnvConfig(metrics=(), rewards=(), num_history_steps=FULL.num_history_steps)
    env, scenario = ws.Env(config=config), to_scenario(raw, pad_to_bucket=False)
    return jax.jit(lambda scenario: env.observe(scenario, env.initial_state(scenario, jax.random.key(0))))(scenario)


@pytest.fixture(scope="module")
def rows(observation):
    """Rows of the three views, each as a dictionary of features."""
    views = (PLAIN, FULL, BARE)
    encoded = jax.jit(lambda observation: [view(observation) for view in views])(observation)
    return [split(view, np.asarray(flat)) for view, flat in zip(views, encoded, strict=True)]


def split(view: FlatView, flat: np.ndarray) -> dict[str, np.ndarray]:
    """The features of rows by name."""
    parts, begin = {}, 0
    for feature in view.spec().features:
        parts[feature.name] = flat[:, begin : begin + feature.size].reshape(-1, *feature.shape)
        begin += feature.size
    assert begin == flat.shape[1] == view.spec().size
    return parts


def test_options_add_and_remove_whole_features(rows):
    plain, full, bare = rows
    assert list(plain) == ["agents", "elements", "goal", "remaining_time", "route"]
    assert list(full) == [*plain, "history", "lights"] and list(bare) == ["agents", "elements", "remaining_time"]
    for name in ("agents", "goal", "remaining_time", "route"):
        np.testing.assert_array_equal(full[name], plain[name])
    # Lights are the last three values of a polyline.
    for other in (full, bare):
        np.testing.assert_array_equal(other["elements"], plain["elements"][..., :-3])
    assert plain["elements"][..., -3:].any()


def test_history_is_that_of_the_agents_of_the_view(observation, rows):
    host = jax.tree.map(np.asarray, observation)
    xyz, valid = host.history.xyz[-1], host.history.valid[-1]
    checked = 0
    for observer in range(len(valid)):
        members = agents_in_view(xyz, valid, observer, K)
        expected = np.zeros((K, H, 7))
        for entry, agent in enumerate(members):
            states = history_in_frame(host.history, observer, agent)
            for past in range(H):
                state = states[len(states) - 1 - STRIDE * (past + 1)]
                if state is not None:
                    (x, y, _), yaw, (vx, vy) = state
                    heading = math.cos(yaw), math.sin(yaw)
                    expected[entry, past] = [1.0, x / 20, y / 20, *heading, vx / 10, vy / 10]
                    checked += 1
        np.testing.assert_allclose(rows[1]["history"][observer], expected, atol=1e-4)
    assert checked > 40


def test_lights_are_the_nearest_observed_ones(observation, rows):
    host = jax.tree.map(np.asarray, observation)
    signals, agents = host.signals, host.history
    for observer in np.flatnonzero(agents.valid[-1]):
        origin, yaw = agents.xyz[-1, observer], agents.yaw[-1, observer]
        expected = np.zeros((L, 6))
        seen = [light for light in np.flatnonzero(signals.valid)]
        seen.sort(key=lambda light: math.dist(signals.stop_point[light, :2], origin[:2]))
        for entry, light in enumerate(seen):
            x, y, _ = in_frame(signals.stop_point[light], origin, yaw)
            kinds = [float(signals.state[light] in codes) for codes in LIGHT_CODES]
            expected[entry] = [1.0, x / 20, y / 20, *kinds]
        assert len(seen) == 2
        np.testing.assert_allclose(rows[1]["lights"][observer], expected, atol=1e-4)


def test_a_specification_names_every_option():
    others = [
        FULL,
        BARE,
        dataclasses.replace(FULL, history_stride=1),
        dataclasses.replace(FULL, num_history=1),
        dataclasses.replace(FULL, num_lights=5),
        dataclasses.replace(PLAIN, goal=False),
        dataclasses.replace(PLAIN, route=False),
        dataclasses.replace(PLAIN, lights="none"),
    ]
    for number, view in enumerate(others):
        stored = view.spec().to_dict()
        differences = [other.spec().difference(stored) for other in [PLAIN, *others]]
        assert [index for index, found in enumerate(differences) if found is None] == [number + 1]


def test_specifications_without_options_are_those_of_stored_policies():
    spec = FlatView("controlled", num_agents=8, num_polylines=24).spec()
    assert (spec.encoder, spec.version, spec.size) == ("flat_view", 2, 8 * 13 + 24 * 32 + 6 + 1 + 30)


def test_a_view_refuses_too_little_history(observation):
    with pytest.raises(ValueError, match=r"needs 7 steps of history, the observation has 5: set EnvConfig"):
        jax.eval_shape(FlatView("all", K, E, num_history=3, history_stride=2), observation)
    with pytest.raises(ValueError, match="history_stride"):
        FlatView(history_stride=0)
