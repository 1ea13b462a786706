"""Features of the log and of the rollouts, per agent and step."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.metrics.realism import kinematics
from waymax_sim.metrics.realism.interaction import distance_to_nearest, time_to_collision
from waymax_sim.metrics.realism.red_light import runs_red_light
from waymax_sim.metrics.realism.road import distance_to_road_edge, road_edges
from waymax_sim.metrics.realism.tracks import (
    MAX_EVALUATED,
    EvaluatedAgents,
    RealismRollouts,
    RealismTracks,
    logged_tracks,
    official_log,
    round_to_world_float32,
    select_evaluated,
    simulated_mask,
    simulated_tracks,
)
from waymax_sim.pytree import Array, pytree, to_device, tree_index

# Number of rollouts whose pairs of agents are compared together, which bounds the memory.
SCENE_BATCH = 11


@pytree
class SceneFeatures:
    """Features of the E scored agents at the F steps after the current one. NaN where undefined.

    Attributes:
      linear_speed: m/s.
      linear_acceleration: m/s^2.
      angular_speed: rad/s.
      angular_acceleration: rad/s^2.
      distance_to_nearest_object: m; negative where boxes overlap.
      time_to_collision: s, at most 5.
      distance_to_road_edge: m; positive off the road.
      traffic_light_violation: Whether the agent runs a red light at this step.
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
    """The features of a log and of K rollouts.

    Attributes:
      agents: The scored agents.
      log: [F, E].
      sim: [K, F, E].
    """

    agents: EvaluatedAgents
    log: SceneFeatures
    sim: SceneFeatures


def compare_rollouts(
    scenario: Scenario,
    rollouts: RealismRollouts,
    *,
    parity: bool = True,
    log: AgentState | None = None,
    max_evaluated: int = MAX_EVALUATED,
) -> Comparison:
    """Features of the scored agents in the log and in every rollout. Pure; for one scene.

    Args:
      scenario: The scenario. Rollouts must reach its end.
      rollouts: K rollouts; only agents that are valid at the current step are used.
      parity: Reproduce the official code, defects included; docs/realism.md lists the corrections of `parity=False`.
      log: The log as recorded, with headings that are not wrapped and the recorded values of steps that are not valid,
        which the official code uses in rare cases. By default that of the scenario.
      max_evaluated: Slots for scored agents; must not be less than their number.
    """
    scenario = to_device(scenario)
    agents = select_evaluated(scenario, rollouts.xyz.shape[1], max_evaluated)
    logged = logged_tracks(scenario, official_log(scenario) if log is None else to_device(log))
    return _compare(scenario, agents, logged, simulated_tracks(logged, rollouts, simulated_mask(scenario)), parity)


def compare_generated(
    scenario: Scenario,
    generated: RealismTracks,
    num_future: int,
    *,
    parity: bool = True,
    log: AgentState | None = None,
    max_evaluated: int,
) -> Comparison:
    """Features of generated scenes, whose sizes and types are generated as well as their first steps.

    Every agent that is valid at the current step is scored.

    Args:
      scenario: The scenario.
      generated: K whole scenes with the same number of steps and agents.
      num_future: Number of the last steps that are scored.
      parity: See `compare_rollouts`.
      log: See `compare_rollouts`.
      max_evaluated: See `compare_rollouts`.
    """
    scenario = to_device(scenario)
    agents = select_evaluated(scenario, num_future, max_evaluated, all_agents=True)
    logged = logged_tracks(scenario, official_log(scenario) if log is None else to_device(log))
    return _compare(scenario, agents, logged, generated, parity)


def _compare(
    scenario: Scenario, agents: EvaluatedAgents, log: RealismTracks, sim: RealismTracks, parity: bool
) -> Comparison:
    """Computes the features of the log as those of one more rollout."""
    tracks = jax.tree.map(lambda logged, simulated: jnp.concatenate([logged[None], simulated]), log, sim)
    if parity:
        tracks = dataclasses.replace(tracks, xyz=round_to_world_float32(tracks.xyz, scenario.origin))
    row, num_future = agents.row, agents.logged.shape[0]
    xyz, yaw, valid = tracks.xyz[:, :, row], tracks.yaw[:, :, row], tracks.valid[:, :, row]
    motion = kinematics.speeds_and_accelerations(xyz, yaw, TIME_STEP)
    plane = kinematics.speed(tracks.xyz[..., :2], TIME_STEP)
    if not parity:
        # Differences across steps that are not valid are undefined.
        has_speed = kinematics.has_valid_neighbors(valid)
        has_acceleration = kinematics.has_valid_neighbors(has_speed)
        motion = {
            name: jnp.where(has_acceleration if "acceleration" in name else has_speed, value, jnp.nan)
            for name, value in motion.items()
        }
        plane = jnp.where(kinematics.has_valid_neighbors(tracks.valid), plane, jnp.nan)

    edges, future = road_edges(scenario, parity), slice(-num_future, None)

    def distances(scene: tuple[RealismTracks, Array]) -> tuple[Array, Array, Array]:
        """Distance to the nearest object, time to collision and distance to the road edge in one rollout."""
        track, speed = scene
        own = RealismTracks(track.xyz[:, row], track.yaw[:, row], track.valid[:, row], track.size[row], track.type[row])
        return (
            distance_to_nearest(track, row, scenario.origin, parity),
            time_to_collision(track, row, speed, parity),
            distance_to_road_edge(edges, scenario.origin, own, parity),
        )

    future_states = {name: getattr(tracks, name)[:, future] for name in ("xyz", "yaw", "valid")}
    future_tracks = dataclasses.replace(tracks, **future_states)
    batch_size = min(SCENE_BATCH, tracks.yaw.shape[0])
    nearest, collision, edge = jax.lax.map(distances, (future_tracks, plane[:, future]), batch_size=batch_size)
    # With one step before the scored ones: the first scored step may be the one that crosses the line.
    extended = slice(-num_future - 1, None)
    red = runs_red_light(scenario, xyz[:, extended, :, :2], valid[:, extended], parity)[:, 1:]
    scenes = SceneFeatures(
        **{name: value[:, future] for name, value in motion.items()},
        distance_to_nearest_object=nearest,
        time_to_collision=collision,
        distance_to_road_edge=edge,
        traffic_light_violation=red,
        displacement=_displacement(xyz, valid[0], num_future, parity),
    )
    return Comparison(agents, tree_index(scenes, 0), tree_index(scenes, slice(1, None)))


def _displacement(
    xyz: Float[Array, "K T E 3"], logged: Bool[Array, "T E"], num_future: int, parity: bool
) -> Float[Array, "K E"]:
    """Mean distance (m) to the first scene, over its valid steps; the official mean includes the history."""
    first = 0 if parity else xyz.shape[1] - num_future
    distance = geometry.norm(xyz - xyz[:1])[:, first:]
    logged = logged[first:]
    count = jnp.maximum(jnp.sum(logged, axis=0), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(logged[None], distance, 0.0), axis=1) / count[None]
