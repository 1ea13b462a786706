"""Commands that evaluate policies on whole data sets."""

from pathlib import Path

import tyro
from rich.progress import MofNCompleteColumn, Progress

from waymax_sim.cli.common import (
    DONE,
    LOG_ALIAS,
    LOG_POLICY,
    NOTHING_USABLE,
    ScenePath,
    UsageError,
    load_scenes,
    parse_shard,
    print_failures,
    print_line,
    resolve_policies,
    select_scenes,
    stderr_console,
    stdout_console,
    to_json,
    until_interrupted,
    usage_error_on,
)
from waymax_sim.datatypes.agents import Selector
from waymax_sim.evaluation.compare import compare_runs, parse_pair
from waymax_sim.evaluation.evaluate import Evaluation, EvaluationConfig
from waymax_sim.evaluation.html_report import write_report
from waymax_sim.evaluation.report.viewers import worst_viewers
from waymax_sim.evaluation.run import EvaluationRun, failure_error
from waymax_sim.evaluation.sharding import use_all_cores
from waymax_sim.evaluation.slices import slices_table
from waymax_sim.evaluation.tables import difference_table, evaluation_table
from waymax_sim.metrics import METRICS
from waymax_sim.results_dir import ROWS, read_rows

# Width of tables, characters; narrower tables are not legible.
MIN_TABLE_WIDTH = 150


def evaluate(
    path: tyro.conf.Positional[ScenePath],
    /,
    policy: tuple[str, ...],
    out: Path,
    traffic: tuple[str, ...] = (LOG_ALIAS,),
    metrics: tuple[str, ...] = tuple(METRICS),
    agents: Selector = "sdc",
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    time_step: float | None = None,
    limit: int | None = None,
    ids: tuple[str, ...] = (),
    shard: str = "0/1",
    memory_budget: float = 2.0,
) -> int:
    """Evaluates every policy among every kind of traffic in every scene, and writes a report.

    An interrupted run is resumed by the same command. The first Ctrl-C stops after the current scenes, the second
    immediately.

    Args:
      path: Source of the scenes.
      policy: Names such as constant_velocity, NAME:key=value,key=value, module:attribute, or checkpoint folders.
      out: Folder for rows.jsonl, summary.json and report.html.
      traffic: Policies of all other agents, in the same forms; replay is the log.
      metrics: Metrics to compute; by default all.
      agents: Agents that the policy controls and that are evaluated.
      seeds: Number of seeds, that is of rollouts per scene.
      seed: First seed.
      steps: Maximum number of steps; by default to the end of each record.
      time_step: Time step to resample every record to, s; by default that of the record.
      limit: Maximum number of scenes, the first ones; by default all.
      ids: Scenario ids of the scenes; by default all.
      shard: i/n to evaluate shard i (from 0) of n, in one of n processes that write to the same folder.
      memory_budget: Memory for scenes in flight, GiB. Results do not depend on it.
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds} is not a number of seeds; give 1 or more")
    if not memory_budget > 0:
        raise UsageError(f"--memory-budget {memory_budget} is not above 0")
    shard_index = parse_shard(shard)
    use_all_cores()
    policies, drivers = resolve_policies(policy), resolve_policies(traffic)
    with usage_error_on(ValueError):
        config = EvaluationConfig(
            policies=policies,
            traffic={name: None if name == LOG_POLICY else driver for name, driver in drivers.items()},
            metrics=metrics,
            agents=agents,
            seeds=tuple(range(seed, seed + seeds)),
            max_steps=steps,
        )
    scenarios, source = select_scenes(load_scenes(path, time_step), path, limit, ids)
    evaluation = Evaluation(scenarios, config, int(memory_budget * 2**30))
    run = EvaluationRun(out, evaluation, source, shard_index)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with usage_error_on(ValueError, OSError):
        run.open()
    with Progress(*columns, console=stderr_console()) as bar:
        task = bar.add_task("rows", total=run.num_runs)
        for num_rows in until_interrupted(run.results()):
            bar.update(task, advance=num_rows)
    summary = run.finish()
    if summary is None:
        print_line(f"shard {shard} is done; the last shard writes the tables to {out}")
        return DONE
    _write_html_report(run)
    stdout_console(MIN_TABLE_WIDTH).print(evaluation_table(summary))
    if (by_difficulty := slices_table(summary)) is not None:
        stdout_console(MIN_TABLE_WIDTH).print(by_difficulty)
    print_line(f"wrote {out / 'rows.jsonl'}, {out / 'summary.json'} and {out / 'report.html'}")
    for note, count in summary["notes"].items():
        print_line(f"in {count} of {summary['num_scenes']} scenes: {note}", to_stderr=True)
    print_failures([failure_error(failure) for failure in summary["failures"]])
    values = [item["value"] for result in summary["results"] for item in result["metrics"].values()]
    if summary["num_scenes"] and all(value is None for value in values):
        print_line(f"no metric is valid in any scene for the agents {agents!r}; see `waymax-sim info`", to_stderr=True)
    return NOTHING_USABLE if all(value is None for value in values) else DONE


def compare(
    a: tyro.conf.Positional[Path],
    b: tyro.conf.Positional[Path | None] = None,
    /,
    pair: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Compares two evaluations, or policies of one, scene by scene.

    Args:
      a: Folder of the first evaluation.
      b: Folder of the second; without it, policies of the first one are compared.
      pair: FIRST=SECOND, a policy of the first and one of the second evaluation; by default policies of equal names.
      json: Print JSON for scripts, with all scenes that changed.
    """
    if b is None and not pair:
        raise UsageError("give two folders, or pairs of policies of one folder, such as --pair idm=constant_velocity")
    other = a if b is None else b
    with usage_error_on(ValueError):
        differences = compare_runs(a, other, [parse_pair(text, a, other) for text in pair])
    if json:
        print(to_json(differences))
        return DONE
    for item in differences:
        stdout_console().print(difference_table(item))
        if item["num_other_content"]:
            print(f"{item['num_other_content']} scenes have other content: the data differ")
    return DONE


def _write_html_report(run: EvaluationRun) -> None:
    """Writes the HTML report with viewers of the worst scenes."""
    from waymax_sim.viz import viewer

    write_report(run.out, viewers=worst_viewers(run.evaluation, read_rows(run.out / ROWS), viewer))
