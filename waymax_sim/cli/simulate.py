"""Commands that simulate."""

import functools
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.progress import track

from waymax_sim.cli.common import (
    DONE,
    NOTHING_USABLE,
    PICTURES,
    SHORT,
    ScenePath,
    WrongCall,
    dumps,
    list_failures,
    load_scenes,
    policy_factories,
    until_interrupted,
    wrong_if,
)
from waymax_sim.plugins import resolve_policy


def demo(out: Path = Path("demo")) -> int:
    """Simulates made-up scenes with several policies; prints a table, writes pictures, a page to play with and numbers.

    Args:
      out: Folder to write to.
    """
    from waymax_sim.demo import run_demo

    with wrong_if(OSError):
        out.mkdir(parents=True, exist_ok=True)
    run_demo(out, Console(highlight=False))
    return DONE


def realism(
    path: tyro.conf.Positional[ScenePath],
    /,
    out: Path,
    policy: str | None = None,
    rollouts: int = 32,
    config: Literal["2023", "2024", "2025"] = "2025",
    seed: int = 0,
    corrected: bool = False,
    submission: Path | None = None,
    account: str = "",
    method: str = "",
    from_submission: Path | None = None,
    from_npz: Path | None = None,
) -> int:
    """Scores rollouts of all agents as the Waymo Open Sim Agents Challenge does.

    Ctrl-C stops after the scene under way, and again at once. The same command goes on from there.

    Args:
      path: Where the scenes are.
      out: Folder for rows.jsonl and summary.json.
      policy: The policy that drives all agents, in a form that `evaluate` takes, unless rollouts come from a file.
      rollouts: How often it is rolled out in each scene.
      config: Year of the challenge whose bins and weights are used; features are those of 2025.
      seed: Seed of all random draws.
      corrected: Correct known defects of the official code. The numbers are then not comparable with it.
      submission: File to write the rollouts to as a submission, such as submission.tar.gz.
      account: E-mail of the account that submits.
      method: Name of the method in the submission; by default that of the policy.
      from_submission: Score the rollouts of this submission.
      from_npz: Score the rollouts in this file of arrays; PATH must have one scene.
    """
    from waymax_sim.evaluation.realism import run as realism_run

    if sum(given is not None for given in (policy, from_submission, from_npz)) != 1:
        raise WrongCall("give one of --policy, --from-submission and --from-npz")
    if submission is not None and (policy is None or rollouts != realism_run.NUM_ROLLOUTS):
        raise WrongCall(f"--submission is for a --policy with {realism_run.NUM_ROLLOUTS} rollouts")
    if rollouts < 1:
        raise WrongCall(f"--rollouts {rollouts} is not a number of rollouts; give 1 or more")
    scenarios = load_scenes(path)
    if from_npz is not None and len(scenarios) != 1:
        raise WrongCall(f"--from-npz holds the rollouts of one scene, but {path} has {len(scenarios)}")
    with wrong_if(ValueError, OSError):
        run = realism_run.open_run(
            out,
            scenarios,
            path=path,
            policy=None if policy is None else (policy, resolve_policy(SHORT.get(policy, policy))),
            file=from_submission or from_npz,
            num_rollouts=rollouts,
            config=config,
            seed=seed,
            parity=not corrected,
            keeps_rollouts=submission is not None,
        )
    for _ in track(until_interrupted(run.results()), "scenes", total=len(run.left), console=Console(stderr=True)):
        pass
    summary = run.finish()
    if submission is not None and summary["num_scenes"]:
        with wrong_if(OSError):
            run.write_submission(submission, account=account, method=method or policy or "")
        print(f"wrote {submission}")
    Console(highlight=False, markup=False).print(realism_run.realism_table(summary))
    print(f"wrote {out / 'rows.jsonl'} and {out / 'summary.json'}")
    list_failures(run.failures)
    return DONE if summary["num_scenes"] else NOTHING_USABLE


def bench(
    data: str | None = None,
    json: bool = False,
    markdown: bool = False,
    plot: Path | None = None,
    quick: bool = False,
    only: tuple[str, ...] = (),
    bandwidth: float | None = None,
) -> int:
    """Measures how fast this machine simulates, next to brute force in the same run.

    Args:
      data: Recorded scenes, the first of which is measured; by default a made-up one of 128 agents and 20,000 points.
      json: Print JSON for scripts.
      markdown: Print a table for a page.
      plot: File for the scaling curves, such as scaling.png.
      quick: About a minute: what matters most, at fewer sizes, with fewer samples.
      only: Names of what is measured; by default everything.
      bandwidth: Memory bandwidth of the device, GB/s, to compare with.
    """
    from waymax_sim.bench import run, table
    from waymax_sim.evaluation.sharding import use_all_cores

    if json and markdown:
        raise WrongCall("choose one of --json and --markdown")
    if bandwidth is not None and not bandwidth > 0:
        raise WrongCall(f"--bandwidth {bandwidth} is not above 0")
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise WrongCall(f"cannot write {plot}: use one of {', '.join(PICTURES)}")
    policies = policy_factories()
    known = run.names(policies)
    if unknown := sorted(set(only) - set(known)):
        raise WrongCall(f"nothing called {', '.join(unknown)} is measured; known are {', '.join(known)}")
    use_all_cores()
    settings = run.settings(quick, only, bandwidth, data=data)
    progress = functools.partial(track, description="bench", console=Console(stderr=True))
    results = run.run(settings, policies, progress)
    if json:
        print(dumps(results))
    elif markdown:
        print(table.markdown(results))
    else:
        # A table squeezed into fewer columns cannot be read.
        console = Console(highlight=False, width=max(120, Console().width))
        console.print(table.conditions_text(results), table.terminal_table(results), sep="\n\n")
        console.print(*(f"left out: {name} ({why})" for name, why in results["left_out"].items()), sep="\n")
    if plot is not None:
        from waymax_sim.bench.plot import plot as draw_curves

        with wrong_if(OSError):
            plot.parent.mkdir(parents=True, exist_ok=True)
            draw_curves(results, plot)
    return DONE
