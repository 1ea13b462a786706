"""Workloads: one function per row of the benchmark, which prepares the row for one size."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from waymax_sim.bench.baseline import BASELINE_METRICS, FlatMap, baseline_metrics, flat_map
from waymax_sim.bench.measure import MEGA
from waymax_sim.bench.scenes import SizedScene, device_batch, sample_steps, states_at
from waymax_sim.datasets.encoding import protobuf, tfrecord
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datasets.store.codec import decode_scenario, encode_scenario
from waymax_sim.datatypes.roadmap import LANE_TYPES, ROAD_EDGE_TYPES
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.env import Env, EnvConfig, Observation, Policy, rollout
from waymax_sim.env.view import View, agent_centric_view, valid_agent_indices
from waymax_sim.evaluation.evaluate import EvaluationConfig, evaluate_scene
from waymax_sim.maps.segments import build_segments
from waymax_sim.metrics import METRICS, MetricValue
from waymax_sim.metrics.realism import CONFIGS, RealismRollouts, Score, compare_rollouts, score
from waymax_sim.ops.backend import on_cpu
from waymax_sim.pytree import Array, static_record, to_device, tree_index

Policies = Mapping[str, Callable[[], Policy]]
EVALUATED_METRICS = ("overlap", "offroad", "log_divergence")
ROLLOUT_STEPS = 80
NUM_ROLLOUTS = 32  # rollouts per scene of the realism score
OBSERVED_STEPS = 11  # steps of history of an observation, the current one included
NUM_VARIANTS = 4  # different inputs of a function
BASELINE_STEPS = 2  # steps of a rollout that brute force computes; the cost per step is constant


@dataclasses.dataclass(frozen=True)
class Workload:
    """A function of a batch, its arguments, and its brute-force baseline.

    Attributes:
      function: The measured function.
      variants: Arguments of equal shapes.
      valid_agents: Mean number of valid agents per scene and step.
      steps: Simulated steps of one call.
      baseline: The same result by brute force, if implemented.
      baseline_variants: Its arguments.
      baseline_share: Share of the scenes and steps that brute force computes.
    """

    function: Callable[..., Any]
    variants: list[tuple]
    valid_agents: float
    steps: int = 1
    baseline: Callable[..., Any] | None = None
    baseline_variants: list[tuple] = dataclasses.field(default_factory=list)
    baseline_share: float = 1.0


class SizedWorkload(NamedTuple):
    """A workload for a scene of one size."""

    name: str
    batch: int
    scene: SizedScene
    work: Workload


class HostCase(NamedTuple):
    """A function on the host of a running number, which it ignores, and the size of its input, MB."""

    call: Callable[[int], Any]
    argument_mb: float | None = None


def _transition(scene: SizedScene, batch: int, baseline_scenes: int) -> Workload:
    """One step without metrics: all agents follow the bicycle model and the ground height."""
    env = _env(())
    scenarios, states = _batch(env, scene, batch)
    request = jnp.asarray([0.5, 0.01])
    actions = [
        Action(value=jnp.broadcast_to(request, (*state.controller.shape, 2)), valid=_present(state)) for state in states
    ]
    variants = [(scenarios, state, action) for state, action in zip(states, actions, strict=True)]
    return Workload(jax.vmap(env.step), variants, _mean_valid_agents(states))


def _evaluate_state(
    scene: SizedScene, batch: int, baseline_scenes: int, metrics: tuple[str, ...] = EVALUATED_METRICS
) -> Workload:
    """Metrics of all agents at given states."""
    env = _env(metrics)
    scenarios, states = _batch(env, scene, batch)
    variants = [(scenarios, state) for state in states]
    work = Workload(jax.vmap(functools.partial(_state_metrics, env)), variants, _mean_valid_agents(states))
    if not set(metrics) <= set(BASELINE_METRICS):
        return work
    count = min(batch, baseline_scenes)
    few, flat = device_batch(scene.scenario, count), device_batch(flat_map(scene.scenario.roadmap), count)

    def baseline(flat: FlatMap, scenario: Scenario, state: State) -> dict[str, MetricValue]:
        return _state_metrics(_with_baseline(env, flat), scenario, state)

    return dataclasses.replace(
        work,
        baseline=map_sequentially(baseline),
        baseline_variants=[(flat, few, tree_index(state, slice(count))) for state in states],
        baseline_share=count / batch,
    )


def _evaluate_state_ego(scene: SizedScene, batch: int, baseline_scenes: int) -> Workload:
    """The same metrics of the sdc only."""
    env = _env(EVALUATED_METRICS, evaluated="sdc")
    scenarios, states = _batch(env, scene, batch)
    variants = [(scenarios, state) for state in states]
    return Workload(jax.vmap(functools.partial(_state_metrics, env)), variants, valid_agents=1.0)


def _rollout80(scene: SizedScene, batch: int, baseline_scenes: int, policy: Policy | None = None) -> Workload:
    """A rollout with metrics from the current step: log replay of all agents, or a policy."""
    env = _env(EVALUATED_METRICS)
    num_steps = min(ROLLOUT_STEPS, scene.scenario.num_remaining_steps)
    baseline_steps = min(BASELINE_STEPS, num_steps)
    keys = [jax.random.split(jax.random.key(variant), batch) for variant in range(NUM_VARIANTS)]
    scenarios = device_batch(scene.scenario, batch)
    one, flat = device_batch(scene.scenario, 1), device_batch(flat_map(scene.scenario.roadmap), 1)

    def baseline(flat: FlatMap, scenario: Scenario, key: Key[Array, ""]) -> dict[str, MetricValue]:
        return _roll(_with_baseline(env, flat), policy, baseline_steps, scenario, key)

    if policy is None:
        valid_agents = _mean_logged_agents(scene.scenario, num_steps)
    else:
        values = jax.jit(functools.partial(_roll, env, policy, num_steps))(scene.scenario, keys[0][0])
        valid_agents = float(values["overlap"].valid.sum(axis=-1).mean())
    return Workload(
        each_scene(functools.partial(_roll, env, policy, num_steps)),
        [(scenarios, key) for key in keys],
        valid_agents,
        steps=num_steps,
        baseline=map_sequentially(baseline),
        baseline_variants=[(flat, one, key[:1]) for key in keys],
        baseline_share=baseline_steps / num_steps / batch,
    )


def _evaluate80(scene: SizedScene, batch: int, baseline_scenes: int, policies: Policies) -> Workload:
    """`waymax-sim evaluate` of a scene: traffic by `idm`, all metrics of the sdc."""
    config = EvaluationConfig({"policy": policies["constant_velocity"]()}, {"idm": policies["idm"]()}, tuple(METRICS))
    num_steps = min(ROLLOUT_STEPS, scene.scenario.num_remaining_steps)
    run = functools.partial(evaluate_scene, config.env("idm"), config.assignment("policy", "idm"), num_steps=num_steps)
    keys = [jax.random.split(jax.random.key(variant), batch) for variant in range(NUM_VARIANTS)]
    scenarios, valid_agents = device_batch(scene.scenario, batch), _mean_logged_agents(scene.scenario, num_steps)
    return Workload(each_scene(run), [(scenarios, key) for key in keys], valid_agents, steps=num_steps)


def _rollout_with_views(
    scene: SizedScene, batch: int, baseline_scenes: int, num_history: int, num_polylines: int
) -> Workload:
    """Log replay with metrics and the view of every valid agent at every step."""
    env = _env(EVALUATED_METRICS, num_history)
    num_steps = min(ROLLOUT_STEPS, scene.scenario.num_remaining_steps)
    num_observers = int(scene.scenario.log.valid.sum(axis=-1).max())
    observer = ViewObserver(num_observers=num_observers, num_polylines=num_polylines)

    def run(scenario: Scenario, key: Key[Array, ""]) -> Any:
        # The observer controls no agent. Its recorded actions keep the views in the program.
        trace = rollout(env, [(observer, "none")], scenario, key, num_steps, record=("metrics", "actions"))
        return trace.metrics, trace.actions

    keys = [jax.random.split(jax.random.key(variant), batch) for variant in range(NUM_VARIANTS)]
    valid_agents = _mean_logged_agents(scene.scenario, num_steps)
    scenarios = device_batch(scene.scenario, batch)
    return Workload(each_scene(run), [(scenarios, key) for key in keys], valid_agents, steps=num_steps)


def _observe(scene: SizedScene, batch: int, baseline_scenes: int, observers: Literal["sdc", "all"]) -> Workload:
    """Agent-centric views of the sdc or of all agents, with 11 steps of history."""
    env = _env((), OBSERVED_STEPS)
    scenarios, states = _batch(env, scene, batch)

    def run(scenario: Scenario, state: State) -> View:
        return agent_centric_view(env.observe(scenario, state), observers)

    num_observers = 1.0 if observers == "sdc" else _mean_valid_agents(states)
    return Workload(jax.vmap(run), [(scenarios, state) for state in states], num_observers)


def _realism(scene: SizedScene, batch: int, baseline_scenes: int) -> Workload:
    """The Sim Agents score of 32 rollouts per scene, here the log with noise; without their simulation."""
    scenario = scene.scenario
    num_steps = scenario.num_remaining_steps
    log = to_device(scenario.log)

    def rollouts(variant: int) -> RealismRollouts:
        noise = 0.1 * jax.random.normal(jax.random.key(variant), (batch, NUM_ROLLOUTS, num_steps, *log.xyz.shape[1:]))
        xyz = log.xyz[None, None, -num_steps:] + noise
        return RealismRollouts(xyz, jnp.broadcast_to(log.yaw[None, None, -num_steps:], xyz.shape[:-1]))

    def run(scenario: Scenario, rollouts: RealismRollouts) -> Score:
        return score(compare_rollouts(scenario, rollouts), CONFIGS["2025"])

    scenarios = device_batch(scenario, batch)
    variants = [(scenarios, rollouts(variant)) for variant in range(NUM_VARIANTS)]
    return Workload(jax.vmap(run), variants, _mean_logged_agents(scenario, num_steps), steps=num_steps)


@static_record
class ViewObserver(Policy):
    """Computes the view of every valid agent; its actions are sums of the views, which are recorded and not applied."""

    num_observers: int
    num_agents: int = 16
    num_polylines: int = 64

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """Actions that hold the sum of the view of each agent."""
        valid = observation.agents.valid
        rows = valid_agent_indices(observation, self.num_observers)
        surroundings = agent_centric_view(
            observation, rows, num_agents=self.num_agents, num_polylines=self.num_polylines
        )
        # Leaves of equal shape are added first, so that the sums cost little relative to the views.
        leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(dataclasses.replace(surroundings, routes=None))]
        groups = itertools.groupby(sorted(leaves, key=jnp.shape), key=jnp.shape)
        sums = (functools.reduce(jnp.add, group) for _, group in groups)
        total = sum(leaf.reshape(self.num_observers, -1).sum(axis=-1) for leaf in sums)
        agent_sums = jnp.zeros(valid.shape).at[jnp.where(rows < 0, valid.shape[0], rows)].set(total, mode="drop")
        return Action(value=jnp.stack([agent_sums, agent_sums], axis=-1), valid=valid), carry


def each_scene(function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function over a batch like `map_scenes`: sequentially on CPUs, vectorized on other devices."""
    return map_sequentially(function) if on_cpu() else jax.vmap(function)


