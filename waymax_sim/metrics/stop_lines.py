"""Driving over stop lines."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag
from waymax_sim.pytree import Array

# States of a light that forbid (arrow stop, stop), and the one that asks to stop and go on (flashing stop).
RED, FLASHING = (1, 4), 7
# A line reaches so far to either side of the centre of its lane (m), and is for agents on its level (m) that head along
# the lane within this angle (rad).
HALF_WIDTH, LEVEL, ALONG = 1.8, 2.0, jnp.pi / 3
# Who was slower than this (m/s), with the bumper no further before the line than this (m), has stopped.
STOPPED, NEAR = 0.5, 5.0
# Steps looked back over for that.
NUM_STEPS = 31


class Crossings(NamedTuple):
    """What happens at the stop lines of a scene, [O, Z].

    Attributes:
      crossed: Whether the front bumper of an agent went over the line in the last step.
      light: Column of the light of each line in `Signals`, -1 without one.
      stop_sign: Whether there is a stop sign.
    """

    crossed: Bool[Array, "O Z"]
    light: Int[Array, " Z"]
    stop_sign: Bool[Array, " Z"]


def red_light_violation(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist drove over a stop line in the last step while its light was red.

    The middle of the front bumper must cross the line, which is 3.6 m wide and square to the lane, in the direction of
    the lane; the light must be seen red (or a red arrow) before and after. Where lines of several lanes lie in one
    place and one of them is not known to be red, the agent had the right to go. It fires once, not for standing behind
    the line. Valid for agents that were there one step before, where any light is on the map.

    Limits: turning right on red counts, since maps do not say where it is allowed.
    """
    at = _crossings(snapshot)
    red = _seen(snapshot, RED, at.light)
    lit, valid = at.light >= 0, _judged(snapshot, at.light >= 0)
    ran = jnp.any(at.crossed & (lit & red)[None], axis=-1) & ~jnp.any(at.crossed & (lit & ~red)[None], axis=-1)
    return flag(ran, valid)


def stop_sign_violation(snapshot: Snapshot) -> MetricValue:
    """Whether a vehicle or cyclist drove over the line of a stop sign in the last step without having stopped there.

    It has stopped if its speed fell below 0.5 m/s while its front bumper was within 5 m before the line. A red
    flashing light is a stop sign. Who was within those 5 m in all of the last 31 steps that are known is not accused.
    It fires once. Valid for agents that were there one step before, where any stop sign or light is on the map.

    Looks at 31 steps, which the state keeps for it.
    """
    at = _crossings(snapshot)
    flashing = (at.light >= 0) & _seen(snapshot, (FLASHING,), at.light)
    past = snapshot.past(NUM_STEPS)
    along, _ = _seen_from_lines(snapshot, past)
    known, slow = past.valid[..., None], geometry.norm(past.velocity)[..., None] < STOPPED
    stopped = jnp.any(known & slow & (along <= 0) & (along >= -NEAR), axis=0)
    came = jnp.any(known & (along < -NEAR), axis=0)
    ran = at.crossed & (at.stop_sign | flashing)[None] & came & ~stopped
    return flag(jnp.any(ran, axis=-1), _judged(snapshot, at.stop_sign | (at.light >= 0)))


def _judged(snapshot: Snapshot, meant: Bool[Array, " Z"]) -> Bool[Array, " O"]:
    there = snapshot.of_subjects(snapshot.previous).valid
    return snapshot.drives & there & jnp.any(meant & (snapshot.scenario.graph.stop_lines.lane >= 0))


def _crossings(snapshot: Snapshot) -> Crossings:
    graph = snapshot.scenario.graph
    lines, yaw = graph.stop_lines, snapshot.subjects.yaw
    along, aside = _seen_from_lines(snapshot, snapshot.past(2))
    # Where the way of the bumper meets the line.
    moved = along[1] - along[0]
    part = jnp.where(moved > 0, -along[0] / jnp.where(moved > 0, moved, 1.0), 0.0)
    offset = aside[0] + part * (aside[1] - aside[0])
    headed = jnp.abs(geometry.wrap_angle(yaw[:, None] - lines.yaw[None])) <= ALONG
    level = jnp.abs(snapshot.wheels[:, 2:] - lines.xyz[None, :, 2]) <= LEVEL
    over = (along[0] < 0) & (along[1] >= 0) & (jnp.abs(offset) <= HALF_WIDTH)
    there = snapshot.drives & snapshot.of_subjects(snapshot.previous).valid
    real = lines.lane >= 0
    return Crossings(
        crossed=over & headed & level & there[:, None] & real[None],
        light=jnp.where(real, graph.light[lines.lane], -1),
        stop_sign=real & graph.stop_sign[lines.lane],
    )


def _seen_from_lines(snapshot: Snapshot, agents: AgentState) -> tuple[Float[Array, "H O Z"], Float[Array, "H O Z"]]:
    """How far the front bumpers of agents are beyond and to the left of each line, m."""
    lines = snapshot.scenario.graph.stop_lines
    bumper = agents.xyz[..., :2] + geometry.heading(agents.yaw) * (snapshot.info.size[:, :1] / 2)[None]
    x, y = (bumper[..., axis, None] - lines.xyz[None, None, :, axis] for axis in range(2))
    cos, sin = jnp.cos(lines.yaw)[None, None], jnp.sin(lines.yaw)[None, None]
    return cos * x + sin * y, cos * y - sin * x


def _seen(snapshot: Snapshot, states: tuple[int, ...], light: Int[Array, " Z"]) -> Bool[Array, " Z"]:
    """Whether lights were seen in one of some states both now and one step ago."""
    signals, step = snapshot.scenario.signals, snapshot.step
    if not signals.lane_id.shape[-1]:
        return jnp.zeros(light.shape, bool)
    steps = jnp.stack([jnp.maximum(step - 1, 0), step])
    state, valid = signals.state[steps][:, light], signals.valid[steps][:, light]
    return jnp.all(valid & jnp.isin(state, jnp.asarray(states, state.dtype)), axis=0)
