"""Networks of the action values of driving tasks as policies of the ego, and their folders."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from behavior_models.encoders.raster import Raster
from behavior_models.networks.checkpoint import FORMAT_VERSION, read_description, restore_params, write_checkpoint
from behavior_models.networks.multi_task_q import MultiTaskQModel, ObservationNetwork
from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.networks.value_heads import ValueSupport
from behavior_models.offline.actions import ROUTE_ACTIONS, ROUTE_DYNAMICS
from behavior_models.offline.route_frame import route_frame
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.env.flat_view import FlatView
from waymax_sim.env.observation import scatter_actions
from waymax_sim.pytree import Array, pytree, static

TASK_LOADER = "behavior_models.offline.task_policy:load_task_policy"
KIND = "multi_task_q"
# Simulated steps for which an action is held: 0.5 s.
TASK_INTERVAL = 5


@pytree
class TaskQPolicy(Policy):
    """The action of the largest value of a task, or a random one by these values, for the ego on its route.

    Controlled agents that are not the ego keep their speed and heading.

    Attributes:
      params: Parameters of the network.
      model: The network, with the task and the temperature.
      encoder: Encoder of the observation.
      mode: Whether the action of the largest value is taken, or one is sampled with the values as logits.
      interval: Steps for which an action is held.
    """

    params: Any
    model: MultiTaskQModel = static()
    encoder: FlatView | Raster = static()
    mode: Literal["mode", "sample"] = static(default="mode")
    interval: int = static(default=TASK_INTERVAL)
    dynamics = ROUTE_DYNAMICS

    @property
    def num_history_steps(self) -> int:
        """Steps of history that the policy observes."""
        return max(getattr(self.encoder, "num_history_steps", 2), 2)

    @property
    def observes_goals(self) -> bool:
        """Whether the encoding contains goals."""
        return any(feature.name == "goal" for feature in self.encoder.spec().features)

    def init(self, observation: Observation, key: Key[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The action that is held, and the steps since it was chosen."""
        zero = jnp.zeros((), jnp.int32)
        return zero, zero

    def act(self, observation: Observation, carry: Any, key: Key[Array, ""]) -> tuple[Action, Any]:
        """Acceleration and curvature of the ego."""
        held, age = carry
        rows = jnp.maximum(observation.controlled, 0)
        is_ego = jnp.asarray(observation.info.is_sdc)[rows] & (observation.controlled >= 0)
        row = self.encoder(observation)[jnp.argmax(is_ego)]
        action = jnp.where(age == 0, choose_action(self.model, self.params, row, self.mode, key), held)
        control = ROUTE_ACTIONS.control(route_frame(observation), action)
        value = jnp.where(is_ego[:, None], control[None], 0.0)
        return scatter_actions(observation, value), (action, (age + 1) % self.interval)


def choose_action(
    model: MultiTaskQModel, params: Any, rows: Float[Array, "*lead D"], mode: str, key: Key[Array, ""]
) -> Int[Array, "*lead"]:
    """Actions of the model's task.

    Args:
      model: The network.
      params: Parameters.
      rows: Encoded observations.
      mode: See `TaskQPolicy`.
      key: Random key.
    """
    values, _ = model.network(params)(rows)
    chosen = jnp.argmax(values, axis=-1) if mode == "mode" else jax.random.categorical(key, values)
    return chosen.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class TaskActions:
    """A network as a function to actions of any tasks (`behaviors.RowsActor`). Equal instances share programs.

    Attributes:
      model: The network.
      mode: See `TaskQPolicy`.
      tasks: Index of the model's task for each index of the caller; by default they are the same.
    """

    model: MultiTaskQModel
    mode: Literal["mode", "sample"] = "mode"
    tasks: tuple[int, ...] | None = None

    def __call__(
        self,
        params: Any,
        rows: Float[Array, "E D"],
        task: Int[Array, " E"],
        mask: Array,
        key: Key[Array, ""],
    ) -> Int[Array, " E"]:
        """Actions of E environments.

        Args:
          params: Parameters.
          rows: Encoded observations.
          task: Indices of the tasks.
          mask: Permitted actions, [E, L].
          key: Random key.
        """
        own = task if self.tasks is None else jnp.asarray(self.tasks, jnp.int32)[task]
        values = self.model.network(params).task_values(rows.astype(jnp.float32), own) / self.model.temperature
        values = jnp.where(mask, values, -jnp.inf)
        chosen = jnp.argmax(values, axis=-1) if self.mode == "mode" else jax.random.categorical(key, values)
        return chosen.astype(jnp.int32)


def save_task_policy(
    folder: str | os.PathLike, policy: TaskQPolicy, tasks: tuple[str, ...], facts: dict[str, Any]
) -> None:
    """Writes a policy; the entry "task" of its `policy.json` chooses the task.

    Args:
      folder: Folder to write to; created if it does not exist.
      policy: The policy.
      tasks: Names of the tasks.
      facts: Algorithm, command and further facts for readers, plain values.
    """
    model = policy.model
    assert isinstance(model.encoder, ObservationNetwork), "policies of scenes have encoders of observations"
    description = {
        "loader": TASK_LOADER,
        "version": FORMAT_VERSION,
        "kind": KIND,
        "task": tasks[model.task],
        "tasks": list(tasks),
        "network": dataclasses.asdict(model.encoder.network),
        "hidden": list(model.encoder.hidden),
        "head": {
            "masks": [[int(value) for value in mask] for mask in model.masks],
            "support": dataclasses.asdict(model.support),
            "is_distributional": model.is_distributional,
            "num_features": model.num_features,
            "normalize": model.normalize,
            "temperature": model.temperature,
        },
        "encoder": dataclasses.asdict(policy.encoder),
        "observation": policy.encoder.spec().to_dict(),
        "actions": json.loads(json.dumps(dataclasses.asdict(ROUTE_ACTIONS))),
        "mode": policy.mode,
        "interval": policy.interval,
        "facts": facts,
    }
    write_checkpoint(folder, description, policy.params)


def load_task_policy(folder: Path) -> TaskQPolicy:
    """Reads a policy of `save_task_policy`.

    Raises:
      CheckpointError: The folder is incomplete, of another version, or made for another observation.
      ValueError: It was made for other actions, or has no task of the name in "task".
    """
    description, encoder = read_description(Path(folder))
    if description["actions"] != json.loads(json.dumps(dataclasses.asdict(ROUTE_ACTIONS))):
        raise ValueError(f"{folder} was trained with other actions: {description['actions']}")
    if description["task"] not in description["tasks"]:
        raise ValueError(f"{folder} has the tasks {description['tasks']}, not {description['task']!r}")
    head = dict(description["head"])
    masks = tuple(tuple(bool(value) for value in mask) for mask in head.pop("masks"))
    hidden = tuple(description.get("hidden", ()))
    network = ObservationNetwork(encoder.spec(), NetworkConfig.from_dict(description["network"]), hidden)
    task, support = description["tasks"].index(description["task"]), ValueSupport(**head.pop("support"))
    model = MultiTaskQModel(network, masks, support, task=task, **head)
    params = restore_params(Path(folder), model.shapes)
    return TaskQPolicy(params, model, encoder, description["mode"], description["interval"])
