"""Metrics of simulated states. `METRICS` has every metric by name."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from waymax_sim.metrics.clearance import clearance
from waymax_sim.metrics.comfort import COMFORT_WINDOW, comfort_violation
from waymax_sim.metrics.divergence import log_divergence
from waymax_sim.metrics.encroachment import MAX_ENCROACHMENT_TIME, post_encroachment_time
from waymax_sim.metrics.fault import (
    at_fault_collision,
    at_fault_object_collisions,
    at_fault_vehicle_collision,
    at_fault_vru_collision,
)
from waymax_sim.metrics.goal import goal_distance, goal_progress, goal_reached
from waymax_sim.metrics.kinematics import kinematic_infeasibility
from waymax_sim.metrics.margins import clearance_deficit, edge_deficit
from waymax_sim.metrics.metric import Metric, MetricValue, Snapshot, masked_value
from waymax_sim.metrics.nuplan import NUPLAN_METRICS, nuplan_score
from waymax_sim.metrics.offroad import offroad, offroad_outside_driveways, road_departure, road_edge_distance
from waymax_sim.metrics.overlap import overlap
from waymax_sim.metrics.progress import log_progress
from waymax_sim.metrics.route import off_route, route_progression
from waymax_sim.metrics.speeding import speeding, speeding_time
from waymax_sim.metrics.stop_lines import STOP_HISTORY, red_light_violation, stop_sign_violation
from waymax_sim.metrics.straddling import straddling
from waymax_sim.metrics.summary import summarize
from waymax_sim.metrics.time_to_collision import time_to_collision
from waymax_sim.metrics.wrong_way import wrong_way, wrong_way_distance

__all__ = [
    "METRICS",
    "NUPLAN_METRICS",
    "Metric",
    "MetricValue",
    "Snapshot",
    "compute_metrics",
    "nuplan_score",
    "resolve",
    "summarize",
]

_ALL = (
    Metric("overlap", overlap, per="agent", unit="1", over_time="max"),
    Metric("offroad", offroad, per="agent", unit="1", over_time="max"),
    Metric("offroad_outside_driveways", offroad_outside_driveways, per="agent", unit="1", over_time="max"),
    Metric("road_departure", road_departure, per="agent", unit="1", over_time="onset"),
    Metric("road_edge_distance", road_edge_distance, per="agent", unit="m", over_time="max", over_agents="max"),
    Metric("log_divergence", log_divergence, per="agent", unit="m", over_time="mean"),
    Metric("kinematic_infeasibility", kinematic_infeasibility, per="agent", unit="1", over_time="mean"),
    Metric("wrong_way", wrong_way, per="agent", unit="1", over_time="max"),
    Metric("off_route", off_route, per="scene", unit="m", over_time="max"),
    Metric("route_progression", route_progression, per="scene", unit="1", over_time="last", better="higher"),
    Metric("time_to_collision", time_to_collision, per="agent", unit="s", over_time="min", better="higher"),
    Metric(
        "post_encroachment_time",
        post_encroachment_time,
        per="agent",
        unit="s",
        over_time="min",
        better="higher",
        duration=MAX_ENCROACHMENT_TIME,
    ),
    Metric("clearance", clearance, per="agent", unit="m", over_time="min", better="higher"),
    Metric("clearance_deficit", clearance_deficit, per="agent", unit="m", over_time="mean"),
    Metric("edge_deficit", edge_deficit, per="agent", unit="m", over_time="mean"),
    Metric("at_fault_collision", at_fault_collision, per="agent", unit="1", over_time="max"),
    Metric("at_fault_vru_collision", at_fault_vru_collision, per="agent", unit="1", over_time="max"),
    Metric("at_fault_vehicle_collision", at_fault_vehicle_collision, per="agent", unit="1", over_time="max"),
    Metric("at_fault_object_collisions", at_fault_object_collisions, per="agent", unit="1", over_time="sum"),
    Metric("red_light_violation", red_light_violation, per="agent", unit="1", over_time="max"),
    Metric("stop_sign_violation", stop_sign_violation, per="agent", unit="1", over_time="max", duration=STOP_HISTORY),
    Metric("speeding", speeding, per="agent", unit="m/s", over_time="max"),
    Metric("speeding_time", speeding_time, per="agent", unit="s", over_time="sum"),
    Metric("wrong_way_distance", wrong_way_distance, per="agent", unit="m", over_time="sum"),
    Metric("straddling", straddling, per="agent", unit="1", over_time="mean"),
    Metric("comfort_violation", comfort_violation, per="agent", unit="1", over_time="max", duration=COMFORT_WINDOW),
    Metric("log_progress", log_progress, per="agent", unit="1", over_time="sum", better="higher"),
    Metric("goal_distance", goal_distance, per="agent", unit="m", over_time="last"),
    Metric("goal_progress", goal_progress, per="agent", unit="m", over_time="sum", better="higher"),
    Metric("goal_reached", goal_reached, per="agent", unit="1", over_time="max", better="higher"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def resolve(metrics: Iterable[str | Metric]) -> dict[str, Metric]:
    """Metrics by name, from names of `METRICS` and custom metrics.

    Raises:
      ValueError: A name is unknown or used twice.
    """
    resolved: dict[str, Metric] = {}
    for item in metrics:
        if isinstance(item, str) and item not in METRICS:
            raise ValueError(f"unknown metric {item!r}; known are {', '.join(METRICS)}")
        metric = METRICS[item] if isinstance(item, str) else item
        if metric.name in resolved:
            raise ValueError(f"metric {metric.name!r} is given twice")
        resolved[metric.name] = metric
    return resolved


def compute_metrics(snapshot: Snapshot, metrics: Mapping[str, Metric]) -> dict[str, MetricValue]:
    """Computes the metrics of one step.

    Values per agent are [N]; those of agents that are not evaluated are not valid. No value is valid in a step with a
    valid agent whose state is not finite.
    """
    usable = snapshot.is_finite
    values = {name: metric.compute(snapshot) for name, metric in metrics.items()}
    values = {name: masked_value(value.value, value.valid & usable) for name, value in values.items()}
    if snapshot.rows is None:
        return values

    rows = jnp.where(snapshot.rows >= 0, snapshot.rows, snapshot.agents.valid.shape[0])

    def scatter(value: MetricValue) -> MetricValue:
        empty = jax.tree.map(lambda leaf: jnp.zeros(snapshot.agents.valid.shape, leaf.dtype), value)
        # The rows of padding (-1) are N, which is out of bounds and dropped.
        return jax.tree.map(lambda all_, own: all_.at[rows].set(own, mode="drop"), empty, value)

    return {name: scatter(values[name]) if metric.per == "agent" else values[name] for name, metric in metrics.items()}
