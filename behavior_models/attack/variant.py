"""Variants of a scene: agents that brake, wait or hurry along their logged paths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, mask_agents
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import Array

# Weight of the distance now against that of the paths.
CURRENT_DISTANCE = 0.1


@dataclasses.dataclass(frozen=True)
class VariantParams:
    """Bounds of the changes. Adversaries follow their logged paths in another time.

    Attributes:
      num_adversaries: Agents whose paths come nearest to that of the ego.
      max_acceleration: Acceleration by which a speed changes, m/s^2: that of hard, not of emergency braking.
      max_speed_ratio: Largest ratio of the speed to the logged one; the smallest one is 0.
      begin: Range of the time at which the speed begins to change, s after the current step.
      duration: Range of the time until it returns, s.
      min_speed: Speed that an adversary reaches in its log, m/s.
    """

    num_adversaries: int = 3
    max_acceleration: float = 4.0
    max_speed_ratio: float = 1.3
    begin: tuple[float, float] = (0.0, 5.0)
    duration: tuple[float, float] = (1.0, 5.0)
    min_speed: float = 2.0

    @property
    def size(self) -> int:
        """Number of components of a change: begin, duration and speed ratio of each adversary."""
        return 3 * self.num_adversaries


def nearest_adversaries(scenario: Scenario, params: VariantParams) -> Int[np.ndarray, " M"]:
    """Moving agents whose logged paths come nearest to that of the ego, the nearest first; -1 for missing ones.

    Of agents on paths at equal distance, the nearer ones now are first.
    """
    now, log = int(scenario.current_step), jax.tree.map(np.asarray, scenario.log)
    sdc = int(np.asarray(scenario.agents.is_sdc).argmax())
    fast = (np.linalg.norm(log.velocity, axis=-1) * log.valid)[now:].max(axis=0) > params.min_speed
    usable = fast & log.valid[now] & ~np.asarray(scenario.agents.is_sdc)
    own = log.xyz[now:, sdc, :2][log.valid[now:, sdc]]
    distance = np.full(len(usable), np.inf)
    for row in np.flatnonzero(usable):
        path = log.xyz[now:, row, :2][log.valid[now:, row]]
        distance[row] = np.linalg.norm(path[:, None] - own[None], axis=-1).min()
        distance[row] += CURRENT_DISTANCE * np.linalg.norm(path[0] - own[0])
    order = np.argsort(distance)[: params.num_adversaries]
    rows = np.where(np.isfinite(distance[order]), order, -1)
    return np.pad(rows, (0, params.num_adversaries - len(rows)), constant_values=-1)


def change_log(
    scenario: Scenario, rows: Int[Array, " M"], change: Float[Array, " D"], params: VariantParams
) -> Scenario:
    """The scenario in which adversaries follow their logged paths at other speeds after the current step.

    Args:
      scenario: One scenario.
      rows: Adversaries, -1 for none.
      change: Begin, duration and speed ratio of each adversary, in [-1, 1]; a ratio of 0 changes nothing.
      params: Bounds.
    """
    log, num_steps = scenario.log, scenario.log.valid.shape[0]
    present = jnp.where(jnp.arange(num_steps) >= scenario.current_step, 1.0, 0.0)

    def warp(row, own):
        track = jax.tree.map(lambda leaf: leaf[:, row], log)
        top = jnp.max(jnp.where(track.valid, geometry.norm(track.velocity), 0.0) * present)
        rate = time_rate(scenario, own, top, params)
        return _resample(track, rate * present + (1.0 - present), rate)

    tracks = jax.vmap(warp)(jnp.maximum(rows, 0), change.reshape(-1, 3))
    # Rows of -1 are out of bounds and dropped.
    target = jnp.where(rows < 0, log.valid.shape[1], rows)

    def put(leaf, new):
        return leaf.at[:, target].set(jnp.moveaxis(new, 0, 1), mode="drop")

    return dataclasses.replace(scenario, log=jax.tree.map(put, log, tracks))


def time_rate(
    scenario: Scenario, change: Float[Array, " 3"], top_speed: Float[Array, ""], params: VariantParams
) -> Float[Array, " T"]:
    """Ratio of the speed to the logged one at each step: a trapezoid from 1 to the ratio of the change and back.

    Args:
      scenario: One scenario.
      change: Begin, duration and speed ratio in [-1, 1].
      top_speed: Largest logged speed, m/s; it limits the slope.
      params: Bounds.
    """
    unit = 0.5 * (jnp.clip(change[:2], -1.0, 1.0) + 1.0)
    low, high = (jnp.asarray(each, jnp.float32) for each in zip(params.begin, params.duration, strict=True))
    begin, duration = low + unit * (high - low)
    ratio = jnp.clip(change[2], -1.0, 1.0)
    depth = jnp.where(ratio < 0, ratio, ratio * (params.max_speed_ratio - 1.0))
    ramp = jnp.maximum(jnp.abs(depth) * top_speed / params.max_acceleration, scenario.time_step)
    steps = jnp.arange(scenario.log.valid.shape[0], dtype=jnp.int32) - scenario.current_step
    time = steps.astype(jnp.float32) * scenario.time_step
    rise = jnp.clip((time - begin) / ramp, 0.0, 1.0)
    fall = jnp.clip((time - begin - ramp - duration) / ramp, 0.0, 1.0)
    return 1.0 + depth * (rise - fall)


def _resample(track: AgentState, rate: Float[Array, " T"], speed_ratio: Float[Array, " T"]) -> AgentState:
    """A track [T] in which each step takes `rate` steps of the log; it ends where the log of the agent ends."""
    num_steps = rate.shape[0]
    steps = jnp.arange(num_steps, dtype=jnp.int32)
    last = jnp.max(jnp.where(track.valid, steps, 0)).astype(jnp.float32)
    # A sum of float32 ones is exact: a change of nothing reproduces the log.
    position = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rate)[:-1]])
    inside = jnp.minimum(position, last)
    first = jnp.floor(inside).astype(jnp.int32)
    second = jnp.minimum(first + 1, num_steps - 1)
    weight = inside - first.astype(jnp.float32)
    before, after = (jax.tree.map(lambda leaf, index=index: leaf[index], track) for index in (first, second))
    weight = jnp.where(after.valid, weight, 0.0)
    velocity = before.velocity + weight[:, None] * (after.velocity - before.velocity)
    turn = geometry.wrap_angle(after.yaw - before.yaw)
    changed = AgentState(
        xyz=before.xyz + weight[:, None] * (after.xyz - before.xyz),
        yaw=geometry.wrap_angle(before.yaw + weight * turn),
        velocity=velocity * speed_ratio[:, None],
        valid=before.valid & (position <= last),
    )
    return mask_agents(changed, changed.valid)
