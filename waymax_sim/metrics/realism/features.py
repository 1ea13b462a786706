"""What is compared between the log and the rollouts, per agent and step."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics.realism import kinematics
from waymax_sim.metrics.realism.interaction import distance_to_nearest, time_to_collision
from waymax_sim.metrics.realism.red_light import runs_red_light
from waymax_sim.metrics.realism.road import distance_to_road_edge, road_edges
from waymax_sim.metrics.realism.tracks import (
    MAX_EVALUATED,
    Evaluated,
    Rollouts,
    Tracks,
    as_float32_of_the_world,
    choose,
    logged_tracks,
    recorded,
    simulated,
    simulated_tracks,
)
from waymax_sim.pytree import Array, on_device, pytree, take

# Seconds between steps.
DT = 0.1
# Scenes whose pairs of agents are compared together; more need more memory and are no faster.
SCENES_AT_ONCE = 11


@pytree
class SceneFeatures:
    """Features of the E agents that are scored, at the F steps after the current one. NaN where undefined.

    Attributes:
      linear_speed: m/s.
      linear_acceleration: m/s^2.
      angular_speed: rad/s.
      angular_acceleration: rad/s^2.
      distance_to_nearest_object: m; negative where boxes overlap.
      time_to_collision: s, at most 5.
      distance_to_road_edge: m; positive off the road.
      traffic_light_violation: Whether a red light is run at this step.
      displacement: Mean distance to the log over its valid steps, m.
    """

    linear_speed: Float[Array, "*lead F E"]
    linear_acceleration: Float[Array, "*lead F E"]
    angular_speed: Float[Array, "*lead F E"]
    angular_acceleration: Float[Array, "*lead F E"]
    distance_to_nearest_object: Float[Array, "*lead F E"]
    time_to_collision: Float[Array, "*lead F E"]
    distance_to_road_edge: Float[Array, "*lead F E"]
    traffic_light_violation: Bool[Array, "*lead F E"]
    displacement: Float[Array, "*lead E"]


@pytree
class Comparison:
    """The features of a log and of K rollouts, ready to be scored.

    Attributes:
      agents: Whose they are.
      log: [F, E].
      sim: [K, F, E].
    """

    agents: Evaluated
    log: SceneFeatures
    sim: SceneFeatures


def compare(
    scenario: Scenario,
    rollouts: Rollouts,
    *,
    parity: bool = True,
    log: AgentState | None = None,
    max_evaluated: int = MAX_EVALUATED,
) -> Comparison:
    """Features of the agents that are scored, in the log and in every rollout. Pure; written for one scene.

    Args:
      scenario: The scene. Rollouts must reach its end.
      rollouts: K of them; only agents that are there at the current step are looked at.
      parity: As the official code does it, defects included; see docs/realism.md for what is corrected otherwise.
      log: The log with headings that are not wrapped and whatever the record holds where an agent was not seen, which
        the official code looks at in rare cases. By default that of the scenario.
      max_evaluated: At least as many as there are agents to score.
    """
    scenario = on_device(scenario)
    agents = choose(scenario, rollouts.xyz.shape[1], max_evaluated)
    logged = logged_tracks(scenario, recorded(scenario) if log is None else on_device(log))
    return _compare(scenario, agents, logged, simulated_tracks(logged, rollouts, simulated(scenario)), parity)


def compare_generated(
    scenario: Scenario,
    generated: Tracks,
    num_future: int,
    *,
    parity: bool = True,
    log: AgentState | None = None,
    max_evaluated: int,
) -> Comparison:
    """The same for scenes that were made up from the first step on, sizes and types included.

    Every agent that is there at the current step is scored.

    Args:
      scenario: The scene.
      generated: K whole scenes of the same number of steps and agents.
      num_future: How many of the last steps are scored.
      parity: See `compare`.
      log: See `compare`.
      max_evaluated: See `compare`.
    """
    scenario = on_device(scenario)
    agents = choose(scenario, num_future, max_evaluated, everyone=True)
    logged = logged_tracks(scenario, recorded(scenario) if log is None else on_device(log))
    return _compare(scenario, agents, logged, generated, parity)


def _compare(scenario: Scenario, agents: Evaluated, log: Tracks, sim: Tracks, parity: bool) -> Comparison:
    """Computes the features of the log as if it were one rollout more."""
    tracks = jax.tree.map(lambda logged, simulated: jnp.concatenate([logged[None], simulated]), log, sim)
    if parity:
        tracks = dataclasses.replace(tracks, xyz=as_float32_of_the_world(tracks.xyz, scenario.origin))
    row, num_future = agents.row, agents.logged.shape[0]
    xyz, yaw, valid = tracks.xyz[:, :, row], tracks.yaw[:, :, row], tracks.valid[:, :, row]
    motion = kinematics.speeds_and_accelerations(xyz, yaw, DT)
    plane = kinematics.speed(tracks.xyz[..., :2], DT)
    if not parity:
        # What is computed from places that were never seen means nothing.
        known = kinematics.on_both_sides(valid)
        twice = kinematics.on_both_sides(known)
        motion = {
            name: jnp.where(twice if "acceleration" in name else known, value, jnp.nan)
            for name, value in motion.items()
        }
        plane = jnp.where(kinematics.on_both_sides(tracks.valid), plane, jnp.nan)

    edges, future = road_edges(scenario, parity), slice(-num_future, None)

    def around(scene: tuple[Tracks, Array]) -> tuple[Array, Array, Array]:
        """How close others and the road edge are, in one scene."""
        track, speed = scene
        own = Tracks(track.xyz[:, row], track.yaw[:, row], track.valid[:, row], track.size[row], track.type[row])
        return (
            distance_to_nearest(track, row, scenario.origin, parity),
            time_to_collision(track, row, speed, parity),
            distance_to_road_edge(edges, scenario.origin, own, parity),
        )

    ahead = dataclasses.replace(tracks, **{name: getattr(tracks, name)[:, future] for name in ("xyz", "yaw", "valid")})
    at_once = min(SCENES_AT_ONCE, tracks.yaw.shape[0])
    nearest, collision, edge = jax.lax.map(around, (ahead, plane[:, future]), batch_size=at_once)
    # One step more, because the first of these may be the one that crosses the line.
    reach = slice(-num_future - 1, None)
    red = runs_red_light(scenario, xyz[:, reach, :, :2], valid[:, reach], parity)[:, 1:]
    scenes = SceneFeatures(
        **{name: value[:, future] for name, value in motion.items()},
        distance_to_nearest_object=nearest,
        time_to_collision=collision,
        distance_to_road_edge=edge,
        traffic_light_violation=red,
        displacement=_displacement(xyz, valid[0], num_future, parity),
    )
    return Comparison(agents, take(scenes, 0), take(scenes, slice(1, None)))


def _displacement(
    xyz: Float[Array, "K T E 3"], logged: Bool[Array, "T E"], num_future: int, parity: bool
) -> Float[Array, "K E"]:
    """Mean distance (m) to the first scene, over its valid steps; the official mean includes the history."""
    first = 0 if parity else xyz.shape[1] - num_future
    distance = geometry.norm(xyz - xyz[:1])[:, first:]
    logged = logged[first:]
    count = jnp.maximum(jnp.sum(logged, axis=0), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(logged[None], distance, 0.0), axis=1) / count[None]
