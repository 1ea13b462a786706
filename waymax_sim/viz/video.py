"""Animations of a scene: GIF by Pillow, MP4 by ffmpeg. The map is drawn once for all frames."""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Trace
from waymax_sim.pytree import Array, tree_index
from waymax_sim.text import printable
from waymax_sim.viz.draw import (
    PAST_STEPS,
    Center,
    check_step,
    create_axes,
    draw_dynamic,
    draw_static,
    logged_future,
    root_figure,
    set_view,
    to_host,
    to_image,
    trace_states,
    view_centers,
)

Frames = Iterable[UInt8[np.ndarray, "H W 3"]]


def animate(
    scenario: Scenario,
    agents: AgentState | Trace,
    path: str | os.PathLike,
    *,
    steps: Int[Array, " T"] | None = None,
    flags: Mapping[str, Bool[Array, "T N"]] | None = None,
    fps: float | None = None,
    controlled: Bool[Array, " N"] | None = None,
    center: Center = "sdc",
    radius: float = 60.0,
    title: str | None = None,
    size: float = 8.0,
) -> Path:
    """Draws agents over time. Fading lines are the last ten frames, dashed ones the next seconds of the log.

    Args:
      scenario: One scene, without a batch axis.
      agents: A rollout of the scene, or states in each frame, [T, N], such as `scenario.log`.
      path: File to write: `.gif`, or `.mp4` if ffmpeg is installed.
      steps: Step of each frame in the scenario; those of the rollout, or 0, 1, 2, ... by default.
      flags: Masks by name per frame; see `draw`.
      fps: Frames per second; real time by default. Frame durations of a GIF are multiples of 0.01 s.
      controlled: See `draw`.
      center: See `draw`. The view follows the sdc or an agent and stays while it is not valid.
      radius: See `draw`.
      title: See `draw`.
      size: See `draw`.

    Returns:
      `path`.

    Raises:
      DataError: Another suffix, there is no ffmpeg for an `.mp4`, or it failed.
      ValueError: No frames, not as many steps as states, no such step, or a scenario or rollout with a batch axis.
    """
    path = Path(path)
    writers = {".gif": _write_gif, ".mp4": _write_mp4}
    if path.suffix.lower() not in writers:
        raise DataError(f"cannot write a video as {path.suffix!r}", file=str(path), remedy="use .gif or .mp4")
    if path.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        raise DataError("ffmpeg is not installed", file=str(path), remedy="use .gif or install ffmpeg")
    steps, agents = _frame_states(agents, steps)
    flags = {name: np.asarray(mask) for name, mask in (flags or {}).items()}

    scenario = to_host(scenario)
    if fps is None:
        stride = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
        fps = 1.0 / (scenario.time_step * max(stride, 1.0))
    for step in steps.tolist():
        check_step(scenario, step)
    centers, radius = view_centers(scenario, agents, center, radius)
    ax = create_axes(size)
    scale = draw_static(ax, scenario, centers, radius)

    def frames() -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        console = Console(stderr=True)
        name = escape(printable(path.name))
        for frame in track(range(len(steps)), name, console=console, disable=not console.is_terminal):
            set_view(ax, centers[frame], radius)
            artists = draw_dynamic(
                ax,
                scenario,
                tree_index(agents, frame),
                scale,
                step=int(steps[frame]),
                past=tree_index(agents, slice(max(frame - PAST_STEPS, 0), frame + 1)),
                future=logged_future(scenario, int(steps[frame])),
                controlled=controlled,
                flags={name: mask[frame] for name, mask in flags.items()},
                title=title,
            )
            yield to_image(root_figure(ax))
            for artist in artists:
                artist.remove()

    writers[path.suffix.lower()](frames(), path, fps)
    return path


def _frame_states(
    agents: AgentState | Trace, steps: Int[Array, " T"] | None
) -> tuple[Int[np.ndarray, " T"], AgentState]:
    """Steps and agents of the frames, see `animate`."""
    if isinstance(agents, Trace):
        own, states = trace_states(agents)
        steps = own if steps is None else np.asarray(steps)
        missing = np.setdiff1d(steps, own)
        if len(missing):
            raise ValueError(f"steps {missing.tolist()} are not in {own[0]}..{own[-1]}, the steps of the trace")
        return steps, tree_index(states, np.searchsorted(own, steps))
    states = jax.tree.map(np.asarray, agents)
    steps = np.arange(len(states.valid)) if steps is None else np.asarray(steps)
    if not 0 < len(steps) == len(states.valid):
        raise ValueError(
            f"{len(steps)} steps for {len(states.valid)} states of agents; give one step per state, and at least one"
        )
    return steps, states


def _write_gif(frames: Frames, path: Path, fps: float) -> None:
    # Dithering would make uniform areas noisy and the file large.
    images = (
        Image.fromarray(frame).quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for frame in frames
    )
    first = next(images)
    first.save(path, save_all=True, append_images=images, duration=round(100 / fps) * 10, loop=0)


def _write_mp4(frames: Frames, path: Path, fps: float) -> None:
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    # Players require even sides and yuv420p.
    encoding = ["-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2", "-pix_fmt", "yuv420p", str(path)]
    command = [str(shutil.which("ffmpeg")), "-y", "-loglevel", "error", *source, *encoding]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        # ffmpeg that fails early closes the pipe and has written the reason to stderr.
        with contextlib.suppress(BrokenPipeError):
            for frame in itertools.chain([first], frames):
                process.stdin.write(frame.tobytes())
        _, message = process.communicate()
    if process.returncode:
        raise DataError(f"ffmpeg failed: {message.decode(errors='replace').strip()}", file=str(path), remedy="use .gif")
