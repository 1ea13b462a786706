"""Ladders of critics over logged transitions: random features of blocks of the observation, nested by masks."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.model_selection.batch_policy import (
    BanditParams,
    complexity_coverage,
    fit_classes,
    hold_out,
    predict,
    slope,
)
from behavior_models.model_selection.linear_ladders import LinearLadder
from behavior_models.model_selection.modbe import LoggedSteps, ModBEParams, Selection, modbe
from behavior_models.offline.transitions import Transitions
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class ContextParams:
    """Constants of the critics; all are choices.

    Attributes:
      hidden: Random features of each block of the observation; frozen, so that classes are nested.
      discount: Discount per decision.
      horizon: Iterations of fitted Q iteration.
      train_fraction: Share of the streams for the regressions; the others are for the tests.
      seed: Seed of the random features and of the choice of rows.
      max_rows: Largest number of transitions; more are thinned out at random.
    """

    hidden: int = 16
    discount: float = 0.95
    horizon: int = 6
    train_fraction: float = 0.8
    seed: int = 0
    max_rows: int = 8000


DEFAULT_CONTEXT = ContextParams()


@dataclasses.dataclass(frozen=True)
class Block:
    """Columns of the observation that a class adds.

    Attributes:
      name: Name of the class that ends with this block.
      columns: Indices of the observation.
    """

    name: str
    columns: tuple[int, ...]


def neighbor_blocks(agents: int, first: int, row: int, counts: Sequence[int], size: int) -> list[Block]:
    """Blocks of the nearest neighbors of a flat view, whose rows of agents start with the observer.

    Args:
      agents: Rows of agents in the observation, the observer included.
      first: Column of the first row.
      row: Values per agent.
      counts: Numbers of neighbors of the classes, ascending.
      size: Size of the observation; all columns that are not those of neighbors belong to the first class.

    Raises:
      ValueError: There are not as many neighbors in the observation.
    """
    if counts[-1] > agents - 1 or np.any(np.diff(counts) <= 0) or counts[0] < 0:
        raise ValueError(
            f"classes of {list(counts)} neighbors must ascend up to {agents - 1}, those of the observation"
        )
    neighbors = range(first + row, first + agents * row)
    own = tuple(column for column in range(size) if column not in neighbors)
    blocks, begin = [], 0
    for count in counts:
        columns = tuple(range(first + (1 + begin) * row, first + (1 + count) * row))
        blocks.append(Block(f"{count} neighbors", columns if blocks else own + columns))
        begin = count
    return blocks


def block_features(
    observation: Float[np.ndarray, "n D"],
    blocks: Sequence[Block],
    num_actions: int,
    params: ContextParams = DEFAULT_CONTEXT,
) -> tuple[Float[Array, "n A F"], Int[np.ndarray, " F"]]:
    """Random rectified features of each block and each action, and the class that adds each of them.

    Args:
      observation: Encoded observations.
      blocks: Blocks of the classes.
      num_actions: Actions A.
      params: Constants.
    """
    rng = np.random.default_rng(params.seed)
    action = rng.normal(size=(num_actions, params.hidden)).astype(np.float32)
    parts, classes = [np.broadcast_to(action[None], (len(observation), *action.shape))], [np.zeros(params.hidden, int)]
    for index, block in enumerate(blocks):
        weights = rng.normal(size=(len(block.columns), params.hidden)) / np.sqrt(len(block.columns))
        bias = rng.uniform(-1, 1, params.hidden)
        rows = (observation[:, np.array(block.columns)] @ weights + bias).astype(np.float32)
        parts.append(np.maximum(rows[:, None] + action[None], 0.0))
        classes.append(np.full(params.hidden, index))
    return jnp.asarray(np.concatenate(parts, axis=-1)), np.concatenate(classes)


def transition_steps(
    transitions: Transitions, rows: Bool[np.ndarray, "T S"], blocks: Sequence[Block], params: ContextParams
) -> tuple[LoggedSteps, Bool[np.ndarray, "K D"]]:
    """Transitions as steps of ModBE with the actions that were logged, and the masks of the classes.

    Args:
      transitions: Logged transitions.
      rows: Decisions to use; the row after each of them is the next observation.
      blocks: Blocks of the classes.
      params: Constants.
    """
    row, stream = np.nonzero(rows)
    following = np.minimum(row + 1, rows.shape[0] - 1)
    actions = np.unique(np.asarray(transitions.action)[np.asarray(transitions.active)])
    action = np.searchsorted(actions, np.asarray(transitions.action)[row, stream])
    observation = np.asarray(transitions.observation)
    now, classes = block_features(observation[row, stream].astype(np.float32), blocks, len(actions), params)
    after, _ = block_features(observation[following, stream].astype(np.float32), blocks, len(actions), params)
    inputs = now[np.arange(len(row)), action]
    ended = np.asarray(transitions.ended)[row, stream].astype(np.float32)
    reward = jnp.asarray(np.asarray(transitions.reward)[row, stream], jnp.float32)
    steps = LoggedSteps(inputs[None], reward[None], jnp.asarray(params.discount * (1 - ended))[None], after[None])
    return steps, classes[None] <= np.arange(len(blocks))[:, None]


def complete_rows(transitions: Transitions) -> Bool[np.ndarray, "T S"]:
    """Decisions whose next observation is stored: terminal ones, and those whose next row continues the episode."""
    active, ended, truncated = (
        np.asarray(leaf) for leaf in (transitions.active, transitions.ended, transitions.truncated)
    )
    has_next = np.zeros_like(active)
    has_next[:-1] = active[1:] | truncated[:-1]
    # After a truncated decision the next row is its last observation only where it has no decision.
    has_next[:-1] &= ~(truncated[:-1] & active[1:])
    return active & (ended | has_next)


def split_rows(
    transitions: Transitions, params: ContextParams = DEFAULT_CONTEXT
) -> tuple[Bool[np.ndarray, "T S"], Bool[np.ndarray, "T S"]]:
    """Complete decisions of the streams for training, and of the others for tests, thinned out at random.

    Args:
      transitions: Logged transitions.
      params: Constants.

    Raises:
      ValueError: A part has no transitions.
    """
    usable = complete_rows(transitions)
    share = min(1.0, params.max_rows / max(int(usable.sum()), 1))
    usable = usable & (np.random.default_rng(params.seed).random(usable.shape) < share)
    order = np.random.default_rng(params.seed).permutation(usable.shape[1])
    is_train = np.isin(np.arange(usable.shape[1]), order[: int(params.train_fraction * usable.shape[1])])[None]
    if not (usable & is_train).any() or not (usable & ~is_train).any():
        raise ValueError(f"{usable.shape[1]} streams cannot be split for training and tests; log more transitions")
    return usable & is_train, usable & ~is_train


def select_context(
    transitions: Transitions,
    blocks: Sequence[Block],
    constants: ModBEParams,
    params: ContextParams = DEFAULT_CONTEXT,
) -> Selection:
    """ModBE over a ladder of blocks, on streams split into those for training and those for tests.

    Args:
      transitions: Logged transitions on the host.
      blocks: Blocks of the classes.
      constants: Constants of the tolerance.
      params: Constants of the critics.

    Raises:
      ValueError: A part has no transitions.
    """
    parts = [transition_steps(transitions, rows, blocks, params) for rows in split_rows(transitions, params)]
    (train, masks), (valid, _) = parts
    run = jax.jit(lambda first, second: modbe(LinearLadder(masks), first, second, constants, horizon=params.horizon))
    return run(train, valid)


@pytree
class BanditChoice:
    """Choice among classes of predictors of logged returns.

    Attributes:
      chosen: The class; by complexity-coverage the one that gives most certificates.
      loss: Held-out squared error of each class.
      share: Share of the contexts in which each class gives the certificate.
      certificate: Mean certificate.
    """

    chosen: Int[Array, ""]
    loss: Float[Array, " K"]
    share: Float[Array, " K"]
    certificate: Float[Array, ""]


def select_bandit(
    transitions: Transitions,
    blocks: Sequence[Block],
    method: str,
    constants: BanditParams,
    params: ContextParams = DEFAULT_CONTEXT,
) -> BanditChoice:
    """Rules of contextual bandits with the return to go as outcome.

    Args:
      transitions: Logged transitions on the host.
      blocks: Blocks of the classes.
      method: "slope", "holdout" or "complexity-coverage".
      constants: Constants of the intervals.
      params: Constants of the features.

    Raises:
      ValueError: There are too few transitions.
    """
    first, second = split_rows(transitions, params)
    steps, masks = transition_steps(transitions, first | second, blocks, params)
    row, stream = np.nonzero(first | second)
    order = np.random.default_rng(params.seed).permutation(len(row))
    features = steps.inputs[0][order]
    outcome = jnp.asarray(np.asarray(transitions.return_to_go)[row, stream][order], jnp.float32)
    contexts, _ = block_features(
        np.asarray(transitions.observation)[row, stream][order].astype(np.float32),
        blocks,
        steps.next_inputs.shape[2],
        params,
    )
    held_out, loss = hold_out(features, outcome, masks, constants)
    fits = fit_classes(features, outcome, masks, constants)
    predictions = predict(fits, contexts)
    decisions = complexity_coverage(predictions)
    share = jnp.mean(jax.nn.one_hot(decisions.chosen_class, len(blocks)), axis=0)
    choices = {"holdout": held_out, "complexity-coverage": jnp.argmax(share).astype(jnp.int32)}
    chosen = slope(fits, predictions, constants) if method == "slope" else choices[method]
    return BanditChoice(chosen, loss, share, jnp.mean(decisions.certificate))
