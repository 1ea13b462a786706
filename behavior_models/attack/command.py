"""The command `waymax-sim attack`."""

import json
import sys
from pathlib import Path
from typing import Literal

from waymax_sim.results_dir import ResultsDir, write_json, write_text


def attack(
    data: str,
    policy: str,
    out: Path,
    search: Literal["cross-entropy", "random", "gradient"] = "cross-entropy",
    steps: int = 80,
    limit: int | None = None,
    seed: int = 0,
    pages: int = 5,
) -> int:
    """Searches for variants of scenes in which a policy is at fault for a collision that it could have avoided.

    Agents near the ego brake, wait or hurry along their logged paths. An interrupted search is resumed by the same
    command.

    Args:
      data: Scenes: a file, a quoted glob, a converted folder, or synthetic:SEED:COUNT.
      policy: Policy of the ego.
      out: Folder for rows.jsonl, summary.json and the pages of variants.
      search: Search.
      steps: Simulated steps.
      limit: Largest number of scenes.
      seed: Seed of the search.
      pages: Largest number of pages, each with the original and the variant.
    """
    # Imported on use: the other commands do not load the behavior models.
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from behavior_models.attack.run import AttackRun
    from waymax_sim.datasets.loader import load
    from waymax_sim.plugins import resolve_policy
    from waymax_sim.viz.html import viewer

    scenarios = load(data)
    count = len(scenarios) if limit is None else min(limit, len(scenarios))
    results = ResultsDir(out, ("index",))
    conditions = {"data": data, "policy": policy, "search": search, "steps": steps, "seed": seed}
    try:
        results.open(conditions)
    except ValueError as error:
        sys.exit(str(error))
    run = AttackRun(resolve_policy(policy), search, steps, seed)
    done = {row["index"] for row in results.rows().values()}
    shown = sum(row["page"] is not None for row in results.rows().values())
    columns = *Progress.get_default_columns(), MofNCompleteColumn()
    with results.lock(), Progress(*columns, console=Console(stderr=True)) as bar:
        for index in bar.track(range(count), description=f"attacks on {policy}"):
            if index in done:
                continue
            row, traces = run.scene(index, scenarios[index])
            if traces is not None and shown < pages:
                row["page"], shown = f"scene_{index}.html", shown + 1
                write_text(out / row["page"], viewer(scenarios[index], traces).html)
            results.append([row])
    summary = summarize(list(results.rows().values())) | {"conditions": conditions}
    write_json(out / "summary.json", summary)
    print(json.dumps(summary, indent=1))
    print(f"wrote {out}/rows.jsonl, summary.json and {shown} pages", file=sys.stderr)
    return 0


def summarize(rows: list[dict]) -> dict:
    """Shares of scenes by result; failures of the original scene are no result of the search."""
    attacked = [row for row in rows if not row["fails_already"]]
    failures = [row for row in attacked if row["found"]]
    return {
        "scenes": len(rows),
        "fails_already": len(rows) - len(attacked),
        "found": len(failures),
        "share_found": len(failures) / len(attacked) if attacked else None,
    }
