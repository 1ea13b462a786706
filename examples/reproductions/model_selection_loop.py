"""ModBE with plain loops over instances, classes and steps in NumPy: the oracle and the reference of the speed."""

import numpy as np
from jaxtyping import Float

from behavior_models.model_selection.modbe import DEFAULT_PARAMS, LoggedSteps, ModBEParams


def ridge(features: Float[np.ndarray, "n d"], targets: Float[np.ndarray, " n"], penalty: float) -> np.ndarray:
    """Weights of the regression with a penalty in rows of the root mean square of each column."""
    gram = features.T @ features
    return np.linalg.solve(gram + penalty / len(features) * np.diag(np.diag(gram)), features.T @ targets)


def fitted_q(steps: LoggedSteps, size: int, penalty: float) -> list[np.ndarray]:
    """Fitted Q iteration with the first columns.

    Args:
      steps: Transitions.
      size: Number of columns.
      penalty: See `ridge`.
    """
    horizon = len(steps.reward)
    weights, value = [np.zeros(size)] * horizon, np.zeros(steps.reward.shape[1])
    for step in reversed(range(horizon)):
        weights[step] = ridge(steps.inputs[step, :, :size], steps.reward[step] + value, penalty)
        if step:
            value = steps.discount[step - 1] * (steps.next_inputs[step - 1, :, :, :size] @ weights[step]).max(axis=-1)
    return weights


def modbe_loop(
    train: LoggedSteps,
    valid: LoggedSteps,
    dimensions: tuple[int, ...],
    penalty: float = 1.0,
    params: ModBEParams = DEFAULT_PARAMS,
) -> tuple[int, Float[np.ndarray, "H K K"]]:
    """The chosen class, and all gaps that were computed before it was chosen.

    Args:
      train: Transitions for the regressions.
      valid: Transitions for the tests.
      dimensions: Columns of each class.
      penalty: See `ridge`.
      params: Constants of the tolerance.
    """
    horizon, classes = len(train.reward), len(dimensions)
    gaps = np.full((horizon, classes, classes), np.nan)
    log_term = np.log(classes**2 * horizon / params.confidence)
    for index, size in enumerate(dimensions):
        weights, passed = fitted_q(train, size, penalty), True
        for step in range(horizon):
            targets, held_out = (_targets(data, weights, step, size) for data in (train, valid))
            own = held_out - valid.inputs[step, :, :size] @ weights[step]
            for other in range(index + 1, classes):
                columns = dimensions[other]
                refit = ridge(train.inputs[step, :, :columns], targets, penalty)
                larger = held_out - valid.inputs[step, :, :columns] @ refit
                gap, variance = np.mean(own**2) - np.mean(larger**2), np.var(larger)
                gaps[step, index, other] = gap
                tolerance = variance * (size + log_term) / len(targets)
                tolerance += np.sqrt(max(gap, 0.0) * variance * log_term / len(held_out))
                passed &= bool(gap <= params.alpha * tolerance)
        if passed:
            return index, gaps
    return classes - 1, gaps


def _targets(steps: LoggedSteps, weights: list[np.ndarray], step: int, size: int) -> np.ndarray:
    if step + 1 == len(weights):
        return steps.reward[step]
    value = (steps.next_inputs[step, :, :, :size] @ weights[step + 1]).max(axis=-1)
    return steps.reward[step] + steps.discount[step] * value


def host_steps(steps: LoggedSteps) -> LoggedSteps:
    """Transitions as NumPy arrays of double precision."""
    parts = steps.inputs, steps.reward, steps.discount, steps.next_inputs
    return LoggedSteps(*(np.asarray(leaf, np.float64) for leaf in parts))
