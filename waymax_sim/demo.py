"""The demo: policies in synthetic scenes, as a table of metrics, images, an animation and an interactive page."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.console import Console

from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.agents import Selector, select
from waymax_sim.env import Trace
from waymax_sim.env.policy import observes_goals
from waymax_sim.evaluation import Evaluation, EvaluationConfig, SceneResult
from waymax_sim.evaluation.environment import environment_info
from waymax_sim.evaluation.summary import summarize_rows
from waymax_sim.evaluation.tables import comparison_table
from waymax_sim.plugins import resolve_policy
from waymax_sim.pytree import tree_index
from waymax_sim.results_dir import write_json
from waymax_sim.viz import animate, draw, viewer

DEMO_SCENES = "synthetic:0:3"
LOG_REPLAY = "log_replay"
# Policies by the agents that they control.
DEMO_RUNS: dict[Selector, tuple[str, ...]] = {
    "all": (LOG_REPLAY,),
    "sdc": ("stationary",),
    "vehicle": ("constant_velocity", "idm", "ppo_anchored"),
}
DEMO_METRICS = ("overlap", "road_departure", "log_divergence", "clearance", "red_light_violation")
# Images and the page show the first and all policies of these agents; the animation and the page show one scene.
DRAWN_AGENTS: Selector = "vehicle"
ANIMATED_INDEX = 1
PAST_STEPS_DRAWN = 10
# Every second step at 5 frames per second is real time.
FRAMES = slice(None, None, 2)
FRAMES_PER_SECOND = 5.0


def run_demo(out: Path, console: Console) -> None:
    """Evaluates the policies of `DEMO_RUNS`; prints a table and writes summary.json, images, an animation and a page.

    Args:
      out: Existing folder to write to.
      console: Console to print to.
    """
    scenarios, results, evaluations = load(DEMO_SCENES), [], {}
    for agents, names in DEMO_RUNS.items():
        console.print(f"simulating {len(scenarios)} scenes: {agents} controlled by {', '.join(names)}")
        policies = {name: resolve_policy(name) for name in names}
        config = EvaluationConfig(policies, traffic={LOG_REPLAY: None}, metrics=DEMO_METRICS, agents=agents)
        evaluations[agents] = Evaluation(scenarios, config)
        results += _evaluate(evaluations[agents])
    conditions = {"path": DEMO_SCENES, "seeds": [0], **environment_info()}
    summary = {"num_scenes": len(scenarios), "results": results, "conditions": conditions}
    write_json(out / "summary.json", summary)
    written = [out / "summary.json", *_draw_scenes(out, evaluations[DRAWN_AGENTS])]
    console.print(comparison_table(results))
    console.print("wrote", *written, sep="\n  ")
    console.print(f"open {written[-1]} in a browser to explore the rollouts", soft_wrap=True)


def _evaluate(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One result per policy, with means over scenes."""
    rows = {policy: [] for policy in evaluation.config.policies}
    for result in itertools.chain.from_iterable(evaluation.results(range(len(evaluation.scenarios)))):
        assert isinstance(result, SceneResult), result  # synthetic scenes are valid
        rows[result.run[0]].append({"index": result.index} | result.values)
    config, about = evaluation.config, {"agents": evaluation.config.agents, "traffic": LOG_REPLAY}
    return [
        {"policy": name, "privileged": policy.privileged, "observes_goals": observes_goals(policy)}
        | about
        | summarize_rows(rows[name], config.columns)
        for name, policy in config.policies.items()
    ]


def _draw_scenes(out: Path, evaluation: Evaluation) -> list[Path]:
    """Images of all scenes, and of one an animation and, last, a page that compares the policies."""
    written, page, runs = [], [], evaluation.config.runs
    for index in range(len(evaluation.scenarios)):
        scenario, traces = evaluation.traces(index, runs if index == ANIMATED_INDEX else runs[:1])
        path, agents = out / scenario.scenario_id, traces[0].agents
        assert agents is not None  # recorded by default
        controlled = np.asarray(select(scenario.agents, DRAWN_AGENTS))
        flags = _event_flags(traces[0], controlled)
        num_overlaps = flags["overlap"].sum(axis=-1)
        row = int(num_overlaps.argmax()) if num_overlaps.any() else len(num_overlaps) - 1
        image = draw(
            scenario,
            tree_index(agents, row),
            step=int(traces[0].step[row]),
            past=tree_index(agents, slice(row - PAST_STEPS_DRAWN, row)),
            controlled=controlled,
            flags=tree_index(flags, row),
            title=f"{scenario.scenario_id}: {runs[0][0]} controls every {DRAWN_AGENTS}, step {row + 1} of the rollout",
        )
        written.append(path.with_suffix(".png"))
        image.savefig(written[-1])
        if index == ANIMATED_INDEX:
            options = {"steps": traces[0].step[FRAMES], "flags": tree_index(flags, FRAMES), "controlled": controlled}
            animation = path.with_suffix(".gif")
            written.append(animate(scenario, tree_index(agents, FRAMES), animation, fps=FRAMES_PER_SECOND, **options))
            names = [f"{policy} controls every {DRAWN_AGENTS}" for policy, _, _ in runs]
            drivers = {name: run[:2] for name, run in zip(names, runs, strict=True)}
            comparison = viewer(scenario, dict(zip(names, traces, strict=True)), drivers)
            page.append(comparison.save(path.with_suffix(".html")))
    return written + page


def _event_flags(trace: Trace, controlled: Bool[np.ndarray, " N"]) -> dict[str, Bool[np.ndarray, "T N"]]:
    """Controlled agents that overlap another one or have left the road, per step; not those that start off the road."""
    assert trace.metrics is not None  # recorded by default
    overlap, offroad = (np.asarray(trace.metrics[name].value) > 0 for name in ("overlap", "road_departure"))
    # Agents may appear later.
    first = np.asarray(trace.metrics["road_departure"].valid).argmax(axis=0)
    starts_offroad = np.take_along_axis(offroad, first[np.newaxis], axis=0)
    return {"overlap": overlap & controlled, "offroad": offroad & ~starts_offroad & controlled}
