"""Waymax's benchmark of planning agents (Gulino et al. 2023) on synthetic scenes: tables, criteria and controls.

    python -m examples.reproductions.waymax_agents --policies bc=runs/bc-0/policy bc=runs/bc-1/policy

The self-driving car is driven by experts in several action spaces, by rules, and by the given policies, for 8 s among
the log and among reactive traffic. Folders of one name are seeds; a folder may also be the name of a released policy,
and all of these are the default. `name=folder@5` holds each action for 5 steps, as the paper does with Wayformer.
`--recorded` adds a table of the traveling vehicles of recorded scenes, each in turn among the log. `--experiments` adds
the experiments on experts, routes, traffic and modes; `--quick` is a small version of all of it.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float, Int

import waymax_sim as ws
from behavior_models.baselines.kinematic import ConstantVelocity, Stationary
from behavior_models.baselines.log_replay import LogReplay
from behavior_models.checkpoints import RELEASED
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.planners.pdm import PDM
from behavior_models.traffic.idm import IDM
from behavior_models.traffic.log_path import LogPathIDM
from examples.reproductions import waymax_expert, waymax_modes, waymax_route, waymax_traffic
from examples.reproductions.waymax_common import Criterion, mean_interval, table_line
from examples.reproductions.waymax_recorded import recorded_egos
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.dynamics import Bicycle, Delta, Discrete
from waymax_sim.env import Assignment, Env, EnvConfig, Policy
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.evaluation.evaluate import simulate_and_evaluate
from waymax_sim.plugins import resolve_policy

# Scenes that are simulated together.
GROUP_SIZE = 20
# Column, metric and factor.
COLUMNS = {
    "off-road, %": ("offroad", 100.0),
    "collision, %": ("overlap", 100.0),
    "infeasible, %": ("kinematic_infeasibility", 100.0),
    "log ADE, m": ("log_divergence", 1.0),
    "progress, %": ("route_progression", 100.0),
}
TRAFFIC: dict[str, Policy | None] = {"log": None, "idm": LogPathIDM()}
EXPERTS: dict[str, Policy] = {
    "log": LogReplay(),
    "expert, delta": LogReplay(Delta()),
    "expert, bicycle": LogReplay(Bicycle()),
    "expert, bicycle 13 x 13": LogReplay(Discrete(Bicycle(), bins=(12, 12))),
}
RULES: dict[str, Policy] = {
    "stationary": Stationary(),
    "constant velocity": ConstantVelocity(),
    "idm": IDM(),
    "pdm": PDM(),
}
Experiment = Literal["expert", "route", "traffic", "modes"]
Table = dict[tuple[str, str], dict[str, Float[np.ndarray, " E"]]]


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Inputs of the benchmark.

    Attributes:
      scenes: Scenes to evaluate in.
      policies: Learned policies, `name=folder` or `name=folder@steps`; a folder or the name of a policy.
      recorded: Recorded scenes: files, quoted patterns or converted folders.
      max_egos: Largest number of egos of a recorded scene.
      experiments: Experiments to run after the table.
      start: Policy of `waymax-sim train bc` from which the experiment on traffic starts.
      num_steps: Steps of an episode.
      quick: Whether to run everything at a small size, whose numbers mean nothing.
    """

    scenes: str = "synthetic:901:60"
    policies: tuple[str, ...] = tuple(f"{name}={name}" for name in RELEASED)
    recorded: tuple[str, ...] = ()
    max_egos: int = 16
    experiments: tuple[Experiment, ...] = ()
    start: Path | None = None
    num_steps: int = 80
    quick: bool = False


def learned_policies(arguments: Iterable[str]) -> dict[str, list[Policy]]:
    """Policies by name, one per seed.

    Raises:
      ValueError: An argument is not `name=folder` or `name=folder@steps`, or the policy cannot hold actions.
    """
    policies: dict[str, list[Policy]] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        folder, _, steps = path.partition("@")
        if not separator or not folder or (steps and not steps.isdigit()):
            raise ValueError(f"{argument!r} is not name=folder or name=folder@steps")
        policy = resolve_policy(folder)
        if steps:
            if not isinstance(policy, NetworkPolicy):
                raise ValueError(f"{argument!r}: {folder} is no network, whose actions could be held")
            policy = dataclasses.replace(policy, interval=int(steps))
        policies.setdefault(name, []).append(policy)
    return policies


def environment(num_history_steps: int = 2) -> Env:
    """Rules of the evaluation: the ego alone is controlled and observes its goal, the end of its log."""
    metrics = tuple(metric for metric, _ in COLUMNS.values())
    config = EnvConfig(
        spawn="never",
        goals="end_of_log",
        metrics=metrics,
        rewards=(),
        evaluated="sdc",
        num_history_steps=num_history_steps,
    )
    return Env(config=config)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate_group(env: Env, num_steps: int, assignment: Assignment, bank: ScenarioBank, index, key):
    def evaluate(index, key):
        return simulate_and_evaluate(env, assignment, bank.scenario(index), key, num_steps)[0]

    return jax.vmap(evaluate)(index, jax.random.split(key, len(index)))


