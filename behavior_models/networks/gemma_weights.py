"""Published weights of Gemma in a local folder: safetensors of Hugging Face, or the Orbax checkpoint of the authors."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from behavior_models.networks.checkpoint import CheckpointError
from behavior_models.networks.safetensors import read_header
from behavior_models.networks.transformer import TransformerModel
from behavior_models.networks.transformer_config import TransformerConfig

INDEX_FILE = "model.safetensors.index.json"
# Tensors that follow from others: the tied output layer, and the frequencies of the rotary embedding.
DERIVED = re.compile(r"lm_head\.weight|.*rotary_emb\.inv_freq")


@dataclasses.dataclass(frozen=True)
class Part:
    """A stored tensor and its relation to one of ours.

    Attributes:
      name: Its name.
      shape: Its shape.
      convert: From the stored values to ours.
    """

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray] = lambda values: values


class StoredWeights:
    """Tensors of a folder by name, each of which is read once.

    Args:
      folder: The folder.
      tensors: Functions that read a tensor, by name.
      files: Files of the tensors.
    """

    def __init__(self, folder: Path, tensors: dict[str, Callable[[], np.ndarray]], files: dict[str, str]):
        self.folder, self._tensors, self._files, self._unread = folder, tensors, files, set(tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._tensor(name).shape

    def take(self, part: Part) -> np.ndarray:
        """Values of a tensor in our layout.

        Raises:
          CheckpointError: It is missing or has another shape.
        """
        values = self._tensor(part.name)
        self._unread.discard(part.name)
        if values.shape != part.shape:
            raise CheckpointError(
                f"{self._files.get(part.name, self.folder)}: tensor {part.name} has the shape {values.shape}, not "
                f"{part.shape}; load it with the configuration of its size, such as GEMMA_2B or GEMMA_7B"
            )
        return part.convert(values)

    def check_all_read(self) -> None:
        """Raises a `CheckpointError` for tensors that the transformer does not have."""
        others = sorted(name for name in self._unread if not DERIVED.fullmatch(name))
        if others:
            raise CheckpointError(
                f"{self._files.get(others[0], self.folder)}: {len(others)} tensors are not part of the transformer, "
                f"such as {others[0]}; load weights of Gemma 1 with the configuration of their size"
            )

    def _tensor(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise CheckpointError(
                f"{self.folder}: no tensor {name}; copy all files of the release, and load them with the configuration "
                "of their size"
            )
        return self._tensors[name]()


def load_gemma(folder: str | Path, config: TransformerConfig) -> tuple[TransformerModel, Any]:
    """The transformer and its parameters in the number format of the files.

    Args:
      folder: Folder of the release: `*.safetensors`, or an Orbax checkpoint.
      config: Its size, such as `GEMMA_2B`; the number of rows of the vocabulary is that of the files.

    Raises:
      CheckpointError: Files or tensors are missing, damaged, or those of another size.
    """
    path = Path(folder)
    is_safetensors = any(path.glob("*.safetensors"))
    stored = _open_safetensors(path) if is_safetensors else _open_orbax(path)
    layout = HuggingFaceLayout() if is_safetensors else OfficialLayout()
    rows = stored.shape(layout.embedding)[0]
    model = TransformerModel(dataclasses.replace(config, vocabulary=rows))

    def read(keys: Any, leaf: Any) -> jax.Array:
        names = [str(getattr(key, "key", "")) for key in keys][:-1]
        layer = int(names[1]) if names[0] == "blocks" else -1
        parts = layout.parts(names[-2] if names[-1] == "scale" else names[-1], layer, model.config, stored)
        values = [stored.take(part) for part in parts]
        return jax.device_put(np.concatenate(values).reshape(leaf.shape))

    params = jax.tree_util.tree_map_with_path(read, model.shapes)
    stored.check_all_read()
    return model, params


class HuggingFaceLayout:
    """Matrices with the outputs first, and one tensor for each projection."""

    embedding = "model.embed_tokens.weight"

    def parts(self, name: str, layer: int, config: TransformerConfig, stored: StoredWeights) -> list[Part]:
        """The tensors of a parameter, in order.

        Args:
          name: Last part of the path of the parameter.
          layer: Number of the layer.
          config: Size.
          stored: The files.
        """
        width, hidden, size, prefix = config.width, config.hidden, config.head_size, f"model.layers.{layer}."

        def heads(name: str, count: int) -> Part:
            shape = (count * size, width)
            return Part(
                f"{prefix}self_attn.{name}.weight", shape, lambda own: _swap(own.reshape(count, size, width))[None]
            )

        def matrix(name: str, outputs: int, inputs: int) -> Part:
            return Part(f"{prefix}{name}.weight", (outputs, inputs), lambda own: own.T[None])

        own = {
            "embedding": [Part(self.embedding, (config.vocabulary, width))],
            "norm": [Part("model.norm.weight", (width,))],
            "attention_norm": [Part(f"{prefix}input_layernorm.weight", (width,))],
            "feed_forward_norm": [Part(f"{prefix}post_attention_layernorm.weight", (width,))],
            "query": [heads("q_proj", config.num_heads)],
            "key_value": [heads("k_proj", config.num_kv_heads), heads("v_proj", config.num_kv_heads)],
            "output": [matrix("self_attn.o_proj", width, config.num_heads * size)],
            "gate_up": [matrix("mlp.gate_proj", hidden, width), matrix("mlp.up_proj", hidden, width)],
            "down": [matrix("mlp.down_proj", width, hidden)],
        }
        return own[name]


class OfficialLayout:
    """Our layout; models with as many key heads as heads have one tensor for queries, keys and values."""

    embedding = "transformer/embedder/input_embedding"

    def parts(self, name: str, layer: int, config: TransformerConfig, stored: StoredWeights) -> list[Part]:
        """The tensors of a parameter, in order.

        Args:
          name: Last part of the path of the parameter.
          layer: Number of the layer.
          config: Size.
          stored: The files.
        """
        width, hidden, size = config.width, config.hidden, config.head_size
        heads, kv, prefix = config.num_heads, config.num_kv_heads, f"transformer/layer_{layer}/"
        joint = f"{prefix}attn/qkv_einsum/w"
        if name in ("query", "key_value") and joint in stored:
            part = slice(0, 1) if name == "query" else slice(1, 3)
            return [Part(joint, (3, heads, width, size), lambda own: own[part])]

        def matrix(name: str, *shape: int) -> Part:
            weight = f"{prefix}{name}/w"
            return Part(weight if weight in stored else f"{prefix}{name}", shape)

        own = {
            "embedding": [Part(self.embedding, (config.vocabulary, width))],
            "norm": [Part("transformer/final_norm/scale", (width,))],
            "attention_norm": [Part(f"{prefix}pre_attention_norm/scale", (width,))],
            "feed_forward_norm": [Part(f"{prefix}pre_ffw_norm/scale", (width,))],
            "query": [matrix("attn/q_einsum", heads, width, size)],
            "key_value": [matrix("attn/kv_einsum", 2, kv, width, size)],
            "output": [matrix("attn/attn_vec_einsum", heads, size, width)],
            "gate_up": [matrix("mlp/gating_einsum", 2, width, hidden)],
            "down": [matrix("mlp/linear", hidden, width)],
        }
        return own[name]


def _open_safetensors(folder: Path) -> StoredWeights:
    """The tensors of all safetensors files of a folder."""
    index = folder / INDEX_FILE
    if index.exists():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in names if not (folder / name).exists())
        if missing:
            raise CheckpointError(f"{folder}: {missing[0]}, which {INDEX_FILE} names, is missing; copy it there")
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_header(path)
    files = {name: str(tensor.path) for name, tensor in tensors.items()}
    return StoredWeights(folder, {name: tensor.read for name, tensor in tensors.items()}, files)


def _open_orbax(folder: Path) -> StoredWeights:
    """The tensors of an Orbax checkpoint, by their paths."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give that of the files of a release")
    if not any((folder / name).exists() for name in ("_METADATA", "checkpoint", "manifest.ocdbt")):
        raise CheckpointError(f"{folder}: neither *.safetensors nor an Orbax checkpoint; give the folder of the files")
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder.absolute()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        stored = reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(stored)
    arrays = {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}
    return StoredWeights(folder, {name: (lambda own=own: own) for name, own in arrays.items()}, {})


def _swap(values: np.ndarray) -> np.ndarray:
    return np.swapaxes(values, -1, -2)
