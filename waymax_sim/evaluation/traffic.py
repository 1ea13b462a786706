"""How traffic behaves as a whole: rates over all the vehicles that are driven, in one scene."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from waymax_sim import geometry
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import LOG
from waymax_sim.env import Env, EnvConfig, Policies, rollout
from waymax_sim.pytree import Array, pytree, take

# Who moves less during the episode is parked (m).
PARKED = 0.5


@pytree
class TrafficReport:
    """What happened to the vehicles that were there at the current step.

    Attributes:
      vehicles: How many there were.
      reactive: Part of all agents, there at the current step, that a policy drives and not the log.
      collided: Part of the vehicles that ever shared space with another agent, those left out that did from the start.
      offroad: Part of the vehicles that ever left the road, those left out that were off it from the start.
      red_lights: How often a vehicle passed a stop line at red (see the metric `red_light_violation`).
      distance: Mean distance driven, m.
      strongest_braking: m/s^2.
      strongest_acceleration: m/s^2.
      parked_moved: How many vehicles that stand in the whole log came to be more than 1 m from there.
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


def traffic_report(policies: Policies, scenario: Scenario, key: Key[Array, ""], num_steps: int) -> TrafficReport:
    """Simulates one scene from its current step and counts what its vehicles do. Pure.

    Agents that appear later are left out: they would appear where others are by now. So all policies are asked of the
    same agents, which stay till the end.

    Args:
      policies: An assignment, or pairs of a policy and its agents, as for `rollout`. The log drives the rest.
      scenario: One scene.
      key: Random key.
      num_steps: Steps to simulate.
    """
    config = EnvConfig(
        controlled="none", metrics=("overlap", "offroad", "red_light_violation"), rewards=(), spawn="never"
    )
    env = Env(config=config)
    trace = rollout(env, policies, scenario, key, num_steps)
    recorded, metrics = trace.agents, trace.metrics
    assert recorded is not None and metrics is not None  # as by default
    now = take(scenario.log, scenario.current_step)
    agents = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), now, recorded)
    vehicles = now.valid & (scenario.agents.type == VEHICLE)
    start = env.evaluate_state(scenario, env.initial_state(scenario, key), has_advanced=jnp.asarray(False)).metrics

    def ever(name: str) -> Float[Array, ""]:
        counted = vehicles & (start[name].value == 0)
        happened = jnp.any((metrics[name].value > 0) & metrics[name].valid, axis=0)
        return _part(happened, counted)

    red = metrics["red_light_violation"]
    driven = trace.final.controller != LOG
    speed = geometry.dot(agents.velocity, geometry.heading(agents.yaw))
    both = agents.valid[1:] & agents.valid[:-1]
    acceleration = jnp.where(both & vehicles[None], jnp.diff(speed, axis=0) / config.dt, 0.0)
    moved = geometry.norm(jnp.diff(agents.xyz[..., :2], axis=0))
    distance = jnp.sum(jnp.where(both, moved, 0.0), axis=0)
    last = scenario.current_step + num_steps
    so_far = jnp.arange(scenario.num_steps) <= last
    away = geometry.norm(scenario.log.xyz[..., :2] - now.xyz[None, :, :2])
    strayed = jnp.max(
        jnp.where(recorded.valid, geometry.norm(recorded.xyz[..., :2] - now.xyz[None, :, :2]), 0.0), axis=0
    )
    stands = vehicles & (jnp.max(jnp.where(scenario.log.valid & so_far[:, None], away, 0.0), axis=0) < PARKED)
    return TrafficReport(
        vehicles=_count(vehicles),
        reactive=_part(driven, now.valid),
        collided=ever("overlap"),
        offroad=ever("offroad"),
        red_lights=jnp.sum(jnp.where(red.valid & vehicles[None], red.value, 0.0)),
        distance=jnp.sum(jnp.where(vehicles, distance, 0.0)) / jnp.maximum(_count(vehicles), 1.0),
        strongest_braking=-jnp.min(acceleration),
        strongest_acceleration=jnp.max(acceleration),
        parked_moved=_count(stands & (strayed > 2 * PARKED)),
    )


def _count(mask: Bool[Array, " N"]) -> Float[Array, ""]:
    return jnp.sum(mask, dtype=jnp.float32)


def _part(mask: Bool[Array, " N"], of: Bool[Array, " N"]) -> Float[Array, ""]:
    return _count(mask & of) / jnp.maximum(_count(of), 1.0)


def over_scenes(reports: list[TrafficReport]) -> dict[str, float]:
    """Sums of counts, the strongest accelerations, and means weighted by the number of vehicles."""
    counts, extremes = ("vehicles", "red_lights", "parked_moved"), ("strongest_braking", "strongest_acceleration")
    total = sum(float(report.vehicles) for report in reports)
    found = {}
    for field in dataclasses.fields(TrafficReport):
        values = [float(getattr(report, field.name)) for report in reports]
        if field.name in counts:
            found[field.name] = sum(values)
        elif field.name in extremes:
            found[field.name] = max(values)
        else:
            weighted = [value * float(report.vehicles) for value, report in zip(values, reports, strict=True)]
            found[field.name] = sum(weighted) / max(total, 1.0)
    return found
