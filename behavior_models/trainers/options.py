"""Options of the trainings, as the command line shows them. Imports no learning library."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class TrainingPreset:
    """Amount of training, by size of the machine.

    Attributes:
      data: Scenes.
      num_envs: Environments that are simulated together.
      steps: Training steps by algorithm; those of the algorithm for others.
      width: Features of an element of the network.
      trunk: Width of the hidden layers of the network.
    """

    data: str = "synthetic:0:100"
    num_envs: int = 32
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    width: int = 64
    trunk: int = 128


# The expected times are in docs/learned.md.
TRAINING_PRESETS = {
    "quick": TrainingPreset("synthetic:0:20", 16, {"ppo": 40, "bc": 4}, 32, 64),
    "laptop": TrainingPreset(),
    "gpu": TrainingPreset("synthetic:0:1000", 512, {"ppo": 1000, "bc": 32}, 128, 256),
}


# Two trivial policies, a rule-based driver, and an expert that knows the log.
BASELINE_NAMES = ("stationary", "constant_speed", "idm", "log_expert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Inputs and outputs of a training.

    Attributes:
      out: Folder for log.jsonl, checkpoints and the trained policy.
      preset: Defaults of data, envs, steps and the size of the network.
      data: Scenes to train on: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT; by default those of
        the preset.
      held_out: Scenes to evaluate on; none by default.
      steps: Training steps; by default those of the algorithm.
      seed: Seed of all random draws.
      seeds: Number of policies, trained in one program with seeds from `seed` on; their folders are seed_0, ....
      encoder: Encoder of the network.
      envs: Environments that are simulated together.
      bank_size: Scenes in memory, a tenth of which is replaced every 10 steps; by default all.
      evaluate_every: Training steps between two evaluations on the held-out scenes; by default one at the end.
      devices: Devices that share environments or seeds; by default all that divide their number.
      tensorboard: Write an event file of TensorBoard.
      baselines: Rule-based policies that are measured on the held-out scenes before the training.
      curriculum: Probability of a draw among the most difficult tenth of the scenes; the others are uniform.
    """

    out: Path
    preset: Literal["quick", "laptop", "gpu"] = "laptop"
    data: str = ""
    held_out: str | None = None
    steps: int | None = None
    seed: int = 0
    seeds: int = 1
    encoder: Literal["pool", "attention"] = "pool"
    envs: int | None = None
    bank_size: int | None = None
    evaluate_every: int = 0
    devices: int | None = None
    tensorboard: bool = False
    baselines: tuple[Literal["stationary", "constant_speed", "idm", "log_expert"], ...] = BASELINE_NAMES
    curriculum: float | None = None

    # Options that an algorithm lacks.
    LACKS: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        if not self.data:
            object.__setattr__(self, "data", TRAINING_PRESETS[self.preset].data)

    def check(self) -> None:
        """Raises a ValueError if a number is not positive, or the algorithm lacks an option."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = [f"--{name.replace('_', '-')}" for name in self.LACKS if getattr(self, name) != defaults[name]]
        if given:
            raise ValueError(f"{self.algorithm} has no option {', '.join(given)}")
        for name in ("seeds", "envs", "bank_size", "devices", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be positive")

    @property
    def num_envs(self) -> int:
        """Environments that are simulated together."""
        return self.envs or TRAINING_PRESETS[self.preset].num_envs

    @property
    def num_steps(self) -> int | None:
        """Training steps; None for those of the algorithm."""
        return self.steps or TRAINING_PRESETS[self.preset].steps.get(self.algorithm)

    @property
    def algorithm(self) -> str:
        """Name of the algorithm, that of its command."""
        return ALGORITHMS[type(self)]

    def command(self) -> str:
        """The command of this training, without the output folder."""
        changed = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name != "out" and (value := getattr(self, field.name)) not in (field.default, None)
        }
        # Options without a value are flags.
        values = {
            name: () if value is True else value if isinstance(value, tuple) else (value,)
            for name, value in changed.items()
        }
        options = [" ".join(["--" + name.replace("_", "-"), *map(str, value)]) for name, value in values.items()]
        return " ".join(["waymax-sim train", self.algorithm, *options])

    def conditions(self) -> dict[str, Any]:
        """All options but the folder, as plain values: a training is resumed with equal ones only."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        for name in NOT_CONDITIONS:
            del values[name]
        return {"algorithm": self.algorithm, **values}


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

    LACKS = ("envs", "bank_size", "curriculum")
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
      at_end: Whether vehicles are removed at the end of their episode, or stop and remain as obstacles.
    """

    anchor: Annotated[Path | None, tyro.conf.arg(aliases=["--kl-to"])] = None
    anchor_weight: float = 0.05
    sampling_temperature: float = 1.0
    at_end: Literal["remove", "stop"] = "remove"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DQNOptions(TrainingOptions):
    """DQN by self-play of all traveling vehicles (default: 300 training steps).

    Attributes:
      values: Action values as scalars (double DQN) or as distributions over returns (C51).
      dr3: Weight of the regularization of features (DR3).
    """

    LACKS = ("seeds", "envs", "bank_size", "devices")
    values: Literal["scalar", "distribution"] = "scalar"
    dr3: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACOptions(TrainingOptions):
    """Soft actor-critic by self-play with continuous actions and rewards for safety margins (default: 300 steps).

    Attributes:
      start: Folder of a policy whose parameters the actor begins with (bc --action bicycle).
      temperature: Weight of the entropy of the policy.
      actor_delay: First training steps, in which the critics learn alone.
      dr3: Weight of the regularization of features of the critics (DR3).
    """

    LACKS = ("seeds", "envs", "bank_size", "devices", "curriculum")
    start: Path | None = None
    temperature: float = 0.01
    actor_delay: int = 10
    dr3: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BCSACOptions(SACOptions):
    """BC-SAC: soft actor-critic whose actor also imitates logged vehicles (default: 300 steps).

    Attributes:
      imitation_weight: Weight of the log-likelihood of logged actions, as a share of the magnitude of action values.
    """

    imitation_weight: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledQLOptions(TrainingOptions):
    """Scaled Q-learning of driving tasks from a folder of logged transitions (default: 80 steps).

    Attributes:
      values: Values as distributions (C51), with labels of scalar targets (HL-Gauss, two-hot), or as scalars.
      cql: Weight of the conservative term.
      dr3: Weight of the regularization of features (DR3).
      normalize: Divide features by their L2 norm.
      double: Select next actions by the network instead of its target network.
      return_steps: Decisions of a multi-step return.
      start: Folder of a policy whose encoder the training begins with; the heads are new.
      frozen: Train the heads alone.
    """

    LACKS = (
        "held_out",
        "seeds",
        "envs",
        "bank_size",
        "evaluate_every",
        "devices",
        "baselines",
        "curriculum",
    )
    values: Literal["c51", "hl_gauss", "two_hot", "mse"] = "c51"
    cql: float = 0.05
    dr3: float = 0.0
    normalize: bool = True
    double: bool = False
    return_steps: int = 3
    start: Path | None = None
    frozen: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DR3Options(ScaledQLOptions):
    """Conservative Q-learning with explicit regularization (DR3) instead of normalized features (default: 80 steps)."""

    dr3: float = 0.003
    normalize: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderOptions(TrainingOptions):
    """Scene decoder: the next motion token of every agent (default: 300 steps of 10 gradient steps).

    Attributes:
      start: Folder of a decoder whose parameters and motion tokens the training begins with.
      objective: Cross entropy of the tokens of the log; of the tokens that lead back to it from states visited with the
        closest of the most likely tokens (CAT-K) or with samples of them (top-k, a control); or realism as reward. All
        but the first begin with a decoder.
      num_best: Number K of most likely tokens of CAT-K and top-k.
      label_smoothing: Share of the probability of a label that is spread over all tokens of its class.
      modality_dropout: Probability that a track is trained without its route, lights, other agents, or history.
      learning_rate: Largest learning rate; by default that of the algorithm.
    """

    LACKS = ("encoder", "envs", "bank_size", "baselines", "curriculum")
    start: Path | None = None
    objective: Literal["tokens", "cat-k", "top-k", "realism"] = "tokens"
    num_best: int = 6
    label_smoothing: float = 0.0
    modality_dropout: float = 0.15
    learning_rate: float | None = None

    def check(self) -> None:
        """See the base class; also raises a ValueError if a fine-tuning has no decoder to begin with."""
        super().check()
        if self.objective != "tokens" and self.start is None:
            raise ValueError(f"--objective {self.objective} needs --start DIR, the folder of a trained decoder")
        if self.objective != "tokens" and self.seeds > 1:
            raise ValueError(f"--objective {self.objective} has one seed; run it again with --seed N")


# Options that may differ in a resumed training.
NOT_CONDITIONS = ("out", "devices", "evaluate_every", "tensorboard", "baselines")
# The command of each algorithm.
ALGORITHMS: dict[type[TrainingOptions], str] = {
    BCOptions: "bc",
    PPOOptions: "ppo",
    DQNOptions: "dqn",
    SACOptions: "sac",
    BCSACOptions: "bc-sac",
    ScaledQLOptions: "scaled-ql",
    DR3Options: "dr3",
    DecoderOptions: "decoder",
}
