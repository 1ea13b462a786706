"""A found car-following law against the Intelligent Driver Model, on recorded followers in closed loop.

    python -m examples.reproductions.found_follower

The model is calibrated on the episodes that laws are searched on, with the same error. Both, the model with typical
parameters, and the released law then drive the followers of test scenes; differences are paired by episode.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

import waymax_sim as ws
from behavior_models import FoundFollower
from behavior_models.program_search.domains.follower import (
    FollowerEpisodes,
    LawErrors,
    find_episodes,
    follow,
    idm_law,
    program_law,
    stress_episodes,
)
from behavior_models.traffic.car_following import FollowingLaw, IDMParams
from waymax_sim.pytree import Array

NUM_BOOTSTRAP_SAMPLES = 2000
# Means of the ranges of the drivers of the package: a, b (m/s^2), T (s), s0 (m). They are calibrated.
TYPICAL = (1.6, 2.1, 1.4, 2.0)
LEARNING_RATE = 0.03


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Size of the comparison.

    Attributes:
      train: Scenes that the model is calibrated on.
      test: Scenes of the comparison, from one or more sources, such as recorded files.
      num_steps: Gradient steps of the calibration.
    """

    train: str = "synthetic:0:300"
    test: tuple[str, ...] = ("synthetic:901:100",)
    num_steps: int = 200


def model(logarithms: Float[Array, " 4"]) -> FollowingLaw:
    """The model with the parameters of `TYPICAL`, as logarithms."""
    a, b, headway, gap = jnp.exp(logarithms)
    # The last three are not used: episodes have their own desired speeds.
    return idm_law(IDMParams(a, b, headway, gap, jnp.ones(()), jnp.ones(()), jnp.full((), 100.0)))


def calibrate(episodes: FollowerEpisodes, num_steps: int) -> Float[Array, " 4"]:
    """Logarithms of the parameters with the least error, by Adam.

    Args:
      episodes: The episodes.
      num_steps: Gradient steps.
    """
    optimizer = optax.adam(LEARNING_RATE)
    params: Any = jnp.log(jnp.asarray(TYPICAL))
    state = optimizer.init(params)
    gradient = jax.jit(jax.grad(lambda params: follow(model(params), episodes).total))
    for _ in range(num_steps):
        updates, state = optimizer.update(gradient(params), state)
        params = optax.apply_updates(params, updates)
    return params


def interval(difference: Float[np.ndarray, " E"]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over episodes."""
    draws = np.random.default_rng(0).integers(len(difference), size=(NUM_BOOTSTRAP_SAMPLES, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _load_episodes(paths: Sequence[str]) -> FollowerEpisodes:
    return find_episodes(itertools.chain.from_iterable(ws.load(path, pad_to_bucket=False) for path in paths))


def main(comparison: Comparison) -> int:
    """Prints the errors of the laws and their paired differences from the calibrated model.

    Args:
      comparison: Size of the comparison.
    """
    train, test = (_load_episodes(paths) for paths in ((comparison.train,), comparison.test))
    params, policy, stress = calibrate(train, comparison.num_steps), FoundFollower(), stress_episodes()
    laws = {
        "model, typical": model(jnp.log(jnp.asarray(TYPICAL))),
        "model, calibrated": model(params),
        "found_follower": program_law(policy.program),
        "constant speed": lambda speed, approach_rate, gap, desired_speed: jnp.zeros_like(speed),
    }
    errors: dict[str, LawErrors] = {name: jax.jit(lambda law=law: follow(law, test))() for name, law in laws.items()}
    columns = ("gap, m", "difference from the calibrated model", "speed, m/s", "collisions", "under stress")
    table = Table("law", *columns, title=f"{len(test)} episodes of {', '.join(comparison.test)}")
    for name, law in laws.items():
        own, reference = errors[name], errors["model, calibrated"]
        difference = np.asarray(own.gap) - np.asarray(reference.gap)
        low, high = interval(difference)
        hits = jax.jit(lambda law=law: follow(law, stress).collision)()
        table.add_row(
            name,
            f"{float(jnp.mean(own.gap)):.3f}",
            f"{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
            f"{float(jnp.mean(own.speed)):.3f}",
            f"{int(jnp.sum(own.collision))}",
            f"{int(jnp.sum(hits))} of {len(stress)}",
        )
    console = Console(width=120, markup=False, highlight=False)
    console.print(table)
    console.print(f"calibrated on {len(train)} episodes: a, b, T, s0 = {np.round(np.exp(params), 2).tolist()}")
    console.print(f"found_follower: {policy.formula}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Comparison)))
