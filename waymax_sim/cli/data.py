"""Commands about scenes: description, conversion, generation, drawing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.progress import Progress, track

from waymax_sim.cli.common import (
    ANIMATION_SUFFIXES,
    DONE,
    IMAGE_SUFFIXES,
    LOG_ALIAS,
    LOG_POLICY,
    NOTHING_USABLE,
    PAGE_SUFFIXES,
    ScenePath,
    UsageError,
    load_scenes,
    parse_shard,
    print_failures,
    print_line,
    resolve_policies,
    stderr_console,
    stdout_console,
    to_json,
    usage_error_on,
)
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load_all
from waymax_sim.datasets.resample import check_time_step
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datatypes.agents import Selector, select
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Trace

# Events and curves of a page.
DRAWN_METRICS = ("overlap", "road_departure", "red_light_violation", "log_divergence", "clearance")


def info(path: tyro.conf.Positional[ScenePath], /, json: bool = False) -> int:
    """Describes each record and its problems.

    Args:
      path: Source of the scenes.
      json: Print a JSON list for scripts.
    """
    from waymax_sim.datasets.scene_info import describe_scene
    from waymax_sim.evaluation.tables import info_text

    scenarios = load_scenes(path)
    console, errors, descriptions = stdout_console(), list(scenarios.problems), []
    for index, ((file, record), outcome) in enumerate(scenarios.iter_results()):
        if isinstance(outcome, DataError):
            errors.append(outcome)
            continue
        missing = list(scenarios.read(index).missing_fields)
        descriptions.append({"file": file, "record": record} | describe_scene(outcome) | {"lacks": missing})
        if not json:
            console.print(info_text(descriptions[-1]), soft_wrap=True)
    if json:
        print(to_json(descriptions))
    print_failures(errors)
    return DONE if descriptions else NOTHING_USABLE


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
    compression: Literal["fast", "small"] = "fast",
    time_step: float | None = None,
    workers: int = 1,
    shard: str = "0/1",
) -> int:
    """Converts scenes to a store that loads quickly and holds them exactly.

    An interrupted conversion is resumed by the same command.

    Args:
      paths: Sources of the scenes.
      out: Folder to write to.
      compression: fast to load (LZ4), or about 15 % smaller on disk (Zstandard).
      time_step: Time step to resample every record to, s; by default that of the record.
      workers: Processes to use.
      shard: i/n to write one of n parts, i from 0, on one of n machines; then run once without this option.
    """
    from waymax_sim.datasets.convert import convert as convert_scenes

    shard_index = parse_shard(shard)
    if workers < 1:
        raise UsageError(f"--workers {workers} is not a number of processes; give 1 or more")
    if not paths:
        raise UsageError("no PATH of scenes to convert is given")
    with usage_error_on(ValueError):
        check_time_step(time_step)
    scenarios = load_all(paths, time_step=time_step)
    with Progress(console=stderr_console()) as bar:
        task = bar.add_task("scenes", total=None)
        manifest = convert_scenes(
            scenarios,
            out,
            compression=compression,
            workers=workers,
            shard=shard_index,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if manifest is None:
        print_line(f"wrote part {shard} to {out}; when all parts are written, run the command once without --shard")
        return DONE
    for problem in manifest["problems"]:
        print_line(f"skipped: {problem['file']}, record {problem['record']}: {problem['problem']}", to_stderr=True)
    print_line(f"{manifest['num_scenes']} scenes in {out}, {manifest['num_problems']} skipped (see manifest.json)")
    return DONE if manifest["num_scenes"] else NOTHING_USABLE


def generate(count: int, out: Path, seed: int = 0, workers: int = 1) -> int:
    """Writes synthetic scenes to files of WOMD tf.Examples.

    An interrupted run is resumed by the same command, file by file.

    Args:
      count: Number of scenes.
      out: Folder for the files synthetic-SEED.tfrecord-00000-of-000NN and so on.
      seed: Seed of the scenes, which equal those of synthetic:SEED:COUNT.
      workers: Processes to use.
    """
    from waymax_sim.datasets.generate import generate as generate_shards
    from waymax_sim.datasets.generate import synthetic_shards

    for name, value, minimum in (("count", count, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < minimum:
            raise UsageError(f"--{name} {value} is too small; give {minimum} or more")
    with usage_error_on(OSError):
        out.mkdir(parents=True, exist_ok=True)
    shards = synthetic_shards(out, count=count, seed=seed)
    done = generate_shards(shards, workers=workers)
    for _ in track(done, "files", total=len(shards), console=stderr_console()):
        pass
    print_line(f"wrote {count} scenes to {out / f'synthetic-{seed}.tfrecord@{len(shards)}'}")
    return DONE


def draw(
    path: tyro.conf.Positional[ScenePath],
    /,
    out: Path,
    index: int = 0,
    policy: tuple[str, ...] = (),
    traffic: tuple[str, ...] = (LOG_ALIAS,),
    agents: Selector = "sdc",
    seed: int = 0,
) -> int:
    """Draws one scene, as recorded or simulated: an image, an animation, or an interactive page.

    Args:
      path: Source of the scenes.
      out: File to write: .png, .pdf or .svg for an image, .gif or .mp4 for an animation, .html for a page.
      index: Index of the scene, from 0.
      policy: Policies as for `evaluate`; a page compares the rollouts of several, an image shows the last step of one.
        By default the record is drawn, an image at its current step.
      traffic: Policies of all other agents, in the same forms; replay is the log.
      agents: Agents that the policy controls.
      seed: Seed of the rollouts.
    """
    from waymax_sim.viz import animate, viewer
    from waymax_sim.viz import draw as draw_scene

    suffix, suffixes = out.suffix.lower(), IMAGE_SUFFIXES + ANIMATION_SUFFIXES + PAGE_SUFFIXES
    if suffix not in suffixes:
        raise UsageError(f"cannot write {out}: use one of {', '.join(suffixes)}")
    if suffix not in PAGE_SUFFIXES and len(policy) * len(traffic) > 1:
        raise UsageError(f"{out} shows one rollout: give one policy and one traffic, or write an .html page")
    scenarios = load_scenes(path)
    if not 0 <= index < len(scenarios):
        raise UsageError(f"--index {index} is not one of the scenes 0..{len(scenarios) - 1} of {path}")
    recorded = scenarios[index], {}, {}
    simulated = simulate_scene(scenarios, index, policy, traffic, agents, seed) if policy else recorded
    scenario, traces, drivers = simulated
    trace = next(iter(traces.values()), None)
    controlled = None if trace is None else select(scenario.agents, agents)
    with usage_error_on(DataError, OSError):
        out.parent.mkdir(parents=True, exist_ok=True)
        if suffix in ANIMATION_SUFFIXES:
            animate(scenario, trace or scenario.log, out, controlled=controlled)
        elif suffix in PAGE_SUFFIXES:
            viewer(scenario, traces, drivers).save(out)
        else:
            draw_scene(scenario, trace, controlled=controlled).savefig(out)
    print_line(f"wrote {out}")
    return DONE


def simulate_scene(
    scenarios: Scenarios, index: int, policy: Iterable[str], traffic: Iterable[str], agents: Selector, seed: int
) -> tuple[Scenario, dict[str, Trace], dict[str, tuple[str, str]]]:
    """One scene as it was simulated, with padding, its rollouts by a name for display, and their policy and traffic.

    Args:
      scenarios: The scenes.
      index: Index of the scene.
      policy: See `draw`.
      traffic: See `draw`.
      agents: See `draw`.
      seed: See `draw`.
    """
    from waymax_sim.evaluation import Evaluation, EvaluationConfig

    policies, drivers = resolve_policies(policy), resolve_policies(traffic)
    with usage_error_on(ValueError):
        config = EvaluationConfig(
            policies=policies,
            traffic={name: None if name == LOG_POLICY else driver for name, driver in drivers.items()},
            agents=agents,
            metrics=DRAWN_METRICS,
            seeds=(seed,),
        )
    scenario, traces = Evaluation(scenarios, config).traces(index, config.runs)
    names = [name if len(drivers) == 1 else f"{name} among {other}" for name, other, _ in config.runs]
    drivers = {name: run[:2] for name, run in zip(names, config.runs, strict=True)}
    return scenario, dict(zip(names, traces, strict=True)), drivers
