"""Effect of the route (Gulino et al. 2023, section 5): behavior cloning with and without it at junctions.

    python -m examples.reproductions.waymax_route

Each junction is in the data once per exit, and observations before the junction differ in the route alone. A policy
without the route takes each exit of a junction with the same observations, so it leaves the route in at least
1 - 1 / K of the scenes of K exits. The control shows the policy the route to another exit.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Bool, Float

from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import Demonstrations, collect_demonstrations
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.training.presets import DISCRETE_BICYCLE
from examples.reproductions.waymax_common import Criterion, mean_interval, table_line
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic.exits import exit_scenes
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.metrics.route import MAX_DETOUR, MAX_ROUTE_DISTANCE, project_on_routes
from waymax_sim.pytree import Array

# Steps of an episode of 8 s, and decisions of a demonstration at 5 Hz.
NUM_STEPS = 80
NUM_DECISIONS = 40
STEPS_PER_ACTION = 2
# Scenes that are simulated together.
GROUP_SIZE = 20
RULES = EnvConfig(
    controlled="traveling",
    max_controlled=1,
    spawn="never",
    metrics=(),
    rewards=(),
    steps_per_action=STEPS_PER_ACTION,
)
# The sdc is alone; the second agent of the view is padding.
VIEWS = {
    name: FlatView("controlled", num_agents=2, num_polylines=24, goal=False, route=has_route)
    for name, has_route in (("with route", True), ("without route", False))
}


@dataclasses.dataclass(frozen=True)
class RouteConfig:
    """Sizes of the experiment.

    Attributes:
      train_seed: Seed of the junctions to train on.
      num_train: Their number.
      test_seed: Seed of the junctions to evaluate on.
      num_test: Their number.
      num_epochs: Passes over the demonstrations.
      seeds: Seeds of the trainings.
    """

    train_seed: int = 0
    num_train: int = 60
    test_seed: int = 901
    num_test: int = 30
    num_epochs: int = 40
    seeds: tuple[int, ...] = (0, 1, 2)


def junctions(seed: int, count: int) -> tuple[list[Scenario], np.ndarray]:
    """Scenarios with all exits of junctions, and the junction of each.

    Args:
      seed: Seed of the junctions.
      count: Their number.
    """
    raw = [(index, scene) for index in range(count) for scene in exit_scenes(seed, index)]
    return [to_scenario(scene, pad_to_bucket=False) for _, scene in raw], np.array([index for index, _ in raw])


def other_exits(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """The same scenarios with the next exit on route."""

    def replace(scenario: Scenario) -> Scenario:
        assert scenario.routes is not None
        routes = dataclasses.replace(scenario.routes, on_route=np.roll(scenario.routes.on_route, 1))
        return dataclasses.replace(scenario, routes=routes)

    return [replace(scenario) for scenario in scenarios]


def demonstrations(env: FunctionalEnv, bank: ScenarioBank) -> Demonstrations:
    """Demonstrations from logged and from perturbed starts."""
    parts = [
        collect_demonstrations(env, bank, jax.random.key(index), num_decisions=NUM_DECISIONS, noise=noise)
        for index, noise in enumerate((0.0, 1.0))
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def without_route(data: Demonstrations) -> Demonstrations:
    """The demonstrations without the last feature of the observation, the route."""
    size = VIEWS["without route"].spec().size
    assert VIEWS["with route"].spec().features[:-1] == VIEWS["without route"].spec().features
    return dataclasses.replace(data, observation=data.observation[:, :size])


def clone(view: FlatView, data: Demonstrations, num_epochs: int, seeds: Sequence[int]) -> list[NetworkPolicy]:
    """Policies fitted to demonstrations, one per seed.

    Args:
      view: Observation of the policies.
      data: Demonstrations with this observation.
      num_epochs: Passes over them.
      seeds: Seeds of the parameters.
    """
    env = FunctionalEnv(Env(DISCRETE_BICYCLE, RULES), view)
    learner = BehaviorCloning(env, len(data), BCConfig(num_epochs=num_epochs))
    step, device_data, policies = jax.jit(learner.train_step), jax.device_put(data), []
    for seed in seeds:
        state = learner.init(jax.random.key(seed))
        for _ in range(num_epochs):
            state, scalars = step(state, device_data)
        print(f"seed {seed}: loss {float(scalars['loss']):.3f}", flush=True)
        policies.append(learner.model.policy(state.params, "mode", STEPS_PER_ACTION))
    return policies


def leaves_route(routes: Routes, xy: Float[Array, "T 2"]) -> Bool[Array, ""]:
    """Whether any position is off the route, by the rule of the metric `off_route`.

    Args:
      routes: Paths.
      xy: Positions of the sdc.
    """

    def is_off(xy: Float[Array, " 2"]) -> Bool[Array, ""]:
        distance, _, usable = project_on_routes(routes, xy)
        on = jnp.min(jnp.where(usable & routes.on_route, distance, jnp.inf))
        off = jnp.min(jnp.where(usable & ~routes.on_route, distance, jnp.inf))
        return (on > MAX_ROUTE_DISTANCE) | (on - off > MAX_DETOUR)

    return jnp.any(jax.vmap(is_off)(xy))


@functools.partial(jax.jit, static_argnums=0)
def _off_route(env: Env, policy: NetworkPolicy, shown: ScenarioBank, driven: ScenarioBank, index: Array):
    """Whether the sdc leaves its route in each scene, and whether it covers half the displacement of the log.

    Args:
      env: Rules.
      policy: The policy of the sdc.
      shown: Scenes with the routes that the policy observes.
      driven: Scenes with the routes that count.
      index: Scenes of the group.
    """

    def simulate(index: Array):
        trace = rollout(env, policy, shown.scenario(index), jax.random.key(0), NUM_STEPS, record=("agents",))
        true = driven.scenario(index)
        assert trace.agents is not None and true.routes is not None
        routes = jax.tree.map(jnp.asarray, true.routes, is_leaf=lambda leaf: hasattr(leaf, "materialize"))
        sdc = jnp.argmax(true.agents.is_sdc)
        xy = trace.agents.xyz[:, sdc, :2]
        start, end = true.log.xyz[true.current_step][sdc, :2], true.log.xyz[true.last_step][sdc, :2]
        travel = jnp.linalg.norm(xy[-1] - start) / jnp.linalg.norm(end - start)
        return leaves_route(routes, xy), travel > 0.5

    return jax.vmap(simulate)(index)


def off_route(policy: NetworkPolicy, shown: ScenarioBank, driven: ScenarioBank) -> Bool[np.ndarray, " B"]:
    """Scenes in which the policy leaves its route, or stays behind half the displacement of the log.

    Args:
      policy: The policy of the sdc.
      shown: Scenes with the routes that it observes.
      driven: The same scenes with the routes that count.
    """
    env = Env(DISCRETE_BICYCLE, EnvConfig(spawn="never", metrics=(), rewards=()))
    parts = []
    for begin in range(0, len(driven), GROUP_SIZE):
        index = jnp.asarray((begin + np.arange(GROUP_SIZE)) % len(driven), jnp.int32)
        leaves, travels = jax.device_get(_off_route(env, policy, shown, driven, index))
        parts.append(leaves | ~travels)
    return np.concatenate(parts)[: len(driven)]


def main(config: RouteConfig) -> list[Criterion]:
    """Trains and evaluates both policies, and prints off-route rates with 95 % intervals over junctions."""
    env = FunctionalEnv(Env(DISCRETE_BICYCLE, RULES), VIEWS["with route"])
    data = demonstrations(env, build_bank(junctions(config.train_seed, config.num_train)[0], env.env))
    test, junction = junctions(config.test_seed, config.num_test)
    true, shuffled = build_bank(test, env.env), build_bank(other_exits(test), env.env)
    fitted = {"with route": data, "without route": without_route(data)}
    policies = {name: clone(VIEWS[name], own, config.num_epochs, config.seeds) for name, own in fitted.items()}
    runs = {"with route": true, "without route": true, "with the route of another exit": shuffled}
    print(f"{len(data)} demonstrations, {len(test)} test scenes\n| observation | off route, % |\n|---|---|")
    rates = {}
    for name, shown in runs.items():
        own = policies.get(name, policies["with route"])
        outcomes = [off_route(policy, shown, true) for policy in own]
        mean, low, high = mean_interval(np.concatenate(outcomes), np.tile(junction, len(own)))
        rates[name] = mean
        print(table_line(name, {"rate": f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"}))
    fewest_exits = int(np.bincount(junction).min())
    return [
        Criterion("W2 off route with the route", rates["with route"], high=0.1),
        Criterion("W2 off route without it", rates["without route"], low=1 - 1 / fewest_exits - 0.1),
        Criterion("W2 control, route of another exit", rates["with the route of another exit"], low=0.5),
    ]


if __name__ == "__main__":
    for criterion in main(tyro.cli(RouteConfig)):
        print(criterion)
