"""Edits of time: delayed logs, another current step, and a subset of the steps."""

import dataclasses

import jax
import numpy as np

from waymax_sim.datasets.edit.agents import drop_agents
from waymax_sim.datasets.edit.common import AgentSelection, agent_mask, zero_outside
from waymax_sim.datatypes.padding import change_steps
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import tree_index


def delay_agents(scenario: Scenario, agents: AgentSelection, steps: int) -> Scenario:
    """Delays the logs of agents; steps without a recorded state become invalid.

    Args:
      scenario: The scenario.
      agents: The agents.
      steps: Delay; negative for an advance.
    """
    mask = agent_mask(scenario, agents)
    source = np.arange(scenario.num_steps) - steps
    is_recorded = (source >= 0) & (source < scenario.num_steps)
    delayed = tree_index(scenario.log, np.clip(source, 0, scenario.num_steps - 1))
    delayed = zero_outside(delayed, delayed.valid & is_recorded[:, None])
    log = jax.tree.map(
        lambda new, old: np.where(mask.reshape(-1, *[1] * (old.ndim - 2)), new, old), delayed, scenario.log
    )
    return dataclasses.replace(scenario, log=log)


def shift_start(scenario: Scenario, steps: int) -> Scenario:
    """Moves the current step later, or earlier if negative. Sizes and origin do not change.

    Raises:
      ValueError: The step does not exist.
    """
    now = int(scenario.current_step) + steps
    if not 0 <= now <= scenario.last_step:
        raise ValueError(f"the current step {now} is not one of 0..{scenario.last_step}")
    return dataclasses.replace(scenario, current_step=np.asarray(now, np.int32))


def slice_steps(scenario: Scenario, start: int, stop: int) -> Scenario:
    """Selects a range of steps. Agents without a valid step in it are dropped.

    Args:
      scenario: The scenario.
      start: First step.
      stop: Step after the last one.

    Raises:
      ValueError: The range is not within the record or does not contain the current step.
    """
    now = int(scenario.current_step)
    if not 0 <= start <= now < stop <= scenario.num_steps:
        raise ValueError(f"steps {start} to {stop} of {scenario.num_steps} do not contain the current step {now}")
    steps = slice(start, stop)
    cut = dataclasses.replace(
        change_steps(scenario, lambda leaf: leaf[steps], scenario.timestamps[steps] - scenario.timestamps[start]),
        current_step=np.asarray(now - start, np.int32),
        last_step=np.asarray(min(int(scenario.last_step), stop - 1) - start, np.int32),
    )
    return drop_agents(cut, ~cut.log.valid.any(axis=0))
