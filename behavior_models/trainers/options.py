"""Options of the trainings, as the command line shows them. Imports no learning library."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Inputs and outputs of a training.

    Attributes:
      data: Scenes to train on: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT.
      out: Folder for log.jsonl, checkpoints and the trained policy.
      held_out: Scenes to evaluate on; none by default.
      steps: Training steps; by default those of the algorithm.
      seed: Seed of all random draws.
      encoder: Encoder of the network.
      curriculum: Probability of a draw among the most difficult tenth of the scenes; the others are uniform.
    """

    data: str
    out: Path
    held_out: str | None = None
    steps: int | None = None
    seed: int = 0
    encoder: Literal["pool", "attention"] = "pool"
    curriculum: float | None = None

    @property
    def algorithm(self) -> str:
        """Name of the algorithm, that of its command."""
        return ALGORITHMS[type(self)]

    def command(self) -> str:
        """The command of this training."""
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) not in (field.default, None)
        }
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())
        return f"waymax-sim train {self.algorithm} {options}"

    def conditions(self) -> dict[str, Any]:
        """All options but the folder, as plain values: a training is resumed with equal ones only."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        return {"algorithm": self.algorithm, **values, "out": None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCOptions(TrainingOptions):
    """Behavior cloning of logged vehicles (default: 16 epochs).

    Attributes:
      action: Actions: acceleration and curvature (bicycle), in 63 levels or continuous, or displacement (delta).
      labels: Labels of discrete actions: the two levels next to that of the expert in each component, or the nearest.
      head: Distribution of continuous actions: a squashed Gaussian, or a mixture of six Gaussians.
      expert: Actions of the expert lead to the logged position .6 s ahead, or bring the corners of the box there.
      weight_decay: Weight decay of the optimizer.
    """

    action: Literal["bicycle_discrete", "bicycle", "delta"] = "bicycle_discrete"
    labels: Literal["soft", "hard"] = "soft"
    head: Literal["gaussian", "mixture"] = "gaussian"
    expert: Literal["arc", "corners"] = "arc"
    weight_decay: float = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOOptions(TrainingOptions):
    """PPO by self-play of all traveling vehicles (default: 200 updates).

    Attributes:
      anchor: Folder of a bc policy, from which the policy is kept from diverging (anchored self-play).
      anchor_weight: Weight of KL(anchor || policy).
      sampling_temperature: Temperature of the actions of the evaluated and stored policy; training samples at 1.
    """

    anchor: Annotated[Path | None, tyro.conf.arg(aliases=["--kl-to"])] = None
    anchor_weight: float = 0.05
    sampling_temperature: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNOptions(TrainingOptions):
    """DQN by self-play of all traveling vehicles (default: 300 training steps).

    Attributes:
      values: Action values as scalars (double DQN) or as distributions over returns (C51).
    """

    values: Literal["scalar", "distribution"] = "scalar"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACOptions(TrainingOptions):
    """Soft actor-critic by self-play with continuous actions and rewards for safety margins (default: 300 steps).

    Attributes:
      start: Folder of a policy whose parameters the actor begins with (bc --action bicycle).
      temperature: Weight of the entropy of the policy.
    """

    start: Path | None = None
    temperature: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCSACOptions(SACOptions):
    """BC-SAC: soft actor-critic whose actor also imitates logged vehicles (default: 300 steps).

    Attributes:
      imitation_weight: Weight of the log-likelihood of logged actions, as a share of the magnitude of action values.
    """

    imitation_weight: float = 0.1


# The command of each algorithm.
ALGORITHMS: dict[type[TrainingOptions], str] = {
    BCOptions: "bc",
    PPOOptions: "ppo",
    DQNOptions: "dqn",
    SACOptions: "sac",
    BCSACOptions: "bc-sac",
}
