"""Parts of all trainings: scenes, the loop with its progress, evaluation on held-out scenes, and the stored policy."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Key
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import waymax_sim as ws
from behavior_models.networks.checkpoint import save_policy
from behavior_models.networks.heads import Mode
from behavior_models.networks.model import NetworkModel, QModel
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.trainers.baselines import measure_baselines
from behavior_models.trainers.options import TRAINING_PRESETS, TrainingOptions
from behavior_models.trainers.streaming import ScenarioStream
from behavior_models.training.collect import Actor
from behavior_models.training.devices import device_mesh, map_seeds, put_on_devices
from behavior_models.training.held_out import HeldOut
from behavior_models.training.log import numbers
from behavior_models.training.loop import Evaluate, LoopConfig, run_training
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.bank_loader import BankLoader
from waymax_sim.evaluation.difficulty import curriculum_weights, difficulty_scores, scene_features
from waymax_sim.pytree import Array, tree_index

# Decisions of an episode of 8 s at 5 Hz.
NUM_DECISIONS = 40


def network_config(options: TrainingOptions) -> NetworkConfig:
    """Size of the network."""
    preset = TRAINING_PRESETS[options.preset]
    return NetworkConfig(encoder=options.encoder, width=preset.width, trunk=preset.trunk)


def load_bank(path: str, env: FunctionalEnv, curriculum: float | None = None) -> ScenarioBank:
    """The scenarios of a path, on the device.

    Args:
      path: See `waymax_sim.load`.
      env: The environment.
      curriculum: Probability of a random draw among the most difficult tenth of the scenarios, by computed difficulty.
    """
    scenarios = ws.load(path, pad_to_bucket=False)
    if curriculum is None:
        return build_bank(scenarios, env.env)
    given = list(scenarios)
    scores = difficulty_scores([scene_features(scenario, "traveling") for scenario in given])
    return build_bank(given, env.env, weights=curriculum_weights(scores, mixture=curriculum))


def training_mesh(options: TrainingOptions) -> Mesh | None:
    """Devices that share the seeds, or the environments of one seed; None for a single device."""
    return device_mesh(options.seeds if options.seeds > 1 else options.num_envs, options.devices)


def open_scenarios(options: TrainingOptions, env: FunctionalEnv, mesh: Mesh | None) -> ScenarioBank | ScenarioStream:
    """The scenarios of a training on the devices: all of them, or part of them that is replaced (`--bank-size`).

    Args:
      options: Inputs and outputs.
      env: The environment.
      mesh: From `training_mesh`.

    Raises:
      ValueError: There are fewer usable scenarios than the bank holds.
    """
    if options.bank_size is None:
        return put_on_devices(load_bank(options.data, env, options.curriculum), mesh, True)
    if options.curriculum is not None:
        raise ValueError("--curriculum needs all scenes in memory, without --bank-size")
    loader = BankLoader(ws.load(options.data, pad_to_bucket=False), env.env, options.bank_size, seed=options.seed)
    return ScenarioStream(loader, put_on_devices=lambda bank: put_on_devices(bank, mesh, True))


def resident_bank(scenarios: ScenarioBank | ScenarioStream) -> ScenarioBank:
    """The scenarios on the devices now."""
    return scenarios.bank if isinstance(scenarios, ScenarioStream) else scenarios


def training_keys(options: TrainingOptions) -> Key[Array, "*K"]:
    """The random key of the seed, or the keys [K] of several seeds."""
    keys = [jax.random.key(options.seed + index) for index in range(options.seeds)]
    return keys[0] if options.seeds == 1 else jnp.stack(keys)


def compile_seeds(options: TrainingOptions, function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """Compiles a function of the state or key of a seed and of shared arguments, for all seeds of a training.

    Args:
      options: Inputs and outputs.
      function: The function.
      mesh: From `training_mesh`.
    """
    return jax.jit(function if options.seeds == 1 else map_seeds(function, mesh))


def open_folder(options: TrainingOptions) -> None:
    """Creates the output folder.

    Raises:
      ValueError: A training with other options has begun in it.
    """
    given = options.conditions()
    file = options.out / "options.json"
    if file.exists():
        stored, plain = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(given))
        changed = [name for name in plain if plain[name] != stored.get(name)]
        if changed:
            raise ValueError(f"{options.out} has a training with other {', '.join(changed)}; use another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(given) + "\n", encoding="utf-8")


def run(
    options: TrainingOptions,
    env: FunctionalEnv,
    state: Any,
    step: Callable[[Any], tuple[Any, Any]],
    config: LoopConfig,
    actor: Callable[[Any], Actor],
    scenarios: ScenarioBank | ScenarioStream | None = None,
    inputs: Callable[[Any], Any] | None = None,
    evaluate: Evaluate | None = None,
) -> Any:
    """The loop with a progress bar, baselines, and evaluations on held-out scenes.

    Args:
      options: Inputs and outputs.
      env: The environment of the evaluation.
      state: The first state of training, whose `params` are those of the policy; of all seeds if there are several.
      step: A training step.
      config: Intervals; those of evaluations and the kind of logs are taken from the options.
      actor: The actor of given parameters.
      scenarios: The scenarios of the training.
      inputs: See `run_training`.
      evaluate: Evaluation of a state; by default that of the actor on the held-out scenes.

    Returns:
      The last state.
    """
    config = dataclasses.replace(config, evaluate_every=options.evaluate_every, tensorboard=options.tensorboard)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // options.seeds
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        bar.console.print(f"{count:,} parameters, {jax.local_device_count()} devices", highlight=False)
        task = bar.add_task("training", total=config.num_steps)
        evaluate = evaluate or _evaluation(options, env, actor, bar.console)

        def report(line: dict[str, Any]) -> None:
            shown = {name: round(value, 3) for name, value in numbers(line).items() if name != "step"}
            bar.update(task, completed=int(line["step"]), description=_describe(line))
            bar.console.print(f"step {line['step']}: {shown}", highlight=False)

        source = scenarios if isinstance(scenarios, ScenarioStream) else None
        return run_training(options.out, state, step, config, evaluate, report, source, inputs)


def run_and_save(
    options: TrainingOptions,
    env: FunctionalEnv,
    state: Any,
    step: Callable[[Any], tuple[Any, Any]],
    config: LoopConfig,
    model: NetworkModel,
) -> NetworkPolicy:
    """A training on one bank, whose policy takes the most likely action or that of the largest value.

    Args:
      options: Inputs and outputs.
      env: The environment of the training and the evaluation.
      state: See `run`.
      step: A training step.
      config: See `run`.
      model: The network.

    Returns:
      The stored policy, of the first seed.
    """
    state = run(options, env, state, step, config, lambda params: model.actor(params, "mode"))
    return save(options, env, model, state.params, "mode")


def _describe(line: dict[str, Any]) -> str:
    """Speed, return and rates for the progress bar."""
    speed = f"{line['agent_steps_per_s'] / 1e3:.1f}k agent-steps/s" if "agent_steps_per_s" in line else "training"
    names = ("return", "goal", "collision", "offroad", "loss")
    return " ".join([speed, *(f"{name} {line[name]:.3f}" for name in names if name in line)])


def _evaluation(
    options: TrainingOptions, env: FunctionalEnv, actor: Callable[[Any], Actor], console: Console
) -> Evaluate | None:
    """The evaluation on held-out scenes, after that of the baselines; None without any scenes."""
    if options.held_out is None:
        return None
    bank, key = load_bank(options.held_out, env), jax.random.key(options.seed + 1)
    num_steps = NUM_DECISIONS * env.env.config.steps_per_action
    baselines = measure_baselines(options.out, env.env, bank, num_steps, options.held_out, options.baselines)
    for name, rates in baselines.items():
        console.print(f"{name}: { {kind: round(rate, 3) for kind, rate in rates.items()} }", highlight=False)

    def evaluate(state: Any) -> dict[str, Any]:
        held_out = HeldOut(env, NUM_DECISIONS)
        rates = [held_out.rates(actor(params), bank, key) for params in seed_params(options, state.params)]
        return rates[0] if options.seeds == 1 else {name: np.array([own[name] for own in rates]) for name in rates[0]}

    return evaluate


def seed_params(options: TrainingOptions, params: Any) -> list[Any]:
    """Parameters of each seed, on one device."""
    params = jax.device_get(params)
    if options.seeds == 1:
        return [jax.device_put(params)]
    return [jax.device_put(tree_index(params, index)) for index in range(options.seeds)]


def save(options: TrainingOptions, env: FunctionalEnv, model: NetworkModel, params: Any, mode: Mode) -> NetworkPolicy:
    """Writes the trained policy to the folder `policy`, or those of several seeds to `seed_0/policy`, ....

    Args:
      options: Inputs and outputs.
      env: The environment of the training.
      model: The network.
      params: Its parameters, of all seeds.
      mode: How the policy acts.

    Returns:
      The policy of the first seed.
    """
    policies, head = [], model.head if isinstance(model, QModel) else None
    for index, own in enumerate(seed_params(options, params)):
        facts = {"algorithm": options.algorithm, "command": options.command(), "seed": options.seed + index}
        folder = options.out / ("policy" if options.seeds == 1 else f"seed_{index}/policy")
        policies.append(model.policy(jax.device_get(own), mode, env.env.config.steps_per_action))
        save_policy(folder, policies[-1], model.config, facts, head)
    return policies[0]
