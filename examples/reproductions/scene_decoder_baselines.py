"""Baselines of the likelihood of motion tokens: unigram, same token, constant velocity and bigram.

Their constants are chosen on the evaluated tokens, in their favor.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from behavior_models.scene_decoder.motion_tokens import SEGMENT_TIME, TOKEN_BOXES, Vocabulary
from behavior_models.scene_decoder.poses import corner_distance
from behavior_models.scene_decoder.tracks import Tracks

# Pseudo-counts of the unigram in the bigram, and scales (m) of the distances from the token of constant velocity.
PSEUDO_COUNTS = (2.0, 5.0, 10.0, 20.0, 50.0)
DISTANCE_SCALES = (0.02, 0.05, 0.1, 0.2, 0.4)
# Share of the unigram in the other distributions.
UNIGRAM_SHARE = 0.02
# Bounds of the ranges of speed of `nll_by_speed`, m/s.
SPEED_BOUNDS = (0.0, 1.0, 5.0, 10.0, 15.0, np.inf)
TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """Tokens as flat arrays.

    Attributes:
      token: Previous tokens; the size of the vocabulary for none.
      target: Next tokens.
      classes: Class of the agent.
    """

    token: Int[np.ndarray, " M"]
    target: Int[np.ndarray, " M"]
    classes: Int[np.ndarray, " M"]

    @classmethod
    def from_tracks(cls, tracks: Tracks, mask: Bool[np.ndarray, " R"] | None = None) -> "TokenTable":
        """The recorded tokens of tracks.

        Args:
          tracks: The tracks.
          mask: Tracks that count; all by default.
        """
        rows = np.ones(len(tracks), bool) if mask is None else mask
        is_recorded = (np.asarray(tracks.target) >= 0) & rows[:, None]
        arrays = (tracks.inputs.token, tracks.target, tracks.inputs.classes)
        return cls(*(np.asarray(array)[is_recorded] for array in arrays))


def baseline_nll(vocabulary: Vocabulary, train: TokenTable, test: TokenTable) -> dict[str, Float[np.ndarray, " M"]]:
    """Negative log-likelihoods of the tokens by each baseline, nats.

    Args:
      vocabulary: The motion tokens.
      train: Tokens that the frequencies are counted from.
      test: Evaluated tokens.
    """
    unigram = unigram_probabilities(vocabulary, train)
    own = unigram[test.target]
    has_previous = test.token < len(unigram)

    def best(candidates: list[np.ndarray]) -> np.ndarray:
        return min((-np.log(np.maximum(values, TINY)) for values in candidates), key=np.mean)

    def mixed(values: np.ndarray) -> np.ndarray:
        return np.where(has_previous, (1 - UNIGRAM_SHARE) * values + UNIGRAM_SHARE * own, own)

    counts = bigram_counts(vocabulary, train)
    total = counts.sum(axis=1)[test.token]
    pairs = [(counts[test.token, test.target] + count * own) / (total + count) for count in PSEUDO_COUNTS]
    repeated = repetition_rates(train)[test.classes]
    same = (1 - repeated) * own + repeated * (test.token == test.target)
    kernels = (velocity_kernel(vocabulary, scale) for scale in DISTANCE_SCALES)
    previous = np.minimum(test.token, len(unigram) - 1)
    velocity = [mixed(kernel[previous, test.target]) for kernel in kernels]
    return {
        "unigram": best([own]),
        "same token": best([np.where(has_previous, same, own)]),
        "constant velocity": best(velocity),
        "bigram": best(pairs),
    }


def unigram_probabilities(vocabulary: Vocabulary, train: TokenTable) -> Float[np.ndarray, " V"]:
    """Frequencies of the tokens within their class."""
    counts = np.bincount(train.target, minlength=len(vocabulary.poses)) + 0.1
    totals = np.bincount(vocabulary.token_class, weights=counts)
    return counts / totals[vocabulary.token_class]


def bigram_counts(vocabulary: Vocabulary, train: TokenTable) -> Float[np.ndarray, "W V"]:
    """Counts of pairs of consecutive tokens."""
    counts = np.zeros((len(vocabulary.poses) + 1, len(vocabulary.poses)))
    np.add.at(counts, (train.token, train.target), 1.0)
    return counts


def repetition_rates(train: TokenTable) -> Float[np.ndarray, " 3"]:
    """Share of tokens that equal the previous one, by class; 0 for a class without tokens."""
    is_same = train.token == train.target
    totals = np.bincount(train.classes, minlength=3)
    return np.bincount(train.classes, weights=is_same, minlength=3) / np.maximum(totals, 1)


def velocity_kernel(vocabulary: Vocabulary, scale: float) -> Float[np.ndarray, "V V"]:
    """Probabilities that fall exponentially with the distance from the previous token.

    Args:
      vocabulary: The motion tokens.
      scale: Distance of corners over which they fall by a factor e, m.
    """
    ends = np.asarray(vocabulary.poses)[:, -1]
    kernel = np.zeros((len(ends), len(ends)))
    for index, box in enumerate(TOKEN_BOXES):
        rows = np.flatnonzero(vocabulary.token_class == index)
        boxes = np.broadcast_to(np.asarray(box, np.float32), (len(rows), len(rows), 2))
        first, second = (np.broadcast_to(part, (len(rows), len(rows), 3)) for part in (ends[rows][:, None], ends[rows]))
        weight = np.exp(-np.asarray(corner_distance(first, second, boxes)) / scale)
        kernel[np.ix_(rows, rows)] = weight / weight.sum(axis=1, keepdims=True)
    return kernel


def nll_by_speed(
    vocabulary: Vocabulary, table: TokenTable, nll: dict[str, Float[np.ndarray, " M"]]
) -> dict[str, dict[str, float]]:
    """Number of tokens and mean negative log-likelihoods in ranges of the speed of the previous token.

    Ranges without a token are omitted, and so are tokens without a previous one.

    Args:
      vocabulary: The motion tokens.
      table: Evaluated tokens.
      nll: Their negative log-likelihoods by each model, nats.
    """
    lengths = np.linalg.norm(np.asarray(vocabulary.poses)[:, -1, :2], axis=-1)
    speed = np.append(lengths / SEGMENT_TIME, np.nan)[table.token]
    rows = {}
    for low, high in itertools.pairwise(SPEED_BOUNDS):
        mask = (speed >= low) & (speed < high)
        if mask.any():
            means = {name: float(values[mask].mean()) for name, values in nll.items()}
            rows[f"{low:g} to {high:g} m/s"] = {"count": int(mask.sum()), **means}
    return rows


def mixture_nll(
    nll: Float[np.ndarray, " M"], other: Float[np.ndarray, " M"], share: float = UNIGRAM_SHARE
) -> Float[np.ndarray, " M"]:
    """Negative log-likelihoods of a mixture, nats.

    Args:
      nll: Those of a model.
      other: Those of another one.
      share: Weight of the other one.
    """
    return -np.logaddexp(np.log1p(-share) - nll, np.log(share) - other)
