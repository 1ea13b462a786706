"""Experts by action space (Gulino et al. 2023, section 4): inverse dynamics of logged vehicles.

    python -m examples.reproductions.waymax_expert --recorded 'data/*'

In closed loop an action leads from the simulated state to the next logged one. The control applies the actions between
logged states to the simulated state, without feedback.
"""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

import waymax_sim as ws
from examples.reproductions.waymax_common import Criterion, table_line
from waymax_sim import geometry
from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.agents import VEHICLE, AgentState
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.dynamics import Bicycle, Delta, Discrete, Dynamics
from waymax_sim.pytree import Array, tree_index

# Vehicles with less displacement are parked, m.
MIN_TRAVEL = 4.0
# Steps of an episode of 8 s at 10 Hz.
NUM_STEPS = 80
# Levels per component of the discrete bicycle actions; 13 are those of Waymax.
NUM_LEVELS = (25, 13, 9, 7, 5, 3)
SPACES: dict[str, Dynamics] = {"delta": Delta(), "bicycle": Bicycle()} | {
    f"bicycle {count} x {count}": Discrete(Bicycle(), bins=(count - 1, count - 1)) for count in NUM_LEVELS
}


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """Data of the experiment.

    Attributes:
      scenes: Scenes with vehicles to follow.
      recorded: Further sources, with a row each.
    """

    scenes: str = "synthetic:901:60"
    recorded: tuple[Path, ...] = ()


def whole_tracks(scenarios: Iterable[Scenario]) -> tuple[AgentState, float]:
    """Tracks of vehicles that travel and are valid at all steps from the current one on, at most for 8 s.

    Tracks of equal numbers of steps and equal time steps are joined; those of the most scenes are kept.

    Args:
      scenarios: The scenes.

    Returns:
      States [T, M] from the current step on, and the time step, s.

    Raises:
      DataError: There is no such track.
    """
    groups: dict[tuple[int, float], list[AgentState]] = {}
    for scenario in scenarios:
        dt, now = scenario.time_step, int(scenario.current_step)
        last = min(int(scenario.last_step), now + round(NUM_STEPS * TIME_STEP / dt))
        log = jax.tree.map(lambda leaf, now=now, last=last: np.asarray(leaf)[now : last + 1], scenario.log)
        travel = np.hypot(*np.moveaxis(log.xyz[-1, :, :2] - log.xyz[0, :, :2], -1, 0))
        keep = log.valid.all(axis=0) & (scenario.agents.type == VEHICLE) & (travel > MIN_TRAVEL)
        if keep.any() and last > now:
            groups.setdefault((last - now, dt), []).append(tree_index(log, (slice(None), np.flatnonzero(keep))))
    if not groups:
        raise DataError("no vehicle has a whole track and travels", file="the source")
    (_, dt), tracks = max(groups.items(), key=lambda item: len(item[1]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *tracks), dt


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def displacement(dynamics: Dynamics, log: AgentState, dt: float, feedback: bool) -> Float[Array, "T M"]:
    """Distance to the log at each step, m.

    Args:
      dynamics: Model of the actions.
      log: Tracks, [T + 1, M].
      dt: Time step, s.
      feedback: Whether actions begin at the simulated state or at the logged one.
    """

    def step(agents: AgentState, pair: tuple[AgentState, AgentState]):
        logged, target = pair
        action = dynamics.invert(agents if feedback else logged, target, dt)
        agents = dynamics.apply(agents, action.value, dt)
        return agents, geometry.norm(agents.xyz[:, :2] - target.xyz[:, :2])

    first, later = tree_index(log, slice(None, -1)), tree_index(log, slice(1, None))
    return jax.lax.scan(step, tree_index(log, 0), (first, later))[1]


def displacement_errors(log: AgentState, dt: float, spaces: dict[str, Dynamics]) -> dict[str, float]:
    """Average displacement from the log of each action space, and that of the coarse control without feedback, m.

    Args:
      log: Tracks.
      dt: Time step, s.
      spaces: Action spaces by name.
    """
    log = jax.tree.map(jnp.asarray, log)
    errors = {name: float(jnp.mean(displacement(model, log, dt, True))) for name, model in spaces.items()}
    for name in ("bicycle", "bicycle 13 x 13"):
        errors[f"{name}, open loop"] = float(jnp.mean(displacement(SPACES[name], log, dt, False)))
    return errors


def criteria(errors: dict[str, float]) -> list[Criterion]:
    """The criteria of synthetic scenes."""
    by_levels = [errors[f"bicycle {count} x {count}"] for count in NUM_LEVELS]
    continuous, paper = errors["bicycle"], errors["bicycle 13 x 13"]
    increases, open_loop = np.diff([continuous, *by_levels]), errors["bicycle 13 x 13, open loop"]
    return [
        Criterion("W1 smallest increase with fewer levels, m", float(increases.min()), low=1e-4),
        Criterion("W1 13 levels, m", paper, high=0.2),
        Criterion("W1 13 levels / continuous", paper / continuous, high=2.0),
        Criterion("W1 5 levels / 13 levels", errors["bicycle 5 x 5"] / paper, low=2.5),
        Criterion("W1 3 levels / 13 levels", errors["bicycle 3 x 3"] / paper, low=5.0),
        Criterion("W1 control, 13 levels without feedback / with", open_loop / paper, low=10.0),
    ]


def main(config: ExpertConfig) -> list[Criterion]:
    """Prints a row of errors (m) per source, and returns the criteria of the scenes."""
    results = {}
    for source in (config.scenes, *map(str, config.recorded)):
        try:
            log, dt = whole_tracks(ws.load(source, pad_to_bucket=False))
        except (DataError, OSError) as error:
            print(f"{source}: {error}")
            continue
        errors = displacement_errors(log, dt, SPACES)
        if not results:
            print(f"| source | tracks | {' | '.join(errors)} |\n|{'---|' * (len(errors) + 2)}")
        results[source] = errors
        print(table_line(f"{source} | {log.valid.shape[1]}", dict(errors)))
    return criteria(results[config.scenes])


if __name__ == "__main__":
    for criterion in main(tyro.cli(ExpertConfig)):
        print(criterion)
