"""The command `waymax-sim train`."""

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from behavior_models.trainers.options import (
    BCOptions,
    BCSACOptions,
    DecoderOptions,
    DQNOptions,
    DR3Options,
    PPOOptions,
    SACOptions,
    ScaledQLOptions,
)

Algorithm = (
    Annotated[BCOptions, tyro.conf.subcommand("bc", prefix_name=False)]
    | Annotated[PPOOptions, tyro.conf.subcommand("ppo", prefix_name=False)]
    | Annotated[DQNOptions, tyro.conf.subcommand("dqn", prefix_name=False)]
    | Annotated[SACOptions, tyro.conf.subcommand("sac", prefix_name=False)]
    | Annotated[BCSACOptions, tyro.conf.subcommand("bc-sac", prefix_name=False)]
    | Annotated[ScaledQLOptions, tyro.conf.subcommand("scaled-ql", prefix_name=False)]
    | Annotated[DR3Options, tyro.conf.subcommand("dr3", prefix_name=False)]
    | Annotated[DecoderOptions, tyro.conf.subcommand("decoder", prefix_name=False)]
)


def train(algorithm: tyro.conf.OmitArgPrefixes[Algorithm]) -> int:
    """Trains drivers of vehicles to their goals, or of all agents (decoder); the same command resumes a run.

    Args:
      algorithm: The algorithm.
    """
    from behavior_models.training.devices import use_cpu_devices
    from waymax_sim.evaluation.sharding import num_cores

    options = algorithm
    # The module of the algorithm has a function of its name. Other commands do not load the learning libraries.
    name = options.algorithm.replace("-", "_")
    trainer = getattr(importlib.import_module(f"behavior_models.trainers.{name}"), f"train_{name}")
    use_cpu_devices(options.devices or num_cores())
    try:
        options.check()
        trainer(options)
    except ValueError as error:
        sys.exit(str(error))
    draw_curves(options.out)
    policy = options.out / ("policy" if options.seeds == 1 else "seed_0/policy")
    # Logged transitions are no scenes.
    evaluated = options.held_out or ("PATH" if isinstance(options, ScaledQLOptions) else options.data)
    print(f"wrote {policy}; evaluate it with: waymax-sim evaluate {evaluated} --policy {policy}", file=sys.stderr)
    return 0


def draw_curves(folder: Path) -> None:
    """Draws the log of a training, with the baselines, as `learning_curves.png`."""
    from behavior_models.training.log import BASELINES_FILE, read_log
    from waymax_sim.viz.learning_curves import draw_learning_curves

    file = folder / BASELINES_FILE
    baselines = json.loads(file.read_text(encoding="utf-8"))["rates"] if file.exists() else {}
    draw_learning_curves(read_log(folder), baselines, folder / "learning_curves.png")
