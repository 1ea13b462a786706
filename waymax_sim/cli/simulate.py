"""Commands that simulate."""

import functools
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.progress import track

from waymax_sim.cli.common import (
    DONE,
    NOTHING_USABLE,
    POLICY_ALIASES,
    ScenePath,
    UsageError,
    load_scenes,
    policy_factories,
    print_failures,
    print_line,
    stderr_console,
    stdout_console,
    to_json,
    until_interrupted,
    usage_error_on,
)
from waymax_sim.plugins import resolve_policy


def demo(out: Path = Path("demo")) -> int:
    """Evaluates policies in synthetic scenes; prints a table, writes images, an animation and an interactive page.

    Args:
      out: Folder to write to.
    """
    from waymax_sim.demo import run_demo

    with usage_error_on(OSError):
        out.mkdir(parents=True, exist_ok=True)
    run_demo(out, stdout_console())
    return DONE


def realism(
    path: tyro.conf.Positional[ScenePath],
    /,
    out: Path,
    policy: str | None = None,
    rollouts: int = 32,
    config: Literal["2023", "2024", "2025"] = "2025",
    seed: int = 0,
    time_step: float | None = None,
    corrected: bool = False,
    submission: Path | None = None,
    account: str = "",
    method: str = "",
    from_submission: Path | None = None,
    from_npz: Path | None = None,
    any_number_of_rollouts: bool = False,
) -> int:
    """Scores rollouts of all agents as the Waymo Open Sim Agents Challenge does.

    An interrupted run is resumed by the same command. The first Ctrl-C stops after the current scene, the second
    immediately.

    Args:
      path: Source of the scenes.
      out: Folder for rows.jsonl and summary.json.
      policy: Policy of all agents, in a form that `evaluate` takes, unless rollouts come from a file.
      rollouts: Number of rollouts per scene.
      config: Year of the challenge that defines bins and weights; features are those of 2025.
      seed: Seed of all random draws.
      time_step: Time step to resample every record to, s; realism is defined for 0.1 s.
      corrected: Correct known defects of the official code; scores are then not comparable with official ones.
      submission: File to write the rollouts to as a submission, such as submission.tar.gz.
      account: E-mail address of the submitting account.
      method: Name of the method in the submission; by default that of the policy.
      from_submission: Score the rollouts of this submission.
      from_npz: Score the rollouts in this file of arrays; PATH must have exactly one scene.
      any_number_of_rollouts: Also score submissions that the challenge refuses, because they do not have 32 rollouts.
    """
    from waymax_sim.evaluation.realism import run as realism_run

    if sum(given is not None for given in (policy, from_submission, from_npz)) != 1:
        raise UsageError("give one of --policy, --from-submission and --from-npz")
    if submission is not None and (policy is None or rollouts != realism_run.CHALLENGE_ROLLOUTS):
        raise UsageError(f"--submission is for a --policy with {realism_run.CHALLENGE_ROLLOUTS} rollouts")
    if rollouts < 1:
        raise UsageError(f"--rollouts {rollouts} is not a number of rollouts; give 1 or more")
    scenarios = load_scenes(path, time_step)
    if from_npz is not None and len(scenarios) != 1:
        raise UsageError(f"--from-npz holds the rollouts of one scene, but {path} has {len(scenarios)}")
    if any_number_of_rollouts and from_submission is None:
        raise UsageError("--any-number-of-rollouts is for --from-submission")
    with usage_error_on(ValueError, OSError):
        run = realism_run.open_run(
            out,
            scenarios,
            path=path,
            policy=None if policy is None else (policy, resolve_policy(POLICY_ALIASES.get(policy, policy))),
            file=from_submission or from_npz,
            num_rollouts=rollouts,
            config=config,
            seed=seed,
            parity=not corrected,
            keeps_rollouts=submission is not None,
            any_number_of_rollouts=any_number_of_rollouts,
        )
    for _ in track(until_interrupted(run.results()), "scenes", total=len(run.remaining), console=stderr_console()):
        pass
    summary = run.finish()
    if submission is not None and summary["num_scenes"]:
        with usage_error_on(OSError):
            run.write_submission(submission, account=account, method=method or policy or "")
        print_line(f"wrote {submission}")
    stdout_console().print(realism_run.realism_table(summary))
    print_line(f"wrote {out / 'rows.jsonl'} and {out / 'summary.json'}")
    print_failures(run.failures)
    if summary["undefined"] and summary["meta_metric"] is None:
        print_line(f"no scene has all scores; undefined in {', '.join(summary['undefined'][:3])}, ...", to_stderr=True)
    # Testing splits have no score, but rollouts.
    return DONE if summary["meta_metric"] is not None or summary["unscored"] else NOTHING_USABLE


def bench(
    data: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None,
    json: bool = False,
    markdown: bool = False,
    quick: bool = False,
    only: tuple[str, ...] = (),
    traffic: bool = False,
) -> int:
    """Measures the simulation speed of this machine against a brute-force baseline in the same run.

    Args:
      data: Recorded scenes, the first of which is measured; by default a synthetic one of 128 agents and 20,000 points.
      json: Print JSON for scripts.
      markdown: Print a Markdown table.
      quick: About a minute: fewer rows, sizes and samples.
      only: Names of rows; by default all.
      traffic: The rows `traffic_*`: models of traffic side by side in the same scenes.
    """
    from waymax_sim.bench import run, table
    from waymax_sim.bench.plugins import plugin_workloads
    from waymax_sim.evaluation.sharding import use_all_cores

    if json and markdown:
        raise UsageError("--json and --markdown exclude each other")
    policies = policy_factories()
    plugins = plugin_workloads()
    names = run.row_names(policies, plugins)
    if traffic:
        only += tuple(name for name in names if name.startswith("traffic_"))
    if unknown := sorted(set(only) - set(names)):
        raise UsageError(f"unknown rows {', '.join(unknown)}; known are {', '.join(names)}")
    use_all_cores()
    progress = functools.partial(track, description="bench", console=stderr_console())
    results = run.run(run.default_settings(quick, only, data), policies, progress, plugins)
    if json:
        print(to_json(results))
    elif markdown:
        print(table.markdown(results))
    else:
        # The table needs 120 columns.
        console = stdout_console(120)
        console.print(table.conditions_text(results), table.terminal_table(results), sep="\n\n")
        console.print(*(f"left out: {name} ({reason})" for name, reason in results["left_out"].items()), sep="\n")
    return DONE
