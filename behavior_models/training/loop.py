"""The training loop: steps on the device, logs, evaluation, checkpoints, resumption, a stop at invalid losses."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.training.log import (
    LOG_FILE,
    EventWriter,
    append_line,
    cut_log,
    mean_scalars,
    over_seeds,
    write_table,
)
from behavior_models.training.saver import Saver

__all__ = ["LOG_FILE", "Evaluate", "LoopConfig", "NonFiniteLossError", "ScenarioUpdates", "Step", "run_training"]

# From the state of training to the next one and scalars of the step, [] or [K] for K seeds.
Step = Callable[[Any], tuple[Any, Mapping[str, Any]]]
# From the state of training to scalars.
Evaluate = Callable[[Any], Mapping[str, Any]]


class NonFiniteLossError(RuntimeError):
    """A scalar of a training step is not finite."""


@runtime_checkable
class ScenarioUpdates(Protocol):
    """Scenarios that are replaced between training steps, at steps that depend on their number alone."""

    def advance(self, number: int) -> None:
        """Replaces scenarios after training step `number`."""
        ...

    def position(self) -> dict[str, Any]:
        """The position in the data, plain values."""
        ...

    def restore(self, position: dict[str, Any]) -> None:
        """Continues at a position."""
        ...


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Intervals, in training steps.

    Attributes:
      num_steps: Training steps in all.
      log_every: Steps between two lines of the log, the mean of their scalars.
      evaluate_every: Steps between two evaluations, rounded up to lines of the log; 0 for none but the last.
      save_every: Steps between two checkpoints, a multiple of `log_every`: no checkpoint follows an invalid loss.
      tensorboard: Whether the log is also written as an event file of TensorBoard.
    """

    num_steps: int
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 50
    tensorboard: bool = False

    def __post_init__(self):
        if self.save_every % self.log_every:
            raise ValueError(f"save_every={self.save_every} is no multiple of log_every={self.log_every}")


def run_training(
    out: Path,
    state: Any,
    step: Step,
    config: LoopConfig,
    evaluate: Evaluate | None = None,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    source: ScenarioUpdates | None = None,
    inputs: Callable[[Any], Any] | None = None,
) -> Any:
    """Runs training steps, from the last checkpoint in a folder if it has one.

    Between two lines of the log nothing is transferred between host and device, apart from replaced scenarios.

    Args:
      out: Folder of the log and the checkpoints.
      state: The first state; a pytree.
      step: One training step; compiled, with all arguments on the device.
      config: Intervals.
      evaluate: Evaluation of a state.
      report: Called with every line of the log.
      source: Scenarios of the training that are replaced between steps.
      inputs: The transitions that the step from a state learns from, which are stored with an invalid loss.

    Returns:
      The last state.

    Raises:
      NonFiniteLossError: A scalar of the logged steps is not finite. The state before the first invalid step and its
        inputs are saved in `out/diverged`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    saver = Saver(out / "checkpoints")
    done, state, position = saver.restore(state)
    if source is not None and position:
        source.restore(position)
    cut_log(out, done)
    events = EventWriter(out) if config.tensorboard else None
    number = done
    try:
        while number < config.num_steps:
            begin, first = state, number + 1
            number = min(number + config.log_every - number % config.log_every, config.num_steps)
            state, line = _run_steps(state, step, range(first, number + 1), source, first == done + 1)
            if not line.pop("is_finite"):
                _stop(out, step, begin, first, number, inputs)
            is_last = number == config.num_steps
            if evaluate is not None and (is_last or _passes(config.evaluate_every, first - 1, number)):
                line |= {f"eval/{name}": value for name, value in over_seeds(evaluate(state)).items()}
            append_line(out, line)
            if events is not None:
                events.add(line)
            report(line)
            if number % config.save_every == 0 or is_last:
                saver.save(number, state, None if source is None else source.position())
    finally:
        write_table(out)
    return state


def _run_steps(
    state: Any, step: Step, numbers: range, source: ScenarioUpdates | None, compiles: bool
) -> tuple[Any, dict[str, Any]]:
    """Runs the steps of one line of the log; returns the state and the line, with "is_finite".

    Args:
      state: The state before.
      step: One training step.
      numbers: Numbers of the steps.
      source: See `run_training`.
      compiles: Whether the first call compiles, which transfers constants.
    """
    clock, pending = _Clock(), []
    for number in numbers:
        with contextlib.nullcontext() if compiles and number == numbers[0] else jax.transfer_guard("disallow"):
            state, scalars = step(state)
        pending.append(scalars)
        if source is not None:
            source.advance(number)
    values = jax.device_get(pending)
    is_finite = all(np.isfinite(value).all() for scalars in values for value in scalars.values())
    return state, {"step": numbers[-1], **mean_scalars(values), **clock.rates(values), "is_finite": is_finite}


def _passes(interval: int, before: int, now: int) -> bool:
    """Whether a multiple of an interval lies after `before` and not after `now`."""
    return interval > 0 and now // interval > before // interval


class _Clock:
    """Elapsed and CPU time since its creation."""

    def __init__(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, steps: list[Mapping[str, Any]]) -> dict[str, float]:
        """Seconds per step, and agent-steps per second if the steps count them."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        rates = {"seconds_per_step": wall / len(steps), "cpu_seconds_per_step": cpu / len(steps)}
        if "agent_steps" in steps[0]:
            total = float(sum(np.sum(scalars["agent_steps"]) for scalars in steps))
            rates |= {"agent_steps_per_s": total / wall, "agent_steps_per_cpu_s": total / max(cpu, 1e-9)}
        return rates


def _stop(out: Path, step: Step, state: Any, first: int, last: int, inputs: Callable[[Any], Any] | None) -> None:
    """Repeats the steps since the last valid state, and saves the state before the first invalid one.

    Args:
      out: Folder of the training.
      step: One training step.
      state: The state after the last valid line of the log.
      first: Number of the following step.
      last: Number of the last step.
      inputs: See `run_training`.
    """
    index, invalid = first, []
    for index in range(first, last + 1):
        following, scalars = step(state)
        invalid = [name for name, value in jax.device_get(scalars).items() if not np.isfinite(value).all()]
        if invalid or index == last:
            break
        state = following
    folder = out / "diverged"
    Saver(folder).save(index - 1, state)
    arrays = {} if inputs is None else _named_arrays(inputs(state))
    np.savez_compressed(folder / "inputs.npz", **arrays)
    not_finite = [name for name, value in {**_named_arrays(state), **arrays}.items() if not _is_finite(value)]
    facts = {"step": index, "scalars": invalid, "not_finite": not_finite}
    (folder / "diverged.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    raise NonFiniteLossError(
        f"step {index}: {', '.join(invalid) or 'a scalar'} not finite; the state before the step, its inputs and the "
        f"names of the arrays that are not finite are in {folder}"
    )


def _named_arrays(values: Any) -> dict[str, Any]:
    """Arrays of numbers of a pytree by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(values)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    return {
        name: np.asarray(leaf) for name, leaf in named.items() if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _is_finite(value: np.ndarray) -> bool:
    return not np.issubdtype(value.dtype, np.floating) or bool(np.isfinite(value).all())
