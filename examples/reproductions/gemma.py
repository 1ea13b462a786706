"""The transformer of Gemma (Gemma Team 2024): parameter counts, caches, memory, and the continuation of a prompt.

    python -m examples.reproductions.gemma --out runs/gemma
    python -m examples.reproductions.gemma --out runs/gemma --weights weights/gemma-2b --size 2b --prompt 2 651 6037

Tokens of a prompt are those of the tokenizer of the release, which is not part of this package.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from behavior_models.networks.attention import KeyValues, attend, attend_chunked, causal_index, visible
from behavior_models.networks.gemma_weights import load_gemma
from behavior_models.networks.generation import generate
from behavior_models.networks.transformer import TransformerModel
from behavior_models.networks.transformer_config import GEMMA_2B, GEMMA_7B, NANO
from examples.reproductions.waymax_common import Criterion

# Embedding and other parameters (table 2 of the report).
PUBLISHED = {"2b": (GEMMA_2B, 524_550_144, 1_981_884_416), "7b": (GEMMA_7B, 786_825_216, 7_751_248_896)}
# Repetitions of a time measurement, of which the fastest counts.
NUM_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Study:
    """Size of the study.

    Attributes:
      out: Folder of the report.
      weights: Folder of published weights; none by default.
      size: Their size.
      prompt: Tokens that are continued with them.
      num_tokens: Number of new tokens.
      cache: Slots of the cache whose steps are timed.
      lengths: Tokens of the sequences whose memory is compared.
      quick: A small cache and short sequences, to see that it runs.
    """

    out: Path
    weights: Path | None = None
    size: Literal["2b", "7b"] = "2b"
    prompt: tuple[int, ...] = (2,)
    num_tokens: int = 16
    cache: int = 8192
    lengths: tuple[int, int] = (4096, 16_384)
    quick: bool = False


def count_criteria() -> list[Criterion]:
    """Differences from the published counts, from the shapes of the parameters."""
    criteria = []
    for name, (config, embedding, others) in PUBLISHED.items():
        shapes = TransformerModel(config).shapes
        total, own = sum(leaf.size for leaf in jax.tree.leaves(shapes)), shapes["embedding"].size
        criteria.append(Criterion(f"G0 embedding parameters of {name} minus {embedding:,}", own - embedding, 0, 0))
        criteria.append(Criterion(f"G0 other parameters of {name} minus {others:,}", total - own - others, 0, 0))
    return criteria


def cache_difference(length: int = 96) -> float:
    """Largest difference between logits with a cache, token by token, and those of the whole sequence."""
    model = TransformerModel(dataclasses.replace(NANO, positions="rope"))
    params = model.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, length), 0, NANO.vocabulary)
    index = causal_index(jnp.ones((2, length), bool))

    @jax.jit
    def both(params: Any) -> Any:
        network = model.network(params)

        def step(cache: Any, number: Any) -> Any:
            own = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, number, 1, axis=1), (tokens, index))
            features, cache = network.step(network.embed(own[0]), own[1], cache)
            return cache, network.logits(features)[:, 0]

        _, logits = jax.lax.scan(step, model.config.cache((2,), length), jnp.arange(length))
        return jnp.swapaxes(logits, 0, 1), network(tokens, index)

    logits, whole = both(params)
    return float(jnp.max(jnp.abs(logits - whole)))


def step_times(num_slots: int) -> tuple[float, float]:
    """CPU seconds of a step with an empty and with a full cache, the fastest of several runs of 32 steps."""
    model, num_steps = TransformerModel(NANO), 32
    params = model.init(jax.random.key(0))

    @jax.jit
    def steps(params: Any, cache: Any) -> Any:
        network = model.network(params)

        def step(cache: Any, _: Any) -> Any:
            position = jnp.full((8, 1), cache.num_written)
            index = dataclasses.replace(causal_index(jnp.ones((8, 1), bool)), step=position, position=position)
            features, cache = network.step(network.embed(position % NANO.vocabulary), index, cache)
            return cache, features.sum()

        return jax.lax.scan(step, cache, None, num_steps)[1]

    empty = NANO.cache((8,), num_slots)
    order = jnp.broadcast_to(jnp.arange(num_slots, dtype=jnp.int32), (8, num_slots))
    index = dataclasses.replace(empty.index, step=order, position=order, valid=jnp.ones((8, num_slots), bool))
    full = dataclasses.replace(empty, index=index, num_written=jnp.asarray(num_slots - num_steps, jnp.int32))
    return _fastest(steps, params, empty) / num_steps, _fastest(steps, params, full) / num_steps


def _fastest(function: Any, *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(NUM_REPEATS):
        begin = time.process_time()
        jax.block_until_ready(function(*arguments))
        times.append(time.process_time() - begin)
    return min(times)


def attention_memory(length: int, is_chunked: bool) -> int:
    """Temporary memory of attention and its gradient, bytes.

    Args:
      length: Number of tokens.
      is_chunked: Whether it is computed by blocks.
    """
    shapes = [jax.ShapeDtypeStruct((1, length, heads, 16), jnp.float32) for heads in (4, 1, 1)]

    def total(query: Any, key: Any, value: Any) -> Any:
        index = causal_index(jnp.ones((1, length), bool))
        if is_chunked:
            return jnp.sum(attend_chunked(query, key, value, index, index))
        return jnp.sum(attend(query, KeyValues(key, value, visible(index, index))))

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def resource_criteria(study: Study) -> list[Criterion]:
    """Time of a step by the number of tokens before, and memory by the length."""
    empty, full = step_times(study.cache)
    short, long = study.lengths
    memory = {own: [attention_memory(length, own) for length in study.lengths] for own in (True, False)}
    print(f"step with {study.cache} slots: {1e3 * empty:.2f} ms empty, {1e3 * full:.2f} ms full")
    for own, values in memory.items():
        print(f"memory {'by blocks' if own else 'of all pairs'}: {values[0] / 1e6:.1f}, {values[1] / 1e6:.1f} MB")
    growth = {own: values[1] / values[0] / (long / short) for own, values in memory.items()}
    return [
        Criterion("L6 time of a step with a full cache, as a multiple of an empty one", full / empty, 0.8, 1.2),
        Criterion("L6 growth of memory by blocks over that of the length", growth[True], high=1.2),
        Criterion("control: L6 growth of memory of all pairs over that of the length", growth[False], low=2.0),
    ]


def continuation(study: Study) -> list[int]:
    """The most likely tokens after the prompt, by published weights."""
    assert study.weights is not None
    model, params = load_gemma(study.weights, PUBLISHED[study.size][0])
    prompt = np.array([study.prompt], np.int32)
    run = jax.jit(generate, static_argnums=0, static_argnames="num_tokens")
    tokens = run(model, params, prompt, np.ones(prompt.shape, bool), jax.random.key(0), num_tokens=study.num_tokens)
    return np.asarray(tokens)[0].tolist()


def main(study: Study) -> None:
    """Prints the criteria, and writes report.json."""
    if study.quick:
        study = dataclasses.replace(study, cache=1024, lengths=(1024, 4096))
    criteria = count_criteria()
    criteria.append(Criterion("G2 difference between cached and other logits", cache_difference(), high=1e-4))
    criteria += resource_criteria(study)
    for criterion in criteria:
        print(criterion)
    facts: dict[str, Any] = {"criteria": [dataclasses.asdict(each) | {"passed": each.passed} for each in criteria]}
    if study.weights is not None:
        facts["tokens"] = continuation(study)
        print(*facts["tokens"])
    study.out.mkdir(parents=True, exist_ok=True)
    (study.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Study))
