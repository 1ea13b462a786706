"""Trainings from end to end: scenes, algorithm, evaluation on held-out scenes, and the stored policy."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import waymax_sim as ws
from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import Demonstrations, collect_demonstrations
from behavior_models.networks.checkpoint import load_policy, save_policy
from behavior_models.networks.heads import Mode
from behavior_models.networks.model import ActorCriticModel
from behavior_models.networks.policy import NetworkActor, NetworkPolicy
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.training.held_out import HeldOut
from behavior_models.training.loop import Evaluate, LoopConfig, run_training
from behavior_models.training.presets import GOAL_TASK
from waymax_sim.env.bank import ScenarioBank, build_bank

# Decisions of an episode of 8 s at 5 Hz.
NUM_DECISIONS = 40
# Scales of the perturbation of the starts of demonstrations.
NOISE_SCALES = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """Inputs and outputs of a training.

    Attributes:
      data: Scenes to train on.
      out: Folder to write to.
      held_out: Scenes to evaluate on; None for no evaluation.
      num_steps: Training steps; None for the default of the algorithm.
      seed: Seed of all random draws.
      encoder: Encoder of the network.
    """

    data: str
    out: Path
    held_out: str | None = None
    num_steps: int | None = None
    seed: int = 0
    encoder: Literal["pool", "attention"] = "pool"

    @property
    def network(self) -> NetworkConfig:
        """Size of the network."""
        return NetworkConfig(encoder=self.encoder)


def train_bc(options: TrainingOptions) -> NetworkPolicy:
    """Trains by behavior cloning."""
    _check_folder(options, {"algorithm": "bc"})
    key = jax.random.key(options.seed)
    bank = _bank(options.data)
    parts = [
        collect_demonstrations(
            GOAL_TASK, bank, jax.random.fold_in(key, index), num_decisions=NUM_DECISIONS, noise=scale
        )
        for index, scale in enumerate(NOISE_SCALES)
    ]
    data: Demonstrations = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    config = BCConfig(num_epochs=options.num_steps or BCConfig.num_epochs)
    learner = BehaviorCloning(GOAL_TASK, len(data), config, options.network)
    device_data = jax.device_put(data)
    step = jax.jit(learner.train_step)
    state = _run(
        options,
        learner.init(key),
        lambda state: step(state, device_data),
        LoopConfig(config.num_epochs, log_every=1, save_every=4),
        lambda params: learner.model.actor(params, "mode"),
    )
    return _save(options, learner.model, state.params, "mode", "bc")


def train_ppo(options: TrainingOptions, anchor: Path | None, anchor_weight: float) -> NetworkPolicy:
    """Trains by self-play.

    Args:
      options: Inputs and outputs.
      anchor: Folder of a policy of `train_bc`; None without an anchor.
      anchor_weight: Weight of KL(anchor || policy).
    """
    _check_folder(options, {"algorithm": "ppo", "anchor": anchor and str(anchor), "anchor_weight": anchor_weight})
    bank = _bank(options.data)
    reference = None if anchor is None else load_policy(anchor)
    config = PPOConfig(num_updates=options.num_steps or PPOConfig.num_updates, anchor_weight=anchor_weight)
    learner = PPO(GOAL_TASK, config, options.network, None if reference is None else reference.graph)
    anchor_params = None if reference is None else jax.device_put(reference.params)
    step = jax.jit(learner.train_step)
    state = _run(
        options,
        jax.jit(learner.init)(bank, jax.random.key(options.seed)),
        lambda state: step(state, bank, None, anchor_params),
        LoopConfig(config.num_updates),
        lambda params: learner.model.actor(params, "sample"),
    )
    return _save(options, learner.model, state.params, "sample", "ppo")


def _check_folder(options: TrainingOptions, more: dict[str, Any]) -> None:
    """Raises a ValueError if a training with other options has begun in the folder.

    Args:
      options: Inputs and outputs.
      more: Options of the algorithm.
    """
    given = {**dataclasses.asdict(options), "out": None, **more}
    file = options.out / "options.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in given if given[name] != stored.get(name)]
        if changed:
            raise ValueError(f"{options.out} has a training with other {', '.join(changed)}; use another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(given) + "\n", encoding="utf-8")


def _bank(path: str) -> ScenarioBank:
    return build_bank(ws.load(path, pad_to_bucket=False), GOAL_TASK.env)


def _run(
    options: TrainingOptions,
    state: Any,
    step: Callable[[Any], tuple[Any, Any]],
    config: LoopConfig,
    actor: Callable[[Any], NetworkActor],
) -> Any:
    """The loop, with a progress bar and an evaluation on held-out scenes at the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=config.num_steps)

        def report(line: dict[str, Any]) -> None:
            shown = {name: round(value, 3) for name, value in line.items() if name != "step"}
            bar.update(task, completed=int(line["step"]))
            bar.console.print(f"step {line['step']}: {shown}", highlight=False)

        return run_training(options.out, state, step, config, _evaluation(options, actor), report)


def _evaluation(options: TrainingOptions, actor: Callable[[Any], NetworkActor]) -> Evaluate | None:
    """The evaluation on held-out scenes; None without any."""
    if options.held_out is None:
        return None
    bank, key = _bank(options.held_out), jax.random.key(options.seed + 1)
    return lambda state: HeldOut(GOAL_TASK, NUM_DECISIONS).rates(actor(state.params), bank, key)


def _save(options: TrainingOptions, model: ActorCriticModel, params: Any, mode: Mode, algorithm: str) -> NetworkPolicy:
    facts = {"algorithm": algorithm, "data": options.data, "seed": options.seed, "steps": options.num_steps}
    policy = model.policy(jax.device_get(params), mode, GOAL_TASK.env.config.steps_per_action)
    save_policy(options.out / "policy", policy, options.network, facts)
    return policy
