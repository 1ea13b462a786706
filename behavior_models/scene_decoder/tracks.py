"""Training rows: the tracks of recorded scenes as tokens with the features of their surroundings."""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from behavior_models.scene_decoder.decoder import AgentTokens
from behavior_models.scene_decoder.motion_tokens import SEGMENT_STEPS, SEGMENT_TIME, EncodedTracks, Vocabulary, encode
from behavior_models.scene_decoder.poses import relative_pose
from behavior_models.scene_decoder.records import NUM_HISTORY_TOKENS, SceneRecord
from behavior_models.scene_decoder.scene_tokens import SCENE_TOKENS, AgentInstant, SceneTokenParams, agent_features
from waymax_sim import geometry
from waymax_sim.pytree import Array, pytree

# Parked agents of a scene among its rows, drawn at random; the others are all traveling.
NUM_PARKED = 6


@pytree
class Tracks:
    """R tracks of T half seconds.

    Attributes:
      inputs: Tokens of the tracks [R, T]; features are float16.
      target: Next tokens; -1 where none is recorded.
      is_traveling: Tracks of traveling agents.
      scene: Index of the scene of each track.
    """

    inputs: AgentTokens
    target: Int[Array, "R T"]
    is_traveling: Bool[Array, " R"]
    scene: Int[Array, " R"]

    def __len__(self) -> int:
        return self.target.shape[0]


def instant(record: SceneRecord, encoded: EncodedTracks, time: Int[Array, ""]) -> AgentInstant:
    """All agents at the begin of a token, at the poses to which their tokens lead.

    Args:
      record: The scene.
      encoded: Tokens of its agents.
      time: Number of the token.
    """
    before = jnp.maximum(time - 1, 0)
    step = time * SEGMENT_STEPS
    is_first = (time == 0) | (encoded.token[before] < 0)
    pose = encoded.pose[time]
    by_velocity = _velocity_motion(record, step)
    motion = jnp.where(is_first[:, None], by_velocity, relative_pose(pose, encoded.pose[before]))
    return AgentInstant(
        pose=pose,
        motion=motion,
        is_first=is_first,
        valid=record.valid[step],
        size=record.size,
        classes=record.classes,
        is_sdc=record.is_sdc,
        lights=record.lights[time],
    )


def encode_record(vocabulary: Vocabulary, record: SceneRecord) -> EncodedTracks:
    """The tokens of a record, restarted at the logged poses of the current step like a simulation."""
    pose, valid = record.pose[::SEGMENT_STEPS], record.valid[::SEGMENT_STEPS]
    return encode(vocabulary, jnp.asarray(pose), jnp.asarray(valid), record.classes, restart=NUM_HISTORY_TOKENS)


def scene_tracks(
    vocabulary: Vocabulary, record: SceneRecord, params: SceneTokenParams
) -> tuple[AgentTokens, Int[Array, "A T"]]:
    """Inputs and targets of all agents of a record; pure.

    Args:
      vocabulary: The motion tokens.
      record: One record.
      params: Selection of tokens.
    """
    encoded = encode_record(vocabulary, record)
    rows = jnp.arange(len(record.size))

    def at(time):
        now = instant(record, encoded, time)
        previous = jnp.where(now.is_first, len(vocabulary.poses), encoded.token[jnp.maximum(time - 1, 0)])
        return agent_features(now, record.map, rows, params), previous, now.valid

    features, token, valid = jax.lax.map(at, jnp.arange(len(encoded.token)))
    features, token, valid = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (features, token, valid))
    classes = jnp.broadcast_to(record.classes[:, None], token.shape)
    return AgentTokens(features, token, valid, classes), encoded.token.T


@functools.partial(jax.jit, static_argnums=2)
def _compiled_tracks(vocabulary: Vocabulary, record: SceneRecord, params: SceneTokenParams):
    """`scene_tracks` with features in half precision, for storage."""
    inputs, target = scene_tracks(vocabulary, record, params)
    features = jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else leaf.astype(jnp.float16), inputs.features)
    return dataclasses.replace(inputs, features=features), target


def select_rows(record: SceneRecord, target: Int[np.ndarray, "A T"], rng: np.random.Generator) -> Int[np.ndarray, " R"]:
    """Agents of a scene that are trained on: all traveling ones, and some parked ones.

    Args:
      record: One record.
      target: Next tokens.
      rng: Random draws.
    """
    has_token, is_traveling = (target >= 0).any(axis=1), np.asarray(record.is_traveling)
    parked = rng.permutation(np.flatnonzero(has_token & ~is_traveling))[:NUM_PARKED]
    return np.concatenate([np.flatnonzero(has_token & is_traveling), parked])


def build_tracks(
    vocabulary: Vocabulary,
    records: Iterable[SceneRecord],
    params: SceneTokenParams = SCENE_TOKENS,
    seed: int = 0,
) -> Tracks:
    """The tracks of recorded scenes, on the host: about 0.5 MB a scene.

    Args:
      vocabulary: The motion tokens.
      records: Single records.
      params: Selection of tokens.
      seed: Seed of the draws of parked agents.
    """
    rng, parts = np.random.default_rng(seed), []
    for number, record in enumerate(records):
        inputs, target = jax.device_get(_compiled_tracks(vocabulary, record, params))
        rows = select_rows(record, target, rng)
        own, labels = (jax.tree.map(lambda leaf, rows=rows: leaf[rows], item) for item in (inputs, target))
        is_traveling = np.asarray(record.is_traveling)[rows]
        parts.append(Tracks(own, labels, is_traveling, np.full(len(rows), number, np.int32)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _velocity_motion(record: SceneRecord, step: Int[Array, ""]) -> Array:
    """Motion of half a second at the logged velocity, in the frame of the agent."""
    xy = geometry.rotate(record.velocity[step] * SEGMENT_TIME, -record.pose[step][:, 2])
    return jnp.concatenate([xy, jnp.zeros_like(xy[:, :1])], axis=-1)
