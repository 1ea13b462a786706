"""Installs `waymax-sim`: the simulator and its behavior models, one distribution."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE = (ROOT / "waymax_sim" / "__init__.py").read_text(encoding="utf-8")
(VERSION,) = re.findall(r'^__version__ = "(.+)"', PACKAGE, re.MULTILINE)
# The libraries of the adapters.
RL = ["dm_env>=1.6", "gymnasium>=1.1", "pettingzoo>=1.25"]
# The vector environment of Stable-Baselines3, which brings PyTorch.
SB3 = ["gymnasium>=1.1", "stable_baselines3>=2.4"]
# The data set of TensorFlow Datasets; the store itself is written and read without it.
TFDS = [
    # Required by tensorflow-datasets, which does not declare it.
    "importlib_resources>=6.0",
    "tensorflow-datasets>=4.9.9",
]
# Linters are pinned: a new release must not turn a green commit red.
TEST = [
    *RL,
    *TFDS,
    "absl-py>=2.1",  # the tests of dm_env are written with it
    "beartype>=0.20",
    "chex>=0.1.90",
    "hypothesis>=6.100",
    "import-linter>=2.3",
    "pyarrow>=17",
    "pyright[nodejs]==1.1.414",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff==0.17.6",
    "setuptools>=77",  # builds the example of a plug-in without the network
]
DOCS = [*RL, "furo>=2024.8", "myst-parser>=4.0", "sphinx>=8.1"]
# Found by name on the command line; each class is imported when it is requested. Also in `behavior_models.registry`
# and, released checkpoints, in `behavior_models.checkpoints`.
POLICIES = [
    "log_replay = behavior_models:LogReplay",
    "log_expert = behavior_models:LogExpert",
    "constant_velocity = behavior_models:ConstantVelocity",
    "noisy_constant_velocity = behavior_models:NoisyConstantVelocity",
    "constant_speed = behavior_models:ConstantSpeed",
    "stationary = behavior_models:Stationary",
    "random = behavior_models:Random",
    "idm = behavior_models:IDM",
    "log_path_idm = behavior_models:LogPathIDM",
    "mobil = behavior_models:MOBIL",
    "found_follower = behavior_models:FoundFollower",
    "social_force = behavior_models:SocialForce",
    "pdm = behavior_models:PDM",
    "mppi = behavior_models:MPPI",
    "gradient = behavior_models:GradientPlanner",
    "bc = behavior_models.checkpoints:bc",
    "dqn = behavior_models.checkpoints:dqn",
    "sac = behavior_models.checkpoints:sac",
    "bc_sac = behavior_models.checkpoints:bc_sac",
    "ppo_selfplay = behavior_models.checkpoints:ppo_selfplay",
    "ppo_anchored = behavior_models.checkpoints:ppo_anchored",
    "scaled-ql = behavior_models.checkpoints:scaled_ql",
    "decoder-nano = behavior_models.checkpoints:decoder_nano",
]

# Commands by name; see `waymax_sim.cli.commands`.
COMMANDS = [
    "train = behavior_models.cli:train",
    "study = behavior_models.study.command:study",
    "search = behavior_models.program_search.command:search",
    "log = behavior_models.offline.command:log",
    "attack = behavior_models.attack.command:attack",
    "select = behavior_models.model_selection.command:select",
]
# Rows of the benchmark by name; see `waymax_sim.bench.plugins`.
BENCH_ROWS = [
    f"{name} = behavior_models.bench:{name}"
    for name in (
        "train_ppo",
        "train_bc",
        "train_sac",
        "observe_raster_ego",
        "observe_raster",
        "log_transitions",
        "rollout80_decoder",
        "rollout80_decoder_16",
    )
]
BENCH_ROWS += [
    f"traffic_{name} = behavior_models.bench_traffic:traffic_{name}"
    for name in ("log", "constant_velocity", "idm", "mobil", "bc", "ppo_anchored", "decoder_nano")
]

setup(
    name="waymax-sim",
    version=VERSION,
    description="A multi-agent driving simulator that replays recorded scenes inside one jitted JAX graph",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The waymax_sim authors",
    license="Apache-2.0",
    keywords=["autonomous driving", "simulation", "JAX", "multi-agent", "reinforcement learning"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["waymax_sim", "waymax_sim.*", "behavior_models", "behavior_models.*"]),
    package_data={
        "waymax_sim": ["py.typed", "viz/page/*", "evaluation/report/*.js", "evaluation/report/*.css"],
        "behavior_models": ["py.typed", "checkpoints/*/*", "program_search/*.json"],
    },
    install_requires=[
        # The format of converted scenes; they are read without it, and it is not made for Windows.
        "array_record>=0.5; platform_system != 'Windows'",
        # Compresses the arrays of converted scenes.
        "blosc2>=3.0",
        "dm-tree>=0.1.9",
        # Learned policies; brings optax and orbax, which training needs.
        "flax>=0.10",
        "google-crc32c>=1.6",
        "jax>=0.9",
        "jaxtyping>=0.3.2",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "optax>=0.2.4",
        "orbax-checkpoint>=0.11",
        "pillow>=10.3",
        "rich>=13.7",
        "tyro>=0.9",
    ],
    extras_require={
        "test": TEST,
        "docs": DOCS,
        "rl": RL,
        "sb3": SB3,
        "tfds": TFDS,
        "argoverse": ["pyarrow>=17"],
        "beam": [*TFDS, "apache-beam>=2.60"],
        "dev": [*TEST, *DOCS, "build>=1.2", "pre-commit>=3.8"],
    },
    entry_points={
        "console_scripts": ["waymax-sim = waymax_sim.cli:main"],
        "waymax_sim.policies": POLICIES,
        "waymax_sim.commands": COMMANDS,
        "waymax_sim.bench": BENCH_ROWS,
    },
)
