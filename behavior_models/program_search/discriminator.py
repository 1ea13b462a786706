"""Learned comparison of two programs: the probability that the first has the larger fitness.

A program is encoded by attention between its nodes, whose bias depends on the head and on the kind of the edge between
two nodes (the same node, an argument, a use, or none), read out at the outputs and joined with the description of its
function. The comparison is antisymmetric. Sources: graph networks with attention biased by edges (Ying et al. 2021),
binary discriminators for evolution (arXiv 2402.05821).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Bool, Float, Key

from behavior_models.program_search.program import Program, ProgramSpace, live_nodes
from waymax_sim.pytree import Array

# Kinds of edges: none, the node itself, its first and second argument, and the nodes that use it as such.
NUM_EDGE_KINDS = 6
NOT_A_NODE = -1e9


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Size and training of a discriminator.

    Attributes:
      width: Features of a node.
      num_heads: Heads of the attention.
      num_layers: Layers of the attention; 0 for none, which leaves the description alone.
      hidden: Width of the hidden layers.
      use_description: Whether the description of the function is an input.
      length_only: Whether the number of nodes is the only input; a control.
      learning_rate: Step size of Adam.
      num_steps: Gradient steps of one training.
      batch_size: Evaluated programs per gradient step; each comes with its parent.
      min_difference: Pairs of a smaller difference of fitness are ties, which are ignored.
      shuffle_labels: Whether the labels of the pairs are permuted; a control.
    """

    width: int = 32
    num_heads: int = 4
    num_layers: int = 2
    hidden: int = 64
    use_description: bool = True
    length_only: bool = False
    learning_rate: float = 3e-3
    num_steps: int = 30
    batch_size: int = 64
    min_difference: float = 1e-4
    shuffle_labels: bool = False


class GraphLayer(nnx.Module):
    """Attention between nodes with a bias by head and kind of edge, and a feed-forward layer.

    Args:
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.projection = nnx.Linear(config.width, 3 * config.width, rngs=rngs)
        self.output = nnx.Linear(config.width, config.width, rngs=rngs)
        self.feed_forward = nnx.Linear(config.width, config.width, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((config.num_heads, NUM_EDGE_KINDS)))
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)

    def __call__(
        self, nodes: Float[Array, "R W"], edges: Float[Array, "R R E"], is_node: Bool[Array, " R"]
    ) -> Float[Array, "R W"]:
        """New features of the nodes.

        Args:
          nodes: Features.
          edges: One-hot kinds of the edges.
          is_node: Nodes that exist.
        """
        query, key, value = jnp.split(self.projection(self.norm(nodes)), 3, axis=-1)
        query, key, value = (item.reshape(len(nodes), self.num_heads, -1) for item in (query, key, value))
        logits = jnp.einsum("rhw,shw->hrs", query, key) / jnp.sqrt(query.shape[-1])
        logits = logits + jnp.einsum("rse,he->hrs", edges, self.bias[...])
        weights = jax.nn.softmax(jnp.where(is_node[None, None], logits, NOT_A_NODE))
        mixed = jnp.einsum("hrs,shw->rhw", weights, value).reshape(nodes.shape)
        nodes = nodes + self.output(mixed)
        return nodes + self.feed_forward(nnx.relu(nodes))


class Discriminator(nnx.Module):
    """Antisymmetric comparison g(A) - g(B) + h(A, B) - h(B, A) of two programs.

    Args:
      space: The space of the programs.
      num_features: Number of values of the description of a function.
      config: Size.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, space: ProgramSpace, num_features: int, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.config = config
        num_inputs, has_constants = len(space.inputs), int(bool(space.constants))
        self.embedding = nnx.Embed(num_inputs + has_constants + len(space.operators), config.width, rngs=rngs)
        layers = 0 if config.length_only else config.num_layers
        self.layers = nnx.data([GraphLayer(config, rngs=rngs) for _ in range(layers)])
        self.first = nnx.Linear(self._num_inputs(num_features), config.hidden, rngs=rngs)
        self.second = nnx.Linear(config.hidden, config.hidden, rngs=rngs)
        self.score = nnx.Linear(config.hidden, 1, rngs=rngs)
        self.pair = nnx.Linear(2 * config.hidden, config.hidden, rngs=rngs)
        self.pair_score = nnx.Linear(config.hidden, 1, rngs=rngs)

    def _num_inputs(self, num_features: int) -> int:
        if self.config.length_only:
            return 1
        graph = 2 * self.config.width if self.config.num_layers else 0
        return graph + (3 * num_features if self.config.use_description else 0)

    def encode(self, graph: "ProgramGraph", description: Float[Array, " F"]) -> Float[Array, " H"]:
        """Features of one program.

        Args:
          graph: Its nodes and edges.
          description: Description of its function.
        """
        parts = []
        if self.config.length_only:
            parts = [jnp.mean(graph.is_node.astype(jnp.float32), keepdims=True)]
        elif self.config.num_layers:
            nodes = self.embedding(graph.labels) + graph.values[:, None]
            for layer in self.layers:
                nodes = layer(nodes, graph.edges, graph.is_node)
            count = jnp.sum(graph.is_node).astype(jnp.float32)
            parts = [nodes[-1], jnp.sum(jnp.where(graph.is_node[:, None], nodes, 0.0), axis=0) / count]
        if self.config.use_description and not self.config.length_only:
            parts += [description, jnp.maximum(description, 0.0), jnp.square(description) - 1.0]
        hidden = nnx.tanh(self.first(jnp.concatenate(parts)))
        return nnx.tanh(self.second(hidden))

    def compare(self, first: Float[Array, "*b H"], second: Float[Array, "*b H"]) -> Float[Array, "*b"]:
        """Logits of the probability that the first program of each pair is better.

        Args:
          first: Features of programs.
          second: Features of the programs that they are compared with.
        """

        def ordered(left: Array, right: Array) -> Array:
            joint = jnp.concatenate([left, right], axis=-1)
            return self.pair_score(nnx.tanh(self.pair(joint)))[..., 0]

        difference = self.score(first)[..., 0] - self.score(second)[..., 0]
        return difference + ordered(first, second) - ordered(second, first)


