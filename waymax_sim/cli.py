"""The command `waymax-sim`. Exit codes: 0 done, 1 nothing usable, 2 wrong call, 130 interrupted."""

import contextlib
import functools
import importlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from rich.progress import Progress, track

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import Scenarios, load, load_all
from waymax_sim.datatypes.agents import Selector
from waymax_sim.env import Env, EnvConfig, Policy
from waymax_sim.metrics import METRICS

ScenePath = Annotated[
    str,
    tyro.conf.arg(
        metavar="PATH", help="A file, a quoted glob, shards as name@N, a converted folder, or synthetic:SEED:COUNT."
    ),
]
T = TypeVar("T")
PICTURES, ANIMATIONS = (".png", ".pdf", ".svg"), (".gif", ".mp4")
DONE, NOTHING_USABLE, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130


class WrongCall(Exception):
    """The command cannot mean anything as it was given."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    commands = {"demo": demo, "info": info, "evaluate": evaluate, "realism": realism, "draw": draw}
    commands |= {"convert": convert, "generate": generate, "bench": bench}
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="waymax-sim",
            description="A multi-agent driving simulator in JAX.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed help or what is wrong with the options
        return stop.code if isinstance(stop.code, int) else WRONG_CALL
    except WrongCall as error:
        return _say_error(error, WRONG_CALL)
    except (DataError, OSError) as error:
        return _say_error(error, NOTHING_USABLE)
    except KeyboardInterrupt:
        return _say_error("interrupted", INTERRUPTED)


def demo(out: Path = Path("demo")) -> int:
    """Simulates made-up scenes with several policies; prints a table, writes pictures, an animation and a summary.

    Args:
      out: Folder to write to.
    """
    from waymax_sim.demo import run_demo

    with _wrong_if(OSError):
        out.mkdir(parents=True, exist_ok=True)
    run_demo(out, _policies(), Console(highlight=False))
    return DONE


def info(path: tyro.conf.Positional[ScenePath], /, json: bool = False) -> int:
    """Says what is in each record and what is wrong with it.

    Args:
      path: Where the scenes are.
      json: Print a JSON list for scripts.
    """
    from waymax_sim.evaluation.info import describe
    from waymax_sim.evaluation.tables import info_text

    scenarios = _load(path)
    console, errors, found = Console(highlight=False), list(scenarios.problems), []
    for (file, record), outcome in scenarios.attempt():
        if isinstance(outcome, DataError):
            errors.append(outcome)
            continue
        found.append({"file": file, "record": record} | describe(outcome))
        if not json:
            console.print(info_text(found[-1]), soft_wrap=True)
    if json:
        print(_dumps(found))
    _list_failures(errors)
    return DONE if found else NOTHING_USABLE


def evaluate(
    path: tyro.conf.Positional[ScenePath],
    /,
    policy: str,
    out: Path,
    agents: Selector = "sdc",
    seed: int = 0,
    steps: int | None = None,
    metrics: tuple[str, ...] = tuple(METRICS),
) -> int:
    """Rolls a policy out in every scene and writes its metrics.

    Ctrl-C stops after the scene under way, and again at once. The same command goes on from there.

    Args:
      path: Where the scenes are.
      policy: Name of a policy, such as constant_velocity.
      out: Folder for rows.jsonl and summary.json.
      agents: Who is driven by the policy and judged; the log drives the rest.
      seed: Seed of all random draws.
      steps: Steps to simulate at most; by default to the end of each record.
      metrics: Metrics to compute; by default all.
    """
    from waymax_sim.evaluation import report
    from waymax_sim.evaluation.evaluate import evaluate as evaluate_scenes
    from waymax_sim.evaluation.tables import metrics_table

    driver = _policy(policy)
    if steps is not None and steps < 1:
        raise WrongCall(f"--steps {steps} is not a number of steps; give 1 or more")
    if not metrics:
        raise WrongCall(f"--metrics names none; known are {', '.join(METRICS)}")
    with _wrong_if(ValueError):
        env = Env(config=EnvConfig(controlled=agents, metrics=metrics, rewards=()))
    scenarios = _load(path)
    conditions = report.conditions_of(env, driver, name=policy, path=path, seed=seed, max_steps=steps)
    with _wrong_if(ValueError, OSError):
        rows = report.open_results(out, conditions)
    done = report.done(rows)
    left = [index for index in range(len(scenarios)) if scenarios.source(index) not in done]
    failures = list(scenarios.problems)
    results = evaluate_scenes(scenarios, env, driver, seed=seed, max_steps=steps, indices=left)
    for result in track(_until_interrupted(results), "scenes", total=len(left), console=Console(stderr=True)):
        if isinstance(result, DataError):
            failures.append(result)
            continue
        new = report.rows_of(result, env.metrics, conditions)
        report.append_rows(out, new)
        rows += new
    summary = report.summarize_rows(rows, env.metrics, failures, conditions)
    report.write_json(out / "summary.json", summary)
    Console(highlight=False).print(metrics_table(summary))
    print(f"wrote {out / 'rows.jsonl'} and {out / 'summary.json'}")
    _list_failures(failures)
    return DONE if summary["num_scenes"] else NOTHING_USABLE


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
      policy: Name of the policy that drives all agents, unless rollouts come from a file.
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
    from waymax_sim.evaluation import realism_run

    if sum(given is not None for given in (policy, from_submission, from_npz)) != 1:
        raise WrongCall("give one of --policy, --from-submission and --from-npz")
    if submission is not None and (policy is None or rollouts != realism_run.NUM_ROLLOUTS):
        raise WrongCall(f"--submission is for a --policy with {realism_run.NUM_ROLLOUTS} rollouts")
    if rollouts < 1:
        raise WrongCall(f"--rollouts {rollouts} is not a number of rollouts; give 1 or more")
    scenarios = _load(path)
    if from_npz is not None and len(scenarios) != 1:
        raise WrongCall(f"--from-npz holds the rollouts of one scene, but {path} has {len(scenarios)}")
    with _wrong_if(ValueError, OSError):
        run = realism_run.open_run(
            out,
            scenarios,
            path=path,
            policy=None if policy is None else (policy, _policy(policy)),
            file=from_submission or from_npz,
            num_rollouts=rollouts,
            config=config,
            seed=seed,
            parity=not corrected,
            keeps_rollouts=submission is not None,
        )
    for _ in track(_until_interrupted(run.results()), "scenes", total=len(run.left), console=Console(stderr=True)):
        pass
    summary = run.finish()
    if submission is not None and summary["num_scenes"]:
        with _wrong_if(OSError):
            run.write_submission(submission, account=account, method=method or policy or "")
        print(f"wrote {submission}")
    Console(highlight=False).print(realism_run.realism_table(summary))
    print(f"wrote {out / 'rows.jsonl'} and {out / 'summary.json'}")
    _list_failures(run.failures)
    return DONE if summary["num_scenes"] else NOTHING_USABLE


def draw(path: tyro.conf.Positional[ScenePath], /, out: Path, index: int = 0) -> int:
    """Draws one scene: a picture of now, or an animation of the whole record.

    Args:
      path: Where the scenes are.
      out: File to write: .png, .pdf or .svg for a picture, .gif or .mp4 for an animation.
      index: Which scene, counted from 0.
    """
    from waymax_sim.viz import animate
    from waymax_sim.viz import draw as draw_scene

    form = out.suffix.lower()
    if form not in PICTURES + ANIMATIONS:
        raise WrongCall(f"cannot write {out}: use one of {', '.join(PICTURES + ANIMATIONS)}")
    scenarios = _load(path)
    if not 0 <= index < len(scenarios):
        raise WrongCall(f"--index {index} is not one of the scenes 0..{len(scenarios) - 1} of {path}")
    scenario = scenarios[index]
    with _wrong_if(DataError, OSError):
        out.parent.mkdir(parents=True, exist_ok=True)
        if form in ANIMATIONS:
            animate(scenario, scenario.log, out)
        else:
            draw_scene(scenario).savefig(out)
    print(f"wrote {out}")
    return DONE


def generate(count: int, out: Path, seed: int = 0, workers: int = 1) -> int:
    """Writes made-up scenes to files of WOMD tf.Examples.

    The same command goes on from where it was interrupted, file by file.

    Args:
      count: Number of scenes.
      out: Folder for the files synthetic-SEED.tfrecord-00000-of-000NN and so on.
      seed: Seed of the scenes; they are those of synthetic:SEED:COUNT.
      workers: Processes to use.
    """
    from waymax_sim.datasets.generate import generate as generate_shards
    from waymax_sim.datasets.generate import shards_of

    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise WrongCall(f"--{name} {value} is too small; give {least} or more")
    with _wrong_if(OSError):
        out.mkdir(parents=True, exist_ok=True)
    shards = shards_of(out, count=count, seed=seed)
    done = generate_shards(shards, workers=workers)
    for _ in track(done, "files", total=len(shards), console=Console(stderr=True)):
        pass
    print(f"wrote {count} scenes to {out / f'synthetic-{seed}.tfrecord@{len(shards)}'}")
    return DONE


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

    if json and markdown:
        raise WrongCall("choose one of --json and --markdown")
    if bandwidth is not None and not bandwidth > 0:
        raise WrongCall(f"--bandwidth {bandwidth} is not above 0")
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise WrongCall(f"cannot write {plot}: use one of {', '.join(PICTURES)}")
    policies = _policies()
    known = run.names(policies)
    if unknown := sorted(set(only) - set(known)):
        raise WrongCall(f"nothing called {', '.join(unknown)} is measured; known are {', '.join(known)}")
    run.use_all_cores()
    settings = run.settings(quick, only, bandwidth, data=data)
    progress = functools.partial(track, description="bench", console=Console(stderr=True))
    results = run.run(settings, policies, progress)
    if json:
        print(_dumps(results))
    elif markdown:
        print(table.markdown(results))
    else:
        # A table squeezed into fewer columns cannot be read.
        console = Console(highlight=False, width=max(120, Console().width))
        console.print(table.conditions_text(results), table.terminal_table(results), sep="\n\n")
        console.print(*(f"left out: {name} ({why})" for name, why in results["left_out"].items()), sep="\n")
    if plot is not None:
        from waymax_sim.bench.plot import plot as draw_curves

        with _wrong_if(OSError):
            plot.parent.mkdir(parents=True, exist_ok=True)
            draw_curves(results, plot)
    return DONE


def convert(
    paths: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="PATH [PATH ...]", help="Files, quoted globs, shards as name@N, or synthetic:SEED:COUNT."
        ),
    ],
    /,
    out: Path,
    workers: int = 1,
    shard: str = "0/1",
) -> int:
    """Converts scenes once to a compact store that loads a hundred times faster.

    The same command goes on where it was stopped, however it was stopped.

    Args:
      paths: Where the scenes are.
      out: Folder to write to.
      workers: Processes to use.
      shard: i/n to write one of n parts, i from 0, on one of n machines; then once more without it.
    """
    from waymax_sim.datasets.convert import convert as convert_scenes

    part = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if part is None or not int(part[1]) < int(part[2]):
        raise WrongCall(f"--shard {shard} is not i/n with i below n")
    if workers < 1:
        raise WrongCall(f"--workers {workers} is not a number of processes; give 1 or more")
    if not paths:
        raise WrongCall("name what is to be converted")
    scenarios = load_all(paths)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("scenes", total=None)
        manifest = convert_scenes(
            scenarios,
            out,
            workers=workers,
            shard=(int(part[1]), int(part[2])),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if manifest is None:
        print(f"wrote part {shard} to {out}; when all parts are written, run this once more without --shard")
        return DONE
    for problem in manifest["problems"]:
        print(f"left out: {problem['file']}, record {problem['record']}: {problem['problem']}", file=sys.stderr)
    print(f"{manifest['num_scenes']} scenes in {out}, {manifest['num_problems']} left out (see manifest.json)")
    return DONE if manifest["num_scenes"] else NOTHING_USABLE


def _load(path: str) -> Scenarios:
    try:
        return load(path)
    except DataError as error:
        # A synthetic source is nothing but its name: only the name can be wrong.
        raise WrongCall(str(error)) if path.startswith("synthetic:") else error from None


def _policies() -> dict[str, Callable[[], Policy]]:
    # By name, because the simulator must not depend on its users.
    return importlib.import_module("behavior_models").POLICIES


def _policy(name: str) -> Policy:
    policies = _policies()
    if name not in policies:
        raise WrongCall(f"unknown policy {name!r}; known are {', '.join(policies)}")
    return policies[name]()


@contextlib.contextmanager
def _wrong_if(*errors: type[Exception]) -> Iterator[None]:
    """Errors of these kinds inside the block are about how the command was called."""
    try:
        yield
    except errors as error:
        raise WrongCall(str(error)) from error


def _until_interrupted(results: Iterator[T]) -> Iterator[T]:
    """Waits for the end of a scene at the first Ctrl-C: a process stopped while XLA compiles crashes at its exit."""
    pressed = []

    def press(*_):
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, press)
    try:
        for result in results:
            yield result
            if pressed:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _dumps(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False)


def _list_failures(failures: list[DataError]) -> None:
    for error in failures:
        print(f"skipped: {error}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} could not be used", file=sys.stderr)


def _say_error(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
