"""The command `waymax-sim select`."""

import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
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
    from behavior_models.model_selection.dataset_context import dataset_blocks, run_method
    from behavior_models.offline.dataset import load_transitions, read_description
    from waymax_sim.viz.selection import draw_selection

    context = ContextParams(discount=discount, horizon=horizon, seed=seed)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=3)
        try:
            blocks = dataset_blocks(read_description(data).get("observation") or {}, classes)
            transitions = load_transitions(data)
            bar.update(task, advance=1, description=f"{int(transitions.count)} transitions, {len(blocks)} classes")
            summary = run_method(transitions, blocks, method, (alpha, noise), context)
        except ValueError as error:
            sys.exit(str(error))
        bar.update(task, advance=1, description="drawing")
        out.mkdir(parents=True, exist_ok=True)
        draw_selection(summary, out / "selection.png")
        bar.update(task, advance=1, description=method)
    conditions = {"data": str(data), "method": method, "alpha": alpha, "noise": noise, "discount": discount}
    write_json(out / "selection.json", conditions | {"horizon": horizon, "seed": seed} | summary)
    Console(markup=False, highlight=False).print(selection_table(summary))
    print(f"chosen: {summary['chosen']}; wrote {out / 'selection.json'} and {out / 'selection.png'}")
    return 0


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
