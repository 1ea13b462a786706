"""The training loop: steps on the device, logs, evaluation, checkpoints, resumption, a stop at invalid losses."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

# From the state of training to the next one and scalars of the step.
Step = Callable[[Any], tuple[Any, Mapping[str, Any]]]
# From the state of training to scalars.
Evaluate = Callable[[Any], Mapping[str, float]]
LOG_FILE = "log.jsonl"


class NonFiniteLossError(RuntimeError):
    """A scalar of a training step is not finite."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Intervals, in training steps.

    Attributes:
      num_steps: Training steps in all.
      log_every: Steps between two lines of the log, the mean of their scalars.
      evaluate_every: Steps between two evaluations; 0 for none but the last.
      save_every: Steps between two checkpoints, a multiple of `log_every`: no checkpoint follows an invalid loss.
    """

    num_steps: int
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 50

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
) -> Any:
    """Runs training steps, from the last checkpoint in a folder if it has one.

    Args:
      out: Folder of the log and the checkpoints.
      state: The first state; a pytree.
      step: One training step; compiled.
      config: Intervals.
      evaluate: Evaluation of a state.
      report: Called with every line of the log.

    Returns:
      The last state.

    Raises:
      NonFiniteLossError: A scalar of the logged steps is not finite. The state before the last of them is saved in
        `out/diverged`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    saver = _Saver(out / "checkpoints")
    done, state = saver.restore(state)
    _cut_log(out / LOG_FILE, done)
    pending, seconds = [], 0.0
    for number in range(done + 1, config.num_steps + 1):
        begin = time.perf_counter()
        following, scalars = step(state)
        pending.append(scalars)
        seconds += time.perf_counter() - begin
        is_last = number == config.num_steps
        if number % config.log_every == 0 or is_last:
            begin = time.perf_counter()
            line = _mean_scalars(jax.device_get(pending))
            seconds += time.perf_counter() - begin
            _check_finite(line, number, out, state)
            line = {"step": number, **line, "seconds_per_step": seconds / len(pending)}
            if evaluate is not None and (is_last or (config.evaluate_every and number % config.evaluate_every == 0)):
                line |= {f"eval/{name}": value for name, value in evaluate(following).items()}
            with (out / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            report(line)
            pending, seconds = [], 0.0
        state = following
        if number % config.save_every == 0 or is_last:
            saver.save(number, state)
    return state


def _mean_scalars(steps: list[Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([scalars[name] for scalars in steps])) for name in steps[0]}


def _check_finite(line: Mapping[str, Any], number: int, out: Path, state: Any) -> None:
    invalid = [name for name, value in line.items() if not math.isfinite(value)]
    if invalid:
        _Saver(out / "diverged").save(number, state)
        raise NonFiniteLossError(
            f"step {number}: {', '.join(invalid)} not finite; the state before the step is in {out / 'diverged'}"
        )


def _cut_log(path: Path, done: int) -> None:
    """Removes the lines of steps after the last checkpoint, which are run again."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= done]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


class _Saver:
    """Checkpoints of a state in a folder; typed random keys are stored as their data."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, number: int, state: Any) -> None:
        leaves = [_to_plain(leaf) for leaf in jax.tree.leaves(state)]
        self._manager.save(number, args=ocp.args.StandardSave({str(index): leaf for index, leaf in enumerate(leaves)}))
        self._manager.wait_until_finished()

    def restore(self, state: Any) -> tuple[int, Any]:
        """The number of steps done and the state after them; 0 and the given state without a checkpoint."""
        latest = self._manager.latest_step()
        if latest is None:
            return 0, state
        leaves, structure = jax.tree.flatten(state)
        template = {str(index): _to_plain(leaf) for index, leaf in enumerate(leaves)}
        stored = self._manager.restore(latest, args=ocp.args.StandardRestore(template))
        restored = [_like(stored[str(index)], leaf) for index, leaf in enumerate(leaves)]
        return latest, jax.tree.unflatten(structure, restored)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(stored: Any, leaf: Any) -> Any:
    return jax.random.wrap_key_data(stored) if _is_key(leaf) else jax.device_put(np.asarray(stored))
