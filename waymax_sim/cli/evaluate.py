"""Commands that judge policies in whole data sets."""

from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from waymax_sim.cli.common import (
    DONE,
    NOTHING_USABLE,
    ScenePath,
    WrongCall,
    dumps,
    list_failures,
    load_scenes,
    part_of,
    resolve_policies,
    until_interrupted,
    wrong_if,
)
from waymax_sim.datatypes.agents import Selector
from waymax_sim.evaluation.compare import compare as compare_folders
from waymax_sim.evaluation.evaluate import Evaluation, Plan
from waymax_sim.evaluation.folder import Folder, error_of
from waymax_sim.evaluation.page import page
from waymax_sim.evaluation.report import Json, read_rows, write_text
from waymax_sim.evaluation.sharding import use_all_cores
from waymax_sim.evaluation.summary import worst
from waymax_sim.evaluation.tables import difference_table, evaluation_table
from waymax_sim.metrics import METRICS

# Who is the log and no policy, where it drives the traffic.
THE_LOG = "log_replay"
# Scenes that a report shows, and rollouts of each.
NUM_WORST, NUM_SHOWN = 3, 4
# Columns of a terminal that a table takes at least.
MIN_WIDTH = 150


def evaluate(
    path: tyro.conf.Positional[ScenePath],
    /,
    policy: tuple[str, ...],
    out: Path,
    traffic: tuple[str, ...] = ("replay",),
    metrics: tuple[str, ...] = tuple(METRICS),
    agents: Selector = "sdc",
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    shard: str = "0/1",
    memory_budget: float = 2.0,
) -> int:
    """Judges every policy among every kind of traffic in every scene, and reports it.

    The same command goes on where it was stopped, however it was stopped. Ctrl-C stops after the scenes under way, and
    again at once.

    Args:
      path: Where the scenes are.
      policy: Names such as constant_velocity, NAME:key=value,key=value, module:attribute, or checkpoint folders.
      out: Folder for rows.jsonl, summary.json and report.html.
      traffic: Policies that drive all others, in the same forms; replay is the log.
      metrics: Metrics to compute; by default all.
      agents: Who is driven by the policy and judged.
      seeds: How often each scene is simulated.
      seed: Seed of all random draws the first time, one more each time.
      steps: Steps to simulate at most; by default to the end of each record.
      shard: i/n to do one of n parts, i from 0, in one of n processes that write to the same folder.
      memory_budget: GiB for scenes under way. Results do not depend on it.
    """
    if seeds < 1:
        raise WrongCall(f"--seeds {seeds} is not a number of seeds; give 1 or more")
    if not memory_budget > 0:
        raise WrongCall(f"--memory-budget {memory_budget} is not above 0")
    part = part_of(shard)
    use_all_cores()
    policies, drivers = resolve_policies(policy), resolve_policies(traffic)
    with wrong_if(ValueError):
        plan = Plan(
            policies=policies,
            traffic={name: None if name == THE_LOG else driver for name, driver in drivers.items()},
            metrics=metrics,
            agents=agents,
            seeds=tuple(range(seed, seed + seeds)),
            max_steps=steps,
        )
    evaluation = Evaluation(load_scenes(path), plan, int(memory_budget * 2**30))
    folder = Folder(out, evaluation, path, part)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with wrong_if(ValueError, OSError):
        folder.open()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rows", total=folder.num_runs)
        for number in until_interrupted(folder.results()):
            bar.update(task, advance=number)
    summary = folder.finish()
    if summary is None:
        print(f"part {shard} is done; {out} has its tables when all parts are")
        return DONE
    _write_page(folder, summary)
    # A table squeezed into fewer columns cannot be read.
    width = max(MIN_WIDTH, Console().width)
    Console(highlight=False, markup=False, width=width).print(evaluation_table(summary))
    print(f"wrote {out / 'rows.jsonl'}, {out / 'summary.json'} and {out / 'report.html'}")
    list_failures([error_of(failure) for failure in summary["failures"]])
    return DONE if summary["num_scenes"] else NOTHING_USABLE


def compare(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path], /, json: bool = False) -> int:
    """Says what changed from one evaluation to another, scene by scene.

    Args:
      a: Folder of the first evaluation.
      b: Folder of the second.
      json: Print JSON for scripts, with all scenes that changed.
    """
    with wrong_if(ValueError):
        found = compare_folders(a, b)
    if json:
        print(dumps(found))
        return DONE
    for item in found:
        Console(highlight=False, markup=False).print(difference_table(item))
        if item["num_other_content"]:
            print(f"{item['num_other_content']} scenes are not what they were: the data have changed")
    return DONE


def _write_page(folder: Folder, summary: Json) -> None:
    """Writes the report, with the worst scenes to look at: of each the worst rollouts, side by side."""
    from waymax_sim.viz.html import viewer

    rows, plan, shown = read_rows(folder.out / "rows.jsonl"), folder.evaluation.plan, []
    for index, found in worst(rows, plan.columns, NUM_WORST):
        runs = [(row["policy"], row["traffic"], row["seed"]) for row in found[:NUM_SHOWN]]
        scenario, traces = folder.evaluation.traces(index, runs)
        names = [f"{policy} among {traffic}, seed {seed}" for policy, traffic, seed in runs]
        shown.append((scenario.scenario_id, viewer(scenario, dict(zip(names, traces, strict=True))).html))
    write_text(folder.out / "report.html", page(summary, shown))
