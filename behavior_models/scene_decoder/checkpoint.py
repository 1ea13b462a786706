"""Stored scene decoders: a folder with `policy.json`, and the weights and motion tokens as `weights.npz`."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.networks.checkpoint import FORMAT_VERSION, CheckpointError, restore_params, write_checkpoint
from behavior_models.scene_decoder.decoder import DecoderConfig, DecoderModel
from behavior_models.scene_decoder.modalities import Modalities
from behavior_models.scene_decoder.motion_tokens import SEGMENT_STEPS, Vocabulary
from behavior_models.scene_decoder.policy import DecoderPolicy
from behavior_models.scene_decoder.sampling import TokenSampling

DECODER_LOADER = "behavior_models.scene_decoder.checkpoint:load_decoder"
DECODER_KIND = "scene_decoder"


def decoder_policy(
    model: DecoderModel, params: Any, vocabulary: Vocabulary, sampling: TokenSampling | None = None, route: bool = False
) -> DecoderPolicy:
    """A network as a policy.

    Args:
      model: The network.
      params: Its parameters.
      vocabulary: The motion tokens.
      sampling: Parameters of sampling.
      route: Whether the sdc observes its route.
    """
    modalities = Modalities.select(*() if route else ("route",))
    return DecoderPolicy(params, vocabulary, sampling or TokenSampling.create(), modalities, model)


def with_sampling(policy: DecoderPolicy, temperature: float, top_k: int, nucleus: float) -> DecoderPolicy:
    """The policy with other parameters of sampling.

    Args:
      policy: The policy.
      temperature: See `TokenSampling`.
      top_k: At most `DecoderPolicy.num_candidates`.
      nucleus: See `TokenSampling`.

    Raises:
      ValueError: A value is out of range.
    """
    if top_k > policy.num_candidates:
        raise ValueError(f"top_k={top_k} must be at most {policy.num_candidates}")
    return dataclasses.replace(policy, sampling=TokenSampling.create(temperature, top_k, nucleus))


def save_decoder(folder: str | os.PathLike, policy: DecoderPolicy, facts: dict[str, Any]) -> None:
    """Writes a scene decoder.

    Args:
      folder: Folder to write to; created if it does not exist.
      policy: The policy.
      facts: Algorithm, command and further facts for readers, plain values.
    """
    description = {
        "loader": DECODER_LOADER,
        "version": FORMAT_VERSION,
        "kind": DECODER_KIND,
        "network": dataclasses.asdict(policy.model.config),
        "sampling": {name: np.asarray(value).item() for name, value in vars(policy.sampling).items()},
        "modalities": {name: bool(np.asarray(value)) for name, value in vars(policy.modalities).items()},
        "facts": facts,
    }
    write_checkpoint(folder, description, (policy.params, policy.vocabulary.poses))


def load_decoder(folder: Path) -> DecoderPolicy:
    """Reads a policy of `save_decoder`.

    Raises:
      CheckpointError: The folder is of another version or kind, or its arrays do not fit the network.
    """
    path = Path(folder)
    description = json.loads((path / "policy.json").read_text(encoding="utf-8"))
    if description.get("version") != FORMAT_VERSION or description.get("kind") != DECODER_KIND:
        kind, version = description.get("kind"), description.get("version")
        raise CheckpointError(f"{path} holds {kind!r} of version {version!r}, not {DECODER_KIND!r} of {FORMAT_VERSION}")
    model = DecoderModel(DecoderConfig.from_dict(description["network"]))
    tokens = jax.ShapeDtypeStruct((model.config.num_tokens, SEGMENT_STEPS, 3), jnp.float32)
    params, motion = restore_params(path, (model.shapes, tokens))
    sampling = TokenSampling.create(**description["sampling"])
    without = [name for name, is_present in description["modalities"].items() if not is_present]
    vocabulary = Vocabulary(motion, model.config.sizes)
    return DecoderPolicy(params, vocabulary, sampling, Modalities.select(*without), model)
