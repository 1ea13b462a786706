"""Action values of several tasks: one encoder with normalized features, and a linear head for each task.

Source: Kumar et al. 2023 ("Offline Q-Learning on Diverse Multi-Task Data Both Scales And Generalizes").
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, Key

from behavior_models.networks.actor_critic import OUTPUT_SCALE
from behavior_models.networks.encoder import build_encoder
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.networks.value_heads import ValueSupport
from waymax_sim.env.encoder import ObservationSpec
from waymax_sim.pytree import Array

# Value of an action that a task does not have; finite, so that gradients are.
NO_ACTION = -1e6
# Added to the squared norm of features before its root.
MIN_SQUARED_NORM = 1e-8


@runtime_checkable
class FeatureEncoder(Protocol):
    """A hashable description of an encoder of observations."""

    def build(self, rngs: nnx.Rngs) -> Any:
        """A module from rows [*lead, D] to [*lead, E], with E as `num_outputs`."""
        ...


@dataclasses.dataclass(frozen=True)
class MLPEncoder:
    """Fully connected layers.

    Attributes:
      num_inputs: Values of an observation D.
      widths: Widths of the layers.
    """

    num_inputs: int
    widths: tuple[int, ...] = (128,)

    def build(self, rngs: nnx.Rngs) -> "MLP":
        """The layers with random parameters."""
        return MLP(self.num_inputs, self.widths, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class ObservationNetwork:
    """The encoder of observations with a specification: residual for images, otherwise of agents and polylines.

    Attributes:
      spec: Content of the encoded observations.
      network: Size.
      hidden: Widths of fully connected layers after it.
    """

    spec: ObservationSpec
    network: NetworkConfig = NetworkConfig()
    hidden: tuple[int, ...] = ()

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The encoder with random parameters."""
        encoder = build_encoder(self.spec, self.network, rngs=rngs)
        return LayeredEncoder(encoder, self.hidden, rngs=rngs) if self.hidden else encoder


