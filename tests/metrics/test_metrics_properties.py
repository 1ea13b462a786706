"""What holds for every metric, and must not change when a scene is described differently."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scenes import busy_raw_scene, measure, raw_scene, scene
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.padding import stack_scenarios
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics import METRICS, Metric, MetricValue, Snapshot, judge, resolve
from waymax_sim.pytree import take

SEEDS = pytest.mark.parametrize("seed", range(3))
AGENTS = 12


def at(scenario: Scenario, step: int = 5) -> dict[str, MetricValue]:
    """All metrics at a step when agents are where the log has them two steps later."""
    history = take(scenario.log, slice(0, step + 3))
    return judge(Snapshot(scenario, jnp.asarray(step), history, 0.1), METRICS)


at_now = jax.jit(at)


def same(found: dict, expected: dict, atol: float = 0.0) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].valid, value.valid, err_msg=name)
        np.testing.assert_allclose(found[name].value, value.value, rtol=0, atol=atol, err_msg=name)


def test_the_busy_scene_is_busy():
    """The properties below mean something: every metric is somewhere valid, and somewhere neither 0 nor invalid."""
    found = [at_now(to_scenario(busy_raw_scene(seed))) for seed in range(3)]
    for name in METRICS:
        assert any(np.asarray(result[name].valid).any() for result in found), name
        assert any(np.asarray(result[name].value).any() for result in found), name


def moved(raw: RawScene, angle: float, shift: np.ndarray) -> RawScene:
    """The scene turned by `angle` and shifted in the world."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return dataclasses.replace(
        raw,
        xyz=raw.xyz @ turn.T + shift,
        yaw=raw.yaw + angle,
        velocity=raw.velocity @ turn[:2, :2].T,
        point_xyz=raw.point_xyz @ turn.T + shift,
        signal_stop_point=raw.signal_stop_point @ turn.T + shift,
        routes=dataclasses.replace(raw.routes, xyz=raw.routes.xyz @ turn.T + shift),
    )


@SEEDS
@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5, 7.0])
def test_metrics_do_not_depend_on_the_world_frame(seed, angle):
    raw = busy_raw_scene(seed)
    shift = np.array([8000.0, -12000.0, 300.0]) + seed / 3
    same(at_now(to_scenario(moved(raw, angle, shift))), at_now(to_scenario(raw)), atol=1e-4)


@SEEDS
def test_metrics_do_not_depend_on_the_order_of_agents(seed):
    raw = busy_raw_scene(seed)
    order = np.random.default_rng(seed).permutation(AGENTS)
    shuffled = dataclasses.replace(
        raw,
        **{name: getattr(raw, name)[order] for name in ("agent_id", "agent_type", "to_predict", "of_interest")},
        **{name: getattr(raw, name)[:, order] for name in ("xyz", "yaw", "velocity", "size", "valid")},
        sdc_index=int(np.flatnonzero(order == raw.sdc_index)[0]),
    )
    before, after = at_now(to_scenario(raw, bucketed=False)), at_now(to_scenario(shuffled, bucketed=False))
    for name, metric in METRICS.items():
        if metric.per == "agent":
            before[name] = take(before[name], order)
    same(after, before)


@SEEDS
def test_metrics_do_not_depend_on_padding(seed):
    exact, padded = (to_scenario(busy_raw_scene(seed, num_agents=9), bucketed=bucketed) for bucketed in (False, True))
    assert padded.num_agents == 16 and padded.edges.valid.shape > exact.edges.valid.shape
    found = at_now(padded)
    for name, metric in METRICS.items():
        if metric.per == "agent":
            np.testing.assert_array_equal(found[name].valid[9:], False)
            np.testing.assert_array_equal(found[name].value[9:], 0)
            found[name] = take(found[name], slice(0, 9))
    same(found, at_now(exact))


def test_a_batch_equals_its_scenes():
    scenarios = [to_scenario(busy_raw_scene(seed, num_agents=9 + seed), bucketed=False) for seed in range(3)]
    batch = stack_scenarios(scenarios)
    found = jax.jit(jax.vmap(at))(batch)
    for index, scenario in enumerate(scenarios):
        alone = at_now(scenario)
        for name, metric in METRICS.items():
            batched = take(found[name], index)
            if metric.per == "agent":
                batched = take(batched, slice(0, scenario.num_agents))
            same({name: batched}, {name: alone[name]}, atol=1e-5)


def test_compiled_equals_not_compiled():
    scenario = jax.tree.map(jnp.asarray, to_scenario(busy_raw_scene()))
    same(at(scenario), at_now(scenario), atol=1e-5)


NOTHING = [
    ("all agents absent", dict(valid=np.zeros((21, 3), bool)), set()),
    ("pedestrians only", dict(agent_type=np.full(3, 2)), {"kinematic_infeasibility", "wrong_way"}),
    ("no lanes, no edges", dict(feature_type=np.array([7, 7, 7, 7])), {"wrong_way", "offroad", "road_edge_distance"}),
    ("no sdc", dict(sdc_index=-1), {"off_route", "route_progression"}),
    (
        "no map",
        dict(
            point_xyz=np.zeros((0, 3)),
            point_feature=np.zeros(0, int),
            feature_id=np.zeros(0, int),
            feature_type=np.zeros(0, int),
            speed_limit=np.zeros(0),
        ),
        {"wrong_way", "offroad", "road_edge_distance"},
    ),
]


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize(("case", "changes", "undefined"), NOTHING, ids=[case for case, _, _ in NOTHING])
def test_what_is_undefined_is_zero_and_not_valid(case, changes, undefined, bucketed):
    found = at_now(to_scenario(raw_scene(**changes), bucketed=bucketed))
    for name in METRICS:
        valid, value = np.asarray(found[name].valid), np.asarray(found[name].value)
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value[~valid], 0)
        if case == "all agents absent" or name in undefined:
            assert not valid.any(), name
        elif METRICS[name].per == "agent":
            assert valid[:3].all(), name


@pytest.mark.parametrize("name", ["log_divergence", "road_edge_distance", "off_route", "route_progression"])
def test_gradients_are_finite_at_the_log(name):
    scenario = to_scenario(busy_raw_scene())

    @jax.jit
    @functools.partial(jax.grad, allow_int=True)
    def gradient(agents):
        return jnp.sum(measure(METRICS[name].compute, scenario, agents).value)

    for step in range(3, 8):
        found = gradient(take(scenario.log, step))
        assert all(np.isfinite(leaf).all() for leaf in (found.xyz, found.yaw, found.velocity))


def test_no_metric_makes_nan_on_its_way():
    scenario = to_scenario(busy_raw_scene())
    absent = to_scenario(busy_raw_scene(), bucketed=True)
    absent = dataclasses.replace(absent, log=jax.tree.map(np.zeros_like, absent.log))
    with jax.debug_nans(True):
        for case in (scenario, absent, scene()):
            jax.block_until_ready(at_now(case))


def test_names_are_resolved_or_refused():
    own = Metric("mine", METRICS["overlap"].compute, per="agent", unit="1", over_time="max")
    assert list(resolve(["offroad", own])) == ["offroad", "mine"]
    with pytest.raises(ValueError, match="unknown metric 'ofroad'"):
        resolve(["ofroad"])
    with pytest.raises(ValueError, match="twice"):
        resolve(["offroad", "offroad"])
    assert all(name == metric.name for name, metric in METRICS.items())
