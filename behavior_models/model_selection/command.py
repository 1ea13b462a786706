"""The command `waymax-sim select`."""

import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from waymax_sim.results_dir import write_json

METHODS = ("modbe", "slope", "holdout", "complexity-coverage")


def select(
    data: Path,
    out: Path,
    classes: tuple[int, ...] = (1, 2, 4, 7),
    method: Literal["modbe", "slope", "holdout", "complexity-coverage"] = "modbe",
    alpha: float = 1.0,
    noise: float = 1.0,
    discount: float = 0.95,
    horizon: int = 6,
    seed: int = 0,
) -> int:
    """Selects the number of neighbors that a critic of logged transitions needs, without rollouts.

    Args:
      data: Folder of `waymax-sim log` with flat observations.
      out: Folder for selection.json and selection.png.
      classes: Numbers of neighbors of the classes, ascending.
      method: Rule.
      alpha: Factor of the tolerance of ModBE.
      noise: Standard deviation of returns around their mean, for the rules of contextual bandits.
      discount: Discount per decision.
      horizon: Iterations of fitted Q iteration.
      seed: Seed of the random features and of the split.
    """
    # Imported on use: the other commands do not load the behavior models.
    from behavior_models.model_selection.context_ladder import ContextParams
    from behavior_models.offline.dataset import load_transitions, read_description
    from waymax_sim.viz.selection import draw_selection

    try:
        blocks = dataset_blocks(read_description(data), classes)
        transitions = load_transitions(data)
        print(f"{int(transitions.count)} transitions, {len(blocks)} classes", file=sys.stderr)
        context = ContextParams(discount=discount, horizon=horizon, seed=seed)
        summary = run_method(transitions, blocks, method, (alpha, noise), context)
    except ValueError as error:
        sys.exit(str(error))
    conditions = {"data": str(data), "method": method, "alpha": alpha, "noise": noise, "discount": discount}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "selection.json", conditions | {"horizon": horizon, "seed": seed} | summary)
    draw_selection(summary, out / "selection.png")
    Console(markup=False, highlight=False).print(selection_table(summary))
    print(f"chosen: {summary['chosen']}; wrote {out / 'selection.json'} and {out / 'selection.png'}")
    return 0


def dataset_blocks(description: dict[str, Any], classes: tuple[int, ...]) -> list[Any]:
    """Blocks of the observation of a dataset.

    Args:
      description: Content of `dataset.json`.
      classes: Numbers of neighbors.

    Raises:
      ValueError: The observation is not a flat view, or has too few agents.
    """
    from behavior_models.model_selection.context_ladder import neighbor_blocks

    observation = description.get("observation") or {}
    features = observation.get("features") or ()
    if observation.get("encoder") != "flat_view" or not features or features[0]["name"] != "agents":
        raise ValueError("the classes are numbers of neighbors: log the transitions with flat observations")
    agents, row = features[0]["shape"]
    size = sum(_product(feature["shape"]) for feature in features)
    return neighbor_blocks(agents, 0, row, classes, size)


def _product(shape: list[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def run_method(transitions: Any, blocks: list[Any], method: str, constants: tuple[float, float], context: Any) -> Any:
    """The result of a rule as plain values.

    Args:
      transitions: Logged transitions on the host.
      blocks: Blocks of the classes.
      method: The rule.
      constants: Factor of the tolerance, and noise of outcomes.
      context: Constants of the critics.
    """
    import jax
    import numpy as np

    from behavior_models.model_selection.batch_policy import BanditParams
    from behavior_models.model_selection.context_ladder import select_bandit, select_context
    from behavior_models.model_selection.modbe import ModBEParams

    names, (alpha, noise) = [block.name for block in blocks], constants
    if method == "modbe":
        result = jax.device_get(select_context(transitions, blocks, ModBEParams(alpha=alpha), context))
        excess = np.asarray(result.gap - result.tolerance)
        worst = np.argmax(excess, axis=0)[None]
        gap, tolerance = (np.take_along_axis(np.asarray(x), worst, axis=0)[0] for x in (result.gap, result.tolerance))
        columns = {
            "passed": result.passed.tolist(),
            "gap": gap.tolist(),
            "tolerance": tolerance.tolist(),
            "held_out_error": np.mean(result.held_out_error, axis=0).tolist(),
        }
        chosen = int(result.chosen)
    else:
        choice = jax.device_get(select_bandit(transitions, blocks, method, BanditParams(noise=noise), context))
        columns = {"held_out_error": choice.loss.tolist(), "share": choice.share.tolist()}
        columns["certificate"] = float(choice.certificate)
        chosen = int(choice.chosen)
    return {"classes": names, "chosen": names[chosen], "chosen_index": chosen, **columns}


def selection_table(summary: dict[str, Any]) -> Table:
    """A row for each class: the held-out error, and the largest gap or the share of certificates."""
    table = Table(
        "class", "held-out error", "largest gap over its tolerance" if "gap" in summary else "certificates", ""
    )
    for index, name in enumerate(summary["classes"]):
        if "gap" in summary:
            pairs = list(zip(summary["gap"][index], summary["tolerance"][index], strict=True))[index + 1 :]
            gap, tolerance = max(pairs, key=lambda pair: pair[0] - pair[1], default=(0.0, 0.0))
            cell = f"{gap:.4g} / {tolerance:.4g}" if pairs else "no larger class"
        else:
            cell = f"{summary['share'][index]:.0%}"
        mark = "chosen" if index == summary["chosen_index"] else ""
        table.add_row(name, f"{summary['held_out_error'][index]:.4g}", cell, mark)
    return table
