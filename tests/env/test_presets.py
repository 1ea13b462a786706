"""Rewards and terminations of the presets in synthetic steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.rules import make_case, track
from waymax_sim.datatypes.state import CALLER, LOG, State
from waymax_sim.env import PRESETS, Env, EnvConfig
from waymax_sim.maps.goals import log_end_goals, point_on_route
from waymax_sim.metrics import METRICS
from waymax_sim.metrics.goal import goal_reached
from waymax_sim.pytree import tree_index

AT = 12


@functools.cache
def evaluator(config: EnvConfig):
    env = Env(config=config)

    @jax.jit
    def evaluate(scenario, agents, controller):
        history = tree_index(agents, slice(AT + 1 - env.num_history_steps(), AT + 1))
        no_agent = jnp.zeros(controller.shape, bool)
        step = jnp.asarray(AT, jnp.int32)
        state = State(
            step=step,
            history=history,
            controller=controller,
            ended=no_agent,
            goal_reached=no_agent,
            key=jax.random.key(0),
        )
        return env.evaluate_state(scenario, state, has_advanced=jnp.asarray(True))

    return evaluate


def outcome(config: EnvConfig, tracks, **changes):
    """Evaluation of a step in which the caller controls all agents but the third."""
    scenario, agents = make_case(tracks, **changes)
    controller = jnp.asarray([CALLER, CALLER, LOG, CALLER, CALLER, CALLER], jnp.int32)
    return evaluator(config)(jax.device_put(scenario), agents, controller)


def test_safety():
    # One runs a red light, with the bumper over the line in the step; two others overlap; one is off the road.
    tracks = [track(x=6.5), track(x=-40), track(x=-40), track(x=-80, y=-5)]
    out = outcome(PRESETS["safety"], tracks)
    np.testing.assert_array_equal(out.reward[:4], [-1, -1, 0, -1])
    np.testing.assert_array_equal(out.agent_terminated[:4], [True, True, False, True])
    assert out.terminated
    calm = outcome(PRESETS["safety"], [track(x=-50), track(x=-70)])
    assert not np.any(calm.reward) and not calm.terminated


@pytest.mark.slow
def test_nuplan():
    # Alone in the lane at the limit of 13.4 m/s: 1/35 of the logged path. The history covers the window of each metric.
    compliant = outcome(PRESETS["nuplan"], [track(x=-40, speed=13.3), track(x=-80, speed=1)])
    np.testing.assert_allclose(compliant.reward[:2], 5 / 16 / 35, atol=1e-5)
    assert not compliant.terminated
    # 2.23 m/s too fast, and 0.5 s from the rear of one that is as far from being hit.
    late = outcome(PRESETS["nuplan"], [track(x=-40, speed=15.63), track(x=-24.5, speed=4)], log=[track(speed=1)] * 2)
    assert float(late.metrics["time_to_collision"].value[0]) < 0.95
    progress = float(late.metrics["log_progress"].value[0])
    assert float(late.reward[0]) == pytest.approx(5 / 16 * progress - 4 / 16 / 80 - 5 / 16 / 80, abs=1e-5)
    # 0.25 m off the road is forgiven, 0.35 m is not.
    for y, ended in ((-1.0, False), (-1.1, True)):
        off = outcome(PRESETS["nuplan"], [track(x=-40, y=y)])
        assert bool(off.terminated) == ended
        assert float(off.reward[0]) == pytest.approx(5 / 16 / 35 - ended, abs=1e-5)
    # Against the lane: 1 m of 6.
    against = outcome(PRESETS["nuplan"], [track(x=-40, y=7)])
    assert float(against.reward[0]) == pytest.approx(5 / 16 / 35 - 1 / 6, abs=1e-5)


def test_goal():
    log = [track(x=-40), track(x=-80)]
    near = outcome(PRESETS["goal"], [track(x=-40), track(x=-80)], log=log)
    np.testing.assert_allclose(near.reward[:2], 0.01, atol=1e-5)
    assert not near.terminated
    # At the end of the log, where it stays; the one that stands and the one that leaves are not.
    at_goal = outcome(PRESETS["goal"], [track(x=-5.5, speed=0), track(x=-80, speed=0)], log=log)
    np.testing.assert_allclose(at_goal.reward[:2], [1, 0], atol=1e-5)
    np.testing.assert_array_equal(at_goal.agent_terminated[:2], [True, False])
    # The second is beyond its goal by now.
    hit = outcome(PRESETS["goal"], [track(x=-40), track(x=-38)], log=log)
    np.testing.assert_allclose(hit.reward[:2], 0.01 * np.array([1, -1]) - 0.75, atol=1e-5)


def test_shaped():
    """As "goal", with 0.1 per meter that margins lack: 0.25 m to the edge, 0.4 m to the next vehicle."""
    log = [track(x=-40), track(x=-80)]
    alone = outcome(PRESETS["shaped"], [track(x=-40), track(x=-80)], log=log)
    np.testing.assert_allclose(alone.reward[:2], 0.01 - 0.025, atol=1e-5)
    beside = outcome(PRESETS["shaped"], [track(x=-40), track(x=-40, y=2.6)], log=[track(x=-40), track(x=-40, y=2.6)])
    np.testing.assert_allclose(beside.reward[:2], [0.01 - 0.025 - 0.04, 0.01 - 0.04], atol=1e-5)
    off = outcome(PRESETS["shaped"], [track(x=-40, y=-1.0)], log=[track(x=-40, y=-1.0)])
    assert float(off.reward[0]) == pytest.approx(0.01 - 2 - 0.125, abs=1e-5) and off.agent_terminated[0]


def test_goals_of_ones_own_and_another_radius():
    far = dataclasses.replace(METRICS["goal_reached"], compute=functools.partial(goal_reached, radius=8.0))
    config = EnvConfig(metrics=(far,), rewards=(("goal_reached", 1.0),), terminate_on=("goal_reached",))
    scenario, agents = make_case([track(x=-40), track(x=-80)])
    xy = np.asarray(agents.xyz[AT, :, :2]) + np.float32([[7.0, 0], [9.0, 0], [0, 0], [0, 0], [0, 0], [0, 0]])
    goals = dataclasses.replace(log_end_goals(scenario), xy=xy)
    scenario = jax.device_put(dataclasses.replace(scenario, goals=goals))
    out = evaluator(config)(scenario, agents, jnp.full(6, CALLER, jnp.int32))
    np.testing.assert_array_equal(out.reward[:2], [1, 0])


def test_a_point_on_the_route_is_for_the_sdc():
    scenario, _ = make_case([track(), track(x=-20)])
    goals = point_on_route(scenario, 30.0)
    np.testing.assert_array_equal(goals.valid, np.asarray(scenario.agents.is_sdc) & (scenario.routes is not None))
    # The sdc stands at the origin and its lane goes along x.
    np.testing.assert_allclose(goals.xy[0], [30, 0], atol=1.0)
    assert not point_on_route(dataclasses.replace(scenario, routes=None), 30.0).valid.any()


def test_bounds_and_names_are_checked():
    with pytest.raises(ValueError, match="'speeding' is rewarded or terminates"):
        EnvConfig(terminate_on=(("speeding", 2.0),))
    with pytest.raises(ValueError, match="'speeding' is rewarded or terminates"):
        EnvConfig(rewards=(("speeding", -1.0, 2.0),))
    assert set(PRESETS) == {"safety", "nuplan", "goal", "shaped"}
    assert len({hash(config) for config in PRESETS.values()}) == 4
