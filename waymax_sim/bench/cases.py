"""What is measured: one function per kind of work, which makes the work ready for one size."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from waymax_sim.bench.baseline import PLAIN, WholeMap, plain_metrics, whole_map
from waymax_sim.bench.scenes import Workload, batched, moments, states_at
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.env import Env, EnvConfig, Observation, Policy, rollout
from waymax_sim.env.view import View, present_rows, view
from waymax_sim.evaluation.evaluate import Plan, evaluate_scene
from waymax_sim.metrics import METRICS, MetricValue
from waymax_sim.metrics.realism import CONFIGS, Rollouts, Score, compare, score
from waymax_sim.pytree import Array, on_device, static_record, take

Policies = Mapping[str, Callable[[], Policy]]
JUDGED = ("overlap", "offroad", "log_divergence")
ROLLOUT_STEPS = 80
# Rollouts of a scene that are scored together.
NUM_ROLLOUTS = 32
# Steps of history in an observation, now included.
OBSERVED_STEPS = 11
# Inputs that calls take in turn.
VARIANTS = 4
# Steps of a rollout that brute force is given; each costs it the same.
PLAIN_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Work:
    """A function of a batch, its inputs, and the plain way to the same result.

    Attributes:
      function: What is measured.
      variants: Arguments of equal shapes, taken in turn.
      valid_agents: Mean number of valid agents per scene and step.
      steps: Steps simulated by one call.
      plain: The same by brute force, where there is such a thing.
      plain_variants: Its arguments.
      plain_share: Part of the scenes and steps that brute force is given; it takes one after another.
    """

    function: Callable[..., Any]
    variants: list[tuple]
    valid_agents: float
    steps: int = 1
    plain: Callable[..., Any] | None = None
    plain_variants: list[tuple] = dataclasses.field(default_factory=list)
    plain_share: float = 1.0


def transition(workload: Workload, batch: int, plain_scenes: int) -> Work:
    """A step that is not judged: every agent is moved by the bicycle model and follows the ground."""
    env = _env(())
    scenarios, states = _batch(env, workload, batch)
    request = jnp.asarray([0.5, 0.01])
    actions = [
        Action(value=jnp.broadcast_to(request, (*state.controller.shape, 2)), valid=_present(state)) for state in states
    ]
    variants = [(scenarios, state, action) for state, action in zip(states, actions, strict=True)]
    return Work(jax.vmap(env.step), variants, _valid(states))


def judge(workload: Workload, batch: int, plain_scenes: int, metrics: tuple[str, ...] = JUDGED) -> Work:
    """Metrics of all agents at given moments, in one go."""
    env = _env(metrics)
    scenarios, states = _batch(env, workload, batch)
    variants = [(scenarios, state) for state in states]
    work = Work(jax.vmap(functools.partial(_judge, env)), variants, _valid(states))
    if not set(metrics) <= set(PLAIN):
        return work
    count = min(batch, plain_scenes)
    few, whole = batched(workload.scenario, count), batched(whole_map(workload.scenario.roadmap), count)

    def plain(whole: WholeMap, scenario: Scenario, state: State) -> dict[str, MetricValue]:
        return _judge(_plain(env, whole), scenario, state)

    return dataclasses.replace(
        work,
        plain=one_by_one(plain),
        plain_variants=[(whole, few, take(state, slice(count))) for state in states],
        plain_share=count / batch,
    )


def judge_ego(workload: Workload, batch: int, plain_scenes: int) -> Work:
    """The same for the sdc alone."""
    env = _env(JUDGED, evaluated="sdc")
    scenarios, states = _batch(env, workload, batch)
    variants = [(scenarios, state) for state in states]
    return Work(jax.vmap(functools.partial(_judge, env)), variants, valid_agents=1.0)


def simulate(workload: Workload, batch: int, plain_scenes: int, policy: Policy | None = None) -> Work:
    """A judged rollout from the current step: all agents as recorded, or driven by a policy."""
    env = _env(JUDGED)
    num_steps = min(ROLLOUT_STEPS, workload.scenario.num_steps - 1 - int(workload.scenario.current_step))
    plain_steps = min(PLAIN_STEPS, num_steps)
    keys = [jax.random.split(jax.random.key(variant), batch) for variant in range(VARIANTS)]
    scenarios = batched(workload.scenario, batch)
    one, whole = batched(workload.scenario, 1), batched(whole_map(workload.scenario.roadmap), 1)

    def plain(whole: WholeMap, scenario: Scenario, key: Key[Array, ""]) -> dict[str, MetricValue]:
        return _roll(_plain(env, whole), policy, plain_steps, scenario, key)

    if policy is None:
        valid_agents = _logged(workload.scenario, num_steps)
    else:
        values = jax.jit(functools.partial(_roll, env, policy, num_steps))(workload.scenario, keys[0][0])
        valid_agents = float(values["overlap"].valid.sum(axis=-1).mean())
    return Work(
        each_scene(functools.partial(_roll, env, policy, num_steps)),
        [(scenarios, key) for key in keys],
        valid_agents,
        steps=num_steps,
        plain=one_by_one(plain),
        plain_variants=[(whole, one, key[:1]) for key in keys],
        plain_share=plain_steps / num_steps / batch,
    )


def evaluate(workload: Workload, batch: int, plain_scenes: int, policies: Policies) -> Work:
    """What `waymax-sim evaluate` does with a scene: idm drives the others, the sdc is judged by all metrics."""
    plan = Plan({"policy": policies["constant_velocity"]()}, {"idm": policies["idm"]()}, tuple(METRICS))
    num_steps = min(ROLLOUT_STEPS, workload.scenario.num_steps - 1 - int(workload.scenario.current_step))
    run = functools.partial(evaluate_scene, plan.env("idm"), plan.assignment("policy", "idm"), num_steps=num_steps)
    keys = [jax.random.split(jax.random.key(variant), batch) for variant in range(VARIANTS)]
    scenarios, valid_agents = batched(workload.scenario, batch), _logged(workload.scenario, num_steps)
    return Work(each_scene(run), [(scenarios, key) for key in keys], valid_agents, steps=num_steps)


def simulate_watched(workload: Workload, batch: int, plain_scenes: int, num_history: int, num_elements: int) -> Work:
    """The judged replay of all agents, while at every step each of them that is there is given its own view."""
    env = _env(JUDGED, num_history)
    num_steps = min(ROLLOUT_STEPS, workload.scenario.num_steps - 1 - int(workload.scenario.current_step))
    most = int(workload.scenario.log.valid.sum(axis=-1).max())
    watcher = Watcher(num_observers=most, num_elements=num_elements)

    def run(scenario: Scenario, key: Key[Array, ""]) -> Any:
        # The watcher drives nobody. Its actions are kept, so that its views have to be made.
        trace = rollout(env, [(watcher, "none")], scenario, key, num_steps, record=("metrics", "actions"))
        return trace.metrics, trace.actions

    keys = [jax.random.split(jax.random.key(variant), batch) for variant in range(VARIANTS)]
    valid_agents = _logged(workload.scenario, num_steps)
    scenarios = batched(workload.scenario, batch)
    return Work(each_scene(run), [(scenarios, key) for key in keys], valid_agents, steps=num_steps)


def observe(workload: Workload, batch: int, plain_scenes: int, who: Literal["sdc", "all"]) -> Work:
    """What the sdc or every agent sees of its surroundings and of the last 11 steps, in its own frame."""
    env = _env((), OBSERVED_STEPS)
    scenarios, states = _batch(env, workload, batch)

    def run(scenario: Scenario, state: State) -> View:
        return view(env.observe(scenario, state), who)

    observers = 1.0 if who == "sdc" else _valid(states)
    return Work(jax.vmap(run), [(scenarios, state) for state in states], observers)


def realism(workload: Workload, batch: int, plain_scenes: int) -> Work:
    """The Sim Agents score of 32 rollouts per scene, here the log with noise; their simulation is not counted."""
    scenario = workload.scenario
    num_steps = scenario.num_steps - 1 - int(scenario.current_step)
    log = on_device(scenario.log)

    def rollouts(variant: int) -> Rollouts:
        noise = 0.1 * jax.random.normal(jax.random.key(variant), (batch, NUM_ROLLOUTS, num_steps, *log.xyz.shape[1:]))
        xyz = log.xyz[None, None, -num_steps:] + noise
        return Rollouts(xyz, jnp.broadcast_to(log.yaw[None, None, -num_steps:], xyz.shape[:-1]))

    def run(scenario: Scenario, rollouts: Rollouts) -> Score:
        return score(compare(scenario, rollouts), CONFIGS["2025"])

    scenarios = batched(scenario, batch)
    variants = [(scenarios, rollouts(variant)) for variant in range(VARIANTS)]
    return Work(jax.vmap(run), variants, _logged(scenario, num_steps), steps=num_steps)


@static_record
class Watcher(Policy):
    """Looks at the view of every agent that is there; its actions are sums of all in them, to be kept, not done."""

    num_observers: int
    num_agents: int = 16
    num_elements: int = 64

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """One sum per agent, twice."""
        there = observation.agents.valid
        rows = present_rows(observation, self.num_observers)
        seen = view(observation, rows, num_agents=self.num_agents, num_elements=self.num_elements)
        # What is alike is added up first, so that looking at views costs little beside making them.
        leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(dataclasses.replace(seen, routes=None))]
        alike = itertools.groupby(sorted(leaves, key=jnp.shape), key=jnp.shape)
        sums = (functools.reduce(jnp.add, group) for _, group in alike)
        total = sum(leaf.reshape(self.num_observers, -1).sum(axis=-1) for leaf in sums)
        of_agents = jnp.zeros(there.shape).at[jnp.where(rows < 0, there.shape[0], rows)].set(total, mode="drop")
        return Action(value=jnp.stack([of_agents, of_agents], axis=-1), valid=there), carry


def each_scene(function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function over a batch as `map_scenes` does: one scene after another on CPUs, elsewhere all at once."""
    at_once = jax.vmap(function)
    return lambda *arguments: jax.lax.platform_dependent(*arguments, cpu=one_by_one(function), default=at_once)


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function over a batch one item after another, so that memory is that of one."""
    return lambda *arguments: jax.lax.map(lambda item: function(*item), arguments)


def compiled_cases(policies: Policies) -> dict[str, Callable[[Workload, int, int], Work]]:
    """Everything that is compiled, by name. A rollout is there for each of the usual policies that exists."""
    driven: dict[str, Callable[[Workload, int, int], Work]] = {
        f"rollout80_{name}": functools.partial(simulate, policy=policies[name]())
        for name in ("constant_velocity", "idm")
        if name in policies
    }
    if driven.keys() >= {"rollout80_constant_velocity", "rollout80_idm"}:
        driven["evaluate80"] = functools.partial(evaluate, policies=policies)
    metrics = {f"metric_{name}": functools.partial(judge, metrics=(name,)) for name in METRICS}
    watched = {
        "rollout80_observe_all": functools.partial(simulate_watched, num_history=OBSERVED_STEPS, num_elements=64),
        "rollout80_observe_near": functools.partial(simulate_watched, num_history=2, num_elements=16),
    }
    views = {"observe_ego": functools.partial(observe, who="sdc"), "observe_all": functools.partial(observe, who="all")}
    return (
        {"transition": transition, "judge": judge, "judge_ego": judge_ego, "rollout80_replay": simulate}
        | {"realism": realism}
        | driven
        | watched
        | views
        | metrics
    )


def _env(metrics: tuple[str, ...], num_history: int = 2, evaluated: Literal["all", "sdc"] = "all") -> Env:
    config = EnvConfig(
        controlled="all", metrics=metrics, evaluated=evaluated, rewards=(), num_history_steps=num_history
    )
    return Env(config=config)


def _plain(env: Env, whole: WholeMap) -> Env:
    known = plain_metrics(whole)
    metrics = tuple(known[name] for name in env.metrics)
    return dataclasses.replace(env, config=dataclasses.replace(env.config, metrics=metrics))


def _batch(env: Env, workload: Workload, batch: int) -> tuple[Scenario, list[State]]:
    scenario, num_history = workload.scenario, env.num_history_steps
    steps = [moments(scenario.num_steps, num_history, batch, variant) for variant in range(VARIANTS)]
    return batched(scenario, batch), [states_at(env, scenario, step) for step in steps]


def _judge(env: Env, scenario: Scenario, state: State) -> dict[str, MetricValue]:
    return env.evaluate_state(scenario, state, has_advanced=jnp.asarray(True)).metrics


def _roll(
    env: Env, policy: Policy | None, num_steps: int, scenario: Scenario, key: Key[Array, ""]
) -> dict[str, MetricValue]:
    policies = [] if policy is None else [(policy, "all")]
    metrics = rollout(env, policies, scenario, key, num_steps, record=("metrics",)).metrics
    assert metrics is not None  # they were asked for
    return metrics


def _present(state: State) -> Bool[Array, "B N"]:
    return state.history.valid[:, -1]


def _logged(scenario: Scenario, num_steps: int) -> float:
    first = int(scenario.current_step) + 1
    return float(scenario.log.valid[first : first + num_steps].sum(axis=-1).mean())


def _valid(states: list[State]) -> float:
    return float(jnp.mean(jnp.stack([_present(state).sum(axis=-1).mean() for state in states])))
