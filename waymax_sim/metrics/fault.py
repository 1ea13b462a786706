"""At-fault collisions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN
from waymax_sim.metrics.contact import FRONT_CONTACT_COSINE, MovingBoxes, contact_interval
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.metrics.overlap import pairwise_separation
from waymax_sim.metrics.straddling import is_straddling
from waymax_sim.metrics.time_to_collision import climb_rate
from waymax_sim.pytree import Array


def at_fault_collision(snapshot: Snapshot) -> MetricValue:
    """Whether an agent collided with another one in the last step and is at fault.

    An agent is at fault if it was moving and the contact is at its front (in the direction of travel), or the other
    agent was stationary, or the contact is at its side while it straddled lanes or was off the road. It is not at fault
    if it was stationary or hit from behind. The side is that of the contact normal, from the motion of both boxes
    during the step. Positive once per contact, in the step in which it begins. Valid for agents that are valid now and
    one step earlier.

    Source: nuPlan, no ego at-fault collisions. Limits: right of way is not known, so in crossing traffic the agent with
    the contact at its front is at fault; an agent that swerves into another one within its lane is not.
    """
    return _any_at_fault(snapshot, snapshot.cached(_at_fault))


def at_fault_vru_collision(snapshot: Snapshot) -> MetricValue:
    """`at_fault_collision` with vulnerable road users: pedestrians and cyclists."""
    return _any_at_fault(snapshot, snapshot.cached(_at_fault) & _has_type(snapshot, PEDESTRIAN, CYCLIST))


def at_fault_vehicle_collision(snapshot: Snapshot) -> MetricValue:
    """`at_fault_collision` with vehicles and agents of unknown type."""
    return _any_at_fault(snapshot, snapshot.cached(_at_fault) & ~_has_type(snapshot, PEDESTRIAN, CYCLIST, OTHER))


def at_fault_object_collisions(snapshot: Snapshot) -> MetricValue:
    """Number of at-fault collisions in the last step with objects that are no road users (type 4), such as cones.

    The sum over an episode counts contacts. Fault is that of `at_fault_collision`.
    """
    count = jnp.sum(snapshot.cached(_at_fault) & _has_type(snapshot, OTHER), axis=-1).astype(jnp.float32)
    return masked_value(count, _valid_in_both_steps(snapshot))


def _any_at_fault(snapshot: Snapshot, at_fault: Bool[Array, "O N"]) -> MetricValue:
    return flag(jnp.any(at_fault, axis=-1), _valid_in_both_steps(snapshot))


def _valid_in_both_steps(snapshot: Snapshot) -> Bool[Array, " O"]:
    return snapshot.evaluated_agents.valid & snapshot.select_evaluated(snapshot.previous).valid


def _has_type(snapshot: Snapshot, *types: int) -> Bool[Array, "1 N"]:
    return jnp.isin(snapshot.scenario.agents.type, jnp.asarray(types, jnp.int32))[None]


class NewContacts(NamedTuple):
    """Contacts of O evaluated agents with all N agents that began in the last step.

    Attributes:
      is_new: Pairs whose contact began.
      contact_cosine: Cosine of the angle between the direction of travel of the evaluated agent and the contact normal:
        1 at its front, 0 at a side, -1 at its rear.
      is_stationary: Whether the evaluated agent was stationary, [O, 1].
      other_is_stationary: Whether the other one was, [1, N].
    """

    is_new: Bool[Array, "O N"]
    contact_cosine: Float[Array, "O N"]
    is_stationary: Bool[Array, "O 1"]
    other_is_stationary: Bool[Array, "1 N"]


def new_contacts(snapshot: Snapshot) -> NewContacts:
    """The contacts that began in the last step, by the motion of both boxes during the step."""
    agents, previous, size = snapshot.agents, snapshot.previous, snapshot.scenario.agents.size
    own_previous, own_size = snapshot.select_evaluated(previous), snapshot.info.size
    overlaps = pairwise_separation(snapshot.evaluated_agents, own_size, agents, size) < 0
    is_new = overlaps & (pairwise_separation(own_previous, own_size, previous, size) >= 0)
    is_new = is_new & (own_previous.valid[:, None] & previous.valid[None]) & ~snapshot.is_self

    # Displacements decide, since recorded velocities need not agree with them.
    velocity = (agents.xyz[:, :2] - previous.xyz[:, :2]) / snapshot.dt
    others = MovingBoxes.from_agents(agents, velocity, climb_rate(agents, previous, snapshot.dt), size)
    own = jax.tree.map(lambda leaf: leaf[:, None], snapshot.select_evaluated(others))
    others = jax.tree.map(lambda leaf: leaf[None], others)
    cosine = contact_interval(own, others).contact_cosine
    return NewContacts(is_new, cosine, own.is_stationary, others.is_stationary)


def _at_fault(snapshot: Snapshot) -> Bool[Array, "O N"]:
    """Pairs of an evaluated agent and another one whose collision began in the last step by fault of the first one."""
    contacts = snapshot.cached(new_contacts)
    cosine, edge = contacts.contact_cosine, snapshot.road_edge_distance
    is_out_of_lane = snapshot.cached(is_straddling) | (edge.valid & (edge.value > 0))
    is_front, is_side = cosine > FRONT_CONTACT_COSINE, jnp.abs(cosine) <= FRONT_CONTACT_COSINE
    is_cause = contacts.other_is_stationary | is_front | (is_side & is_out_of_lane[:, None])
    return contacts.is_new & ~contacts.is_stationary & is_cause
