"""When things happen: logs moved in time, and the record cut."""

import dataclasses

import jax
import numpy as np

from waymax_sim.datasets.edit.agents import drop_agents
from waymax_sim.datasets.edit.common import Who, chosen, only
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import take


def delay_agents(scenario: Scenario, who: Who, steps: int) -> Scenario:
    """Lets agents do what they did some steps later, or earlier if negative; where no log is left they are absent."""
    mask = chosen(scenario, who)
    source = np.arange(scenario.num_steps) - steps
    recorded = (source >= 0) & (source < scenario.num_steps)
    late = take(scenario.log, np.clip(source, 0, scenario.num_steps - 1))
    late = only(late, late.valid & recorded[:, None])
    log = jax.tree.map(lambda new, old: np.where(mask.reshape(-1, *[1] * (old.ndim - 2)), new, old), late, scenario.log)
    return dataclasses.replace(scenario, log=log)


def shift_start(scenario: Scenario, steps: int) -> Scenario:
    """Moves the current step, so that a simulation starts later, or earlier if negative. Sizes and origin stay.

    Raises:
      ValueError: There is no such step.
    """
    now = int(scenario.current_step) + steps
    if not 0 <= now < scenario.num_steps:
        raise ValueError(f"{now} is not a step of 0..{scenario.num_steps - 1}")
    return dataclasses.replace(scenario, current_step=np.asarray(now, np.int32))


def slice_steps(scenario: Scenario, start: int, stop: int) -> Scenario:
    """Keeps the steps from `start` up to, not including, `stop`. Agents that are not seen in them are dropped.

    Raises:
      ValueError: The steps are not in the record, or the current one is not among them.
    """
    now = int(scenario.current_step)
    if not 0 <= start <= now < stop <= scenario.num_steps:
        raise ValueError(f"{start} up to {stop} of {scenario.num_steps} steps does not hold the current one, {now}")
    steps, signals = slice(start, stop), scenario.signals
    cut = dataclasses.replace(
        scenario,
        timestamps=scenario.timestamps[steps] - scenario.timestamps[start],
        current_step=np.asarray(now - start, np.int32),
        log=take(scenario.log, steps),
        signals=dataclasses.replace(
            signals, state=signals.state[steps], stop_point=signals.stop_point[steps], valid=signals.valid[steps]
        ),
    )
    return drop_agents(cut, ~cut.log.valid.any(axis=0))
