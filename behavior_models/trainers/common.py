"""Parts of all trainings: scenes, the loop with its progress, evaluation on held-out scenes, and the stored policy."""

import json
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import waymax_sim as ws
from behavior_models.networks.checkpoint import save_policy
from behavior_models.networks.heads import Mode
from behavior_models.networks.model import NetworkModel, QModel
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.trainers.options import TrainingOptions
from behavior_models.training.collect import Actor
from behavior_models.training.held_out import HeldOut
from behavior_models.training.loop import Evaluate, LoopConfig, run_training
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.evaluation.difficulty import curriculum_weights, difficulty_scores, scene_features

# Decisions of an episode of 8 s at 5 Hz.
NUM_DECISIONS = 40


def network_config(options: TrainingOptions) -> NetworkConfig:
    """Size of the network."""
    return NetworkConfig(encoder=options.encoder)


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


def open_folder(options: TrainingOptions) -> None:
    """Creates the output folder.

    Raises:
      ValueError: A training with other options has begun in it.
    """
    given = options.conditions()
    file = options.out / "options.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in given if given[name] != stored.get(name)]
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
) -> Any:
    """The loop with a progress bar, and an evaluation on held-out scenes at the end.

    Args:
      options: Inputs and outputs.
      env: The environment of the evaluation.
      state: The first state of training, whose `params` are those of the policy.
      step: A training step.
      config: Intervals.
      actor: The actor of given parameters.

    Returns:
      The last state.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=config.num_steps)

        def report(line: dict[str, Any]) -> None:
            shown = {name: round(value, 3) for name, value in line.items() if name != "step"}
            bar.update(task, completed=int(line["step"]))
            bar.console.print(f"step {line['step']}: {shown}", highlight=False)

        return run_training(options.out, state, step, config, _evaluation(options, env, actor), report)


def _evaluation(options: TrainingOptions, env: FunctionalEnv, actor: Callable[[Any], Actor]) -> Evaluate | None:
    """The evaluation on held-out scenes; None without any."""
    if options.held_out is None:
        return None
    bank, key = load_bank(options.held_out, env), jax.random.key(options.seed + 1)
    return lambda state: HeldOut(env, NUM_DECISIONS).rates(actor(state.params), bank, key)


def save(options: TrainingOptions, env: FunctionalEnv, model: NetworkModel, params: Any, mode: Mode) -> NetworkPolicy:
    """Writes the trained policy to the folder `policy`.

    Args:
      options: Inputs and outputs.
      env: The environment of the training.
      model: The network.
      params: Its parameters.
      mode: How the policy acts.
    """
    facts = {"algorithm": options.algorithm, "command": options.command()}
    policy = model.policy(jax.device_get(params), mode, env.env.config.steps_per_action)
    save_policy(options.out / "policy", policy, model.config, facts, model.head if isinstance(model, QModel) else None)
    return policy
