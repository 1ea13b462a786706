"""Viewers of the worst scenes of an evaluation, and the first events of their rollouts."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Trace
from waymax_sim.env.events import evaluated_rows, event_metrics, is_defined
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


class ViewerPage(Protocol):
    """A page of the viewer."""

    @property
    def html(self) -> str:
        """The whole page."""
        ...


MakePage = Callable[[Scenario, Mapping[str, Trace], Mapping[str, Sequence[str]]], ViewerPage]


def worst_viewers(
    evaluation: Evaluation, rows: Sequence[Json], make_page: MakePage, num_scenes: int = NUM_WORST_SCENES
) -> list[SceneViewer]:
    """Viewers of the worst scenes, each with its worst rollouts side by side. The rollouts are simulated again.

    Args:
      evaluation: The evaluation.
      rows: Its rows.
      make_page: `waymax_sim.viz.viewer`.
      num_scenes: Number of scenes.
    """
    worst = worst_scenes(rows, evaluation.config.columns, num_scenes)
    return [
        scene_viewer(evaluation, index, [(row["policy"], row["traffic"], row["seed"]) for row in own], make_page)
        for index, own in ((index, own[:NUM_ROLLOUTS_SHOWN]) for index, own in worst)
    ]


def scene_viewer(evaluation: Evaluation, index: int, runs: Sequence[RunKey], make_page: MakePage) -> SceneViewer:
    """The viewer of a scene with the rollouts of an evaluation.

    Args:
      evaluation: The evaluation.
      index: Index of the scene.
      runs: Policy, traffic and seed of each rollout.
      make_page: `waymax_sim.viz.viewer`.
    """
    scenario, traces = evaluation.traces(index, runs)
    names = [_run_text(run, evaluation) for run in runs]
    drivers = {name: run[:2] for name, run in zip(names, runs, strict=True)}
    page = make_page(scenario, dict(zip(names, traces, strict=True)), drivers).html
    events = tuple(first_events(scenario, dict(zip(runs, traces, strict=True))))
    return SceneViewer(scenario.scenario_id, page, index, events)


def _run_text(run: RunKey, evaluation: Evaluation) -> str:
    """The policy of a run; its traffic and its seed where the evaluation has several."""
    policy, traffic, seed = run
    among = f" among {traffic}" if len(evaluation.config.traffic) > 1 else ""
    return policy + among + (f", seed {seed}" if len(evaluation.config.seeds) > 1 else "")


def first_events(scenario: Scenario, traces: Mapping[RunKey, Trace]) -> Iterator[SceneEvent]:
    """The first event of each metric in each rollout, of the agents whose metrics a page shows.

    Args:
      scenario: One scene in NumPy arrays.
      traces: Rollouts of it.
    """
    names = event_metrics(traces.values())
    for run, trace in traces.items():
        rows, active = evaluated_rows(scenario, trace), np.asarray(trace.active)
        for name, metric in (trace.metrics or {}).items():
            happens = is_defined(metric) & (np.asarray(metric.value) != 0)
            table = active[:, None] & (happens[:, rows] if happens.ndim == 2 else happens[:, None])
            for entry, column in np.argwhere(table)[: name in names].tolist():
                agent = int(scenario.agents.id[rows[column]]) if happens.ndim == 2 else None
                yield SceneEvent(run, name, int(trace.step[entry]), agent)
