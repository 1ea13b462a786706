"""Every policy and metric on every recorded format and on scenes without some content, with and without padding.

All combinations are traced: an index into an empty axis, a reduction over one, a wrong rank and a wrong dtype raise
then. Scenarios trace alike where the same axes have their minimum length, so one of each such structure is traced.
Values are those of one program of all metrics with a policy of each family, which scenes padded to one shape share;
the slow tests execute every policy on each scene.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import pytest

from behavior_models import IDM, PDM, ConstantVelocity
from behavior_models.registry import POLICIES
from tests.data import recorded
from tests.empty_scenes import REMOVALS, empty_scenario
from waymax_sim.datasets.loader import load
from waymax_sim.datasets.window import Window
from waymax_sim.datatypes.padding import axis_lengths, common_lengths, min_length, pad
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, EnvConfig, Trace, rollout
from waymax_sim.metrics import METRICS

pytestmark = pytest.mark.compile_heavy

# A sample of each recorded format.
RECORDED = (
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/tf_example_a3bb37c25ce56418.tfrecord",
    "gpudrive/1c365f15b70ebdbf.json",
    "gpudrive/2a173b334be3d32c_lights.json",
    "nocturne/example_scenario.json",
    "scenarionet/sd_waymo_v1.2_eb4b91b10ca94ff2.pkl",
    "scenarionet/sd_nuscenes_v1.0-mini_scene-1100.pkl",
    "argoverse2/scenario_0a1e6f0a-1817-4a98-b02e-db8c9327d151.parquet",
    "commonroad/USA_Lanker-1_1_T-1.xml",
)
# Axes that a step reads, by content: the axes of one index are all minimal or none is.
READ_AXES = ("N", "P", "D", "S", "M", "R", "edges.C", "lanes.C", "graph.Z")
MEASURED = Env(config=EnvConfig(metrics=tuple(METRICS), rewards=(), goals="end_of_log"))
UNMEASURED = Env(config=EnvConfig(metrics=(), rewards=()))
KEY = jax.random.key(0)
NUM_STEPS = 2
# The metrics that need a kind of content, by the removal of that content.
UNDEFINED = {
    "road edges": ("offroad", "offroad_outside_driveways", "road_departure", "road_edge_distance"),
    "lanes": ("wrong_way", "wrong_way_distance", "straddling", "speeding", "speeding_time"),
    "routes": ("off_route", "route_progression"),
    "points of routes": ("off_route", "route_progression"),
    "all but one point of routes": ("off_route", "route_progression"),
    "ego": ("off_route", "route_progression"),
    "map": ("offroad", "road_departure", "road_edge_distance", "wrong_way", "wrong_way_distance", "straddling"),
    "agents": tuple(METRICS),
    "states of agents": tuple(METRICS),
    "anything": tuple(METRICS),
}


class NamedScenario(NamedTuple):
    """A scenario and its name in messages."""

    name: str
    scenario: Scenario


def structure(scenario: Scenario) -> tuple:
    """Axes of minimum length, and the optional parts."""
    lengths = axis_lengths(scenario)
    minimal = frozenset(axis for axis in READ_AXES if lengths.get(axis) == min_length(axis))
    return minimal, scenario.routes is None


def synthetic_scenarios() -> Iterator[NamedScenario]:
    """A scene of the generator, and scenes without some content."""
    for pad_to_bucket in (False, True):
        yield NamedScenario("synthetic", load("synthetic:0:1", pad_to_bucket=pad_to_bucket)[0])
        for name in REMOVALS:
            scenario = empty_scenario(name, pad_to_bucket=pad_to_bucket)
            yield NamedScenario(f"without {name}", scenario)
            if name == "nothing" and not pad_to_bucket:
                yield NamedScenario("routes=None", dataclasses.replace(scenario, routes=None))


def recorded_scenarios() -> Iterator[NamedScenario]:
    """The recorded scenes of all formats."""
    for file in RECORDED:
        for pad_to_bucket in (False, True):
            yield NamedScenario(file, load(recorded(file), pad_to_bucket=pad_to_bucket)[0])


@functools.cache
def synthetic_structures() -> dict[tuple, NamedScenario]:
    """A synthetic scenario of each structure."""
    return {structure(item.scenario): item for item in synthetic_scenarios()}


@functools.cache
def recorded_structures() -> dict[tuple, NamedScenario]:
    """A recorded scenario of each structure that no synthetic scenario has."""
    found = {structure(item.scenario): item for item in recorded_scenarios()}
    return {key: item for key, item in found.items() if key not in synthetic_structures()}


def trace_rollout(env: Env, policy: str, item: NamedScenario) -> Trace:
    """Shapes of a rollout of one step; an error names the scenario."""
    try:
        record = ("agents", "actions", "metrics")
        return jax.eval_shape(lambda s: rollout(env, POLICIES[policy](), s, KEY, 1, record), item.scenario)
    except Exception as error:
        error.add_note(f"scenario: {item.name}")
        raise


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_trace_without_some_content(policy):
    for item in synthetic_structures().values():
        assert trace_rollout(UNMEASURED, policy, item).agents.xyz.shape == (1, item.scenario.num_agents, 3)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_trace_on_recorded_formats(policy):
    for item in recorded_structures().values():
        assert trace_rollout(UNMEASURED, policy, item).agents.xyz.shape == (1, item.scenario.num_agents, 3)


def check_metrics_trace(item: NamedScenario) -> None:
    values = trace_rollout(MEASURED, "stationary", item).metrics
    shapes = {"agent": (1, item.scenario.num_agents), "scene": (1,)}
    assert {name: value.valid.shape for name, value in values.items()} == {
        name: shapes[metric.per] for name, metric in METRICS.items()
    }


def test_metrics_trace_without_some_content():
    for item in synthetic_structures().values():
        check_metrics_trace(item)


def test_metrics_trace_on_recorded_formats():
    for item in recorded_structures().values():
        check_metrics_trace(item)


def check_values(trace: Trace, num_policies: int) -> None:
    """All values are finite; those of metrics are zero where they are not valid."""
    for leaf in jax.tree.leaves((trace.agents, trace.metrics)):
        assert np.isfinite(leaf).all()
    for value in trace.metrics.values():
        assert not value.value[~value.valid].any()
    assert len(trace.actions) == num_policies
    for action in trace.actions:
        assert np.isfinite(action.value[action.valid]).all()


@functools.partial(jax.jit, static_argnums=0)
def simulate(env: Env, policies: Assignment, scenario: Scenario) -> Trace:
    return rollout(env, policies, scenario, KEY, NUM_STEPS, ("agents", "actions", "metrics"))


@pytest.fixture(scope="module")
def padded_scenarios() -> dict[str, Scenario]:
    """Scenes without some content, padded to one shape."""
    scenarios = {name: empty_scenario(name) for name in REMOVALS}
    lengths = common_lengths(list(scenarios.values()))
    return {name: pad(scenario, lengths) for name, scenario in scenarios.items()}


# A policy of each family.
FAMILIES = Assignment((PDM(), IDM(), ConstantVelocity()), ("sdc", "others", "none"))


@pytest.mark.parametrize("name", REMOVALS)
def test_values_without_some_content_are_finite_or_invalid(name, padded_scenarios):
    trace = jax.device_get(simulate(MEASURED, FAMILIES, padded_scenarios[name]))
    check_values(trace, num_policies=3)
    for metric in UNDEFINED.get(name, ()):
        assert not trace.metrics[metric].valid.any(), metric
    has_agents = name not in ("agents", "states of agents", "anything")
    assert trace.metrics["overlap"].valid.any() == has_agents
    planned, followed, _ = trace.actions
    assert planned.valid.any() == (has_agents and name != "ego")
    assert followed.valid.any() == has_agents


def test_metrics_of_the_content_are_valid_with_all_of_it(padded_scenarios):
    trace = jax.device_get(simulate(MEASURED, FAMILIES, padded_scenarios["nothing"]))
    undefined = {metric for metrics in UNDEFINED.values() for metric in metrics if len(metrics) < len(METRICS)}
    assert {metric for metric in undefined if trace.metrics[metric].valid.any()} == undefined


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_acts_without_some_content(policy, padded_scenarios):
    assignment = Assignment.from_policies(POLICIES[policy](), "all")
    for scenario in (*padded_scenarios.values(), empty_scenario("nothing"), empty_scenario("anything")):
        check_values(jax.device_get(simulate(UNMEASURED, assignment, scenario)), num_policies=1)


@pytest.fixture(scope="module")
def recorded_windows() -> dict[str, Scenario]:
    """The recorded scenes of all formats, cut and padded to one shape."""
    window = Window(num_steps=21, current_step=10)
    scenarios = {file: load(recorded(file), pad_to_bucket=False, window=window)[0] for file in RECORDED}
    lengths = common_lengths(list(scenarios.values()))
    return {file: pad(scenario, lengths) for file, scenario in scenarios.items()}


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_acts_on_recorded_formats(policy, recorded_windows):
    assignment = Assignment.from_policies(POLICIES[policy](), "all")
    for scenario in recorded_windows.values():
        check_values(jax.device_get(simulate(UNMEASURED, assignment, scenario)), num_policies=1)


@pytest.mark.slow
def test_values_on_recorded_formats_are_finite_or_invalid(recorded_windows):
    for scenario in recorded_windows.values():
        trace = jax.device_get(simulate(MEASURED, FAMILIES, scenario))
        check_values(trace, num_policies=3)
        assert trace.metrics["overlap"].valid.any()
