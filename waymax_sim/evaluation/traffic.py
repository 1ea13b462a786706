"""Aggregate behavior of the vehicles of a scene."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from waymax_sim import geometry
from waymax_sim.datatypes.agents import VEHICLE, forward_speed
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import LOG
from waymax_sim.env import Assignment, Env, EnvConfig, Policies, rollout
from waymax_sim.env.policy import observed_history_steps
from waymax_sim.evaluation.evaluate import required_goals
from waymax_sim.pytree import Array, pytree, tree_index

# Largest distance that a parked vehicle moves during an episode, m.
MAX_PARKED_TRAVEL = 0.5


@pytree
class TrafficReport:
    """Rates and extremes over the vehicles that are valid at the current step.

    Attributes:
      vehicles: Number of vehicles.
      reactive: Share of all agents, valid at the current step, that a policy controls instead of the log.
      collided: Share of the vehicles that ever overlap another agent, of those that do not at the start.
      offroad: Share of the vehicles that ever leave the road, of those that start on it.
      red_lights: Number of red light violations (metric `red_light_violation`).
      distance: Mean distance driven, m.
      strongest_braking: m/s^2.
      strongest_acceleration: m/s^2.
      parked_moved: Number of vehicles that are parked in the log and come to be more than 1 m from their position.
      invalid_actions: Number of agents with an action that was not finite; such a report is not one of the policy.
    """

    vehicles: Float[Array, ""]
    reactive: Float[Array, ""]
    collided: Float[Array, ""]
    offroad: Float[Array, ""]
    red_lights: Float[Array, ""]
    distance: Float[Array, ""]
    strongest_braking: Float[Array, ""]
    strongest_acceleration: Float[Array, ""]
    parked_moved: Float[Array, ""]
    invalid_actions: Float[Array, ""]


def traffic_report(policies: Policies, scenario: Scenario, key: Key[Array, ""], num_steps: int) -> TrafficReport:
    """Simulates one scene from its current step and evaluates its vehicles. Pure.

    Agents that are logged later do not spawn, since others may occupy their position by then. So all policies are
    evaluated on the same agents, which stay until the end.

    Args:
      policies: An assignment, or pairs of a policy and its agents, as for `rollout`. The others replay the log.
      scenario: One scene.
      key: Random key.
      num_steps: Steps to simulate.
    """
    members = Assignment.from_policies(policies).policies
    config = EnvConfig(
        controlled="none",
        metrics=("overlap", "offroad", "red_light_violation"),
        rewards=(),
        spawn="never",
        goals=required_goals(members),
        num_history_steps=observed_history_steps(members),
    )
    env = Env(config=config)
    trace = rollout(env, policies, scenario, key, num_steps, record=("agents", "metrics", "invalid_action"))
    recorded, metrics = trace.agents, trace.metrics
    assert recorded is not None and metrics is not None and trace.invalid_action is not None  # as `record` names them
    now = tree_index(scenario.log, scenario.current_step)
    agents = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), now, recorded)
    vehicles = now.valid & (scenario.agents.type == VEHICLE)
    start = env.evaluate_state(scenario, env.initial_state(scenario, key), has_advanced=jnp.asarray(False)).metrics

    def onset_rate(name: str) -> Float[Array, ""]:
        is_clear = vehicles & (start[name].value == 0)
        happens = jnp.any((metrics[name].value > 0) & metrics[name].valid, axis=0)
        return _share(happens, is_clear)

    red = metrics["red_light_violation"]
    is_controlled = trace.final.controller != LOG
    speed = forward_speed(agents)
    is_step = agents.valid[1:] & agents.valid[:-1]
    acceleration = jnp.where(is_step & vehicles[None], jnp.diff(speed, axis=0) / scenario.time_step, 0.0)
    moved = geometry.norm(jnp.diff(agents.xyz[..., :2], axis=0))
    distance = jnp.sum(jnp.where(is_step, moved, 0.0), axis=0)
    last = scenario.current_step + num_steps
    log_mask = scenario.log.valid & (jnp.arange(scenario.num_steps) <= last)[:, None]
    log_travel = jnp.where(log_mask, geometry.norm(scenario.log.xyz[..., :2] - now.xyz[None, :, :2]), 0.0)
    travel = jnp.where(recorded.valid, geometry.norm(recorded.xyz[..., :2] - now.xyz[None, :, :2]), 0.0)
    is_parked = vehicles & (jnp.max(log_travel, axis=0) < MAX_PARKED_TRAVEL)
    return TrafficReport(
        vehicles=_count(vehicles),
        reactive=_share(is_controlled, now.valid),
        collided=onset_rate("overlap"),
        offroad=onset_rate("offroad"),
        red_lights=jnp.sum(jnp.where(red.valid & vehicles[None], red.value, 0.0)),
        distance=jnp.sum(jnp.where(vehicles, distance, 0.0)) / jnp.maximum(_count(vehicles), 1.0),
        strongest_braking=-jnp.min(acceleration),
        strongest_acceleration=jnp.max(acceleration),
        parked_moved=_count(is_parked & (jnp.max(travel, axis=0) > 2 * MAX_PARKED_TRAVEL)),
        invalid_actions=_count(jnp.any(trace.invalid_action, axis=0)),
    )


def _count(mask: Bool[Array, " N"]) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)


def _share(mask: Bool[Array, " N"], population: Bool[Array, " N"]) -> Float[Array, ""]:
    return _count(mask & population) / jnp.maximum(_count(population), 1.0)


def summarize_reports(reports: list[TrafficReport]) -> dict[str, float]:
    """Sums of counts, extremes of accelerations, and means weighted by the number of vehicles."""
    counts, extremes = (
        ("vehicles", "red_lights", "parked_moved", "invalid_actions"),
        ("strongest_braking", "strongest_acceleration"),
    )
    total = sum(float(report.vehicles) for report in reports)
    summary = {}
    for field in dataclasses.fields(TrafficReport):
        values = [float(getattr(report, field.name)) for report in reports]
        if field.name in counts:
            summary[field.name] = sum(values)
        elif field.name in extremes:
            summary[field.name] = max(values)
        else:
            weighted = [value * float(report.vehicles) for value, report in zip(values, reports, strict=True)]
            summary[field.name] = sum(weighted) / max(total, 1.0)
    return summary
