"""Number of neighbors that a critic of a set of logged transitions needs."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from behavior_models.model_selection.batch_policy import BanditParams
from behavior_models.model_selection.context_ladder import (
    DEFAULT_CONTEXT,
    Block,
    ContextParams,
    neighbor_blocks,
    select_bandit,
    select_context,
)
from behavior_models.model_selection.modbe import ModBEParams, Selection
from behavior_models.offline.dataset import select_streams
from behavior_models.offline.stored_set import StoredSet
from behavior_models.offline.transitions import Transitions

# Numbers of neighbors of the classes, as far as the observation has them.
NEIGHBORS = (1, 2, 4, 8, 16)


def dataset_blocks(observation: dict[str, Any], classes: Sequence[int]) -> list[Block]:
    """Blocks of the observation of a dataset.

    Args:
      observation: Description of the observation (`ObservationSpec.to_dict`).
      classes: Numbers of neighbors.

    Raises:
      ValueError: The observation is not a flat view, or has too few agents.
    """
    features = observation.get("features") or ()
    if observation.get("encoder") != "flat_view" or not features or features[0]["name"] != "agents":
        raise ValueError("the classes are numbers of neighbors: log the transitions with flat observations")
    agents, row = features[0]["shape"]
    size = sum(math.prod(feature["shape"]) for feature in features)
    return neighbor_blocks(agents, 0, row, classes, size)


def run_method(
    transitions: Transitions,
    blocks: Sequence[Block],
    method: str,
    constants: tuple[float, float],
    context: ContextParams = DEFAULT_CONTEXT,
) -> dict[str, Any]:
    """The result of a rule as plain values.

    Args:
      transitions: Logged transitions on the host.
      blocks: Blocks of the classes.
      method: The rule.
      constants: Factor of the tolerance, and noise of outcomes.
      context: Constants of the critics.
    """
    names, (alpha, noise) = [block.name for block in blocks], constants
    if method == "modbe":
        return summarize_selection(select_context(transitions, blocks, ModBEParams(alpha=alpha), context), names)
    choice = jax.device_get(select_bandit(transitions, blocks, method, BanditParams(noise=noise), context))
    columns: dict[str, Any] = {"held_out_error": choice.loss.tolist(), "share": choice.share.tolist()}
    chosen = int(choice.chosen)
    columns["certificate"] = float(choice.certificate)
    return {"classes": names, "chosen": names[chosen], "chosen_index": chosen, **columns}


def summarize_selection(selection: Selection, names: Sequence[str]) -> dict[str, Any]:
    """The result of ModBE as plain values: of each pair of classes, the step of the largest excess of the tolerance.

    Args:
      selection: The result.
      names: Names of the classes.
    """
    result = jax.device_get(selection)
    worst = np.argmax(result.gap - result.tolerance, axis=0)[None]
    gap, tolerance = (np.take_along_axis(x, worst, axis=0)[0] for x in (result.gap, result.tolerance))
    return {
        "classes": list(names),
        "chosen": names[int(result.chosen)],
        "chosen_index": int(result.chosen),
        "passed": result.passed.tolist(),
        "gap": gap.tolist(),
        "tolerance": tolerance.tolist(),
        "held_out_error": np.mean(result.held_out_error, axis=0).tolist(),
    }


def set_context(stored: StoredSet, context: ContextParams = DEFAULT_CONTEXT) -> dict[str, Any] | None:
    """ModBE over the neighbors of a set of driving tasks, or None where it cannot be applied.

    The critics have the same actions in all states: of tasks with different actions, those of the most frequent set of
    actions are used. Images have no neighbors, and few streams cannot be split.

    Args:
      stored: The set.
      context: Constants of the critics.
    """
    actions = np.unique(np.asarray(stored.masks), axis=0, return_inverse=True)[1].reshape(-1)
    task = np.asarray(stored.transitions.task)
    tasks = np.flatnonzero(actions == np.argmax(np.bincount(actions[task])))
    used = select_streams(stored.transitions, np.isin(task, tasks))
    observation = stored.encoder.spec().to_dict()
    try:
        agents = observation["features"][0]["shape"][0] - 1
        sizes = sorted({min(size, agents) for size in NEIGHBORS})
        summary = run_method(used, dataset_blocks(observation, sizes), "modbe", (1.0, 1.0), context)
    except ValueError:
        return None
    return summary | {"tasks": [stored.tasks[index] for index in tasks]}


def describe_context(summary: dict[str, Any] | None) -> str:
    """The chosen class in one line."""
    if summary is None:
        return "ModBE: not applicable to these observations"
    return f"ModBE: {summary['chosen']} of {summary['classes'][-1]} for the critic of {', '.join(summary['tasks'])}"
