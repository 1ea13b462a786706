"""Properties of every metric, among them invariance under equivalent descriptions of a scene."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scenes import busy_raw_scene, measure, raw_scene, scene
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.padding import axis_lengths, pad, stack_scenarios
from waymax_sim.datatypes.roadmap import CONTROLS, LANE_SURFACE_STREET, STOP_SIGN
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics import METRICS, Metric, MetricValue, Snapshot, compute_metrics, resolve
from waymax_sim.pytree import stack, tree_index

pytestmark = pytest.mark.compile_heavy

SEEDS = pytest.mark.parametrize("seed", range(3))
# Each shape compiles another program of all metrics.
BUCKETED = pytest.mark.parametrize("pad_to_bucket", [pytest.param(False, marks=pytest.mark.slow), True])
FEW_SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
AGENTS = 12


def lawless_raw_scene(seed: int = 0, num_agents: int = AGENTS) -> RawScene:
    """The busy scene with a red light, a stop sign, a low speed limit, two objects, and agents with erratic motion."""
    raw = busy_raw_scene(seed, num_agents)
    rng, shape = np.random.default_rng(seed), raw.valid.shape
    is_parked = rng.random(num_agents) < 0.3
    xyz = np.where(is_parked[:, None], raw.xyz[:1], raw.xyz)
    extra_lane, sign = len(raw.feature_id), len(raw.feature_id) + 1
    along = np.arange(-100.0, 100.5, 1.0)
    lane = np.stack([along, np.full_like(along, -3.5), 0 * along], axis=-1)
    return dataclasses.replace(
        raw,
        agent_type=np.append(raw.agent_type[:-2], [4, 4]),
        xyz=xyz,
        valid=rng.random(shape) < 0.97,
        yaw=np.where(rng.random(shape) < 0.5, 0.0, raw.yaw),
        point_xyz=np.concatenate([raw.point_xyz, lane, [[5.0, -3.0, 0.0]]]),
        point_feature=np.append(raw.point_feature, [extra_lane] * len(lane) + [sign]),
        feature_id=np.append(raw.feature_id, [10 + extra_lane, 10 + sign]),
        feature_type=np.append(raw.feature_type, [LANE_SURFACE_STREET, STOP_SIGN]),
        speed_limit=np.full(sign + 1, 3.0),
        links=np.array([[sign, 0, CONTROLS]]),
        signal_lane_id=np.array([11]),
        signal_state=np.full((shape[0], 1), 4),
        signal_stop_point=np.broadcast_to([-5.0, 3.5, 0.0], (shape[0], 1, 3)),
    )


def at(scenario: Scenario, step: int = 15) -> dict[str, MetricValue]:
    """All metrics at a step, ten after the current one, with the agents at their logged states two steps later."""
    history = tree_index(scenario.log, slice(0, step + 3))
    return compute_metrics(Snapshot(scenario, jnp.asarray(step), history), METRICS)


at_now = jax.jit(at)
batched = jax.jit(jax.vmap(at))


def same(found: dict, expected: dict, atol: float = 0.0) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].valid, value.valid, err_msg=name)
        np.testing.assert_allclose(found[name].value, value.value, rtol=0, atol=atol, err_msg=name)


def test_the_busy_scene_is_busy():
    """The tests below are not vacuous: every metric is valid and nonzero in some scene."""
    never = set(METRICS)
    for seed in range(90):
        found = at_now(to_scenario(lawless_raw_scene(seed)))
        never -= {name for name in never if np.any(np.asarray(found[name].value)[np.asarray(found[name].valid)])}
        if not never:
            return
    raise AssertionError(f"never valid and nonzero: {never}")


def moved(raw: RawScene, angle: float, shift: np.ndarray) -> RawScene:
    """The scene rotated by `angle` and shifted in the world."""
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
@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5, 1.0 + 2 * np.pi, pytest.param(7.0, marks=pytest.mark.slow)])
def test_metrics_do_not_depend_on_the_world_frame(seed, angle):
    raw = lawless_raw_scene(seed)
    shift = np.array([8000.0, -12000.0, 300.0]) + seed / 3
    same(at_now(to_scenario(moved(raw, angle, shift))), at_now(to_scenario(raw)), atol=1e-4)


@SEEDS
def test_metrics_do_not_depend_on_the_order_of_agents(seed):
    raw = lawless_raw_scene(seed)
    order = np.random.default_rng(seed).permutation(AGENTS)
    padded = np.append(order, np.arange(AGENTS, 16))
    shuffled = dataclasses.replace(
        raw,
        **{name: getattr(raw, name)[order] for name in ("agent_id", "agent_type", "to_predict", "of_interest")},
        **{name: getattr(raw, name)[:, order] for name in ("xyz", "yaw", "velocity", "size", "valid")},
        sdc_index=int(np.flatnonzero(order == raw.sdc_index)[0]),
    )
    before, after = at_now(to_scenario(raw)), at_now(to_scenario(shuffled))
    for name, metric in METRICS.items():
        if metric.per == "agent":
            before[name] = tree_index(before[name], padded)
    same(after, before, atol=1e-5)


@FEW_SEEDS
def test_metrics_do_not_depend_on_padding(seed):
    exact, padded = (
        to_scenario(lawless_raw_scene(seed, num_agents=9), pad_to_bucket=pad_to_bucket)
        for pad_to_bucket in (False, True)
    )
    assert padded.num_agents == 16 and padded.edges.valid.shape > exact.edges.valid.shape
    found = at_now(padded)
    for name, metric in METRICS.items():
        if metric.per == "agent":
            np.testing.assert_array_equal(found[name].valid[9:], False)
            np.testing.assert_array_equal(found[name].value[9:], 0)
            found[name] = tree_index(found[name], slice(0, 9))
    same(found, at_now(exact), atol=1e-5)


@pytest.mark.slow
@BUCKETED
def test_a_batch_equals_its_scenes(pad_to_bucket):
    scenarios = [
        to_scenario(lawless_raw_scene(seed, num_agents=9 + seed), pad_to_bucket=pad_to_bucket) for seed in range(3)
    ]
    batch = stack_scenarios(scenarios)
    found = batched(batch)
    for index, scenario in enumerate(scenarios):
        alone = at_now(scenario)
        for name, metric in METRICS.items():
            one = tree_index(found[name], index)
            if metric.per == "agent":
                one = tree_index(one, slice(0, scenario.num_agents))
            same({name: one}, {name: alone[name]}, atol=1e-5)


@pytest.mark.slow
def test_compiled_equals_not_compiled():
    scenario = jax.device_put(to_scenario(lawless_raw_scene()))
    same(at(scenario), at_now(scenario), atol=1e-5)


# Traffic rules are for vehicles and cyclists; the synthetic road has a green light and no stop sign.
LANE_METRICS = {"wrong_way", "wrong_way_distance", "speeding", "speeding_time", "straddling"}
LANE_METRICS |= {"red_light_violation", "stop_sign_violation"}
EDGE_METRICS = {"offroad", "offroad_outside_driveways", "road_departure", "road_edge_distance", "edge_deficit"}
CASES_WITHOUT_VALUES = [
    ("all agents absent", dict(valid=np.zeros((21, 3), bool)), set()),
    (
        "pedestrians only",
        dict(agent_type=np.full(3, 2)),
        {"kinematic_infeasibility", "comfort_violation", "road_departure", "clearance_deficit"} | LANE_METRICS,
    ),
    ("no lanes, no edges", dict(feature_type=np.array([7, 7, 7, 7])), LANE_METRICS | EDGE_METRICS),
    ("no sdc", dict(sdc_index=-1), {"off_route", "route_progression"}),
    ("single agent", dict(num_agents=1), {"clearance", "clearance_deficit"}),
    (
        "no map",
        dict(
            point_xyz=np.zeros((0, 3)),
            point_feature=np.zeros(0, int),
            feature_id=np.zeros(0, int),
            feature_type=np.zeros(0, int),
            speed_limit=np.zeros(0),
        ),
        LANE_METRICS | EDGE_METRICS,
    ),
]


def check_validity(found: dict[str, MetricValue], case: str, changes: dict, undefined: set[str]) -> None:
    for name in METRICS:
        valid, value = np.asarray(found[name].valid), np.asarray(found[name].value)
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value[~valid], 0)
        if case == "all agents absent" or name in undefined:
            assert not valid.any(), name
        elif METRICS[name].per == "agent":
            assert valid[: changes.get("num_agents", 3)].all(), name


def test_undefined_metrics_are_zero_and_not_valid():
    """In scenes of the shape of the batch test, so that they share its program."""
    example = to_scenario(lawless_raw_scene())
    no_routes = jax.tree.map(np.zeros_like, example.routes)
    padded = []
    for _, changes, _ in CASES_WITHOUT_VALUES:
        scenario = to_scenario(raw_scene(**changes))
        if scenario.routes is None:
            scenario = dataclasses.replace(scenario, routes=no_routes)
        padded.append(pad(scenario, axis_lengths(example)))
    for start in range(0, len(CASES_WITHOUT_VALUES), 3):
        found = batched(stack(padded[start : start + 3]))
        for index, case in enumerate(CASES_WITHOUT_VALUES[start : start + 3]):
            check_validity(tree_index(found, index), *case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "changes", "undefined"), CASES_WITHOUT_VALUES, ids=[case for case, _, _ in CASES_WITHOUT_VALUES]
)
@pytest.mark.parametrize("pad_to_bucket", [False, True])
def test_undefined_metrics_of_single_scenes(case, changes, undefined, pad_to_bucket):
    check_validity(at_now(to_scenario(raw_scene(**changes), pad_to_bucket=pad_to_bucket)), case, changes, undefined)


DIFFERENTIABLE = (
    "log_divergence",
    "road_edge_distance",
    "off_route",
    "route_progression",
    "time_to_collision",
    "clearance",
    "clearance_deficit",
    "edge_deficit",
    "speeding",
    "log_progress",
    "goal_distance",
    "goal_progress",
)


@jax.jit
def gradients(scenario, agents):
    """Gradients of the sum of each metric, in one program."""

    def total(agents, name):
        return jnp.sum(measure(METRICS[name].compute, scenario, agents).value)

    return {name: jax.grad(total, allow_int=True)(agents, name) for name in DIFFERENTIABLE}


@functools.cache
def gradients_at_the_log():
    scenario = to_scenario(lawless_raw_scene())
    return [jax.device_get(gradients(scenario, tree_index(scenario.log, step))) for step in range(3, 8)]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_finite_at_the_log(name):
    for gradient in gradients_at_the_log():
        found = gradient[name]
        assert all(np.isfinite(leaf).all() for leaf in (found.xyz, found.yaw, found.velocity))


def test_no_metric_has_intermediate_nan():
    scenario = to_scenario(lawless_raw_scene())
    absent = to_scenario(lawless_raw_scene(), pad_to_bucket=True)
    absent = dataclasses.replace(absent, log=jax.tree.map(np.zeros_like, absent.log))
    with jax.debug_nans(True):
        for case in (scenario, absent, scene()):
            jax.block_until_ready(at_now(case))


def test_names_are_resolved_or_refused():
    own = Metric("custom", METRICS["overlap"].compute, per="agent", unit="1", over_time="max")
    assert list(resolve(["offroad", own])) == ["offroad", "custom"]
    with pytest.raises(ValueError, match="unknown metric 'ofroad'"):
        resolve(["ofroad"])
    with pytest.raises(ValueError, match="twice"):
        resolve(["offroad", "offroad"])
    assert all(name == metric.name for name, metric in METRICS.items())
