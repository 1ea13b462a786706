"""Gradients of a step and its metrics: finite, and exactly zero where agents, actions and the map are masked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.empty_scenes import empty_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.env import Env, EnvConfig
from waymax_sim.metrics import METRICS

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(controlled="all", metrics=tuple(METRICS), rewards=(), goals="end_of_log"))
KEY = jax.random.key(0)
NUM_AGENTS, NUM_SLOTS = 3, 5
# Agents without an action; the last two slots are padding.
NO_ACTION = np.array([False, False, True, True, True])
PADDED_AXES = ("P", "edges.C", "lanes.C", "graph.Z", "S", "M", "R")


def road() -> Scenario:
    """The scene with two padding agents and padding of the map, lights and routes."""
    scenario = empty_scenario("nothing", num_agents=NUM_AGENTS)
    lengths = axis_lengths(scenario)
    return pad(scenario, lengths | {axis: lengths[axis] + 2 for axis in PADDED_AXES} | {"N": NUM_SLOTS})


def inputs(scenario: Scenario) -> dict[str, np.ndarray]:
    """The arrays of a scene by which the loss is differentiated."""
    return {
        "log_xyz": scenario.log.xyz,
        "log_yaw": scenario.log.yaw,
        "log_velocity": scenario.log.velocity,
        "edges": scenario.edges.endpoints,
        "lanes": scenario.lanes.endpoints,
        "stop_lines": scenario.graph.stop_lines.xyz,
        "routes": scenario.routes.xyz,
    }


def with_inputs(scenario: Scenario, values: dict) -> Scenario:
    lines = dataclasses.replace(scenario.graph.stop_lines, xyz=values["stop_lines"])
    log = AgentState(values["log_xyz"], values["log_yaw"], values["log_velocity"], scenario.log.valid)
    return dataclasses.replace(
        scenario,
        log=log,
        edges=dataclasses.replace(scenario.edges, endpoints=values["edges"]),
        lanes=dataclasses.replace(scenario.lanes, endpoints=values["lanes"]),
        graph=dataclasses.replace(scenario.graph, stop_lines=lines),
        routes=dataclasses.replace(scenario.routes, xyz=values["routes"]),
    )


def masks(scenario: Scenario) -> dict[str, np.ndarray]:
    """True where an entry of `inputs` is masked."""
    absent = ~scenario.log.valid
    return {
        "log_xyz": absent,
        "log_yaw": absent,
        "log_velocity": absent,
        "edges": ~scenario.edges.valid,
        "lanes": ~scenario.lanes.valid,
        "stop_lines": scenario.graph.stop_lines.lane < 0,
        "routes": ~scenario.routes.valid,
    }


def rows(name: str, array: np.ndarray) -> np.ndarray:
    """A view of an array with the axes of its mask first; coordinates of segments are on the middle axis."""
    return np.swapaxes(array, 1, 2) if name in ("edges", "lanes") else array


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.grad, argnums=(1, 2))
def gradient(env: Env, value, values, scenario, valid):
    """Gradients of the sum of all metrics and positions after two steps, by actions and by a scene."""
    scenario = with_inputs(scenario, values)
    state: State = env.initial_state(scenario, KEY)
    loss = jnp.zeros(())
    for _ in range(2):
        state, out = env.step(scenario, state, Action(value=value, valid=valid))
        loss = loss + sum(jnp.sum(item.value) for item in out.metrics.values()) + jnp.sum(state.agents.xyz)
    return loss


def actions(hidden: float) -> np.ndarray:
    """Accelerations and curvatures; the rows without an action hold a number that is not used."""
    value = np.broadcast_to(np.array([0.5, 0.01], np.float32), (NUM_SLOTS, 2)).copy()
    value[NO_ACTION] = hidden
    return value


@pytest.mark.parametrize("hidden", [None, np.nan])
def test_gradients_behind_masks_are_zero(hidden):
    """Neither padding nor NaN in masked actions, states and parts of the map reaches any gradient."""
    scenario = road()
    masked = masks(scenario)
    values = {name: array.copy() for name, array in inputs(scenario).items()}
    if hidden is not None:
        for name, array in values.items():
            rows(name, array)[masked[name]] = hidden
    by_action, by_scene = jax.device_get(gradient(ENV, actions(hidden or 0.0), values, scenario, ~NO_ACTION))
    assert np.isfinite(by_action).all() and not by_action[NO_ACTION].any()
    assert (by_action[~NO_ACTION] != 0).all()
    for name, array in by_scene.items():
        assert np.isfinite(array).all(), name
        assert masked[name].any() and not rows(name, array)[masked[name]].any(), name
        # Light and stop sign end no metric that is differentiable by the position of their line.
        assert array.any() == (name != "stop_lines"), name