class LayeredEncoder(nnx.Module):
    """An encoder and fully connected layers.

    Args:
      encoder: The encoder.
      widths: Widths of the layers.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, encoder: Any, widths: tuple[int, ...], *, rngs: nnx.Rngs):
        self.encoder = encoder
        self.layers = MLP(encoder.num_outputs, widths, rngs=rngs)
        self.num_outputs = widths[-1]

    def __call__(self, rows: Float[Array, "*lead D"]) -> Float[Array, "*lead E"]:
        return self.layers(self.encoder(rows).astype(jnp.float32))


class MLP(nnx.Module):
    """Fully connected layers, each with a rectifier."""

    def __init__(self, num_inputs: int, widths: tuple[int, ...], *, rngs: nnx.Rngs):
        sizes = zip((num_inputs, *widths), widths, strict=False)
        self.layers = nnx.List([nnx.Linear(before, after, rngs=rngs) for before, after in sizes])
        self.num_outputs = widths[-1]

    def __call__(self, rows: Float[Array, "*lead D"]) -> Float[Array, "*lead E"]:
        for layer in self.layers:
            rows = nnx.relu(layer(rows))
        return rows


@dataclasses.dataclass(frozen=True)
class MultiTaskQModel:
    """A network of the action values of K tasks, without parameters. Hashable: equal models share programs.

    Attributes:
      encoder: Encoder of the observations.
      masks: Actions of each task, K rows of L.
      support: Range of values, and atoms of their distribution.
      is_distributional: Whether outputs are logits of the atoms; otherwise values (M = 1).
      num_features: Width F of the penultimate layer.
      normalize: Whether features are divided by their L2 norm.
      task: The task whose action values `MultiTaskQ.__call__` returns, those of the policy.
      temperature: Divisor of these values: a policy that samples them as logits is a Boltzmann policy.

    Raises:
      ValueError: A task has no action, or tasks differ in the number of actions.
    """

    encoder: FeatureEncoder
    masks: tuple[tuple[bool, ...], ...]
    support: ValueSupport
    is_distributional: bool = True
    num_features: int = 128
    normalize: bool = True
    task: int = 0
    temperature: float = 1.0

    def __post_init__(self):
        if not self.masks or len({len(mask) for mask in self.masks}) > 1 or not all(any(mask) for mask in self.masks):
            raise ValueError("every task needs a mask of the same length with at least one action")
        if not 0 <= self.task < self.num_tasks or not self.temperature > 0:
            raise ValueError(f"task={self.task} must be below {self.num_tasks}, the temperature positive")

    @property
    def num_tasks(self) -> int:
        """Number of tasks K."""
        return len(self.masks)

    @property
    def num_actions(self) -> int:
        """Number of actions L."""
        return len(self.masks[0])

    @property
    def head_rows(self) -> Int[np.ndarray, "K L"]:
        """Position of each action of each task among the outputs, which are those of all tasks in order; 0 for none."""
        mask = np.array(self.masks)
        return np.where(mask, np.cumsum(mask).reshape(mask.shape) - 1, 0).astype(np.int32)

    @property
    def row_tasks(self) -> Int[np.ndarray, " R"]:
        """Task of each of the R outputs."""
        return np.repeat(np.arange(self.num_tasks, dtype=np.int32), np.array(self.masks).sum(axis=1))

    def task_rows(self, task: int) -> tuple[int, int]:
        """Position of the first output of a task, and number of its outputs."""
        counts = [sum(mask) for mask in self.masks]
        return sum(counts[:task]), counts[task]

    @property
    def num_atoms(self) -> int:
        """Outputs M per action."""
        return self.support.num_atoms if self.is_distributional else 1

    @property
    def graph(self) -> nnx.GraphDef:
        """Structure of the network."""
        return nnx.graphdef(self._skeleton)

    @property
    def shapes(self) -> Any:
        """Parameters as shapes."""
        return nnx.state(self._skeleton)

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return nnx.state(MultiTaskQ(self, rngs=nnx.Rngs(key)))

    def network(self, params: Any) -> "MultiTaskQ":
        """The network with parameters."""
        return nnx.merge(self.graph, params)

    def for_task(self, task: int) -> "MultiTaskQModel":
        """The model whose policy acts by the values of another task."""
        return dataclasses.replace(self, task=task)

    @property
    def _skeleton(self) -> "MultiTaskQ":
        return nnx.eval_shape(lambda: MultiTaskQ(self, rngs=nnx.Rngs(0)))


class MultiTaskQ(nnx.Module):
    """Encoder, penultimate features and one linear head per task.

    Args:
      model: Sizes.
      rngs: Random streams of the initial parameters.
    """

    def __init__(self, model: MultiTaskQModel, *, rngs: nnx.Rngs):
        self.model = model
        self.encoder = model.encoder.build(rngs)
        self.penultimate = nnx.Linear(self.encoder.num_outputs, model.num_features, rngs=rngs)
        outputs = len(model.row_tasks) * model.num_atoms
        self.heads = nnx.Linear(
            model.num_features, outputs, kernel_init=nnx.initializers.normal(OUTPUT_SCALE), rngs=rngs
        )

    def __call__(self, rows: Float[Array, "*lead D"]) -> tuple[Float[Array, "*lead L"], Float[Array, "*lead"]]:
        """Values of the actions of the model's task over the temperature, and the largest value."""
        task = jnp.full(rows.shape[:-1], self.model.task, jnp.int32)
        values = self.task_values(rows, task)
        return values / self.model.temperature, jnp.max(values, axis=-1)

    def task_values(self, rows: Float[Array, "*lead D"], task: Int[Array, "*lead"]) -> Float[Array, "*lead L"]:
        """Values of the actions of a task in each row; `NO_ACTION` for actions that it does not have.

        Args:
          rows: Encoded observations.
          task: Index of the task.
        """
        return self.action_values(self.values(self.raw(self.features(rows)), task), task)

    def features(self, rows: Float[Array, "*lead D"]) -> Float[Array, "*lead F"]:
        """Penultimate features phi."""
        features = nnx.relu(self.penultimate(self.encoder(rows).astype(jnp.float32)))
        if not self.model.normalize:
            return features
        return features * jax.lax.rsqrt(jnp.sum(features**2, axis=-1, keepdims=True) + MIN_SQUARED_NORM)

    def raw(self, features: Float[Array, "*lead F"]) -> Float[Array, "*lead R M"]:
        """Logits of the atoms of the actions of all tasks, or their values (M = 1), from `features`."""
        outputs = self.heads(features)
        return outputs.reshape(*outputs.shape[:-1], -1, self.model.num_atoms)

    def task_raw(self, features: Float[Array, "*lead F"], task: int) -> Float[Array, "*lead L M"]:
        """The outputs of one task alone, from `features`: a part of `raw`."""
        first, count = self.model.task_rows(task)
        columns = slice(first * self.model.num_atoms, (first + count) * self.model.num_atoms)
        outputs = features @ self.heads.kernel[...][:, columns]
        assert self.heads.bias is not None
        outputs = outputs + self.heads.bias[...][columns].reshape(*(1 for _ in features.shape[:-1]), -1)
        return outputs.reshape(*outputs.shape[:-1], count, self.model.num_atoms)

    def expected(self, raw: Float[Array, "*lead M"]) -> Float[Array, "*lead"]:
        """Values from outputs."""
        return self.model.support.mean(raw) if self.model.is_distributional else raw[..., 0]

    def values(self, raw: Float[Array, "*lead R M"], task: Int[Array, "*lead"]) -> Float[Array, "*lead R"]:
        """Values from `raw`; `NO_ACTION` for the outputs of other tasks.

        Args:
          raw: Outputs.
          task: Index of the task.
        """
        values = self.expected(raw)
        rows = jnp.asarray(self.model.row_tasks).reshape(*(1 for _ in task.shape), -1)
        return jnp.where(rows == task[..., None], values, NO_ACTION)

    def action_values(self, values: Float[Array, "*lead R"], task: Int[Array, "*lead"]) -> Float[Array, "*lead L"]:
        """Values of the actions of a task, from `values`; `NO_ACTION` for actions that it does not have.

        Args:
          values: Values of all outputs.
          task: Index of the task.
        """
        model = self.model
        own = jnp.take_along_axis(values, jnp.asarray(model.head_rows)[task], axis=-1)
        return jnp.where(jnp.asarray(model.masks)[task], own, NO_ACTION)

    def row(self, task: Int[Array, "*lead"], action: Int[Array, "*lead"]) -> Int[Array, "*lead"]:
        """Output of an action of a task."""
        return jnp.asarray(self.model.head_rows)[task, action]
