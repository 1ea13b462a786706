"""Viewers of the worst scenes of an evaluation, and the first events of their rollouts."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Trace
from waymax_sim.evaluation.evaluate import Evaluation, RunKey
from waymax_sim.evaluation.summary import worst_scenes
from waymax_sim.results_dir import Json

# Worst scenes in a report, and rollouts of each.
NUM_WORST_SCENES = 3
NUM_ROLLOUTS_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class SceneEvent:
    """The first event of a metric in a rollout.

    Attributes:
      run: Policy, traffic and seed.
      metric: Name of the metric.
      step: Step of the record.
      agent: Id of the agent; None for an event of the scene.
    """

    run: RunKey
    metric: str
    step: int
    agent: int | None


@dataclasses.dataclass(frozen=True)
class SceneViewer:
    """A scene to play in a report.

    Attributes:
      title: Scenario id.
      page: HTML of the viewer.
      index: Index of the scene in the rows; None for a scene without a row.
      events: Events that the table of scenes links to.
    """

    title: str
    page: str
    index: int | None = None
    events: Sequence[SceneEvent] = ()


def worst_viewers(
    evaluation: Evaluation, rows: Sequence[Json], num_scenes: int = NUM_WORST_SCENES
) -> list[SceneViewer]:
    """Viewers of the worst scenes, each with its worst rollouts side by side. The rollouts are simulated again.

    Args:
      evaluation: The evaluation.
      rows: Its rows.
      num_scenes: Number of scenes.
    """
    worst = worst_scenes(rows, evaluation.config.columns, num_scenes)
    return [
        scene_viewer(evaluation, index, [(row["policy"], row["traffic"], row["seed"]) for row in own])
        for index, own in ((index, own[:NUM_ROLLOUTS_SHOWN]) for index, own in worst)
    ]


def scene_viewer(evaluation: Evaluation, index: int, runs: Sequence[RunKey]) -> SceneViewer:
    """The viewer of a scene with the rollouts of an evaluation.

    Args:
      evaluation: The evaluation.
      index: Index of the scene.
      runs: Policy, traffic and seed of each rollout.
    """
    from waymax_sim.viz.html import viewer  # imports matplotlib

    scenario, traces = evaluation.traces(index, runs)
    names = [f"{policy} among {traffic}, seed {seed}" for policy, traffic, seed in runs]
    drivers = {name: run[:2] for name, run in zip(names, runs, strict=True)}
    page = viewer(scenario, dict(zip(names, traces, strict=True)), drivers).html
    events = tuple(first_events(scenario, dict(zip(runs, traces, strict=True))))
    return SceneViewer(scenario.scenario_id, page, index, events)


def first_events(scenario: Scenario, traces: Mapping[RunKey, Trace]) -> Iterator[SceneEvent]:
    """The first event of each metric in each rollout, of the agents that the page shows metrics of.

    Args:
      scenario: One scene in NumPy arrays.
      traces: Rollouts of it.
    """
    from waymax_sim.viz.packing import evaluated_rows, event_metrics, is_defined

    names = event_metrics(traces.values())
    for run, trace in traces.items():
        rows, active = evaluated_rows(scenario, trace), np.asarray(trace.active)
        for name, metric in (trace.metrics or {}).items():
            happens = is_defined(metric) & (np.asarray(metric.value) != 0)
            table = active[:, None] & (happens[:, rows] if happens.ndim == 2 else happens[:, None])
            for entry, column in np.argwhere(table)[: name in names].tolist():
                agent = int(scenario.agents.id[rows[column]]) if happens.ndim == 2 else None
                yield SceneEvent(run, name, int(trace.step[entry]), agent)
