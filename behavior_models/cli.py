"""The command `waymax-sim train`."""

import sys
from pathlib import Path
from typing import Literal

import tyro


def train(
    algorithm: tyro.conf.Positional[Literal["bc", "ppo"]],
    /,
    data: str,
    out: Path,
    held_out: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    anchor: Path | None = None,
    anchor_weight: float = 0.05,
    encoder: Literal["pool", "attention"] = "pool",
) -> int:
    """Trains a driver of traveling vehicles to their goals; an interrupted run is resumed by the same command.

    Args:
      algorithm: bc (behavior cloning) or ppo (self-play).
      data: Scenes to train on: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT.
      out: Folder for log.jsonl, checkpoints and the trained policy.
      held_out: Scenes to evaluate on during training.
      steps: Training steps; by default 200 updates of ppo, 16 epochs of bc.
      seed: Seed of all random draws.
      anchor: Folder of a bc policy; ppo stays near it (anchored self-play).
      anchor_weight: Weight of the Kullback-Leibler term of the anchor.
      encoder: Encoder of the network.
    """
    # Imported on use: the other commands do not load the learning libraries.
    try:
        from behavior_models.train import TrainingOptions, train_bc, train_ppo
    except ImportError as error:
        sys.exit(f"{error}; training needs flax, optax and orbax: pip install 'waymax-sim[train]'")

    options = TrainingOptions(data, out, held_out, steps, seed, encoder)
    try:
        if algorithm == "bc":
            train_bc(options)
        else:
            train_ppo(options, anchor, anchor_weight if anchor else 0.0)
    except ValueError as error:
        sys.exit(str(error))
    print(f"wrote {out}/policy; evaluate it with: waymax-sim evaluate {data} --policy {out}/policy", file=sys.stderr)
    return 0
