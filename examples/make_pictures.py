"""Makes the pictures of the documents: an animation of a synthetic scene, the channels of its raster, and a screenshot
of the page that compares two policies.

    python examples/make_pictures.py docs/images      # or `make pictures`

The screenshot needs Chromium or Chrome.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import behavior_models
import waymax_sim as ws
from behavior_models.encoders.raster import Raster
from waymax_sim.env import Assignment
from waymax_sim.viz import animate, viewer

SCENE = ("synthetic:0:2", 1)
POLICIES = {"constant velocity": behavior_models.ConstantVelocity(), "idm": behavior_models.IDM()}
METRICS = ("overlap", "log_divergence", "time_to_collision")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Step of the rollout that the screenshot shows, its size in pixels, and the time for loading the page in ms.
SCREENSHOT_STEP = 50
WINDOW = (1280, 800)
LOADING_MS = 10_000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--steps", type=int, default=80, help="steps to simulate")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    scenario = ws.load(SCENE[0])[SCENE[1]]
    traces = simulate(scenario, options.steps)
    print("wrote", draw_animation(scenario, traces["idm"], options.out / "idm.gif"))
    print("wrote", draw_raster(scenario, options.out / "raster.png"))
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        print(f"no screenshot: install one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 1
    print("wrote", take_screenshot(browser, viewer(scenario, traces).html, options.out / "viewer.png", options.steps))
    return 0


def simulate(scenario: ws.Scenario, num_steps: int) -> dict[str, ws.Trace]:
    """Rollouts in which one policy controls all vehicles, by policy."""
    env = ws.Env(config=ws.EnvConfig(metrics=METRICS, rewards=()))
    rollout = jax.jit(lambda assignment, key: ws.rollout(env, assignment, scenario, key, num_steps))
    return {
        name: jax.device_get(rollout(Assignment([policy], ["vehicle"]), jax.random.key(0)))
        for name, policy in POLICIES.items()
    }


def draw_animation(scenario: ws.Scenario, trace: ws.Trace, path: Path) -> Path:
    """An animation with a fixed view of the crossing, which compresses better than one that follows the ego."""
    stop_points = np.asarray(scenario.signals.stop_point)[np.asarray(scenario.signals.valid)]
    x, y, _ = stop_points.mean(axis=0).tolist()
    frames = slice(None, None, 2)
    agents = jax.tree.map(lambda leaf: np.asarray(leaf)[frames], trace.agents)
    options = {"center": (x, y), "radius": 48.0, "size": 5.2, "title": ""}
    return animate(scenario, agents, path, steps=trace.step[frames], fps=5.0, **options)


def draw_raster(scenario: ws.Scenario, path: Path) -> Path:
    """The channels of the image of the sdc, its heading up."""
    raster = Raster(goal=False)
    env = ws.Env(config=ws.EnvConfig(metrics=(), rewards=(), num_history_steps=raster.num_history_steps))
    rows = jax.jit(lambda scenario: raster(env.observe(scenario, env.initial_state(scenario, jax.random.key(0)))))
    image = np.asarray(rows(scenario))[0, : np.prod(raster.image_shape)].reshape(raster.image_shape)
    figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="compressed")
    for channel, (axis, name) in enumerate(zip(axes.flat, raster.channels, strict=True)):
        low, colors = (-1, "RdBu_r") if name.startswith("lane") else (0, "gray_r")
        # The first column is the rightmost one.
        axis.imshow(image[:, ::-1, channel], colors, vmin=low, vmax=1, origin="lower", interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def take_screenshot(browser: str, html: str, path: Path, num_steps: int) -> Path:
    """A screenshot of a page at one step of the rollout."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(html, encoding="utf-8")
        address = f"{page.as_uri()}#step={min(SCREENSHOT_STEP, num_steps)}"
        flags = ["--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        flags += [f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--virtual-time-budget={LOADING_MS}"]
        flags += ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
        command = [browser, *flags, f"--screenshot={path.resolve()}", address]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    return path


if __name__ == "__main__":
    sys.exit(main())
