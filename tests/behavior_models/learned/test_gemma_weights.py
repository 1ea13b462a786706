"""Weights in the layouts of the releases: equal logits after loading, and errors of incomplete or other files."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from behavior_models.networks.checkpoint import CheckpointError
from behavior_models.networks.gemma_weights import load_gemma
from behavior_models.networks.transformer import TransformerModel
from behavior_models.networks.transformer_config import TransformerConfig

TYPES = {np.dtype(np.float32): "F32", np.dtype(ml_dtypes.bfloat16): "BF16"}
# Multi-query and multi-head attention, whose width differs from that of the model.
SMALL = TransformerConfig(12, 2, 10, 2, 8, 1, 7, positions="rope")
WIDE = dataclasses.replace(SMALL, num_kv_heads=2)


def write_safetensors(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        own = values.tobytes()
        header[name] = {
            "dtype": TYPES[values.dtype],
            "shape": values.shape,
            "data_offsets": [len(data), len(data) + len(own)],
        }
        data += own
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def random_params(config):
    params = jax.jit(TransformerModel(config).init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * 0.3).astype(np.float32), params)


def to_hugging_face(params):
    tensors = {"model.embed_tokens.weight": params["embedding"][...], "model.norm.weight": params["norm"]["scale"][...]}
    for layer in range(2):
        own, prefix = params["blocks"][layer], f"model.layers.{layer}."
        attention, feed_forward = own["attention"], own["feed_forward"]
        query, (key, value) = attention["query"][...], attention["key_value"][...]
        for name, heads in (("q", query), ("k", key), ("v", value)):
            # Row h G + g of a projection is feature g of head h.
            rows = np.concatenate([head.T for head in heads])
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = rows
        tensors[f"{prefix}self_attn.o_proj.weight"] = np.concatenate(list(attention["output"][...])).T
        for name, matrix in zip(("gate", "up"), feed_forward["gate_up"][...], strict=True):
            tensors[f"{prefix}mlp.{name}_proj.weight"] = matrix.T
        tensors[f"{prefix}mlp.down_proj.weight"] = feed_forward["down"][...].T
        tensors[f"{prefix}input_layernorm.weight"] = own["attention_norm"]["scale"][...]
        tensors[f"{prefix}post_attention_layernorm.weight"] = own["feed_forward_norm"]["scale"][...]
    return tensors


def to_official(params, is_joint):
    tree = {
        "transformer/embedder": {"input_embedding": params["embedding"][...]},
        "transformer/final_norm": {"scale": params["norm"]["scale"][...]},
    }
    for layer in range(2):
        own, prefix = params["blocks"][layer], f"transformer/layer_{layer}/"
        attention, feed_forward = own["attention"], own["feed_forward"]
        query, key_value = attention["query"][...], attention["key_value"][...]
        if is_joint:
            tree[f"{prefix}attn/qkv_einsum"] = {"w": np.stack([query, *key_value])}
        else:
            tree[f"{prefix}attn/q_einsum"] = {"w": query}
            tree[f"{prefix}attn/kv_einsum"] = {"w": key_value}
        tree[f"{prefix}attn/attn_vec_einsum"] = {"w": attention["output"][...]}
        tree[f"{prefix}mlp"] = {"gating_einsum": feed_forward["gate_up"][...], "linear": feed_forward["down"][...]}
        tree[f"{prefix}pre_attention_norm"] = {"scale": own["attention_norm"]["scale"][...]}
        tree[f"{prefix}pre_ffw_norm"] = {"scale": own["feed_forward_norm"]["scale"][...]}
    return tree


def assert_equal(params, loaded):
    for (path, expected), found in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(loaded), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(found), expected, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("config", [SMALL, WIDE])
def test_safetensors(config, tmp_path):
    params = random_params(config)
    tensors = to_hugging_face(params)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    names = sorted(tensors)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, own in parts.items():
        write_safetensors(tmp_path / file, {name: tensors[name] for name in own})
    weight_map = {name: file for file, own in parts.items() for name in own}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    # The number of rows of the vocabulary is that of the file.
    model, loaded = load_gemma(tmp_path, dataclasses.replace(config, vocabulary=9))
    assert model.config == config
    assert_equal(params, loaded)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"b\.safetensors, which model\.safetensors\.index\.json names, is missing"
    ):
        load_gemma(tmp_path, config)


@pytest.mark.parametrize(("config", "is_joint"), [(SMALL, False), (WIDE, True)])
def test_official_layout(config, is_joint, tmp_path):
    params = random_params(config)
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(tmp_path / "2b", args=ocp.args.PyTreeSave(to_official(params, is_joint)))
    model, loaded = load_gemma(tmp_path / "2b", config)
    assert model.config == config
    assert_equal(params, loaded)


def test_number_format_is_that_of_the_file(tmp_path):
    tensors = to_hugging_face(random_params(SMALL))
    write_safetensors(
        tmp_path / "a.safetensors", {name: own.astype(ml_dtypes.bfloat16) for name, own in tensors.items()}
    )
    _, loaded = load_gemma(tmp_path, SMALL)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(loaded)} == {"bfloat16"}


def test_errors(tmp_path):
    tensors, file = to_hugging_face(random_params(SMALL)), tmp_path / "a.safetensors"

    def error(message, config=SMALL, **changed):
        write_safetensors(file, {name: own for name, own in (tensors | changed).items() if own is not None})
        with pytest.raises(CheckpointError, match=message):
            load_gemma(tmp_path, config)

    name = "model.layers.1.mlp.up_proj.weight"
    error(rf"no tensor {name}; copy all files", **{name: None})
    error(
        rf"a\.safetensors: tensor {name} has the shape \(12, 10\), not \(10, 12\); load it with the configuration",
        **{name: tensors[name].T.copy()},
    )
    extra = "model.layers.0.post_feedforward_layernorm.weight"
    error(rf"1 tensors are not part of the transformer, such as {extra}", **{extra: np.zeros(12, np.float32)})
    error("tensors are not part of the transformer, such as model.layers.1", dataclasses.replace(SMALL, num_layers=1))
    write_safetensors(file, tensors)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"the bytes of tensor .* are not in the file; copy the file again"):
        load_gemma(tmp_path, SMALL)
    file.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match=r"a header of .* bytes in a file of 100"):
        load_gemma(tmp_path, SMALL)
    file.write_bytes(whole.replace(b'"F32"', b'"I64"'))
    with pytest.raises(CheckpointError, match="has the type I64; convert it to one of F32, F16, BF16"):
        load_gemma(tmp_path, SMALL)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"neither \*\.safetensors nor an Orbax checkpoint"):
        load_gemma(tmp_path, SMALL)
