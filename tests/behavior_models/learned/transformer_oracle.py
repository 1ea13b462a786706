"""The Gemma block in NumPy and float64, token by token, written from its equations."""

import math

import numpy as np


def norm(x, s):
    return x / np.sqrt((x * x).mean() + 1e-6) * (1 + s)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def turn(x, position, share):
    """Rotates the pairs (i, i + R / 2) of the first R features."""
    x, size = x.copy(), int(len(x) * share) // 2 * 2
    for i in range(size // 2):
        angle = position * 10_000.0 ** (-2 * i / size)
        a, b = x[i], x[i + size // 2]
        x[i], x[i + size // 2] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
    return x


def block(x, weights, positions, mask, share):
    """One layer; weights are query [H, D, G], key_value [2, K, D, G], output [H, G, D], gate_up, down, and norms."""
    query, (key, value), output = weights["query"], weights["key_value"], weights["output"]
    heads, groups, size = len(query), len(query) // len(key), query.shape[-1]
    normal = np.array([norm(row, weights["attention_norm"]) for row in x])
    joined = np.zeros_like(x)
    for h in range(heads):
        q = [turn(row @ query[h], p, share) / math.sqrt(size) for row, p in zip(normal, positions, strict=True)]
        k = [turn(row @ key[h // groups], p, share) for row, p in zip(normal, positions, strict=True)]
        v = [row @ value[h // groups] for row in normal]
        for t in range(len(x)):
            seen = np.flatnonzero(mask[t])
            if not len(seen):
                continue
            logits = np.array([q[t] @ k[s] for s in seen])
            share_of = np.exp(logits - logits.max())
            joined[t] += sum(w * v[s] for w, s in zip(share_of / share_of.sum(), seen, strict=True)) @ output[h]
    x = x + joined
    gate, up = weights["gate_up"]
    rows = [norm(row, weights["feed_forward_norm"]) for row in x]
    return x + np.array([(gelu(row @ gate) * (row @ up)) @ weights["down"] for row in rows])


def transformer(tokens, embedding, layers, last_norm, positions, mask, share):
    """Logits [T, V] of one sequence."""
    x = embedding[tokens] * math.sqrt(embedding.shape[1])
    for weights in layers:
        x = block(x, weights, positions, mask, share)
    return np.array([norm(row, last_norm) for row in x]) @ embedding.T
