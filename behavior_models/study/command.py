"""The command `waymax-sim study`."""

import sys
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from waymax_sim.results_dir import write_json, write_text

# Width of tables, characters.
TABLE_WIDTH = 170


def study(
    policies: tuple[str, ...],
    data: str,
    out: Path,
    traffic: tuple[str, ...] = ("log",),
    reference: str | None = None,
    vehicles: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    rollouts: int = 32,
    realism_scenes: int = 60,
    alone: bool = True,
    all_driven: bool = True,
    at_end: Literal["remove", "stop", "stay"] = "remove",
) -> int:
    """Compares driving policies: each traveling vehicle alone among other traffic, all together, and realism.

    An interrupted study is resumed by the same command.

    Args:
      policies: Arms: a policy or checkpoint folder, or NAME=FOLDER,FOLDER for several training seeds of one arm.
      data: Scenes: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT.
      out: Folder for rows.jsonl, summary.json and table.csv.
      traffic: Drivers of the other traveling vehicles where one is driven: log, self, or policies.
      reference: Arm that the others are compared with; by default the first.
      vehicles: Largest number of vehicles per scene that are driven alone; by default all.
      steps: Largest number of steps; by default to the end of the records.
      seed: Seed of all random draws.
      rollouts: Rollouts per scene for realism; 0 for none.
      realism_scenes: Largest number of scenes for realism.
      alone: Drive each vehicle alone among the traffic.
      all_driven: Drive all vehicles together.
      at_end: Driven vehicles at their goal, in a collision and off the road: removed, stopped, or still driven by their
        policy, which brakes at goals if it is a network.
    """
    # Imported on use: the other commands do not load the behavior models.
    from behavior_models.study.report import results_csv, study_tables, summarize_study
    from behavior_models.study.run import Study, StudyConfig, load_scenes, parse_arm

    arms = [parse_arm(text) for text in policies]
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        sys.exit(f"two arms have one name ({', '.join(names)}); give names as NAME=POLICY")
    chosen = names[0] if reference is None else reference
    if chosen not in names:
        sys.exit(f"--reference {chosen} is not among the arms {', '.join(names)}")
    config = StudyConfig(arms, traffic, seed, vehicles, steps, alone, all_driven, rollouts, realism_scenes, at_end)
    try:
        scenes = load_scenes(data)
        run = Study(out, data, scenes, config)
        run.open()
    except ValueError as error:
        sys.exit(str(error))
    columns = *Progress.get_default_columns(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        progress = bar.add_task("groups", total=len(run.tasks))
        for task in run.run():
            bar.update(progress, advance=1, description=f"{task.arm.name} {task.setting}")
    summary = summarize_study(run.rows(), scenes.host, chosen)
    write_json(out / "summary.json", summary)
    write_text(out / "table.csv", results_csv(summary))
    console = Console(width=TABLE_WIDTH, markup=False, highlight=False)
    for table in study_tables(summary):
        console.print(table)
    for problem in scenes.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    print(f"wrote {out / 'rows.jsonl'}, {out / 'summary.json'} and {out / 'table.csv'}")
    return 0
