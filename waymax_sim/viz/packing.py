"""Compact text encoding of a scene and its rollouts for the viewer: quantization, differences, JSON, zlib, base64."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Num

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, AgentState
from waymax_sim.datatypes.roadmap import LANE_TYPES, PADDING_COORDINATE, RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES, Signals
from waymax_sim.env import Trace
from waymax_sim.env.events import evaluated_rows, event_metrics, is_defined, metric_values
from waymax_sim.metrics import METRICS
from waymax_sim.pytree import tree_index
from waymax_sim.viz.levels import LEVEL_HEIGHT, group_by_level
from waymax_sim.viz.road import split_features

# Quantization steps of tracks: m, rad and m/s.
STATE_UNITS = {"x": 0.01, "y": 0.01, "z": 0.1, "yaw": 0.01, "vx": 0.1, "vy": 0.1}
# Quantization step of map positions, m.
POSITION_UNIT = 0.01
# Largest distance of a map point to its simplified line, m.
SIMPLIFY_TOLERANCE = 0.03
# Quantization steps of a metric between zero and its largest value.
NUM_METRIC_LEVELS = 1000


def encode(record: dict[str, Any]) -> str:
    """JSON, compressed, as base64."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")


def pack(
    scenario: Scenario, traces: Mapping[str, Trace], drivers: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """The data of a page as a record for JSON.

    Numbers are integer multiples of a unit; a list of them holds the first number and then the differences. A list
    named `valid` holds the steps at which validity changes, starting from invalid. Padding is left out.

    Args:
      scenario: One scene in NumPy arrays.
      traces: Rollouts of it by name, with agents.
      drivers: Names of the policies of a rollout, in the order of its assignment; see `viewer`.
    """
    rows = np.flatnonzero(scenario.agents.exists)
    info = tree_index(scenario.agents, rows)
    log = _tracks(tree_index(scenario.log, (slice(None), rows)))
    metrics = _metrics(traces)
    return {
        "id": scenario.scenario_id,
        "units": STATE_UNITS | {"position": POSITION_UNIT},
        "times": np.round(scenario.timestamps.astype(float), 3).tolist(),
        "now": int(scenario.current_step),
        "origin": scenario.origin.tolist(),
        "map": _map(scenario.roadmap),
        "level_height": LEVEL_HEIGHT,
        "routes": [] if scenario.routes is None else _routes(scenario.routes),
        "light_states": SIGNAL_STATE_NAMES,
        "lights": _lights(scenario.signals),
        "agents": [
            {
                "row": int(row),
                "id": int(info.id[index]),
                "type": AGENT_TYPE_NAMES[info.type[index]],
                "size": np.round(info.size[index].astype(float), 2).tolist(),
                "sdc": bool(info.is_sdc[index]),
            }
            for index, row in enumerate(rows)
        ],
        "log": log,
        "metrics": metrics,
        "rollouts": [
            _rollout(name, trace, scenario, log, metrics) | {"drivers": list((drivers or {}).get(name, [name]))}
            for name, trace in traces.items()
        ],
    }


def simplify(points: Float[np.ndarray, "P 2"], tolerance: float) -> Float[np.ndarray, "Q 2"]:
    """Polyline simplification (Douglas and Peucker 1973): no point is farther than `tolerance` from the result, m."""
    is_needed = np.zeros(len(points), bool)
    is_needed[[0, -1]] = True
    pending = [(0, len(points) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        chord, inner = points[last] - points[first], points[first + 1 : last] - points[first]
        fraction = np.clip(inner @ chord / max(chord @ chord, 1e-12), 0.0, 1.0)
        distance = np.linalg.norm(inner - fraction[:, None] * chord, axis=-1)
        farthest = first + 1 + int(distance.argmax())
        if distance[farthest - first - 1] > tolerance:
            is_needed[farthest] = True
            pending += [(first, farthest), (farthest, last)]
    return points[is_needed]


def _differences(values: np.ndarray, unit: float) -> list[int]:
    return np.diff(np.rint(values.astype(float) / unit).astype(np.int64), prepend=0).tolist()


def _change_steps(valid: Bool[np.ndarray, " T"]) -> list[int]:
    return np.flatnonzero(np.diff(valid, prepend=False)).tolist()


def _hold_last_valid(values: Num[np.ndarray, "T N"], valid: Bool[np.ndarray, "T N"]) -> Num[np.ndarray, "T N"]:
    """Replaces invalid values by the last valid one, so that their differences are zero."""
    values = np.where(valid, values, 0)
    steps = np.arange(len(valid))[:, None]
    latest = np.maximum.accumulate(np.where(valid, steps, -1), axis=0)
    return np.take_along_axis(values, np.where(latest < 0, valid.argmax(axis=0), latest), axis=0)


def _tracks(states: AgentState) -> list[dict[str, list[int]]]:
    """The states [T, N] of each agent. Headings are unwrapped, so that they can be interpolated.

    States of a diverged simulation that are not finite or far outside of all maps are not valid.
    """
    values = np.concatenate([states.xyz, states.yaw[..., None], states.velocity], axis=-1)
    valid = states.valid & np.all(np.abs(values) < PADDING_COORDINATE, axis=-1)
    columns = {name: _hold_last_valid(values[..., index], valid) for index, name in enumerate(STATE_UNITS)}
    columns["yaw"] = np.unwrap(columns["yaw"], axis=0)
    return [
        {"valid": _change_steps(valid[:, agent])}
        | {name: _differences(values[:, agent], STATE_UNITS[name]) for name, values in columns.items()}
        for agent in range(valid.shape[1])
    ]


def _line(points: np.ndarray) -> list[list[int]]:
    simplified = simplify(points[:, :2].astype(float), SIMPLIFY_TOLERANCE)
    return [_differences(column, POSITION_UNIT) for column in simplified.T]


def _map(roadmap: RoadMap) -> list[dict[str, Any]]:
    """Lines grouped by level of height and feature type, lowest level first; lanes have ids and speed limits."""
    pieces = split_features(roadmap)

    def facts(kind: np.integer, rows: np.ndarray) -> dict[str, Any]:
        feature = pieces.feature[rows]
        limits = np.round(roadmap.speed_limit[feature].astype(float), 1).tolist()
        return {"id": roadmap.feature_id[feature].tolist(), "limit": limits} if kind in LANE_TYPES else {}

    return [
        {"level": level, "type": int(kind), "lines": [_line(line) for line in pieces.lines(same_type)]}
        | facts(kind, same_type)
        for level, rows in group_by_level(pieces.height)
        for kind in np.unique(pieces.type[rows])
        if len(same_type := rows[pieces.type[rows] == kind])
    ]


def _routes(routes: Routes) -> list[dict[str, Any]]:
    return [
        {"on_route": bool(on_route), "line": _line(xyz[valid])}
        for xyz, valid, on_route in zip(routes.xyz, routes.valid, routes.on_route, strict=True)
        if valid.any()
    ]


def _lights(signals: Signals) -> list[dict[str, Any]]:
    position = [_hold_last_valid(signals.stop_point[..., axis], signals.valid) for axis in range(2)]
    return [
        {
            "lane": int(signals.lane_id[light]),
            "valid": _change_steps(signals.valid[:, light]),
            "state": _differences(_hold_last_valid(signals.state, signals.valid)[:, light], 1.0),
            "x": _differences(position[0][:, light], POSITION_UNIT),
            "y": _differences(position[1][:, light], POSITION_UNIT),
        }
        for light in np.flatnonzero(signals.valid.any(axis=0))
    ]


def _metrics(traces: Mapping[str, Trace]) -> list[dict[str, Any]]:
    """Metrics of all rollouts, in the order of `METRICS`."""
    descriptions, with_events = [], event_metrics(traces.values())
    for name, values in metric_values(traces.values()).items():
        unit = METRICS[name].unit if name in METRICS else "1"
        largest = float(np.abs(values).max(initial=0.0))
        quantum = 1.0 if name in with_events else largest / NUM_METRIC_LEVELS or 1.0
        unit_text = "" if unit == "1" else unit
        descriptions.append({"name": name, "unit": unit_text, "events": name in with_events, "quantum": quantum})
    return descriptions


def _rollout(
    name: str, trace: Trace, scenario: Scenario, log: list[dict[str, list[int]]], metrics: list[dict[str, Any]]
) -> dict[str, Any]:
    """One rollout. Agents that move as in the log have no separate track; metrics are those of controlled agents."""
    rows = np.flatnonzero(scenario.agents.exists)
    active = np.asarray(trace.active)
    steps = np.asarray(trace.step)[active]
    states = jax.tree.map(np.copy, scenario.log)
    for whole, simulated in zip(jax.tree.leaves(states), jax.tree.leaves(trace.agents), strict=True):
        whole[steps] = np.asarray(simulated)[active]
    tracks = _tracks(tree_index(states, (slice(None), rows)))
    controller = np.asarray(trace.final.controller)[rows]
    evaluated = np.searchsorted(rows, evaluated_rows(scenario, trace))

    def series(metric: dict[str, Any]) -> list[dict[str, Any]]:
        if not trace.metrics or metric["name"] not in trace.metrics:
            return []
        recorded = trace.metrics[metric["name"]]
        columns, agents = (rows[evaluated], evaluated.tolist()) if recorded.value.ndim == 2 else ([0], [None])
        values = np.zeros((len(states.valid), len(agents)))
        valid = np.zeros(values.shape, bool)
        values[steps] = np.asarray(recorded.value)[active].reshape(len(steps), -1)[:, columns]
        valid[steps] = is_defined(recorded)[active].reshape(len(steps), -1)[:, columns]
        held = _hold_last_valid(values, valid)
        return [
            {"agent": agent, "valid": _change_steps(valid[:, i]), "value": _differences(held[:, i], metric["quantum"])}
            for i, agent in enumerate(agents)
        ]

    return {
        "name": name,
        "first": int(steps[0]),
        "last": int(steps[-1]),
        "controller": controller.tolist(),
        "tracks": {agent: track for agent, track in enumerate(tracks) if track != log[agent]},
        "metrics": [series(metric) for metric in metrics],
    }
