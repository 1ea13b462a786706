"""Reproduction of Waymax's benchmark: its parts against known answers, and all of it at a small size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.checkpoints import FOLDER
from tests.metrics.rules import NUM_STEPS, make_case, track
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic import synthetic_scene
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.route import Routes
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env import select_agents
from waymax_sim.metrics import Snapshot

waymax_agents = pytest.importorskip("examples.reproductions.waymax_agents", reason="flax or optax is not installed")
from examples.reproductions import (  # noqa: E402
    waymax_common,
    waymax_expert,
    waymax_modes,
    waymax_route,
    waymax_traffic,
)


def test_a_criterion_without_a_number_fails():
    for value, passed in ((0.5, True), (0.1, False), (np.nan, False), (np.inf, False)):
        assert waymax_common.Criterion("rate", value, low=0.2).passed == passed
    assert str(waymax_common.Criterion("rate", 0.5, low=0.2, high=0.4)).startswith("FAIL  rate: 0.5 (>= 0.2, <= 0.4)")


def test_intervals_resample_whole_scenes():
    scene = np.repeat(np.arange(10), 50)
    alike = np.repeat(np.arange(10) % 2, 50).astype(float)
    mixed = np.tile(np.arange(50) % 2, 10).astype(float)
    # Episodes of one scene are alike: the interval is that of 10 coins. If scenes are alike it has no width.
    mean, low, high = waymax_common.mean_interval(alike, scene)
    assert mean == 0.5 and low < 0.25 and high > 0.75
    assert waymax_common.mean_interval(mixed, scene) == (0.5, 0.5, 0.5)
    assert waymax_common.ratio_interval(mixed, mixed, scene) == (1.0, 1.0, 1.0)
    ratio, low, high = waymax_common.ratio_interval(mixed, 0 * mixed, scene)
    assert np.isinf(ratio) and np.isinf(low) and np.isinf(high)


def test_the_displacement_of_an_expert_is_that_of_a_loop():
    """Feedback removes the error of a jump of the log; without it the turn towards it is never undone."""
    steps, speed, dt = 30, 8.0, 0.1
    x = speed * dt * np.arange(steps + 1)
    xyz = np.zeros((steps + 1, 1, 3), np.float32)
    xyz[:, 0, 0], xyz[1:, 0, 1] = x, 0.5
    velocity = np.broadcast_to(np.float32([speed, 0.0]), (steps + 1, 1, 2))
    log = AgentState(xyz, np.zeros((steps + 1, 1), np.float32), velocity.copy(), np.ones((steps + 1, 1), bool))
    feedback, open_loop = (
        np.asarray(waymax_expert.displacement(Bicycle(), log, dt, mode))[:, 0] for mode in (True, False)
    )
    assert feedback[-1] < 0.15 and feedback.max() > 0.3
    assert open_loop[-1] > 1.0 and (np.diff(open_loop[6:]) > 0).all()
    agents = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), log)
    for step in range(3):
        target = jax.tree.map(lambda leaf, step=step: jnp.asarray(leaf[step + 1]), log)
        agents = Bicycle().apply(agents, Bicycle().invert(agents, target, dt).value, dt)
        distance = np.hypot(*(np.asarray(agents.xyz)[0, :2] - xyz[step + 1, 0, :2]))
        assert feedback[step] == pytest.approx(distance, abs=1e-4)


def test_fewer_levels_are_worse_on_noisy_curves():
    """Vehicles that weave: the order of the action spaces is that of their resolution."""
    rng, steps, dt = np.random.default_rng(0), 80, 0.1
    time = dt * np.arange(steps + 1)[:, None]
    speed, phase = rng.uniform(4.0, 12.0, 20), rng.uniform(0.0, 6.0, 20)
    yaw = 0.4 * np.sin(0.6 * time + phase)
    velocity = np.stack([speed * np.cos(yaw), speed * np.sin(yaw)], axis=-1)
    xyz = np.zeros((steps + 1, 20, 3))
    xyz[1:, :, :2] = np.cumsum(velocity[:-1] * dt, axis=0)
    leaves = (leaf.astype(np.float32) for leaf in (xyz, yaw, velocity))
    log = AgentState(*leaves, np.ones(yaw.shape, bool))
    spaces = {"bicycle": Bicycle()} | {str(n): Discrete(Bicycle(), bins=(n - 1, n - 1)) for n in (13, 3)}
    errors = [float(jnp.mean(waymax_expert.displacement(model, log, dt, True))) for model in spaces.values()]
    assert errors[0] < errors[1] < 0.5 * errors[2]


def test_egos_are_the_traveling_vehicles():
    scenario = to_scenario(synthetic_scene(0, 4), pad_to_bucket=False)
    expected = np.flatnonzero(select_agents(scenario, "traveling"))
    assert len(expected) > 2
    np.testing.assert_array_equal(waymax_traffic.traveling_vehicles(scenario), expected)


@jax.jit
def contact_sides(scenario, agents):
    """Number of contacts at the rear and at the sides of each agent, [2, N]."""

    def at(step):
        history = jax.tree.map(lambda leaf: leaf[step - 1 + jnp.arange(2, dtype=jnp.int32)], agents)
        snapshot = Snapshot(scenario, step, history)
        return jnp.stack([waymax_traffic.contact_side(snapshot, *side).value for side in waymax_traffic.SIDES.values()])

    return jnp.sum(jax.vmap(at)(jnp.arange(1, NUM_STEPS, dtype=jnp.int32)), axis=0)


def test_contacts_are_on_the_side_that_is_hit():
    north = np.pi / 2
    cases = {
        "the follower hits the rear of the first": ([track(x=10, speed=5), track()], [[1, 0], [0, 0]]),
        "the second meets the side of the first": ([track(x=-8), track(y=-11, yaw=north)], [[0, 0], [1, 0]]),
        "head-on": ([track(), track(x=20, yaw=np.pi)], [[0, 0], [0, 0]]),
    }
    for name, (tracks, expected) in cases.items():
        assert np.asarray(contact_sides(*make_case(tracks)))[:, :2].astype(int).tolist() == expected, name


def test_positions_off_the_route_are_found():
    """Two straight paths that separate at x = 0: the second one turns left."""
    x = np.arange(-20.0, 21.0, 1.0)
    straight = np.stack([x, 0 * x, 0 * x], axis=-1)
    left = np.stack([np.minimum(x, 0.0), np.maximum(x, 0.0), 0 * x], axis=-1)
    valid, arc = np.ones((2, len(x)), bool), np.tile(x + 20, (2, 1))
    xyz = np.stack([straight, left]).astype(np.float32)
    routes = Routes(xyz=xyz, arc_length=arc.astype(np.float32), valid=valid, on_route=np.array([True, False]))
    routes = jax.tree.map(jnp.asarray, routes)
    other = dataclasses.replace(routes, on_route=~routes.on_route)
    for path, expected in ((straight, (False, True)), (left, (True, False))):
        xy = jnp.asarray(path[:, :2], jnp.float32)
        assert tuple(bool(waymax_route.leaves_route(each, xy)) for each in (routes, other)) == expected


def test_a_gaussian_averages_two_lanes_and_a_categorical_does_not():
    config = waymax_modes.ModesConfig(num_episodes=200, num_steps=400, batch=256, width=32)
    shares = {}
    for head in ("categorical", "Gaussian"):
        params = jax.jit(lambda key, head=head: waymax_modes.clone(config, head, key))(jax.random.key(0))
        run = jax.jit(lambda params, key, head=head: waymax_modes.reached(params, head, "mode", key, 200)[0])
        shares[head] = float(run(params, jax.random.key(1)))
    assert shares["categorical"] > 0.9 and shares["Gaussian"] < 0.1


def test_policies_are_named_with_their_folders():
    with pytest.raises(ValueError, match="is not name=folder"):
        waymax_agents.learned_policies(["runs/bc"])
    bc, ppo = FOLDER / "bc", FOLDER / "ppo_selfplay"
    policies = waymax_agents.learned_policies([f"a={bc}", f"b={bc}", f"a={ppo}@5"])
    assert [policy.interval for policy in policies["a"]] == [2, 5] and len(policies["b"]) == 1


@pytest.mark.slow
def test_the_benchmark_runs_at_a_small_size(capsys):
    config = waymax_agents.BenchmarkConfig(experiments=("expert", "modes", "route"), quick=True)
    results = waymax_agents.main(config)
    printed = capsys.readouterr().out
    assert all(f"| {name} | idm |" in printed for name in ("pdm", "constant velocity"))
    assert {criterion.name[:2] for criterion in results} >= {"W1", "W2", "W4"}
    by_name = {criterion.name: criterion for criterion in results}
    # Experts need no training, so their controls hold at any size.
    assert by_name["W1 control, 13 levels without feedback / with"].value > 2.0
