"""Log expert: imitation labels from a look-ahead on the smoothed log."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed, mask_agents
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Discrete, Dynamics
from waymax_sim.dynamics.protocol import TimeStep
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record, tree_index

# Shorter stopping distances are noise of logged positions (m).
MIN_STOPPING_DISTANCE = 0.1
# Below this distance to the target its bearing is uncertain, and the curvature fades out (m).
MIN_TARGET_DISTANCE = 1.0
# Bearings count as no larger in the ratio of arc to chord, which is singular at 90 degrees for two steps (rad).
MAX_BEARING = 1.0


@static_record
class LogExpert(Policy):
    """Drives to the logged position `horizon` steps ahead with the constant action that leads there.

    One-step inverses of a log (see `LogReplay`) amplify the noise of logged speeds and positions. For `Bicycle` the
    action is the constant acceleration that covers the distance to the target within the horizon, or that stops there,
    and the curvature of the arc through the target; it is applied for one step and then recomputed. `Discrete` encodes
    the action of the model that it wraps. For other models the action is the one-step inverse towards the smoothed log.

    Where the log of an agent ends within the horizon, the target is its last valid step, and where it has a gap of that
    length, the first valid step after the gap. Agents without a later valid step coast.

    Attributes:
      dynamics: Model that the action is expressed in.
      horizon: Steps of look-ahead.
      smoothing: Odd window length, in steps, of the local linear fit that smooths the log at the target; 1 for none.

    Raises:
      ValueError: `horizon` is not positive, or `smoothing` is not odd and positive.
    """

    dynamics: Dynamics = Bicycle()
    horizon: int = 5
    smoothing: int = 5
    privileged = True

    def __post_init__(self):
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 step, got {self.horizon}")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise ValueError(f"smoothing must be an odd and positive number of steps, got {self.smoothing}")

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The action from the simulated present towards the logged target."""
        if not isinstance(self.dynamics, Discrete):
            return self._action(self.dynamics, observation), carry
        action = self._action(self.dynamics.dynamics, observation)
        return Action(value=self.dynamics.encode(action.value), valid=action.valid), carry

    def _action(self, model: Dynamics, observation: Observation) -> Action:
        log, now = observation.log, observation.agents
        assert log is not None, "privileged policies receive the log"
        if isinstance(model, Bicycle):
            row, exists = target_steps(log.valid, observation.step, self.horizon)
            num_steps = jnp.maximum(row - observation.step, 1)
            target = mask_agents(smoothed_states(log, row, self.smoothing), exists)
            return arc_action(model, now, target, num_steps, observation.dt)
        row = jnp.minimum(observation.step + 1, log.valid.shape[0] - 1)
        target = smoothed_states(log, jnp.broadcast_to(row, now.valid.shape), self.smoothing)
        return model.invert(now, target, observation.dt)


def target_steps(
    valid: Bool[Array, "T N"], step: Int[Array, ""], horizon: int
) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
    """The step of the log that each agent drives to, and whether it has one.

    Args:
      valid: Whether agents are logged.
      step: The present step.
      horizon: Steps of look-ahead.

    Returns:
      The last valid step within the horizon, or else the first valid one after it; and whether any step after the
      present is valid.
    """
    row = jnp.arange(valid.shape[0], dtype=jnp.int32)[:, None]
    later = valid & (row > step)
    last = jnp.max(jnp.where(later & (row <= step + horizon), row, -1), axis=0)
    first = jnp.argmax(later, axis=0).astype(jnp.int32)
    return jnp.where(last >= 0, last, first), jnp.any(later, axis=0)


def smoothed_states(log: AgentState, row: Int[Array, " N"], window: int) -> AgentState:
    """Logged states by a local linear fit to the valid steps of a window, which reproduces constant velocity.

    Args:
      log: The record, [T, N].
      row: Step of each agent at which the fit is evaluated.
      window: Odd number of steps, centered on `row`.

    Returns:
      States [N], valid where the log is at `row`.
    """
    offset = jnp.arange(window, dtype=jnp.int32)[:, None] - window // 2
    index, agent = row[None] + offset, jnp.arange(row.shape[0])
    inside = (index >= 0) & (index < log.valid.shape[0])
    center = tree_index(log, (row, agent))
    near = tree_index(log, (jnp.clip(index, 0, log.valid.shape[0] - 1), agent[None]))
    weight = _fit_weights(near.valid & inside, offset.astype(jnp.float32))
    # Relative to the center, which keeps the precision of large coordinates.
    turn = geometry.wrap_angle(near.yaw - center.yaw[None])
    smoothed = AgentState(
        xyz=center.xyz + jnp.sum(weight[..., None] * (near.xyz - center.xyz[None]), axis=0),
        yaw=geometry.wrap_angle(center.yaw + jnp.sum(weight * turn, axis=0)),
        velocity=center.velocity + jnp.sum(weight[..., None] * (near.velocity - center.velocity[None]), axis=0),
        valid=center.valid,
    )
    return mask_agents(smoothed, center.valid)


