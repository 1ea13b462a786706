"""ModBE with plain loops over instances, classes and steps in NumPy: the oracle and the reference of the speed."""

import numpy as np
from jaxtyping import Float, Shaped

from behavior_models.model_selection.modbe import DEFAULT_PARAMS, LoggedSteps, ModBEParams


def ridge(features: Float[np.ndarray, "n d"], targets: Float[np.ndarray, " n"], penalty: float) -> np.ndarray:
    """Weights of the regression with a penalty in rows of the root mean square of each column."""
    gram = features.T @ features
    return np.linalg.solve(gram + penalty / len(features) * np.diag(np.diag(gram)), features.T @ targets)


def fitted_q(
    steps: LoggedSteps, features: Float[np.ndarray, "S A D"], size: int, penalty: float
) -> list[Shaped[np.ndarray, " d"]]:
    """Fitted Q iteration with the first columns.

    Args:
      steps: Transitions, as indices (`sample_steps`).
      features: Columns of all states and actions.
      size: Number of columns.
      penalty: See `ridge`.
    """
    rows = features[..., :size].reshape(-1, size)
    weights: list[np.ndarray] = []
    for step in reversed(range(len(steps.reward))):
        targets = _targets(steps, features, [*[np.zeros(0)] * (step + 1), *weights], step)
        weights.insert(0, ridge(rows[steps.inputs[step]], targets, penalty))
    return weights


def modbe_loop(
    train: LoggedSteps,
    valid: LoggedSteps,
    features: Float[np.ndarray, "S A D"],
    dimensions: tuple[int, ...],
    penalty: float = 1.0,
    params: ModBEParams = DEFAULT_PARAMS,
) -> tuple[int, Float[np.ndarray, "H K K"]]:
    """The chosen class, and all gaps that were computed before it was chosen.

    Args:
      train: Transitions for the regressions.
      valid: Transitions for the tests.
      features: Columns of all states and actions.
      dimensions: Columns of each class.
      penalty: See `ridge`.
      params: Constants of the tolerance.
    """
    horizon, classes = len(train.reward), len(dimensions)
    gaps = np.full((horizon, classes, classes), np.nan)
    log_term = np.log(classes**2 * horizon / params.confidence)
    table = features.reshape(-1, features.shape[-1])
    for index, size in enumerate(dimensions):
        weights, passed = fitted_q(train, features, size, penalty), True
        for step in range(horizon):
            fitted, tested = table[train.inputs[step]], table[valid.inputs[step]]
            targets, held_out = (_targets(data, features, weights, step) for data in (train, valid))
            own = held_out - tested[:, :size] @ weights[step]
            for other in range(index + 1, classes):
                columns = dimensions[other]
                refit = ridge(fitted[:, :columns], targets, penalty)
                larger = held_out - tested[:, :columns] @ refit
                gap, variance = np.mean(own**2) - np.mean(larger**2), np.var(larger)
                gaps[step, index, other] = gap
                tolerance = variance * (size + log_term) / len(targets)
                tolerance += np.sqrt(max(gap, 0.0) * variance * log_term / len(held_out))
                passed &= bool(gap <= params.alpha * tolerance)
                if not passed:
                    break
            if not passed:
                break
        if passed:
            return index, gaps
    return classes - 1, gaps


def _targets(steps: LoggedSteps, features: np.ndarray, weights: list[np.ndarray], step: int) -> np.ndarray:
    if step + 1 == len(steps.reward):
        return steps.reward[step]
    size = len(weights[step + 1])
    value = (features[..., :size] @ weights[step + 1]).max(axis=1)
    return steps.reward[step] + steps.discount[step] * value[steps.next_inputs[step]]


def host_steps(steps: LoggedSteps) -> LoggedSteps:
    """Transitions as NumPy arrays, numbers in double precision."""
    reward, discount = (np.asarray(leaf, np.float64) for leaf in (steps.reward, steps.discount))
    return LoggedSteps(np.asarray(steps.inputs), reward, discount, np.asarray(steps.next_inputs))