@dataclasses.dataclass(frozen=True)
class ProgramGraph:
    """A program as a graph of R nodes: inputs, constants and operators.

    Attributes:
      labels: Index of the input, of constants, or of the operator of each node.
      values: Signed logarithms of constants, 0 for other nodes.
      edges: One-hot kinds of the edges.
      is_node: Nodes that an output depends on.
    """

    labels: Array
    values: Array
    edges: Array
    is_node: Array


def program_graph(space: ProgramSpace, program: Program) -> ProgramGraph:
    """The graph of one program.

    Args:
      space: The space of the program.
      program: The program.
    """
    num_inputs, num_constants = len(space.inputs), len(space.constants)
    leaves = jnp.concatenate([jnp.arange(num_inputs), jnp.full(num_constants, num_inputs)])
    labels = jnp.concatenate([leaves, num_inputs + bool(num_constants) + program.operators]).astype(jnp.int32)
    constants = jnp.sign(program.constants) * jnp.log1p(jnp.abs(program.constants))
    values = jnp.zeros(space.num_values).at[num_inputs : space.num_leaves].set(constants)
    live = live_nodes(space, program)
    has_second = jnp.asarray(space.argument_types[:, 1] >= 0)[program.operators]
    rows = space.num_leaves + jnp.arange(space.num_nodes)
    arguments = jax.nn.one_hot(program.arguments, space.num_values) * live[:, None, None].astype(jnp.float32)
    has_argument = jnp.stack([jnp.ones_like(has_second), has_second], axis=1)
    arguments = arguments * has_argument[..., None].astype(jnp.float32)
    empty = jnp.zeros((space.num_values, space.num_values))
    first, second = (empty.at[rows].set(arguments[:, position]) for position in range(2))
    itself = jnp.eye(space.num_values)
    rest = jnp.maximum(1.0 - itself - first - second - first.T - second.T, 0.0)
    edges = jnp.stack([rest, itself, first, second, first.T, second.T], axis=-1)
    used = jnp.any(arguments > 0, axis=(0, 1))
    is_node = jnp.concatenate([used[: space.num_leaves], live])
    return ProgramGraph(labels, values, edges, is_node)


