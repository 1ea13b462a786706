"""The command `waymax-sim train`."""

import importlib
import sys
from typing import Annotated

import tyro

from behavior_models.trainers.options import BCOptions, BCSACOptions, PPOOptions, SACOptions

Algorithm = (
    Annotated[BCOptions, tyro.conf.subcommand("bc", prefix_name=False)]
    | Annotated[PPOOptions, tyro.conf.subcommand("ppo", prefix_name=False)]
    | Annotated[SACOptions, tyro.conf.subcommand("sac", prefix_name=False)]
    | Annotated[BCSACOptions, tyro.conf.subcommand("bc-sac", prefix_name=False)]
)


def train(algorithm: tyro.conf.OmitArgPrefixes[Algorithm]) -> int:
    """Trains a driver of traveling vehicles to their goals; an interrupted run is resumed by the same command.

    Args:
      algorithm: The algorithm.
    """
    options = algorithm
    # The module of the algorithm has a function of its name. Other commands do not load the learning libraries.
    name = options.algorithm.replace("-", "_")
    trainer = getattr(importlib.import_module(f"behavior_models.trainers.{name}"), f"train_{name}")
    try:
        trainer(options)
    except ValueError as error:
        sys.exit(str(error))
    policy = options.out / "policy"
    evaluated = options.held_out or options.data
    print(f"wrote {policy}; evaluate it with: waymax-sim evaluate {evaluated} --policy {policy}", file=sys.stderr)
    return 0
