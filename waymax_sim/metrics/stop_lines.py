"""Crossing of stop lines at red lights and stop signs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.signals import FLASHING_STOP, STOP_STATES
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array

# History in which an agent may have stopped, s.
STOP_HISTORY = 3.0


class StopLineParams(NamedTuple):
    """Geometry of stop lines and of stops, none of which is in the maps.

    Attributes:
      half_width: Extent of a line to either side of the centerline, m: half a lane.
      max_height_difference: Between an agent and the line, m.
      max_angle: Between the headings of an agent and the lane, rad.
      max_stopped_speed: Speed below which an agent has stopped, m/s.
      max_stop_distance: Distance of the front bumper before the line within which a stop counts, m.
    """

    half_width: float = 1.8
    max_height_difference: float = 2.0
    max_angle: float = jnp.pi / 3
    max_stopped_speed: float = 0.5
    max_stop_distance: float = 5.0


STOP_LINE = StopLineParams()


class Crossings(NamedTuple):
    """Crossings of the stop lines of a scene in the last step, [O, Z].

    Attributes:
      crossed: Whether the front bumper of an agent crossed the line.
      light: Column of the light of each line in `Signals`, -1 without one.
      stop_sign: Whether there is a stop sign.
    """

    crossed: Bool[Array, "O Z"]
    light: Int[Array, " Z"]
    stop_sign: Bool[Array, " Z"]


def red_light_violation(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist crossed a stop line in the last step while its light was red.

    The center of the front bumper must cross the line, which is 3.6 m wide and perpendicular to the lane, in the
    direction of the lane; the light must be observed red (or a red arrow) before and after the step. Where the lines of
    several lanes coincide and one of their lights is not known to be red, the agent may go. Positive once per crossing,
    not while the agent is beyond the line. Valid for agents that are valid now and one step earlier, on maps with a
    light.

    Limits: turning right on red counts, since maps do not say where it is allowed.
    """
    crossings = _crossings(snapshot)
    is_red, has_light = _has_state(snapshot, STOP_STATES, crossings.light), crossings.light >= 0
    crosses_red = jnp.any(crossings.crossed & (has_light & is_red)[None], axis=-1)
    crosses_other = jnp.any(crossings.crossed & (has_light & ~is_red)[None], axis=-1)
    return flag(crosses_red & ~crosses_other, _valid_at_lines(snapshot, has_light))


def stop_sign_violation(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist crossed the line of a stop sign in the last step without a stop before it.

    It has stopped if its speed fell below 0.5 m/s while its front bumper was within 5 m before the line. A flashing
    red light is a stop sign. Agents that were within those 5 m at all valid steps of the last 3 s may have stopped
    before and do not count. Positive once per crossing. Valid for agents that are valid now and one step earlier, on
    maps with a stop sign or light, unless a stop sign has no lane although its lanes are inferred: which agents have to
    stop at it is not known.

    The state keeps 3 s of history for it.
    """
    crossings = _crossings(snapshot)
    has_light = crossings.light >= 0
    must_stop = crossings.stop_sign | (has_light & _has_state(snapshot, (FLASHING_STOP,), crossings.light))
    past = snapshot.past(1 + round(STOP_HISTORY / snapshot.dt))
    along, _ = _bumper_offsets(snapshot, past)
    valid, is_slow = past.valid[..., None], geometry.norm(past.velocity)[..., None] < STOP_LINE.max_stopped_speed
    has_stopped = jnp.any(valid & is_slow & (along <= 0) & (along >= -STOP_LINE.max_stop_distance), axis=0)
    has_approached = jnp.any(valid & (along < -STOP_LINE.max_stop_distance), axis=0)
    violates = crossings.crossed & must_stop[None] & has_approached & ~has_stopped
    valid = _valid_at_lines(snapshot, crossings.stop_sign | has_light)
    return flag(jnp.any(violates, axis=-1), valid & ~snapshot.scenario.graph.has_unassigned_sign)


def _valid_at_lines(snapshot: Snapshot, is_controlled: Bool[Array, " Z"]) -> Bool[Array, " O"]:
    """Whether an agent is wheeled and valid in both steps, on a map with a controlled stop line."""
    valid_before = snapshot.select_evaluated(snapshot.previous).valid
    has_line = jnp.any(is_controlled & (snapshot.scenario.graph.stop_lines.lane >= 0))
    return snapshot.is_wheeled & valid_before & has_line


def _crossings(snapshot: Snapshot) -> Crossings:
    graph = snapshot.scenario.graph
    lines, yaw = graph.stop_lines, snapshot.evaluated_agents.yaw
    along, lateral = _bumper_offsets(snapshot, snapshot.past(2))
    # Lateral offset of the point where the path of the bumper intersects the line.
    moved = along[1] - along[0]
    part = jnp.where(moved > 0, -along[0] / jnp.where(moved > 0, moved, 1.0), 0.0)
    offset = lateral[0] + part * (lateral[1] - lateral[0])
    is_aligned = jnp.abs(geometry.wrap_angle(yaw[:, None] - lines.yaw[None])) <= STOP_LINE.max_angle
    height_difference = jnp.abs(snapshot.ground_points[:, 2:] - lines.xyz[None, :, 2])
    on_level = height_difference <= STOP_LINE.max_height_difference
    intersects = (along[0] < 0) & (along[1] >= 0) & (jnp.abs(offset) <= STOP_LINE.half_width)
    valid = snapshot.is_wheeled & snapshot.select_evaluated(snapshot.previous).valid
    has_lane = lines.lane >= 0
    return Crossings(
        crossed=intersects & is_aligned & on_level & valid[:, None] & has_lane[None],
        light=jnp.where(has_lane, graph.light[lines.lane], -1),
        stop_sign=has_lane & graph.stop_sign[lines.lane],
    )


def _bumper_offsets(snapshot: Snapshot, agents: AgentState) -> tuple[Float[Array, "H O Z"], Float[Array, "H O Z"]]:
    """Offsets of the front bumpers of agents from each line, forward and to the left in the frame of its lane, m."""
    lines = snapshot.scenario.graph.stop_lines
    bumper = agents.xyz[..., :2] + geometry.unit_vector(agents.yaw) * (snapshot.info.size[:, :1] / 2)[None]
    x, y = (bumper[..., axis, None] - lines.xyz[None, None, :, axis] for axis in range(2))
    cos, sin = jnp.cos(lines.yaw)[None, None], jnp.sin(lines.yaw)[None, None]
    return cos * x + sin * y, cos * y - sin * x


def _has_state(snapshot: Snapshot, states: tuple[int, ...], light: Int[Array, " Z"]) -> Bool[Array, " Z"]:
    """Whether lights were observed in one of the given states both now and one step earlier."""
    signals, step = snapshot.scenario.signals, snapshot.step
    if not signals.lane_id.shape[-1]:
        return jnp.zeros(light.shape, bool)
    steps = jnp.stack([jnp.maximum(step - 1, 0), step])
    state, valid = signals.state[steps][:, light], signals.valid[steps][:, light]
    return jnp.all(valid & jnp.isin(state, jnp.asarray(states, state.dtype)), axis=0)
