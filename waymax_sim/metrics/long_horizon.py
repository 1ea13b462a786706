"""Driving style over long horizons: per step the time headway and the speed ratio, and their consistency over time.

A driver has a style if its mean headway and mean speed ratio early in an episode agree with those late in it, in
comparison with other drivers. Realism metrics of eight seconds do not measure this.
"""

import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.metrics.metric import Metric, MetricValue, Snapshot, masked_value
from waymax_sim.metrics.speeding import speed_limit
from waymax_sim.pytree import Array, static_record


@static_record
class StyleParams:
    """Constants of the style of drivers. The values are choices of this package.

    Attributes:
      min_speed: Speed below which a headway is not defined, m/s.
      max_headway: Headway above which an agent follows no leader, s.
      max_heading_difference: Largest difference of the headings of an agent and its leader, rad.
      window: Duration of the first and of the last window, s.
      min_duration: Time within a window for which a value must be valid, s.
      min_agents: Smallest number of agents of a correlation.
    """

    min_speed: float = 2.0
    max_headway: float = 6.0
    max_heading_difference: float = 0.5
    window: float = 20.0
    min_duration: float = 2.0
    min_agents: int = 5


STYLE_PARAMS = StyleParams()


def time_headway(snapshot: Snapshot, params: StyleParams = STYLE_PARAMS) -> MetricValue:
    """Distance to the leader, bumper to bumper, divided by the own speed, s.

    The leader is the nearest agent ahead whose box, moved along the own heading, would meet the own box, and whose
    heading is similar. Curves are not followed. Valid for vehicles and cyclists that move and have a leader within the
    largest headway.
    """
    agents, info = snapshot.agents, snapshot.scenario.agents
    own, own_size = snapshot.evaluated_agents, snapshot.info.size
    offset = geometry.rotate(agents.xyz[None, :, :2] - own.xyz[:, None, :2], -own.yaw[:, None])
    gap = offset[..., 0] - (own_size[:, :1] + info.size[None, :, 0]) / 2
    turn = jnp.abs(geometry.wrap_angle(agents.yaw[None] - own.yaw[:, None]))
    is_leader = (jnp.abs(offset[..., 1]) < (own_size[:, 1:2] + info.size[None, :, 1]) / 2) & (offset[..., 0] > 0)
    height = jnp.abs(agents.xyz[None, :, 2] - own.xyz[:, None, 2])
    is_leader &= height < (own_size[:, 2:] + info.size[None, :, 2]) / 2
    is_leader &= (turn < params.max_heading_difference) & agents.valid[None] & ~snapshot.is_self
    gap = jnp.min(jnp.where(is_leader, jnp.maximum(gap, 0.0), jnp.inf), axis=-1)
    speed = geometry.norm(own.velocity)
    headway = gap / jnp.maximum(speed, params.min_speed)
    return masked_value(headway, snapshot.is_wheeled & (speed >= params.min_speed) & (headway <= params.max_headway))


def speed_ratio(snapshot: Snapshot) -> MetricValue:
    """Speed of a vehicle or cyclist divided by the speed limit of its lane; valid where there is a limit."""
    limit = snapshot.cached(speed_limit)
    has_limit = limit.valid & (limit.value > 0)
    ratio = geometry.norm(snapshot.evaluated_agents.velocity) / jnp.where(has_limit, limit.value, 1.0)
    return masked_value(ratio, has_limit)


# For `EnvConfig(metrics=LONG_HORIZON_METRICS)`.
LONG_HORIZON_METRICS = (
    Metric("time_headway", time_headway, per="agent", unit="s", over_time="mean", better="higher"),
    Metric("speed_ratio", speed_ratio, per="agent", unit="1", over_time="mean", better="higher"),
)


def window_means(values: MetricValue, num_steps: int, min_valid: int) -> tuple[MetricValue, MetricValue]:
    """Means over the valid steps of the first and of the last window of an episode, [N].

    Args:
      values: Values per step and agent, [T, N].
      num_steps: Steps of a window.
      min_valid: Valid steps below which a mean is not valid.

    Raises:
      ValueError: The windows overlap.
    """
    if not 0 < num_steps <= values.value.shape[0] // 2:
        raise ValueError(f"two windows of {num_steps} steps do not fit an episode of {values.value.shape[0]} steps")

    def mean(rows: slice) -> MetricValue:
        valid = values.valid[rows] & jnp.isfinite(values.value[rows])
        count = jnp.sum(valid, axis=0)
        total = jnp.sum(jnp.where(valid, values.value[rows], 0.0), axis=0)
        return masked_value(total / jnp.maximum(count, 1).astype(jnp.float32), count >= max(min_valid, 1))

    return mean(slice(None, num_steps)), mean(slice(-num_steps, None))


def style_consistency(values: MetricValue, time_step: float, params: StyleParams = STYLE_PARAMS) -> MetricValue:
    """Correlation over agents of the means of a value in the first and in the last window of an episode.

    Agents that are absent in a window, or whose value is rarely valid there, do not count. Not valid with too few
    agents, or if all have the same mean.

    Args:
      values: Values per step and agent, [T, N], such as those of `time_headway` or `speed_ratio`.
      time_step: Time step, s.
      params: Windows and limits.
    """
    num_steps, min_valid = (round(duration / time_step) for duration in (params.window, params.min_duration))
    first, last = window_means(values, num_steps, min_valid)
    both = first.valid & last.valid
    correlation = _correlation(*(jnp.where(both, item.value, jnp.nan) for item in (first, last)))
    return masked_value(correlation, (jnp.sum(both) >= params.min_agents) & jnp.isfinite(correlation))


def _correlation(first: Float[Array, " N"], last: Float[Array, " N"]) -> Float[Array, ""]:
    """Pearson correlation of the pairs that are not NaN; NaN where it is not defined."""
    x, y = (values - jnp.nanmean(values) for values in (first, last))
    scale = jnp.sqrt(jnp.nansum(x * x) * jnp.nansum(y * y))
    return jnp.nansum(x * y) / jnp.where(scale > 0, scale, jnp.nan)
