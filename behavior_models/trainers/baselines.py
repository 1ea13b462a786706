"""Rule-based policies on the held-out scenes of a training, for comparison."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.baselines.kinematic import ConstantSpeed, Stationary
from behavior_models.baselines.log_expert import LogExpert
from behavior_models.traffic.idm import IDM
from behavior_models.training.collect import end_kinds
from behavior_models.training.log import BASELINES_FILE
from waymax_sim.env import Assignment, Env, rollout
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array

# Policies of `TrainingOptions.baselines`.
BASELINES = {"stationary": Stationary, "constant_speed": ConstantSpeed, "idm": IDM, "log_expert": LogExpert}
# Scenarios that are simulated together.
GROUP_SIZE = 30


def measure_baselines(
    folder: Path, env: Env, bank: ScenarioBank, num_steps: int, data: str, names: Sequence[str]
) -> dict[str, Any]:
    """Rates of baselines on all scenarios, from `baselines.json` if it has them.

    Args:
      folder: Folder of the training.
      env: The environment; its metrics include "goal_reached", "overlap" and "offroad".
      bank: The scenarios.
      num_steps: Simulated steps of an episode.
      data: Path of the scenarios.
      names: Names of the baselines.
    """
    file, rates = folder / BASELINES_FILE, {}
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        rates = stored["rates"] if stored["data"] == data else {}
    missing = [name for name in names if name not in rates]
    rates |= {name: policy_rates(env, BASELINES[name](), bank, num_steps) for name in missing}
    file.write_text(json.dumps({"data": data, "rates": rates}, indent=2) + "\n", encoding="utf-8")
    return rates


def policy_rates(env: Env, policy: Any, bank: ScenarioBank, num_steps: int) -> dict[str, float]:
    """Shares of the controlled agents that end at the goal without harm, in a collision, and off the road.

    Args:
      env: See `measure_baselines`.
      policy: The policy of all controlled agents.
      bank: The scenarios.
      num_steps: Simulated steps.
    """
    counts, size = np.zeros(4), min(GROUP_SIZE, len(bank))
    for begin in range(0, len(bank), size):
        index = np.arange(begin, begin + size)
        is_new = jnp.asarray(index < len(bank))
        scenes = jnp.asarray(index % len(bank), jnp.int32)
        counts += np.asarray(_counts(env, num_steps, policy, bank, scenes, is_new, jax.random.key(0)))
    goal, collision, offroad, total = counts.tolist()
    rates = {"goal": goal, "collision": collision, "offroad": offroad}
    return {name: count / max(total, 1.0) for name, count in rates.items()} | {"episodes": total}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _counts(
    env: Env,
    num_steps: int,
    policy: Any,
    bank: ScenarioBank,
    scenes: Int[Array, " E"],
    is_new: Bool[Array, " E"],
    key: Key[Array, ""],
) -> Float[Array, " 4"]:
    """Numbers of episodes with goal, collision and off-road, and of all episodes."""

    def count(scene: Int[Array, ""], is_new: Bool[Array, ""]) -> Float[Array, " 4"]:
        mask = bank.controlled[scene] & is_new
        assignment = Assignment([policy], [bank.controlled[scene]])
        trace = rollout(env, assignment, bank.scenario(scene), key, num_steps, record=("metrics",))
        assert trace.metrics is not None
        # Agents are removed when their episode ends, so that each has at most one step with these events.
        goal, overlap, offroad = (
            jnp.any((trace.metrics[name].value > 0) & trace.metrics[name].valid, axis=0)
            for name in ("goal_reached", "overlap", "offroad")
        )
        kinds = end_kinds(goal, overlap, offroad).values()
        return jnp.stack([*(jnp.sum(mask & kind) for kind in kinds), jnp.sum(mask)]).astype(jnp.float32)

    return jnp.sum(jax.vmap(count)(scenes, is_new), axis=0)
