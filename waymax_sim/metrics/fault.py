"""Collisions, and whose fault they are."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN
from waymax_sim.metrics.contact import FRONT, Movers, meeting
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.metrics.overlap import gaps
from waymax_sim.metrics.straddling import straddles
from waymax_sim.metrics.time_to_collision import climb_rate
from waymax_sim.pytree import Array


def at_fault_collision(snapshot: Snapshot) -> MetricValue:
    """Whether the box of an agent ran into that of another in the last step, through a fault of its own.

    It is at fault where it moved and met the other with its front (in the direction of travel), or met one that stands,
    or met it with its side while it straddled lanes or was off the road. It is not where it stood or was hit from
    behind. The side is that of the contact normal, from the motion of both boxes during the step. Fires once per
    contact, in the step in which it begins. Valid where the agent is and was one step before.

    Source: nuPlan, no ego at-fault collisions. Limits: right of way is not known, so crossing traffic is judged by who
    hits whom with the front; who swerves into another within one lane is not at fault.
    """
    return _verdict(snapshot, snapshot.once(_at_fault))


def at_fault_vru_collision(snapshot: Snapshot) -> MetricValue:
    """The same, for collisions with vulnerable road users alone: pedestrians and cyclists."""
    return _verdict(snapshot, snapshot.once(_at_fault) & _is(snapshot, PEDESTRIAN, CYCLIST))


def at_fault_vehicle_collision(snapshot: Snapshot) -> MetricValue:
    """The same, for collisions with vehicles, and with what is of unknown type."""
    return _verdict(snapshot, snapshot.once(_at_fault) & ~_is(snapshot, PEDESTRIAN, CYCLIST, OTHER))


def at_fault_object_collisions(snapshot: Snapshot) -> MetricValue:
    """How many objects that are no road users (type 4), such as cones, an agent ran into in the last step by its fault.

    The sum over an episode counts contacts. Judged as in `at_fault_collision`.
    """
    hits = jnp.sum(snapshot.once(_at_fault) & _is(snapshot, OTHER), axis=-1).astype(jnp.float32)
    return masked_value(hits, _was_there(snapshot))


def _verdict(snapshot: Snapshot, at_fault: Bool[Array, "O N"]) -> MetricValue:
    return flag(jnp.any(at_fault, axis=-1), _was_there(snapshot))


def _was_there(snapshot: Snapshot) -> Bool[Array, " O"]:
    return snapshot.subjects.valid & snapshot.of_subjects(snapshot.previous).valid


def _is(snapshot: Snapshot, *types: int) -> Bool[Array, "1 N"]:
    return jnp.isin(snapshot.scenario.agents.type, jnp.asarray(types, jnp.int32))[None]


def _at_fault(snapshot: Snapshot) -> Bool[Array, "O N"]:
    """Which judged agent ran into which other one in the last step, and is to blame."""
    agents, previous, size = snapshot.agents, snapshot.previous, snapshot.scenario.agents.size
    before, own_size = snapshot.of_subjects(previous), snapshot.info.size
    new = (gaps(snapshot.subjects, own_size, agents, size) < 0) & (gaps(before, own_size, previous, size) >= 0)
    new = new & (before.valid[:, None] & previous.valid[None]) & ~snapshot.is_itself

    # What counts is how they moved during the step, whatever their velocities say.
    velocity = (agents.xyz[:, :2] - previous.xyz[:, :2]) / snapshot.dt
    others = Movers.of(agents, velocity, climb_rate(agents, previous, snapshot.dt), size)
    ours = jax.tree.map(lambda leaf: leaf[:, None], snapshot.of_subjects(others))
    others = jax.tree.map(lambda leaf: leaf[None], others)
    ahead = meeting(ours, others).ahead
    edge = snapshot.road_edge_distance
    wayward = snapshot.once(straddles) | (edge.valid & (edge.value > 0))
    lateral = jnp.abs(ahead) <= FRONT
    return new & ~ours.stands & (others.stands | (ahead > FRONT) | (lateral & wayward[:, None]))
