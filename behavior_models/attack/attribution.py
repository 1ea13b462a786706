"""Causes of a failure: agents without which it would not have happened, and until when."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.attack.search import Attack, simulate
from behavior_models.attack.variant import change_log
from waymax_sim.datatypes.agents import mask_agents
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Policy
from waymax_sim.pytree import Array
from waymax_sim.results_dir import Json


def find_causes(
    attack: Attack, policy: Policy, scenario: Scenario, rows: Int[np.ndarray, " M"], change: Float[np.ndarray, " D"]
) -> list[Json]:
    """Repeats a variant without each agent, and without each cause from later steps on.

    Args:
      attack: Compiled functions.
      policy: Policy of the ego.
      scenario: One scenario on the device.
      rows: Adversaries.
      change: A change with a failure.

    Returns:
      Ids of the agents without each of which the ego is not at fault for a collision, and the latest of the simulated
      steps (after the current one) from which on their absence suffices.
    """
    fails = functools.partial(_compiled(attack), policy, scenario, rows, change)
    removed = np.eye(scenario.num_agents, dtype=bool) & ~np.asarray(scenario.agents.is_sdc)[None]
    failed = np.asarray(fails(removed, np.zeros(len(removed), np.int32)))
    # The row of the ego removes no agent; padding causes nothing.
    causes = np.flatnonzero(~failed & np.asarray(scenario.agents.exists) & removed.any(axis=1))
    return [_cause(fails, scenario, removed[row], int(row), attack.num_steps) for row in causes]


@functools.cache
def _compiled(attack: Attack) -> Callable:
    """Whether the policy fails in a variant without agents from steps on, for batches of masks and steps."""

    def fails(policy, scenario, rows, change, removed: Bool[Array, " N"], step: Int[Array, ""]) -> Bool[Array, ""]:
        variant = change_log(scenario, rows, change, attack.variant)
        times = jnp.arange(variant.num_steps, dtype=jnp.int32) - variant.current_step
        absent = (times >= step)[:, None] & removed[None]
        log = mask_agents(variant.log, variant.log.valid & ~absent)
        return simulate(policy, dataclasses.replace(variant, log=log), jax.random.key(0), attack.num_steps).failed

    return jax.jit(jax.vmap(fails, (None, None, None, None, 0, 0)))


def _cause(fails: Callable, scenario: Scenario, removed: Bool[np.ndarray, " N"], row: int, num_steps: int) -> Json:
    """The id of an agent and the latest step from which on its absence suffices, of as many steps as agents.

    Args:
      fails: From `_compiled`.
      scenario: One scenario.
      removed: Mask of the agent.
      row: Its row.
      num_steps: Simulated steps.
    """
    steps = np.linspace(0, num_steps, len(removed), endpoint=False).astype(np.int32)
    failed = np.asarray(fails(np.tile(removed, (len(removed), 1)), steps))
    return {"agent": int(np.asarray(scenario.agents.id)[row]), "until_step": int(steps[~failed].max())}
