"""A scene and its rollouts as a small text for the viewer: whole numbers, their differences, JSON, zlib, base64."""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Num

from waymax_sim.datatypes.agents import AGENT_TYPE_NAMES, AgentState
from waymax_sim.datatypes.roadmap import FAR, RoadMap
from waymax_sim.datatypes.route import Routes
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.signals import SIGNAL_STATE_NAMES, Signals
from waymax_sim.datatypes.state import LOG
from waymax_sim.env import Trace
from waymax_sim.metrics import METRICS, MetricValue
from waymax_sim.pytree import take
from waymax_sim.viz.levels import by_level
from waymax_sim.viz.road import cut

# What the numbers of a track are multiples of: m, rad and m/s. Places on the map are multiples of PLACE, m.
UNITS = {"x": 0.01, "y": 0.01, "z": 0.1, "yaw": 0.01, "vx": 0.1, "vy": 0.1}
PLACE = 0.01
# Lines of the map lose the points that they pass within this distance (m).
TOLERANCE = 0.03
# A metric is stored in so many steps between zero and its largest value.
METRIC_STEPS = 1000


def encode(record: dict[str, Any]) -> str:
    """JSON, compressed, as base64."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")


def pack(scenario: Scenario, traces: Mapping[str, Trace]) -> dict[str, Any]:
    """All that the viewer shows, as a record for JSON.

    Numbers are whole multiples of a unit, and a list of them holds the first and then the differences. A list named
    `valid` holds the steps at which validity changes; at first nothing is valid. Padding is left out.

    Args:
      scenario: One scene in NumPy arrays.
      traces: Rollouts of it by name, with agents.
    """
    rows = np.flatnonzero(scenario.agents.exists)
    info = take(scenario.agents, rows)
    log = _tracks(take(scenario.log, (slice(None), rows)))
    metrics = _metrics(traces)
    return {
        "id": scenario.scenario_id,
        "units": UNITS | {"place": PLACE},
        "times": np.round(scenario.timestamps.astype(float), 3).tolist(),
        "now": int(scenario.current_step),
        "origin": scenario.origin.tolist(),
        "map": _map(scenario.roadmap),
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
        "rollouts": [_rollout(name, trace, scenario, log, metrics) for name, trace in traces.items()],
    }


def simplify(points: Float[np.ndarray, "P 2"], tolerance: float) -> Float[np.ndarray, "Q 2"]:
    """Leaves out points that the line passes within `tolerance` without them (Douglas and Peucker 1973)."""
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    left = [(0, len(points) - 1)]
    while left:
        first, last = left.pop()
        if last - first < 2:
            continue
        chord, inner = points[last] - points[first], points[first + 1 : last] - points[first]
        along = np.clip(inner @ chord / max(chord @ chord, 1e-12), 0.0, 1.0)
        off = np.linalg.norm(inner - along[:, None] * chord, axis=-1)
        worst = first + 1 + int(off.argmax())
        if off[worst - first - 1] > tolerance:
            keep[worst] = True
            left += [(first, worst), (worst, last)]
    return points[keep]


def _differences(values: np.ndarray, unit: float) -> list[int]:
    return np.diff(np.rint(values.astype(float) / unit).astype(np.int64), prepend=0).tolist()


def _changes(valid: Bool[np.ndarray, " T"]) -> list[int]:
    return np.flatnonzero(np.diff(valid, prepend=False)).tolist()


def _held(values: Num[np.ndarray, "T N"], valid: Bool[np.ndarray, "T N"]) -> Num[np.ndarray, "T N"]:
    """Values that stay as they were while they are not valid, so that their differences are zero."""
    values = np.where(valid, values, 0)
    steps = np.arange(len(valid))[:, None]
    latest = np.maximum.accumulate(np.where(valid, steps, -1), axis=0)
    return np.take_along_axis(values, np.where(latest < 0, valid.argmax(axis=0), latest), axis=0)


def _tracks(states: AgentState) -> list[dict[str, list[int]]]:
    """The states [T, N] of each agent. Headings go on beyond half a turn, so that they can be interpolated.

    A diverged simulation may hold states that are not finite or that lie beyond all maps: nothing is there.
    """
    values = np.concatenate([states.xyz, states.yaw[..., None], states.velocity], axis=-1)
    valid = states.valid & np.all(np.abs(values) < FAR, axis=-1)
    held = {name: _held(values[..., index], valid) for index, name in enumerate(UNITS)}
    held["yaw"] = np.unwrap(held["yaw"], axis=0)
    return [
        {"valid": _changes(valid[:, agent])}
        | {name: _differences(values[:, agent], UNITS[name]) for name, values in held.items()}
        for agent in range(valid.shape[1])
    ]


def _line(points: np.ndarray) -> list[list[int]]:
    return [_differences(column, PLACE) for column in simplify(points[:, :2].astype(float), TOLERANCE).T]


def _map(roadmap: RoadMap) -> list[dict[str, Any]]:
    """Lines of one type and level of height each, lowest first."""
    pieces = cut(roadmap)
    return [
        {"level": level, "type": int(kind), "lines": [_line(line) for line in pieces.lines(of_kind)]}
        for level, rows in by_level(pieces.height)
        for kind in np.unique(pieces.type[rows])
        if len(of_kind := rows[pieces.type[rows] == kind])
    ]


def _routes(routes: Routes) -> list[dict[str, Any]]:
    return [
        {"on_route": bool(on_route), "line": _line(xyz[valid])}
        for xyz, valid, on_route in zip(routes.xyz, routes.valid, routes.on_route, strict=True)
        if valid.any()
    ]


def _lights(signals: Signals) -> list[dict[str, Any]]:
    places = [_held(signals.stop_point[..., axis], signals.valid) for axis in range(2)]
    return [
        {
            "lane": int(signals.lane_id[light]),
            "valid": _changes(signals.valid[:, light]),
            "state": _differences(_held(signals.state, signals.valid)[:, light], 1.0),
            "x": _differences(places[0][:, light], PLACE),
            "y": _differences(places[1][:, light], PLACE),
        }
        for light in np.flatnonzero(signals.valid.any(axis=0))
    ]


def _metrics(traces: Mapping[str, Trace]) -> list[dict[str, Any]]:
    """Metrics of all rollouts, in the order of `METRICS`. What is always 0 or 1, the less the better, has events."""
    found = []
    names = {name for trace in traces.values() for name in trace.metrics or {}}
    for name in [*(name for name in METRICS if name in names), *sorted(names - METRICS.keys())]:
        of_name = [trace.metrics[name] for trace in traces.values() if trace.metrics and name in trace.metrics]
        values = np.concatenate([np.asarray(item.value)[_defined(item)] for item in of_name]).astype(float)
        unit, better = (METRICS[name].unit, METRICS[name].better) if name in METRICS else ("1", "lower")
        has_events = (unit, better) == ("1", "lower") and bool(np.isin(values, (0.0, 1.0)).all())
        quantum = 1.0 if has_events else float(np.abs(values).max(initial=0.0)) / METRIC_STEPS or 1.0
        found.append({"name": name, "unit": "" if unit == "1" else unit, "events": has_events, "quantum": quantum})
    return found


def _defined(metric: MetricValue) -> np.ndarray:
    return np.asarray(metric.valid) & np.isfinite(metric.value)


def _rollout(
    name: str, trace: Trace, scenario: Scenario, log: list[dict[str, list[int]]], metrics: list[dict[str, Any]]
) -> dict[str, Any]:
    """One rollout. Agents that move as in the log have no track of their own; metrics are those of the others."""
    rows = np.flatnonzero(scenario.agents.exists)
    active = np.asarray(trace.active)
    steps = np.asarray(trace.step)[active]
    states = jax.tree.map(np.copy, scenario.log)
    for whole, simulated in zip(jax.tree.leaves(states), jax.tree.leaves(trace.agents), strict=True):
        whole[steps] = np.asarray(simulated)[active]
    tracks = _tracks(take(states, (slice(None), rows)))
    controller = np.asarray(trace.final.controller)[rows]
    judged = np.flatnonzero((controller != LOG) | scenario.agents.is_sdc[rows])

    def series(metric: dict[str, Any]) -> list[dict[str, Any]]:
        if not trace.metrics or metric["name"] not in trace.metrics:
            return []
        found = trace.metrics[metric["name"]]
        columns, agents = (rows[judged], judged.tolist()) if found.value.ndim == 2 else ([0], [None])
        values = np.zeros((len(states.valid), len(agents)))
        valid = np.zeros(values.shape, bool)
        values[steps] = np.asarray(found.value)[active].reshape(len(steps), -1)[:, columns]
        valid[steps] = _defined(found)[active].reshape(len(steps), -1)[:, columns]
        held = _held(values, valid)
        return [
            {"agent": agent, "valid": _changes(valid[:, i]), "value": _differences(held[:, i], metric["quantum"])}
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
