"""Ladders of critics over logged transitions: random features of blocks of the observation, nested by masks."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.model_selection.modbe import LinearLadder, LoggedSteps, ModBEParams, Selection, modbe
from behavior_models.offline.transitions import Transitions
from waymax_sim.pytree import Array, static_record


@static_record
class ContextParams:
    """Constants of the critics; all are choices.

    Attributes:
      hidden: Random features of each block of the observation; frozen, so that classes are nested.
      discount: Discount per decision.
      horizon: Iterations of fitted Q iteration.
      train_fraction: Share of the streams for the regressions; the others are for the tests.
      seed: Seed of the random features.
    """

    hidden: int = 16
    discount: float = 0.95
    horizon: int = 6
    train_fraction: float = 0.8
    seed: int = 0


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
        raise ValueError(f"classes of {list(counts)} neighbors must ascend up to {agents - 1}, those of the observation")
    neighbors = range(first + row, first + agents * row)
    own = tuple(column for column in range(size) if column not in neighbors)
    blocks, begin = [], 0
    for count in counts:
        columns = tuple(range(first + (1 + begin) * row, first + (1 + count) * row))
        blocks.append(Block(f"{count} neighbors", columns if blocks else own + columns))
        begin = count
    return blocks


def block_features(
    observation: Float[Array, "*n D"], blocks: Sequence[Block], params: ContextParams = DEFAULT_CONTEXT
) -> tuple[Float[Array, "*n F"], Int[np.ndarray, " F"]]:
    """Random rectified features of each block and of a common projection, and the class that adds each of them.

    Args:
      observation: Encoded observations.
      blocks: Blocks of the classes.
      params: Constants.
    """
    rng = np.random.default_rng(params.seed)
    parts, classes = [jnp.ones((*observation.shape[:-1], 1))], [np.zeros(1, int)]
    for index, block in enumerate(blocks):
        weights = rng.normal(size=(len(block.columns), params.hidden)) / np.sqrt(len(block.columns))
        bias = rng.uniform(-1, 1, params.hidden).astype(np.float32)
        rows = observation[..., np.array(block.columns)] @ jnp.asarray(weights, jnp.float32)
        parts.append(jnp.maximum(rows + bias.reshape((1,) * (observation.ndim - 1) + (-1,)), 0.0))
        classes.append(np.full(params.hidden, index))
    return jnp.concatenate(parts, axis=-1), np.concatenate(classes)


def transition_steps(
    transitions: Transitions, rows: Bool[np.ndarray, "T S"], blocks: Sequence[Block], num_actions: int, params: ContextParams
) -> tuple[LoggedSteps, Bool[np.ndarray, "K D"]]:
    """Transitions as steps of ModBE, with a block of columns for each action, and the masks of the classes.

    Args:
      transitions: Logged transitions.
      rows: Decisions to use; the row after each of them is the next observation.
      blocks: Blocks of the classes.
      num_actions: Discrete actions.
      params: Constants.
    """
    row, stream = np.nonzero(rows)
    following = np.minimum(row + 1, rows.shape[0] - 1)
    observation = np.asarray(transitions.observation)
    now, classes = block_features(jnp.asarray(observation[row, stream], jnp.float32), blocks, params)
    after, _ = block_features(jnp.asarray(observation[following, stream], jnp.float32), blocks, params)
    action = jnp.asarray(np.asarray(transitions.action)[row, stream], jnp.int32)
    hot = jax.nn.one_hot(action, num_actions)
    inputs = (hot[:, :, None] * now[:, None]).reshape(len(row), -1)
    eye = jnp.eye(num_actions)[None, :, :, None]
    next_inputs = (eye * after[:, None, None]).reshape(len(row), num_actions, -1)
    ended = jnp.asarray(np.asarray(transitions.ended)[row, stream], jnp.float32)
    reward = jnp.asarray(np.asarray(transitions.reward)[row, stream], jnp.float32)
    steps = LoggedSteps(inputs[None], reward[None], params.discount * (1 - ended)[None], next_inputs[None])
    masks = np.tile(classes, num_actions)[None] <= np.arange(len(blocks))[:, None]
    return steps, masks


def complete_rows(transitions: Transitions) -> Bool[np.ndarray, "T S"]:
    """Decisions whose next observation is stored: terminal ones, and those whose next row continues the episode."""
    active, ended, truncated = (np.asarray(leaf) for leaf in (transitions.active, transitions.ended, transitions.truncated))
    has_next = np.zeros_like(active)
    has_next[:-1] = active[1:] | truncated[:-1]
    # After a truncated decision the next row is its last observation only where it has no decision.
    has_next[:-1] &= ~(truncated[:-1] & active[1:])
    return active & (ended | has_next)


def select_context(
    transitions: Transitions,
    blocks: Sequence[Block],
    num_actions: int,
    constants: ModBEParams,
    params: ContextParams = DEFAULT_CONTEXT,
) -> Selection:
    """ModBE over a ladder of blocks, on streams split into those for training and those for tests.

    Args:
      transitions: Logged transitions.
      blocks: Blocks of the classes.
      num_actions: Discrete actions.
      constants: Constants of the tolerance.
      params: Constants of the critics.

    Raises:
      ValueError: A part has no transitions.
    """
    usable = complete_rows(transitions)
    count = int(params.train_fraction * usable.shape[1])
    is_train = np.arange(usable.shape[1])[None] < count
    if not (usable & is_train).any() or not (usable & ~is_train).any():
        raise ValueError(f"{usable.shape[1]} streams cannot be split; log more streams")
    parts = [transition_steps(transitions, usable & mask, blocks, num_actions, params) for mask in (is_train, ~is_train)]
    (train, masks), (valid, _) = parts
    return modbe(LinearLadder(masks), train, valid, constants, horizon=params.horizon)