def evaluate(
    policy: Policy, traffic: Policy | None, bank: ScenarioBank, num_steps: int, seed: int = 0
) -> dict[str, Float[np.ndarray, " B"]]:
    """Values of each column and scene, NaN where a metric is not valid.

    Args:
      policy: The policy of the ego.
      traffic: The policy of all others; None for the log.
      bank: The scenes.
      num_steps: Steps of an episode.
      seed: Seed of all random draws.
    """
    env = environment(observed_history_steps([policy]))
    others = [] if traffic is None else [(traffic, "others")]
    assignment = Assignment.from_policies([(policy, "sdc"), *others])
    size, groups = min(GROUP_SIZE, len(bank)), []
    for begin in range(0, len(bank), size):
        index = jnp.asarray((begin + np.arange(size)) % len(bank), jnp.int32)
        key = jax.random.fold_in(jax.random.key(seed), begin)
        groups.append(jax.device_get(_evaluate_group(env, num_steps, assignment, bank, index, key)))
    columns = {}
    for column, (metric, factor) in COLUMNS.items():
        parts = [np.where(group[metric].valid, factor * group[metric].value, np.nan) for group in groups]
        columns[column] = np.concatenate(parts)[: len(bank)]
    return columns


def evaluate_all(
    config: BenchmarkConfig, scenarios: Sequence[Scenario], scene: Int[np.ndarray, " B"], traffic: Iterable[str]
) -> Table:
    """Columns of each policy among each traffic, of experts among the log; values of seeds are concatenated.

    Args:
      config: The policies and the length of the episodes.
      scenarios: The scenes.
      scene: Scene of each of them, by which they are resampled.
      traffic: Names of `TRAFFIC`.
    """
    bank, table = build_bank(scenarios, environment()), {}
    policies = {name: [policy] for name, policy in (EXPERTS | RULES).items()} | learned_policies(config.policies)
    print(f"| policy | traffic | seeds | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 3)}")
    for name, seeds in policies.items():
        for among in ("log",) if name in EXPERTS else traffic:
            others = TRAFFIC[among]
            runs = [evaluate(policy, others, bank, config.num_steps, seed) for seed, policy in enumerate(seeds)]
            table[name, among] = {column: np.concatenate([run[column] for run in runs]) for column in COLUMNS}
            print_row(f"{name} | {among} | {len(seeds)}", table[name, among], np.tile(scene, len(seeds)))
    return table


def print_row(name: str, columns: dict[str, Float[np.ndarray, " E"]], scene: Int[np.ndarray, " E"]) -> None:
    """A row with means and 95 % intervals over scenes.

    Args:
      name: First cells.
      columns: Values of all episodes.
      scene: Scene of each episode.
    """
    cells = {}
    for column, values in columns.items():
        valid = np.isfinite(values)
        cells[column] = "no valid scene"
        if valid.any():
            mean, low, high = mean_interval(values[valid], scene[valid])
            cells[column] = f"{mean:.2f} ({low:.2f} to {high:.2f})"
    print(table_line(name, cells), flush=True)


def criteria(table: Table) -> list[Criterion]:
    """Statements of the paper about the table, as differences of rates in percentage points."""

    def mean(policy: str, traffic: str, column: str) -> float:
        values = table[policy, traffic][column]
        return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan

    def excess(policy: str, column: str) -> float:
        return mean(policy, "log", column) - mean("log", "log", column)

    discrete, off_road, collision = "expert, bicycle 13 x 13", "off-road, %", "collision, %"
    statements = [
        Criterion(f"{discrete}: {name} above the log", excess(discrete, name), high=0.5)
        for name in (off_road, collision)
    ]
    control = Criterion(
        "control, constant velocity: off-road, % above the log", excess("constant velocity", off_road), low=0.5
    )
    statements.append(control)
    for name in sorted({policy for policy, _ in table} - EXPERTS.keys() - RULES.keys()):
        more = mean(name, "log", collision) - mean(name, "idm", collision)
        statements.append(Criterion(f"{name}: collisions among the log above those among IDM, %", more, low=0.0))
    return statements


def run_experiments(config: BenchmarkConfig) -> list[Criterion]:
    """The requested experiments.

    Raises:
      ValueError: The experiment on traffic has no policy to start from.
    """
    results: list[Criterion] = []
    small = config.quick
    for name in config.experiments:
        print(f"\n{name}")
        match name:
            case "expert":
                results += waymax_expert.main(waymax_expert.ExpertConfig(config.scenes))
            case "modes":
                sizes = {"num_episodes": 50, "num_steps": 20, "seeds": (0,)} if small else {}
                results += waymax_modes.main(waymax_modes.ModesConfig(**sizes))
            case "route":
                sizes = {"num_train": 2, "num_test": 2, "num_epochs": 1, "seeds": (0,)} if small else {}
                results += waymax_route.main(waymax_route.RouteConfig(**sizes))
            case "traffic":
                if config.start is None:
                    raise ValueError("the experiment on traffic needs a policy to start from: --start FOLDER")
                sizes = {"train": config.scenes, "updates": 2, "num_envs": 2, "num_decisions": 2} if small else {}
                settings = waymax_traffic.TrafficConfig(config.start, test=config.scenes, **sizes)
                results += waymax_traffic.main(settings)
    return results


def main(config: BenchmarkConfig) -> list[Criterion]:
    """Prints the tables, the experiments and the criteria."""
    if config.quick:
        config = dataclasses.replace(config, scenes="synthetic:901:2", num_steps=4, max_egos=1)
    scenarios = list(ws.load(config.scenes, pad_to_bucket=False))
    results = criteria(evaluate_all(config, scenarios, np.arange(len(scenarios)), TRAFFIC))
    if config.recorded:
        egos = recorded_egos(config.recorded, config.max_egos)
        print(f"\n{len(egos.scenarios)} egos of {len(np.unique(egos.record))} recorded scenes")
        evaluate_all(config, *egos, ("log",))
    results += run_experiments(config)
    print("\n" + "\n".join(map(str, results)))
    return results


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