def map_sequentially(function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function over a batch sequentially, with the memory of one item."""
    return lambda *arguments: jax.lax.map(lambda item: function(*item), arguments)


def compiled_cases(policies: Policies) -> dict[str, Callable[[SizedScene, int, int], Workload]]:
    """All compiled workloads by name; rollouts of a policy only if it is among `policies`."""
    with_policies: dict[str, Callable[[SizedScene, int, int], Workload]] = {
        f"rollout80_{name}": functools.partial(_rollout80, policy=policies[name]())
        for name in ("constant_velocity", "idm")
        if name in policies
    }
    if with_policies.keys() >= {"rollout80_constant_velocity", "rollout80_idm"}:
        with_policies["evaluate80"] = functools.partial(_evaluate80, policies=policies)
    metrics = {f"metric_{name}": functools.partial(_evaluate_state, metrics=(name,)) for name in METRICS}
    with_views = {
        "rollout80_observe_all": functools.partial(_rollout_with_views, num_history=OBSERVED_STEPS, num_polylines=64),
        "rollout80_observe_near": functools.partial(_rollout_with_views, num_history=2, num_polylines=16),
    }
    views = {
        "observe_ego": functools.partial(_observe, observers="sdc"),
        "observe_all": functools.partial(_observe, observers="all"),
    }
    own: dict[str, Callable[[SizedScene, int, int], Workload]] = {
        "transition": _transition,
        "evaluate_state": _evaluate_state,
        "evaluate_state_ego": _evaluate_state_ego,
        "rollout80_replay": _rollout80,
        "realism": _realism,
    }
    return own | with_policies | with_views | views | metrics


def host_cases(scenarios: Scenarios, index: int, raw: RawScene) -> dict[str, HostCase]:
    """Functions on the host by name: loading a scenario, and building the indexes of its map.

    Args:
      scenarios: The scenes.
      index: Index of the measured one.
      raw: The same scene as read.
    """
    origin = raw.point_xyz.mean(axis=0)

    def build(_: int) -> Any:
        points = raw.point_xyz - origin
        edges = build_segments(points, raw.point_feature, raw.feature_type, ROAD_EDGE_TYPES)
        return edges, build_segments(points, raw.point_feature, raw.feature_type, LANE_TYPES, sided=False)

    encoded = encode_scenario(to_scenario(raw, pad_to_bucket=False))
    load_store = HostCase(lambda _: decode_scenario(encoded), len(encoded) / MEGA)
    cases = {"index_build": HostCase(build), "load_store": load_store}
    file, record = scenarios.source(index)
    if not file.startswith("synthetic:"):
        fields = protobuf.decode(tfrecord.read_record(tfrecord.index_records(file), record), "record")
        record_type = "tf_example" if fields.keys() == {1} else "scenario_proto"
        cases[f"load_{record_type}"] = HostCase(lambda _: scenarios[index])
        cases["read_scene"] = HostCase(lambda _: scenarios.read(index))
    return cases


def _env(metrics: tuple[str, ...], num_history: int = 2, evaluated: Literal["all", "sdc"] = "all") -> Env:
    config = EnvConfig(
        controlled="all", metrics=metrics, evaluated=evaluated, rewards=(), num_history_steps=num_history
    )
    return Env(config=config)


def _with_baseline(env: Env, flat: FlatMap) -> Env:
    metrics_by_name = baseline_metrics(flat)
    metrics = tuple(metrics_by_name[name] for name in env.metrics)
    return dataclasses.replace(env, config=dataclasses.replace(env.config, metrics=metrics))


def _batch(env: Env, scene: SizedScene, batch: int) -> tuple[Scenario, list[State]]:
    scenario, num_history = scene.scenario, env.num_history_steps(scene.scenario.time_step)
    steps = [sample_steps(scenario.num_steps, num_history, batch, variant) for variant in range(NUM_VARIANTS)]
    return device_batch(scenario, batch), [states_at(env, scenario, step) for step in steps]


def _state_metrics(env: Env, scenario: Scenario, state: State) -> dict[str, MetricValue]:
    return env.evaluate_state(scenario, state, has_advanced=jnp.asarray(True)).metrics


def _roll(
    env: Env, policy: Policy | None, num_steps: int, scenario: Scenario, key: Key[Array, ""]
) -> dict[str, MetricValue]:
    policies = [] if policy is None else [(policy, "all")]
    metrics = rollout(env, policies, scenario, key, num_steps, record=("metrics",)).metrics
    assert metrics is not None  # they are recorded
    return metrics


def _present(state: State) -> Bool[Array, "B N"]:
    return state.history.valid[:, -1]


def _mean_logged_agents(scenario: Scenario, num_steps: int) -> float:
    first = int(scenario.current_step) + 1
    return float(scenario.log.valid[first : first + num_steps].sum(axis=-1).mean())


def _mean_valid_agents(states: list[State]) -> float:
    return float(jnp.mean(jnp.stack([_present(state).sum(axis=-1).mean() for state in states])))
