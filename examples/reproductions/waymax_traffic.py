"""Overfitting to traffic (Gulino et al. 2023, section 5): PPO for one ego among the log or among reactive traffic.

    python -m examples.reproductions.waymax_traffic --start runs/bc/policy

Both policies start from the same behavior-cloned one and differ in their training traffic alone; both are evaluated
among both kinds of traffic. The reactive traffic is the Intelligent Driver Model on logged paths, that of the paper.
The rule-based ego drives by the Intelligent Driver Model on the lane graph.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Bool, Int

import waymax_sim as ws
from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.traffic.idm import IDM
from behavior_models.traffic.log_path import LogPathIDM
from behavior_models.training.presets import DISCRETE_BICYCLE, SELF_PLAY_CONFIG, SELF_PLAY_VIEW
from examples.reproductions.waymax_common import Criterion, mean_interval, ratio_interval, table_line
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Assignment, Env, Policies, Policy, Traveling, rollout
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.metrics import Metric, MetricValue, Snapshot
from waymax_sim.metrics.contact import FRONT_CONTACT_COSINE
from waymax_sim.metrics.fault import new_contacts
from waymax_sim.metrics.metric import flag

# Steps of an evaluated episode of 8 s.
NUM_STEPS = 80
# Egos that are simulated together.
GROUP_SIZE = 20
TRAFFIC: dict[str, Policies] = {"log": None, "idm": Assignment([LogPathIDM()], ["others"])}
# Contact on the ego by the cosine between its heading and the contact normal.
SIDES = {"rear": (-1.01, -FRONT_CONTACT_COSINE), "side": (-FRONT_CONTACT_COSINE, FRONT_CONTACT_COSINE)}


@dataclasses.dataclass(frozen=True)
class TrafficConfig:
    """Sizes of the experiment.

    Attributes:
      start: Folder of the policy that both trainings start from, one of `waymax-sim train bc`.
      train: Scenes to train in.
      test: Scenes to evaluate in.
      updates: Training steps of PPO.
      num_envs: Environments.
      num_decisions: Decisions of each environment per training step.
      max_agents: Scenes with more agents are left out: reactive traffic costs time per agent.
      max_train_egos: Egos per training scene.
      max_test_egos: Egos per test scene.
      seeds: Seeds of the trainings.
    """

    start: Path
    train: str = "synthetic:0:100"
    test: str = "synthetic:901:60"
    updates: int = 150
    num_envs: int = 32
    num_decisions: int = 20
    max_agents: int = 24
    max_train_egos: int = 4
    max_test_egos: int = 6
    seeds: tuple[int, ...] = (0,)

    @property
    def ppo(self) -> PPOConfig:
        """Hyperparameters of both trainings: those of self-play with smaller batches and a smaller learning rate."""
        size = self.num_envs * self.num_decisions
        return PPOConfig(
            num_updates=self.updates,
            num_envs=self.num_envs,
            num_decisions=self.num_decisions,
            capacity=size,
            minibatch=size // 2,
            learning_rate=5e-4,
        )


def contact_side(snapshot: Snapshot, low: float, high: float) -> MetricValue:
    """Whether a contact began in the last step on a side of the evaluated agent.

    Args:
      snapshot: The step.
      low: Smallest cosine between the heading and the contact normal.
      high: Largest one.
    """
    contacts = snapshot.cached(new_contacts)
    is_side = (contacts.contact_cosine > low) & (contacts.contact_cosine <= high)
    return flag(jnp.any(contacts.is_new & is_side, axis=-1), snapshot.evaluated_agents.valid)


TRAINING = FunctionalEnv(Env(DISCRETE_BICYCLE, dataclasses.replace(SELF_PLAY_CONFIG, max_controlled=1)), SELF_PLAY_VIEW)
SIDE_METRICS = [
    Metric(name, functools.partial(contact_side, low=low, high=high), per="agent", unit="1", over_time="max")
    for name, (low, high) in SIDES.items()
]
# The same rules for the sdc, whose contacts are classified.
EVALUATION = Env(
    DISCRETE_BICYCLE,
    dataclasses.replace(
        SELF_PLAY_CONFIG,
        controlled="sdc",
        evaluated="sdc",
        max_controlled=None,
        steps_per_action=1,
        metrics=("goal_reached", "goal_progress", "overlap", "offroad", *SIDE_METRICS),
    ),
)


def ego_scenarios(path: str, max_agents: int, max_egos: int) -> Iterator[tuple[int, Scenario]]:
    """For each ego the index of its scene, and the scene with the ego as sdc. Egos are traveling vehicles.

    Args:
      path: Scenes.
      max_agents: Largest number of agents at the current step.
      max_egos: Egos per scene.
    """
    for number, scenario in enumerate(ws.load(path, pad_to_bucket=False)):
        if np.sum(scenario.log.valid[int(scenario.current_step)]) > max_agents:
            continue
        for slot in traveling_vehicles(scenario)[:max_egos]:
            agents = dataclasses.replace(scenario.agents, is_sdc=np.arange(scenario.num_agents) == slot)
            yield number, dataclasses.replace(scenario, agents=agents, routes=None)


def traveling_vehicles(scenario: Scenario) -> Int[np.ndarray, " n"]:
    """Slots of the vehicles of the selector "traveling", on the host: scenes of any shape compile nothing."""
    log, now = scenario.log, int(scenario.current_step)
    last = log.valid.shape[0] - 1 - np.argmax(log.valid[::-1], axis=0)
    end = log.xyz[last, np.arange(scenario.num_agents), :2]
    travel = np.linalg.norm(end - log.xyz[now, :, :2], axis=-1)
    is_vehicle = (scenario.agents.type == VEHICLE) & scenario.agents.exists
    return np.flatnonzero(is_vehicle & log.valid[now] & (travel > Traveling().min_distance))


def ego_bank(scenarios: Sequence[Scenario]) -> ScenarioBank:
    """A bank in which the caller controls the ego alone."""
    return build_bank(scenarios, TRAINING.env, controlled=[scenario.agents.is_sdc for scenario in scenarios])


def train(config: TrafficConfig, bank: ScenarioBank, traffic: Policies, seed: int) -> tuple[NetworkPolicy, float]:
    """The policy trained among some traffic, and the agent steps per CPU second.

    Args:
      config: Sizes.
      bank: Egos to train.
      traffic: Policies of the other agents; None for the log.
      seed: Seed.
    """
    start = load_policy(config.start)
    learner = PPO(TRAINING, config.ppo)
    state = jax.jit(learner.init)(bank, jax.random.key(seed), traffic)
    state = dataclasses.replace(state, params=jax.device_put(start.params))
    step, begin, total = jax.jit(learner.train_step), 0.0, 0.0
    for number in range(config.updates):
        state, scalars = step(state, bank, traffic)
        steps = float(scalars["agent_steps"])
        if number == 0:  # the first step compiles
            begin = time.process_time()
        else:
            total += steps
        if number % 20 == 0 or number == config.updates - 1:
            print(number, {name: round(float(value), 3) for name, value in scalars.items()}, flush=True)
    rate = total / max(time.process_time() - begin, 1e-9)
    return learner.model.policy(state.params, "sample", SELF_PLAY_CONFIG.steps_per_action), rate


@functools.partial(jax.jit, static_argnums=0)
def _outcomes(env: Env, assignment: Assignment, bank: ScenarioBank, index, key) -> dict[str, Bool[jax.Array, " G"]]:
    """Whether each metric was ever positive for the sdc, for a group of egos."""

    def simulate(index, key):
        trace = rollout(env, assignment, bank.scenario(index), key, NUM_STEPS, record=("metrics",))
        assert trace.metrics is not None
        return {name: jnp.any((value.value > 0) & value.valid) for name, value in trace.metrics.items()}

    return jax.vmap(simulate)(index, jax.random.split(key, len(index)))


def evaluate(policy: Policy, bank: ScenarioBank, traffic: Policies, seed: int = 0) -> dict[str, Bool[np.ndarray, " E"]]:
    """Outcomes of each ego: goal without harm, collision, off the road, and the sides of its contacts.

    Args:
      policy: The policy of the ego.
      bank: Egos.
      traffic: Policies of the other agents; None for the log.
      seed: Seed.
    """
    others = Assignment.from_policies(traffic)
    assignment = Assignment([policy, *others.policies], ["sdc", *others.agents])
    parts = []
    for begin in range(0, len(bank), GROUP_SIZE):
        index = jnp.asarray((begin + np.arange(GROUP_SIZE)) % len(bank), jnp.int32)
        key = jax.random.fold_in(jax.random.key(seed), begin)
        parts.append(jax.device_get(_outcomes(EVALUATION, assignment, bank, index, key)))
    joined = {name: np.concatenate([part[name] for part in parts])[: len(bank)] for name in parts[0]}
    harmless = ~joined["overlap"] & ~joined["offroad"]
    return {
        "goal": joined["goal_reached"] & harmless,
        "collision": joined["overlap"],
        "offroad": joined["offroad"],
        "rear": joined["overlap"] & joined["rear"],
        "side": joined["overlap"] & joined["side"] & ~joined["rear"],
    }


def main(config: TrafficConfig) -> list[Criterion]:
    """Trains, evaluates, and prints the matrix and the criteria."""
    egos = [scenario for _, scenario in ego_scenarios(config.train, config.max_agents, config.max_train_egos)]
    test = list(ego_scenarios(config.test, config.max_agents, config.max_test_egos))
    bank, test_bank = ego_bank(egos), ego_bank([scenario for _, scenario in test])
    scene = np.tile([number for number, _ in test], len(config.seeds))
    print(f"{len(bank)} egos with {bank.num_agents} agent slots, {len(test_bank)} test egos")
    outcomes: dict[tuple[str, str], list] = {}
    for seed in config.seeds:
        # Sampled like the trained ones, whose programs it shares.
        start = dataclasses.replace(load_policy(config.start), mode="sample")
        policies: dict[str, Policy] = {"start": start, "rule-based": IDM()}
        for name, traffic in TRAFFIC.items():
            policies[name], rate = train(config, bank, traffic, seed)
            print(f"seed {seed}: {rate:.0f} agent steps per CPU second among {name}")
        for name, policy in policies.items():
            for among, traffic in TRAFFIC.items():
                outcomes.setdefault((name, among), []).append(evaluate(policy, test_bank, traffic, seed))
    joined = {
        run: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for run, parts in outcomes.items()
    }
    print_matrix(joined, scene)
    return criteria(joined, scene)


def print_matrix(outcomes: dict[tuple[str, str], dict[str, np.ndarray]], scene: np.ndarray) -> None:
    """Rates in %, with 95 % intervals over scenes.

    Args:
      outcomes: Outcomes of each policy among each traffic.
      scene: Scene of each episode.
    """
    print("| policy | traffic | goal | collision | off the road | rear | side |\n|---|---|---|---|---|---|---|")
    for (policy, traffic), own in outcomes.items():
        intervals = {name: mean_interval(values, scene) for name, values in own.items()}
        cells = {
            name: f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            for name, (mean, low, high) in intervals.items()
        }
        print(table_line(f"{policy} | {traffic}", cells))


def criteria(outcomes: dict[tuple[str, str], dict[str, np.ndarray]], scene: np.ndarray) -> list[Criterion]:
    """Ratios of the collision rates among the log and among reactive traffic, and the sides of the excess.

    Args:
      outcomes: Outcomes of each policy among each traffic.
      scene: Scene of each episode.
    """
    ratios = {
        name: ratio_interval(outcomes[name, "log"]["collision"], outcomes[name, "idm"]["collision"], scene)
        for name in ("idm", "log", "rule-based")
    }
    for name, (ratio, low, high) in ratios.items():
        print(f"{name}: collision rate among the log / among IDM {ratio:.2f} ({low:.2f} to {high:.2f})")
    among_log, among_idm = outcomes["idm", "log"], outcomes["idm", "idm"]
    excess = float(np.sum(among_log["collision"]) - np.sum(among_idm["collision"]))
    by_others = sum(float(np.sum(among_log[side]) - np.sum(among_idm[side])) for side in SIDES)
    return [
        Criterion("W3 trained among IDM: collisions among the log / among IDM", ratios["idm"][0], low=2.5),
        Criterion("W3 its lower bound", ratios["idm"][1], low=1.8),
        Criterion("W3 trained among the log: the same ratio", ratios["log"][0], high=1.5),
        Criterion("W3 rule-based ego: the same ratio", ratios["rule-based"][0], low=0.8, high=1.5),
        Criterion(
            "W3 share of the excess at the rear or a side", by_others / excess if excess > 0 else np.nan, low=0.5
        ),
    ]


if __name__ == "__main__":
    for criterion in main(tyro.cli(TrafficConfig)):
        print(criterion)
