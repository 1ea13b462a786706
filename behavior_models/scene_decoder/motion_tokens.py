"""Motion tokens: half a second of motion of a vehicle, pedestrian or cyclist, and the tokens of tracks.

A token is five poses at 10 Hz in the frame of the pose before. Tracks are encoded in a closed loop: each token is
selected from the pose to which the previous tokens lead, so that errors do not accumulate (Trajeglish, Philion et al.
2023; SMART, Wu et al. 2024).
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.scene_decoder.poses import compose_pose, corner_distance, relative_pose
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.pytree import Array, pytree, static

# Steps of 0.1 s of a token.
SEGMENT_STEPS = 5
# Duration of a token, s.
SEGMENT_TIME = 0.5
# Length and width of the boxes whose corners are compared, by class, m (SMART).
TOKEN_BOXES = ((4.8, 2.0), (1.0, 1.0), (2.0, 1.0))
# Entries of a stored vocabulary.
FILE_ENTRIES = ("poses", "sizes")


@pytree
class Vocabulary:
    """The motion tokens of all classes, those of one class after those of the previous one.

    Attributes:
      poses: Poses of the tokens at the five steps, in the frame of the pose before.
      sizes: Number of tokens of each class.
    """

    poses: Float[Array, "V 5 3"]
    sizes: tuple[int, ...] = static()

    @property
    def ends(self) -> Float[Array, "V 3"]:
        """Last poses of the tokens."""
        return jnp.asarray(self.poses)[:, -1]

    @property
    def token_class(self) -> Int[np.ndarray, " V"]:
        """Class of each token."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes).astype(np.int32)

    @property
    def boxes(self) -> Float[np.ndarray, "V 2"]:
        """Box of the class of each token, m."""
        return np.asarray(TOKEN_BOXES, np.float32)[self.token_class]

    def class_mask(self, classes: Int[Array, "*n"]) -> Bool[Array, "*n V"]:
        """Tokens of the class of each agent."""
        return classes[..., None] == self.token_class.reshape(*[1] * classes.ndim, -1)


@pytree
class EncodedTracks:
    """The tokens of T half seconds of N tracks.

    Attributes:
      token: Tokens; -1 where the agent is absent at the begin or the end of the half second.
      pose: Poses to which the tokens lead; logged poses where no token leads to them.
      error: Mean distance of the corners of the box at the end of each token from the log, m; NaN without a token.
    """

    token: Int[Array, "T N"]
    pose: Float[Array, "T+1 N 3"]
    error: Float[Array, "T N"]


def nearest_token(
    vocabulary: Vocabulary, base: Float[Array, "N 3"], target: Float[Array, "N 3"], classes: Int[Array, " N"]
) -> tuple[Int[Array, " N"], Float[Array, "N V"]]:
    """The token of the class of each agent that leads closest to a target, and the distances of all tokens, m.

    Args:
      vocabulary: The tokens.
      base: Poses at the begin of the token.
      target: Poses to reach.
      classes: Class of each agent.
    """
    aim = relative_pose(target, base)
    distance = corner_distance(vocabulary.ends[None], aim[:, None], jnp.asarray(vocabulary.boxes)[None])
    distance = jnp.where(vocabulary.class_mask(classes), distance, jnp.inf)
    return jnp.argmin(distance, axis=-1).astype(jnp.int32), distance


def encode(
    vocabulary: Vocabulary,
    pose: Float[Array, "S N 3"],
    valid: Bool[Array, "S N"],
    classes: Int[Array, " N"],
    restart: int | None = None,
    closed_loop: bool = True,
) -> EncodedTracks:
    """The tokens of tracks sampled every half second.

    Args:
      vocabulary: The tokens.
      pose: Logged poses.
      valid: Whether agents are present.
      classes: Class of each agent.
      restart: Index of a time at which tracks continue from their logged poses, as a simulation that starts there.
      closed_loop: Select tokens from the pose reached by the previous ones; otherwise from the logged pose (a control:
        errors then accumulate).
    """
    boxes = jnp.asarray(TOKEN_BOXES, jnp.float32)[classes]
    restarts = jnp.arange(len(pose) - 1) == (-1 if restart is None else restart)

    def step(reached, inputs):
        logged, following, is_valid, restarts_now = inputs
        reached = jnp.where((reached[1] & ~restarts_now)[:, None], reached[0], logged)
        token, _ = nearest_token(vocabulary, reached if closed_loop else logged, following, classes)
        end = compose_pose(reached, vocabulary.ends[token])
        error = jnp.where(is_valid, corner_distance(end, following, boxes), jnp.nan)
        return (end, is_valid), (jnp.where(is_valid, token, -1), reached, error)

    start = (pose[0], jnp.zeros_like(valid[0]))
    (end, is_valid), (token, before, error) = jax.lax.scan(
        step, start, (pose[:-1], pose[1:], valid[:-1] & valid[1:], restarts)
    )
    last = jnp.where(is_valid[:, None], end, pose[-1])
    return EncodedTracks(token, jnp.concatenate([before, last[None]]), error)


def decode(
    vocabulary: Vocabulary, start: Float[Array, "N 3"], token: Int[Array, "T N"]
) -> tuple[Float[Array, "T*5 N 3"], Float[Array, "T+1 N 3"]]:
    """The poses of tokens at 10 Hz, and those at their begins and ends.

    Args:
      vocabulary: The tokens.
      start: Poses at the begin of the first token.
      token: Tokens, none of them -1.
    """

    def step(base, token):
        poses = compose_pose(base[:, None], jnp.asarray(vocabulary.poses)[token])
        return poses[:, -1], jnp.swapaxes(poses, 0, 1)

    _, poses = jax.lax.scan(step, start, token)
    ends = jnp.concatenate([start[None], poses[:, -1]])
    return poses.reshape(-1, *start.shape), ends


def save_vocabulary(file: str | os.PathLike, vocabulary: Vocabulary) -> None:
    """Writes a vocabulary as npz.

    Args:
      file: The file.
      vocabulary: The tokens.
    """
    np.savez_compressed(file, poses=np.asarray(vocabulary.poses), sizes=np.asarray(vocabulary.sizes, np.int32))


def load_vocabulary(file: str | os.PathLike) -> Vocabulary:
    """Reads a vocabulary of `save_vocabulary`.

    Raises:
      ValueError: The arrays do not fit each other, or are not finite.
    """
    stored = read_npz_arrays(Path(file), list(FILE_ENTRIES), "build the vocabulary again")
    vocabulary = Vocabulary(stored["poses"].astype(np.float32), tuple(int(size) for size in stored["sizes"]))
    shape = sum(vocabulary.sizes), SEGMENT_STEPS, 3
    if vocabulary.poses.shape != shape or len(vocabulary.sizes) != len(TOKEN_BOXES):
        raise ValueError(f"{file}: poses of the shape {vocabulary.poses.shape} do not fit sizes={vocabulary.sizes}")
    if not np.isfinite(vocabulary.poses).all():
        raise ValueError(f"{file}: poses are not finite; build the vocabulary again")
    return vocabulary
