"""Construction of motion vocabularies: k-disks with hull tokens.

k-disks cover the logged segments: a random segment is drawn, all segments near it are averaged to a token and removed
(Trajeglish, Philion et al. 2023). Averages lie inside the convex hull of the segments, so that vehicles at their limits
would fall behind their tokens for ever; hull tokens are arcs at and beyond the extremes of curvature and speed.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.scene_decoder.motion_tokens import SEGMENT_STEPS, TOKEN_BOXES, Vocabulary
from behavior_models.scene_decoder.poses import NUM_CLASSES, relative_pose
from waymax_sim import geometry
from waymax_sim.pytree import Array

# Steps between two segments of a track.
SEGMENT_STRIDE = 2


@dataclasses.dataclass(frozen=True)
class VocabularyParams:
    """Sizes and tolerances by class: vehicle, pedestrian, cyclist. The values are choices of this package.

    Attributes:
      sizes: Largest number of tokens; smaller numbers cover classes of little variety.
      num_hull: Hull tokens among them.
      tolerance: Mean distance of corners within which segments share a token, m.
      max_segments: Largest number of segments of a class, drawn at random.
      min_displacement: Segments with shorter displacements are at rest, m.
      hull_scales: Heading changes of hull tokens as multiples of the extreme one.
      extreme: Percentile of the heading changes, and of the displacements, that counts as extreme.
      hull_displacements: Displacements of straight hull tokens as multiples of the largest one, smallest and largest.
    """

    sizes: tuple[int, int, int] = (512, 128, 128)
    num_hull: tuple[int, int, int] = (44, 0, 12)
    tolerance: tuple[float, float, float] = (0.08, 0.05, 0.05)
    max_segments: int = 60_000
    min_displacement: float = 1e-3
    hull_scales: tuple[float, float] = (1.0, 1.3)
    extreme: float = 99.9
    hull_displacements: tuple[float, float] = (0.97, 1.15)


def segments(
    pose: Float[np.ndarray, "T N 3"], valid: Bool[np.ndarray, "T N"], classes: Int[np.ndarray, " N"]
) -> list[Float[np.ndarray, "_ 5 3"]]:
    """All half seconds of tracks in the frames of their begins, by class.

    Args:
      pose: Logged poses at 10 Hz.
      valid: Whether agents are present.
      classes: Class of each agent.
    """
    windows = np.arange(0, len(pose) - SEGMENT_STEPS, SEGMENT_STRIDE)[:, None] + np.arange(SEGMENT_STEPS + 1)
    local = np.asarray(_window_motion(np.where(valid[..., None], pose, 0.0).astype(np.float32), windows))
    is_valid = valid[windows].all(axis=1)
    return [np.moveaxis(local, 1, 2)[is_valid & (classes == index)] for index in range(NUM_CLASSES)]


@jax.jit
def _window_motion(pose: Float[Array, "T N 3"], windows: Int[Array, "W 6"]) -> Float[Array, "W 5 N 3"]:
    return relative_pose(pose[windows[:, 1:]], pose[windows[:, :1]])


def build_vocabulary(
    parts: list[list[Float[np.ndarray, "_ 5 3"]]], params: VocabularyParams = VocabularyParams(), seed: int = 0
) -> tuple[Vocabulary, dict[str, list[float]]]:
    """A vocabulary for segments, with the share of segments outside of the tolerance of all disks, by class.

    Args:
      parts: Results of `segments`, of several scenes.
      params: Sizes and tolerances.
      seed: Seed of the random draws.
    """
    rng, tokens, uncovered = np.random.default_rng(seed), [], []
    for index in range(NUM_CLASSES):
        moving_and_parked = np.concatenate([part[index] for part in parts])
        is_moving = np.abs(moving_and_parked[:, -1, :2]).sum(axis=-1) > params.min_displacement
        moving = rng.permutation(moving_and_parked[is_moving])[: params.max_segments]
        hull = hull_tokens(moving, params.num_hull[index], params)
        disks, rest = k_disks(moving, index, params.sizes[index] - len(hull), params.tolerance[index], rng)
        tokens.append(np.concatenate([disks, hull]))
        uncovered.append(rest)
    vocabulary = Vocabulary(np.concatenate(tokens).astype(np.float32), tuple(len(part) for part in tokens))
    return vocabulary, {"uncovered": uncovered}


def k_disks(
    moving: Float[np.ndarray, "S 5 3"], class_index: int, count: int, tolerance: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "V 5 3"], float]:
    """Tokens by k-disks, the first of them at rest, and the share of segments that none of them covers.

    Args:
      moving: Segments of a class.
      class_index: The class.
      count: Largest number of tokens.
      tolerance: Radius of a disk as the mean distance of corners, m.
      rng: Random draws.
    """
    corners, rest = (_corners(pose, class_index) for pose in (moving[:, -1], np.zeros((1, 3))))
    remaining = np.flatnonzero(_mean_distance(corners, rest) >= tolerance)
    tokens = [np.zeros((SEGMENT_STEPS, 3))]
    while len(tokens) < count and len(remaining):
        drawn = rng.choice(remaining)
        is_near = _mean_distance(corners[remaining], corners[drawn]) < tolerance
        tokens.append(moving[remaining[is_near]].mean(axis=0))
        remaining = remaining[~is_near]
    return np.stack(tokens), len(remaining) / max(len(moving), 1)


def hull_tokens(moving: Float[np.ndarray, "S 5 3"], count: int, params: VocabularyParams) -> Float[np.ndarray, "V 5 3"]:
    """Arcs at and beyond the extreme heading changes by displacement, and straight tokens around the largest speed.

    Args:
      moving: Segments of a class.
      count: Number of tokens.
      params: Extremes.
    """
    if not count or not len(moving):
        return np.zeros((0, SEGMENT_STEPS, 3))
    displacement, turn = np.linalg.norm(moving[:, -1, :2], axis=-1), np.abs(moving[:, -1, 2])
    per_bin = 2 * len(params.hull_scales)
    edges = np.linspace(0.3, np.percentile(displacement, params.extreme), max(count - 4, per_bin) // per_bin + 1)
    tokens = []
    for low, high in itertools.pairwise(edges):
        inside = turn[(displacement >= low) & (displacement < high)]
        extreme = np.percentile(inside, params.extreme) if len(inside) else 0.0
        turns = [sign * scale * extreme for scale in params.hull_scales for sign in (1, -1)]
        tokens += [arc(float(low + high) / 2, float(own)) for own in turns]
    lengths = displacement.max() * np.linspace(*params.hull_displacements, count - len(tokens))
    return np.stack(tokens + [arc(float(length), 0.0) for length in lengths])


def arc(displacement: float, turn: float) -> Float[np.ndarray, "5 3"]:
    """Poses along a circular arc at constant speed.

    Args:
      displacement: Length of the arc, m.
      turn: Change of heading, rad.
    """
    share = np.arange(1, SEGMENT_STEPS + 1) / SEGMENT_STEPS
    half = turn / 2 * share
    chord = displacement * share * np.sinc(half / np.pi)
    return np.stack([chord * np.cos(half), chord * np.sin(half), turn * share], axis=-1)


def _corners(pose: Float[Array, "S 3"], class_index: int) -> Float[np.ndarray, "S 4 2"]:
    box = np.broadcast_to(np.asarray(TOKEN_BOXES[class_index], np.float32), (len(pose), 2))
    single = np.asarray(pose, np.float32)
    return np.asarray(geometry.box_corners(jnp.asarray(single[:, :2]), jnp.asarray(single[:, 2]), jnp.asarray(box)))


def _mean_distance(a: Float[np.ndarray, "S 4 2"], b: Float[np.ndarray, "... 4 2"]) -> Float[np.ndarray, " S"]:
    return np.linalg.norm(a - b, axis=-1).mean(axis=-1)