def _fit_weights(valid: Bool[Array, "W N"], offset: Float[Array, "W 1"]) -> Float[Array, "W N"]:
    """Weights of samples in the value at offset 0 of the least-squares line through the valid ones."""
    weight = valid.astype(jnp.float32)
    total, first, second = (jnp.sum(weight * offset**power, axis=0, keepdims=True) for power in range(3))
    determinant = total * second - first**2
    is_line = determinant > 0
    line = weight * (second - first * offset) / jnp.where(is_line, determinant, 1.0)
    return jnp.where(is_line, line, weight / jnp.maximum(total, 1.0))


def arc_action(
    model: Bicycle, now: AgentState, target: AgentState, num_steps: Int[Array, " N"], dt: TimeStep
) -> Action:
    """The constant (acceleration, curvature) that leads from `now` to the position of `target`.

    `Bicycle` drives straight and turns after each step. In n equal steps of total length d and curvature k it reaches
    the bearing b = k d (n - 1) / (2 n) at the distance (d / n) sin(n c) / sin(c), where c = b / (n - 1). The function
    solves these equations for k and d; the acceleration covers d from the present speed. The solution is exact on
    straight lines and for constant speed. For targets one step ahead, where b is 0, it is the inverse of the model.

    Args:
      model: The bicycle.
      now: Present states.
      target: States to reach.
      num_steps: Steps until then, at least 1.
      dt: Time step, s.

    Returns:
      Actions within the bounds of the model; valid where both states are.
    """
    plain = dataclasses.replace(model, normalized=False)
    limits = jnp.asarray(plain.bounds[1])[None]
    inverse = plain.invert(now, target, dt)
    value = jnp.clip(_pursuit(plain, now, target, num_steps, dt), -limits, limits)
    value = jnp.where((num_steps == 1)[:, None], inverse.value, value)
    value = jnp.where(inverse.valid[:, None], value, 0.0)
    return Action(value=value / limits if model.normalized else value, valid=inverse.valid)


def _pursuit(
    model: Bicycle, now: AgentState, target: AgentState, num_steps: Int[Array, " N"], dt: TimeStep
) -> Float[Array, "N 2"]:
    """Unclipped (acceleration, curvature), for at least two steps."""
    local = geometry.to_frame(target.xyz[:, :2], now.xyz[:, :2], now.yaw)
    # Targets behind are reached backwards: seen from the rear they are ahead.
    sign = jnp.where(local[:, 0] < 0, -1.0, 1.0)
    speed = sign * forward_speed(now)
    chord = geometry.norm(local)
    bearing = geometry.heading_angle(sign[:, None] * local, jnp.zeros_like(chord))
    count = jnp.maximum(num_steps, 2).astype(jnp.float32)
    arc = chord * _arc_ratio(bearing, count)
    curvature = 2.0 * count / (count - 1.0) * bearing / jnp.maximum(arc, 1e-3)
    curvature = curvature * jnp.minimum(chord / MIN_TARGET_DISTANCE, 1.0) ** 2
    acceleration = _acceleration(arc, speed, count * dt, can_reverse=model.allow_reverse)
    # An agent that moves away from the target brakes on a straight line.
    return sign[:, None] * jnp.stack([acceleration, jnp.where(speed < 0, 0.0, curvature)], axis=-1)


def _arc_ratio(bearing: Float[Array, " N"], count: Float[Array, " N"]) -> Float[Array, " N"]:
    """Length of `count` equal steps with equal turns in between, over that of their chord."""
    half_turn = jnp.clip(jnp.abs(bearing), 1e-3, MAX_BEARING) / (count - 1.0)
    return count * jnp.sin(half_turn) / jnp.sin(count * half_turn)


def _acceleration(
    distance: Float[Array, " N"], speed: Float[Array, " N"], duration: Float[Array, " N"], *, can_reverse: bool
) -> Float[Array, " N"]:
    """The constant acceleration that covers a distance (m) within a duration (s), or stops after that distance.

    A bicycle that cannot reverse stops at the target where it would otherwise have to turn back within the duration.
    """
    acceleration = 2.0 * (distance - speed * duration) / duration**2
    if can_reverse:
        return acceleration
    stop = jnp.minimum(-(speed**2) / (2.0 * jnp.maximum(distance, MIN_STOPPING_DISTANCE)), -speed / duration)
    return jnp.where(distance < speed * duration / 2.0, stop, acceleration)
