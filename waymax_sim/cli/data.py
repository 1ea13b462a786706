"""Commands about scenes: what is in them, other forms of them, made-up ones, pictures."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress, track

from waymax_sim.cli.common import (
    ANIMATIONS,
    DONE,
    NOTHING_USABLE,
    PAGES,
    PICTURES,
    ScenePath,
    WrongCall,
    dumps,
    list_failures,
    load_scenes,
    part_of,
    wrong_if,
)
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.loader import load_all


def info(path: tyro.conf.Positional[ScenePath], /, json: bool = False) -> int:
    """Says what is in each record and what is wrong with it.

    Args:
      path: Where the scenes are.
      json: Print a JSON list for scripts.
    """
    from waymax_sim.evaluation.info import describe
    from waymax_sim.evaluation.tables import info_text

    scenarios = load_scenes(path)
    console, errors, found = Console(highlight=False), list(scenarios.problems), []
    for index, ((file, record), outcome) in enumerate(scenarios.attempt()):
        if isinstance(outcome, DataError):
            errors.append(outcome)
            continue
        lacks = list(scenarios.read(index).lacks)
        found.append({"file": file, "record": record} | describe(outcome) | {"lacks": lacks})
        if not json:
            console.print(info_text(found[-1]), soft_wrap=True)
    if json:
        print(dumps(found))
    list_failures(errors)
    return DONE if found else NOTHING_USABLE


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
    """Converts scenes once to a compact store that is quick to load.

    The same command goes on where it was stopped, however it was stopped.

    Args:
      paths: Where the scenes are.
      out: Folder to write to.
      workers: Processes to use.
      shard: i/n to write one of n parts, i from 0, on one of n machines; then once more without it.
    """
    from waymax_sim.datasets.convert import convert as convert_scenes

    part = part_of(shard)
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
            shard=part,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if manifest is None:
        print(f"wrote part {shard} to {out}; when all parts are written, run this once more without --shard")
        return DONE
    for problem in manifest["problems"]:
        print(f"left out: {problem['file']}, record {problem['record']}: {problem['problem']}", file=sys.stderr)
    print(f"{manifest['num_scenes']} scenes in {out}, {manifest['num_problems']} left out (see manifest.json)")
    return DONE if manifest["num_scenes"] else NOTHING_USABLE


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
    with wrong_if(OSError):
        out.mkdir(parents=True, exist_ok=True)
    shards = shards_of(out, count=count, seed=seed)
    done = generate_shards(shards, workers=workers)
    for _ in track(done, "files", total=len(shards), console=Console(stderr=True)):
        pass
    print(f"wrote {count} scenes to {out / f'synthetic-{seed}.tfrecord@{len(shards)}'}")
    return DONE


def draw(path: tyro.conf.Positional[ScenePath], /, out: Path, index: int = 0) -> int:
    """Draws one scene: a picture of now, an animation of the whole record, or a page to play with.

    Args:
      path: Where the scenes are.
      out: File to write: .png, .pdf or .svg for a picture, .gif or .mp4 for an animation, .html for a page.
      index: Which scene, counted from 0.
    """
    from waymax_sim.viz import animate, viewer
    from waymax_sim.viz import draw as draw_scene

    form, forms = out.suffix.lower(), PICTURES + ANIMATIONS + PAGES
    if form not in forms:
        raise WrongCall(f"cannot write {out}: use one of {', '.join(forms)}")
    scenarios = load_scenes(path)
    if not 0 <= index < len(scenarios):
        raise WrongCall(f"--index {index} is not one of the scenes 0..{len(scenarios) - 1} of {path}")
    scenario = scenarios[index]
    with wrong_if(DataError, OSError):
        out.parent.mkdir(parents=True, exist_ok=True)
        if form in ANIMATIONS:
            animate(scenario, scenario.log, out)
        elif form in PAGES:
            viewer(scenario).save(out)
        else:
            draw_scene(scenario).savefig(out)
    print(f"wrote {out}")
    return DONE
