"""ModBE: selection of the smallest complete class of value functions from logged transitions.

Source: "Oracle Inequalities for Model Selection in Offline Reinforcement Learning", arXiv 2211.02016. Held-out Bellman
errors of different classes cannot be compared, since the target of the regression depends on the class. ModBE keeps the
target of one class and tests whether a larger class fits the same target clearly better. A class that passes against
all larger ones is chosen; only an improvement eliminates, a larger class that does worse is no evidence.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree, static_record, tree_index


@static_record
class ModBEParams:
    """Tolerance of the test: alpha (s^2 (d_k + L) / n_train + sqrt(gap s^2 L / n_valid)).

    d_k is the complexity of the smaller class, s^2 the variance of the residuals of the larger one, and
    L = log(num_classes^2 horizon / confidence). The first term is the order of the error of the base learner, the
    second that of a Bernstein bound. The form is of the paper; the constants are choices of this package.

    Attributes:
      alpha: Factor of the tolerance; smaller values choose larger classes.
      confidence: Probability of a wrong elimination in the union bound.
    """

    alpha: float = 1.0
    confidence: float = 0.1


DEFAULT_PARAMS = ModBEParams()


@pytree
class LoggedSteps:
    """n transitions of each of H decision steps. For the same transitions in all steps, H is 1 (see `modbe`).

    Attributes:
      inputs: State and logged action as the classes take it, leaves [H, n, ...].
      reward: Rewards.
      discount: Factor of the next value: 0 where the episode has ended.
      next_inputs: Next state with each of A actions, leaves [H, n, A, ...]; next states in the form that a
        `ValueLadder` takes.
    """

    inputs: Any
    reward: Float[Array, "H n"]
    discount: Float[Array, "H n"]
    next_inputs: Any


@runtime_checkable
class Ladder(Protocol):
    """Nested classes of functions, the smallest first."""

    @property
    def complexity(self) -> Float[Array, " K"]:
        """Dimension or logarithm of the size of each class."""
        ...

    def prepare(self, inputs: Any) -> Any:
        """Results that all regressions on the same inputs [n, ...] share.

        Args:
          inputs: Inputs of one step.
        """
        ...

    def fit(self, prepared: Any, targets: Float[Array, "T n"]) -> Any:
        """Least squares of every class for every target: parameters with the leading axes [T, K].

        Args:
          prepared: From `prepare`.
          targets: T targets of the same inputs.
        """
        ...

    def predict(self, params: Any, inputs: Any) -> Array:
        """Predictions with the leading axes of the parameters, then those of the inputs.

        Args:
          params: Parameters with any leading axes.
          inputs: Inputs with any leading axes.
        """
        ...


@runtime_checkable
class ValueLadder(Ladder, Protocol):
    """A ladder that computes the largest prediction over the actions itself."""

    def values(self, params: Any, next_inputs: Any) -> Array:
        """Largest prediction over the actions, with the leading axes of the parameters, then [n].

        Args:
          params: Parameters with any leading axes.
          next_inputs: Next states, in any form.
        """
        ...


@runtime_checkable
class BaseLearner(Protocol):
    """Any offline learner of value functions; `fitted_q_iteration` by default."""

    def __call__(self, ladder: Ladder, steps: LoggedSteps, prepared: Any, horizon: int) -> Any:
        """Parameters of every class at every step, leaves [horizon, K, ...].

        Args:
          ladder: The classes.
          steps: Transitions for training.
          prepared: `Ladder.prepare` of each stored step.
          horizon: Number of decision steps.
        """
        ...


@pytree
class Selection:
    """The result of ModBE for K classes and H decision steps.

    Attributes:
      chosen: Smallest class that passed all tests, or the largest class.
      passed: Whether each class passed; a class with a value that is not finite does not.
      gap: Held-out loss of class k minus that of class j on the target of k, [H, k, j]; zero for j <= k.
      tolerance: Largest gap that class k passes with.
      held_out_error: Held-out temporal difference error of each class on its own target, for comparison.
      params: Value functions of all classes, leaves [H, K, ...].
    """

    chosen: Int[Array, ""]
    passed: Bool[Array, " K"]
    gap: Float[Array, "H K K"]
    tolerance: Float[Array, "H K K"]
    held_out_error: Float[Array, "H K"]
    params: Any

    @property
    def held_out_choice(self) -> Int[Array, ""]:
        """The class of the least held-out temporal difference error, a rule that can fail."""
        total = jnp.sum(self.held_out_error, axis=0)
        return jnp.argmin(jnp.where(jnp.isfinite(total), total, jnp.inf)).astype(jnp.int32)

    def class_params(self, index: Int[Array, ""]) -> Any:
        """Value functions of one class, leaves [H, ...]."""
        return jax.tree.map(lambda leaf: leaf[:, index], self.params)


def modbe(
    ladder: Ladder,
    train: LoggedSteps,
    valid: LoggedSteps,
    params: ModBEParams = DEFAULT_PARAMS,
    base: BaseLearner | None = None,
    horizon: int | None = None,
) -> Selection:
    """Selects a class by one-sided tests. Pure; batch it over instances with `vmap` or `lax.map`.

    Args:
      ladder: Nested classes.
      train: Transitions for all regressions.
      valid: Independent transitions for the tests.
      params: Constants of the tolerance.
      base: Learner of the value functions; fitted Q iteration by default.
      horizon: Decision steps, all with the same transitions (stored with H = 1); by default the stored H.
    """
    train, valid = (jax.tree.map(jnp.asarray, data) for data in (train, valid))
    count = train.reward.shape[0] if horizon is None else horizon
    prepared = jax.vmap(ladder.prepare)(train.inputs)
    given = None if base is None else base(ladder, train, prepared, count)

    def test(following: Any, step: Int[Array, ""]) -> tuple[Any, tuple[Array, Array, Array, Any]]:
        rows = _stored(train, step)
        held_out = _targets(ladder, tree_index(valid, rows), following, step == count - 1)
        refits = _regress(ladder, train, prepared, following, (step, count))
        inputs = tree_index(valid.inputs, rows)
        larger = held_out[:, None] - ladder.predict(refits, inputs)
        if given is None:
            learned, own = _own(refits), _own(larger)
        else:
            learned = tree_index(given, step)
            own = held_out - ladder.predict(learned, inputs)
        return learned, (*_test_statistics(ladder, own, larger, train.reward.shape[1], count, params), learned)

    # From the last step to the first: the targets of a step are values of the next one.
    first = _empty_params(ladder, train, prepared)
    _, (gap, tolerance, error, learned) = jax.lax.scan(test, first, jnp.arange(count), reverse=True)
    is_larger = jnp.triu(jnp.ones(gap.shape[1:], bool), 1)[None]
    # A gap that is not finite fails the comparison.
    passed = jnp.all((gap <= tolerance) | ~is_larger, axis=(0, 2)) & jnp.all(jnp.isfinite(error), axis=0)
    last = passed.shape[0] - 1
    chosen = jnp.where(jnp.any(passed), jnp.argmax(passed), last).astype(jnp.int32)
    gap, tolerance = (jnp.where(is_larger, value, 0.0) for value in (gap, tolerance))
    return Selection(chosen, passed, gap, tolerance, error, learned)


def _test_statistics(
    ladder: Ladder,
    own: Float[Array, "K m"],
    larger: Float[Array, "K K m"],
    num_train: int,
    horizon: int,
    params: ModBEParams,
) -> tuple[Float[Array, "K K"], Float[Array, "K K"], Float[Array, " K"]]:
    """Gaps, tolerances, and losses of the own targets.

    Args:
      ladder: The classes.
      own: Held-out residuals of each class on its target.
      larger: Held-out residuals of all classes on the target of each class.
      num_train: Transitions for training.
      horizon: Decision steps.
      params: Constants.
    """
    loss, variance = jnp.mean(own**2, axis=-1), jnp.var(larger, axis=-1)
    gap = loss[:, None] - jnp.mean(larger**2, axis=-1)
    log_term = jnp.log(loss.shape[0] ** 2 * horizon / params.confidence)
    regression = variance * (ladder.complexity[:, None] + log_term) / num_train
    deviation = jnp.sqrt(jnp.maximum(gap, 0.0) * variance * log_term / own.shape[-1])
    return gap, params.alpha * (regression + deviation), loss


def fitted_q_iteration(ladder: Ladder, steps: LoggedSteps, prepared: Any, horizon: int) -> Any:
    """Fitted Q iteration of all classes, each on its own targets, from the last step to the first.

    Args:
      ladder: The classes.
      steps: Transitions.
      prepared: `Ladder.prepare` of each stored step.
      horizon: Number of decision steps.
    """
    steps, prepared = jax.tree.map(jnp.asarray, (steps, prepared))

    def backup(following: Any, step: Int[Array, ""]) -> tuple[Any, Any]:
        own = _own(_regress(ladder, steps, prepared, following, (step, horizon)))
        return own, own

    return jax.lax.scan(backup, _empty_params(ladder, steps, prepared), jnp.arange(horizon), reverse=True)[1]


def _regress(
    ladder: Ladder, steps: LoggedSteps, prepared: Any, following: Any, step: tuple[Int[Array, ""], int]
) -> Any:
    """Fits of every class to the Bellman targets of each class, leaves [K, K, ...].

    Args:
      ladder: The classes.
      steps: Transitions.
      prepared: `Ladder.prepare` of each stored step.
      following: Parameters of each class at the next step.
      step: The decision step, and the number of them.
    """
    rows = _stored(steps, step[0])
    targets = _targets(ladder, tree_index(steps, rows), following, step[0] == step[1] - 1)
    return ladder.fit(tree_index(prepared, rows), targets)


def _own(pairs: Any) -> Any:
    """Leaves [K, ...] of each class with itself, of leaves [K, K, ...] of all pairs."""
    return jax.tree.map(lambda leaf: leaf[jnp.arange(leaf.shape[0]), jnp.arange(leaf.shape[0])], pairs)


def _empty_params(ladder: Ladder, steps: LoggedSteps, prepared: Any) -> Any:
    """Zeros in the form of the parameters of all classes.

    Args:
      ladder: The classes.
      steps: Transitions.
      prepared: `Ladder.prepare` of each stored step.
    """
    targets = jnp.zeros((ladder.complexity.shape[0], steps.reward.shape[1]))
    shapes = jax.eval_shape(ladder.fit, tree_index(prepared, 0), targets)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), shapes)


def _stored(steps: LoggedSteps, step: Int[Array, ""]) -> Int[Array, ""]:
    """Index of the transitions of a decision step."""
    return jnp.minimum(step, steps.reward.shape[0] - 1)


def _targets(ladder: Ladder, steps: LoggedSteps, following: Any, is_last: Bool[Array, ""]) -> Float[Array, "K n"]:
    """Bellman targets of each class, reward + discount max_a Q_k(s', a).

    Args:
      ladder: The classes.
      steps: Transitions of one step.
      following: Parameters of each class at the next step.
      is_last: Whether there is no next step.
    """
    if isinstance(ladder, ValueLadder):
        value = ladder.values(following, steps.next_inputs)
    else:
        value = jnp.max(ladder.predict(following, steps.next_inputs), axis=-1)
    return steps.reward[None] + jnp.where(is_last, 0.0, steps.discount[None] * value)


def split_steps(steps: LoggedSteps, train_fraction: float = 0.8) -> tuple[LoggedSteps, LoggedSteps]:
    """The first rows for training, the others for the tests. Rows must be independent of their order.

    Args:
      steps: The transitions.
      train_fraction: Share of the rows for training.

    Raises:
      ValueError: A part would have no rows.
    """
    total = steps.reward.shape[1]
    count = int(train_fraction * total)
    if not 0 < count < total:
        raise ValueError(f"{total} transitions cannot be split with train_fraction={train_fraction}")
    parts = (slice(None), slice(0, count)), (slice(None), slice(count, None))
    train, valid = (jax.tree.map(lambda leaf, part=part: leaf[part], steps) for part in parts)
    return train, valid