def pair_loss(
    logits: Float[Array, " B"], first: Float[Array, " B"], second: Float[Array, " B"], min_difference: float
) -> Float[Array, ""]:
    """Mean binary cross-entropy over pairs that are no ties.

    Args:
      logits: Logits of the first being better.
      first: Fitness of the first programs.
      second: Fitness of the second programs.
      min_difference: Pairs of a smaller difference are ties.
    """
    is_pair = jnp.abs(first - second) > min_difference
    losses = optax.sigmoid_binary_cross_entropy(logits, (first > second).astype(jnp.float32))
    return jnp.sum(jnp.where(is_pair, losses, 0.0)) / jnp.maximum(jnp.sum(is_pair), 1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class LearnedComparison:
    """Discriminators of one space without parameters; functions are pure.

    Attributes:
      space: The space of the programs.
      num_features: Number of values of the description of a function.
      config: Size and training.
    """

    space: ProgramSpace
    num_features: int
    config: DiscriminatorConfig = DiscriminatorConfig()

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Random parameters and the state of the optimizer."""
        params = nnx.state(self._module(nnx.Rngs(key)))
        return params, self._optimizer.init(params)

    def encode(self, params: Any, programs: Program, descriptions: Float[Array, "B F"]) -> Float[Array, "B H"]:
        """Features of programs.

        Args:
          params: Parameters.
          programs: Programs [B].
          descriptions: Descriptions of their functions.
        """
        module = nnx.merge(self._graph, params)

        def encode(program: Program, description: Array) -> Array:
            return module.encode(program_graph(self.space, program), description)

        return jax.vmap(encode)(programs, descriptions)

    def compare(self, params: Any, first: Float[Array, "*b H"], second: Float[Array, "*b H"]) -> Float[Array, "*b"]:
        """Logits of the probability that the first program of each pair is better.

        Args:
          params: Parameters.
          first: Features of programs.
          second: Features of the programs that they are compared with.
        """
        return nnx.merge(self._graph, params).compare(first, second)

    def loss(
        self, params: Any, programs: Program, descriptions: Array, fitness: Float[Array, " B"], key: Key[Array, ""]
    ) -> Float[Array, ""]:
        """Loss of B/2 programs followed by their B/2 parents: pairs of both, and pairs of unrelated programs.

        Args:
          params: Parameters.
          programs: Programs, then their parents [B].
          descriptions: Descriptions of their functions.
          fitness: Fitness of the programs.
          key: Random key of permuted labels.
        """
        features = self.encode(params, programs, descriptions)
        half = len(fitness) // 2
        # The next program of the random batch, and the parent of another one, are unrelated.
        indices = jnp.arange(half)
        following = jnp.roll(indices, 1)
        left = jnp.concatenate([indices, indices, indices])
        right = jnp.concatenate([half + indices, following, half + following])
        logits = self.compare(params, features[left], features[right])
        first, second = fitness[left], fitness[right]
        if self.config.shuffle_labels:
            order = jax.random.permutation(key, len(left))
            first, second = first[order], second[order]
        return pair_loss(logits, first, second, self.config.min_difference)

    def train(
        self, state: tuple[Any, Any], batch: tuple[Program, Array, Array], key: Key[Array, ""]
    ) -> tuple[tuple[Any, Any], Float[Array, ""]]:
        """One gradient step.

        Args:
          state: Parameters and the state of the optimizer.
          batch: Programs, descriptions and fitness as in `loss`.
          key: Random key.

        Returns:
          The next state, and the loss.
        """
        params, optimizer = state
        loss, gradient = jax.value_and_grad(self.loss)(params, *batch, key)
        updates, optimizer = self._optimizer.update(gradient, optimizer, params)
        return (optax.apply_updates(params, updates), optimizer), loss

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(self.config.learning_rate))

    @property
    def _graph(self) -> nnx.GraphDef:
        return nnx.graphdef(nnx.eval_shape(lambda: self._module(nnx.Rngs(0))))

    def _module(self, rngs: nnx.Rngs) -> Discriminator:
        return Discriminator(self.space, self.num_features, self.config, rngs=rngs)
