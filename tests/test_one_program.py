"""Any number of weight sets of one network run in one program: every interface that takes a policy traces it once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from behavior_models import ConstantSpeed
from tests.adapters.roads import roads
from tests.evaluation.small import small_config, small_scenes
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.adapters.gymnasium import DriveVectorEnv
from waymax_sim.datatypes.state import CALLER, Action
from waymax_sim.dynamics import Bicycle, Delta, Dynamics
from waymax_sim.env import Assignment, Env, EnvConfig, Observation, Policy, rollout
from waymax_sim.env.bank import build_bank
from waymax_sim.evaluation import Evaluation
from waymax_sim.evaluation.realism.evaluate import evaluate_realism
from waymax_sim.pytree import Array, pytree, static

pytestmark = pytest.mark.compile_heavy

KEY = jax.random.key(2)
STEPS = 3
BARE = {"metrics": (), "rewards": ()}
# Settings of the networks whose `act` was called: while a program is traced, and never when it runs.
traced: list[tuple[int, Dynamics]] = []


@pytree
class Network(Policy):
    """A linear map of the first few numbers that an agent observes to its action.

    Attributes:
      weight: From numbers to actions.
      bias: Of the actions.
      width: How many numbers.
      dynamics: Model of the actions.
    """

    weight: Float[Array, "width actions"]
    bias: Float[Array, " actions"]
    width: int = static(default=3)
    dynamics: Dynamics = static(default=Bicycle())

    def act(self, observation, carry, key):
        traced.append((self.width, self.dynamics))
        return Action(self.values(observation), observation.agents.valid), carry

    def values(self, observation: Observation) -> Float[Array, "N actions"]:
        now = observation.agents
        numbers = jnp.stack([now.velocity[:, 0] / 10, now.xyz[:, 1], now.yaw, now.xyz[:, 0] / 20], axis=-1)
        return jnp.tanh(numbers[:, : self.width] @ self.weight + self.bias[None])


def network(seed: int, width: int = 3, dynamics: Dynamics | None = None) -> Network:
    dynamics, rng = dynamics or Bicycle(), np.random.default_rng(seed)
    shape = (width, len(dynamics.bounds[0]))
    weight, bias = (rng.normal(0, 1, size).astype(np.float32) for size in (shape, shape[1:]))
    return Network(weight, bias, width, dynamics)


@pytest.fixture(autouse=True)
def forget():
    traced.clear()


@pytest.fixture(scope="module")
def scenes():
    return roads(2)


def assert_all_differ(results) -> None:
    """No two results are equal, beyond rounding."""
    rows = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result)]) for result in results])
    gaps = np.abs(rows[:, None] - rows[None]).max(axis=-1)
    assert (gaps + np.eye(len(rows)) > 1e-6).all()


def test_rollouts_of_a_policy_argument(scenes):
    chex.clear_trace_counter()
    env = Env(config=EnvConfig(controlled="all", **BARE))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(policy):
        return rollout(env, policy, scenes[0], KEY, STEPS, record=("agents",)).agents.xyz

    assert_all_differ([run(network(seed)) for seed in range(20)])
    assert traced == [(3, Bicycle())]


def test_other_static_settings_are_other_programs(scenes):
    env = Env(config=EnvConfig(controlled="all", **BARE))
    run = jax.jit(lambda policy: rollout(env, policy, scenes[0], KEY, STEPS, record=("agents",)).agents.xyz)
    settings = [(3, Bicycle()), (4, Bicycle()), (4, Bicycle(normalized=True)), (4, Delta())]
    for seed in range(3):
        assert_all_differ([run(network(seed, *setting)) for setting in settings])
    assert traced == settings


@pytest.mark.parametrize("traffic", ["log", "constant_speed", "network"])
def test_evaluations_of_plans_with_other_weights(traffic):
    scenarios, results = small_scenes(1), []
    for seed in range(20):
        others = {"log": None, "constant_speed": ConstantSpeed(), "network": network(seed + 100)}[traffic]
        changes = {"policies": {f"network-{seed}": network(seed)}, "traffic": {traffic: others}, "seeds": (0,)}
        evaluation = Evaluation(scenarios, small_config(**changes, metrics=("log_divergence",)))
        ((result,),) = evaluation.results([0])
        results.append(result.values["log_divergence"])
    assert_all_differ(results)
    # Once for the policy, and once for the traffic where that is a network too.
    assert traced == [(3, Bicycle())] * (1 + (traffic == "network"))


def test_one_evaluation_of_many_policies_and_scenes():
    policies = {f"network-{seed}": network(seed) for seed in range(5)}
    changes = {"policies": policies, "traffic": {"one": network(10), "other": network(11)}, "max_steps": STEPS - 1}
    evaluation = Evaluation(small_scenes(2), small_config(**changes, metrics=("log_divergence",)))
    results = [item for results in evaluation.results(range(2)) for item in results]
    assert len(results) == 2 * 5 * 2 * 2
    # The sdc does not look at the traffic, and nothing is random: its results differ by policy alone.
    for index in range(2):
        chosen = [item for item in results if item.index == index and item.run[1:] == ("one", 0)]
        assert_all_differ([item.values["log_divergence"] for item in chosen])
    # Policy and traffic, once each: the scenes are padded to one shape.
    assert traced == [(3, Bicycle())] * 2


def test_realism_of_networks():
    scores = []
    for seed in range(4):
        (result,) = evaluate_realism(small_scenes(1), policy=network(seed), num_rollouts=2)
        scores.append(result.score.likelihoods)
    assert_all_differ(scores)
    assert traced == [(3, Bicycle())]


DRIVE_BARE = Env(Bicycle(normalized=True), EnvConfig(**BARE))


def all_positions(observation):
    """Positions of all agents, as one row."""
    return observation.agents.xyz[:, :2].reshape(-1) / 100


def drive(envs: DriveVectorEnv) -> np.ndarray:
    envs.reset(seed=0)
    for _ in range(STEPS):
        observation, *_ = envs.step(np.zeros((2, 2), np.float32))
    return observation


def test_vector_environments_with_other_traffic(scenes):
    recreated, replaced = [], []
    for seed in range(20):
        traffic = [(network(seed), "others")]
        recreated.append(drive(DriveVectorEnv(scenes, 2, env=DRIVE_BARE, observe=all_positions, traffic=traffic)))
    envs = DriveVectorEnv(scenes, 2, env=DRIVE_BARE, observe=all_positions, traffic=[(network(0), "others")])
    for seed in range(20):
        envs.traffic = Assignment.from_policies([(network(seed), "others")])
        replaced.append(drive(envs))
    assert_all_differ(recreated)
    np.testing.assert_array_equal(recreated, replaced)
    assert traced == [(3, Bicycle())]


def test_functional_steps_with_one_network_for_all_agents(scenes):
    """The traffic and the actions of the caller are of the same network, whose weights are replaced while it runs."""
    chex.clear_trace_counter()
    bank = build_bank(scenes, DRIVE_BARE)
    env = FunctionalEnv(DRIVE_BARE, all_positions)
    envs = 2

    def traffic_of(net):
        return Assignment.from_policies([(net, "others")])

    @jax.jit
    @chex.assert_max_traces(n=1)
    def begin(net, keys):
        return jax.vmap(env.reset, in_axes=(None, 0, None))(bank, keys, traffic_of(net))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(net, running):
        def one(running):
            scenario, state = bank.scenario(running.scene), running.episode.state
            observation = DRIVE_BARE.observe(scenario, state, controller=CALLER)
            action = net.values(observation)[observation.controlled[0]]
            return env.step(bank, running, action, traffic_of(net))

        return jax.vmap(one)(running)

    keys = jax.random.split(KEY, envs)
    results = []
    for seed in range(20):
        running, _ = begin(network(seed), keys)
        for _ in range(2):
            running, out = step(network(seed), running)
        results.append(out.final_observation)
    assert_all_differ(results)
    assert traced == [(3, Bicycle())]
    # Weights may change within an episode, without a new program.
    running, _ = begin(network(0), keys)
    running, _ = step(network(0), running)
    running, out = step(network(1), running)
    assert_all_differ([out.final_observation, results[0], results[1]])
    assert traced == [(3, Bicycle())]
