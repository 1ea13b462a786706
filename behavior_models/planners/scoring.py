"""How good rollouts of the ego are: the closed-loop score of nuPlan, foreseen with the kernels of the metrics."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from behavior_models.planners.prediction import NUM_STEPS, STRIDE, Outlook, Rollouts, times
from behavior_models.planners.reference_path import along, place_at
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.roadmap import Segments
from waymax_sim.env import Observation
from waymax_sim.maps.nearest import signed_distance
from waymax_sim.metrics.comfort import NUM_STEPS as WINDOW
from waymax_sim.metrics.comfort import Motion, motion, used_up
from waymax_sim.metrics.contact import FRONT, Meeting, Movers, meeting
from waymax_sim.metrics.nuplan import FORGIVEN, HALF_FORGIVEN, MAX_SPEEDING, MIN_TIME, WEIGHTS
from waymax_sim.metrics.time_to_collision import HORIZON
from waymax_sim.metrics.wrong_way import IN_LANE
from waymax_sim.pytree import Array, pytree, take

# The road edge is looked at every so many steps, and comfort every so many.
EDGE_EVERY, COMFORT_EVERY = 4, 4
# Less progress than this is no measure for others (m).
SOME_PROGRESS = 0.5
# What it costs to be a metre beside the course, squared (1/m^2).
BESIDE_COST = 0.05


@pytree
class Terms:
    """What is good and bad about K rollouts.

    Attributes:
      contact: Time of the first contact that the ego would be to blame for, s; infinite without one.
      time_to_collision: The least one, s; at most 5.
      off_road: How far a corner gets beyond the road edge, or further beyond it than it is now, m; 0 for not at all.
      against: Way against the direction of the course, or beside it where others may drive, m.
      runs_line: Whether the front passes the stop line to halt at.
      progress: Along the course, m.
      speeding: Mean excess over the limit, m/s.
      discomfort: The largest share of a limit of comfort that is used up.
    """

    contact: Float[Array, " K"]
    time_to_collision: Float[Array, " K"]
    off_road: Float[Array, " K"]
    against: Float[Array, " K"]
    runs_line: Bool[Array, " K"]
    progress: Float[Array, " K"]
    speeding: Float[Array, " K"]
    discomfort: Float[Array, " K"]


def terms_of(observation: Observation, outlook: Outlook, rollouts: Rollouts) -> Terms:
    """Judges rollouts against what others are expected to do. No gradient flows.

    A contact is the ego's fault where it moves and is not met at its rear, nor by who comes from behind. Others at a
    side count, since lanes are not looked up for each.
    """
    observation, outlook, rollouts = jax.lax.stop_gradient((observation, outlook, rollouts))
    agents, front = rollouts.agents, rollouts.arc_length + outlook.size[0] / 2
    speed = geometry.norm(agents.velocity)
    limit = along(outlook.course.speed_limit, rollouts.arc_length)
    was_before = outlook.arc_length + outlook.size[0] / 2 <= outlook.halt
    contact, soonest = _contacts(outlook, agents)
    return Terms(
        contact=contact,
        time_to_collision=soonest,
        off_road=_off_road(observation.edges, outlook, rollouts),
        against=_against(outlook, rollouts),
        runs_line=was_before & (jnp.max(front, axis=0) > outlook.halt),
        progress=rollouts.arc_length[-1] - outlook.arc_length,
        speeding=jnp.mean(jnp.maximum(speed - limit, 0.0), axis=0),
        discomfort=_discomfort(outlook, agents),
    )


def score_of(terms: Terms) -> Float[Array, " K"]:
    """The closed-loop score of nuPlan (0 to 1) of each rollout; progress counts in relation to the best one.

    Where none is without fault, those that are least bad otherwise still come first, by a thousandth.
    """
    gate = (~jnp.isfinite(terms.contact) & (terms.off_road <= 0) & ~terms.runs_line).astype(jnp.float32)
    gate = gate * jnp.where(terms.against < FORGIVEN, 1.0, jnp.where(terms.against < HALF_FORGIVEN, 0.5, 0.0))
    best = jnp.max(jnp.where(gate > 0, terms.progress, 0.0))
    progress = jnp.where(best > SOME_PROGRESS, terms.progress / jnp.maximum(best, SOME_PROGRESS), 1.0)
    parts = {
        "time_to_collision_within_bound": (terms.time_to_collision >= MIN_TIME).astype(jnp.float32),
        "ego_progress_along_expert_route": jnp.clip(progress, 0.0, 1.0),
        "speed_limit_compliance": jnp.maximum(1.0 - terms.speeding / MAX_SPEEDING, 0.0),
        "ego_is_comfortable": (terms.discomfort <= 1.0).astype(jnp.float32),
    }
    return (gate + 1e-3) * _weighted(parts)


def cost_of(terms: Terms, rollouts: Rollouts) -> Float[Array, " K"]:
    """What planners that search make small: 1 less the score, with slopes instead of steps, so that bad can get better.

    Later contacts cost less than sooner ones, and it costs to be beside the course.
    """
    best = jnp.maximum(jnp.max(terms.progress), SOME_PROGRESS)
    late = jnp.minimum(terms.contact / HORIZON, 1.0)
    wrong = 4.0 * jnp.where(jnp.isfinite(terms.contact), 2.0 - late, 0.0) + 4.0 * terms.runs_line.astype(jnp.float32)
    wrong = wrong + 4.0 * jnp.minimum(terms.off_road, 1.0) + jnp.minimum(terms.against / HALF_FORGIVEN, 1.0)
    parts = {
        "time_to_collision_within_bound": jnp.minimum(terms.time_to_collision / (2 * MIN_TIME), 1.0),
        "ego_progress_along_expert_route": terms.progress / best,
        "speed_limit_compliance": 1.0 - terms.speeding / MAX_SPEEDING,
        "ego_is_comfortable": 1.0 - terms.discomfort,
    }
    return wrong + 1.0 - _weighted(parts) + BESIDE_COST * jnp.mean(rollouts.lateral**2, axis=0)


def _weighted(parts: dict[str, Float[Array, " K"]]) -> Float[Array, " K"]:
    """The mean of the weighted terms of the score."""
    return sum((WEIGHTS[name] * part for name, part in parts.items()), start=jnp.zeros(())) / sum(WEIGHTS.values())


def _contacts(outlook: Outlook, agents: AgentState) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Time of the first contact by own fault (s), and the least time to collision (s)."""
    meets, ours, others = meetings(outlook, agents)
    shares = (meets.begin < 0) & (meets.end > 0)
    from_behind = (outlook.strip.middle[0] < outlook.arc_length) & ~others.stands[0, 0]
    minds = ~ours.stands & ~from_behind[None, None]
    blamed = minds & (others.stands | (meets.ahead > -FRONT))
    # What is shared from the start is nobody's fault any more.
    new = jnp.any(shares[1:] & ~shares[:-1] & blamed[1:], axis=-1)
    time = times(outlook.dt)
    contact = jnp.min(jnp.where(new, time[1:, None], jnp.inf), axis=0)
    nears = (meets.begin < meets.end) & (meets.end > 0) & (meets.ahead > -FRONT) & minds & ~shares[:1]
    soonest = jnp.where(nears, jnp.clip(meets.begin, 0.0, HORIZON), HORIZON)
    return contact, jnp.min(soonest[1:], axis=(0, 2))


def meetings(outlook: Outlook, agents: AgentState) -> tuple[Meeting, Movers, Movers]:
    """How rollouts [T, K] meet the O others at the times that count, now included: [1 + T / STRIDE, K, O]."""
    now = jax.tree.map(lambda leaf, all_: jnp.broadcast_to(leaf, all_.shape[1:])[None], outlook.now, agents)
    ego = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves)[..., None], now, take(agents, slice(STRIDE - 1, None, STRIDE))
    )
    half, others, time = jnp.abs(outlook.size) / 2, outlook.others, times(outlook.dt)[:, None, None]
    level, high = jnp.zeros(()), jnp.ones(())
    ours = Movers(
        x=ego.xyz[..., 0, :],
        y=ego.xyz[..., 1, :],
        z=level,
        u=ego.velocity[..., 0, :],
        v=ego.velocity[..., 1, :],
        w=level,
        cos=jnp.cos(ego.yaw),
        sin=jnp.sin(ego.yaw),
        long=half[0],
        wide=half[1],
        high=high,
        present=ego.valid,
    )
    row = jax.tree.map(lambda leaf: leaf[None, None], others)
    theirs = Movers(
        x=row.x + time * row.u,
        y=row.y + time * row.v,
        z=level,
        u=row.u,
        v=row.v,
        w=level,
        cos=row.cos,
        sin=row.sin,
        long=row.long,
        wide=row.wide,
        high=high,
        present=row.present,
    )
    return meeting(ours, theirs), ours, theirs


def corner_distances(edges: Segments, outlook: Outlook, rollouts: Rollouts) -> Float[Array, "T K"]:
    """Signed distance (m) of the corner furthest beyond the road edge, now and every few steps.

    Far inside where there is no edge.
    """
    now = jax.tree.map(lambda leaf, all_: jnp.broadcast_to(leaf, all_.shape[1:])[None], outlook.now, rollouts.agents)
    later = take(rollouts.agents, slice(EDGE_EVERY - 1, None, EDGE_EVERY))
    agents = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), now, later)
    arc_length = rollouts.arc_length[EDGE_EVERY - 1 :: EDGE_EVERY]
    height = place_at(outlook.course, jax.lax.stop_gradient(arc_length)).z
    bottom = jnp.broadcast_to(outlook.now.xyz[2] - outlook.size[2] / 2, (1, height.shape[1]))
    height = jnp.concatenate([bottom, height])
    xy = geometry.box_corners(agents.xyz[..., :2], agents.yaw, jnp.broadcast_to(outlook.size[:2], (*height.shape, 2)))
    height = jnp.broadcast_to(height[..., None, None], (*xy.shape[:-1], 1))
    corners = jnp.concatenate([xy, height], axis=-1)
    distance, found = signed_distance(edges, corners, jnp.ones(corners.shape[:-1], bool))
    return jnp.max(jnp.where(found, distance, -HORIZON), axis=-1)


def _off_road(edges: Segments, outlook: Outlook, rollouts: Rollouts) -> Float[Array, " K"]:
    distance = corner_distances(edges, outlook, rollouts)
    return jnp.maximum(jnp.max(distance[1:], axis=0) - jnp.maximum(distance[0], 0.0), 0.0)


def _against(outlook: Outlook, rollouts: Rollouts) -> Float[Array, " K"]:
    place, agents = place_at(outlook.course, rollouts.arc_length), rollouts.agents
    along_it = geometry.dot(agents.velocity, jnp.stack([place.cos, place.sin], axis=-1))
    beside = jnp.abs(rollouts.lateral) > IN_LANE
    way = jnp.where(beside, jnp.abs(along_it), jnp.maximum(-along_it, 0.0)) * outlook.dt
    return jnp.sum(way, axis=0)


def _discomfort(outlook: Outlook, agents: AgentState) -> Float[Array, " K"]:
    past = jax.tree.map(lambda leaf, all_: jnp.broadcast_to(leaf[:, None], (2, *all_.shape[1:])), outlook.past, agents)
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), past, agents)
    starts = range(0, NUM_STEPS + 3 - WINDOW, COMFORT_EVERY)
    windows = [take(whole, slice(start, start + WINDOW)) for start in starts]
    felt = motion(jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *windows), 1.0)
    # The time step is known only now.
    order = Motion(1, 1, 2, 2, 1, 2)
    felt = Motion(*(value / outlook.dt**power for value, power in zip(felt, order, strict=True)))
    return jnp.max(used_up(felt).reshape(len(windows), -1), axis=0)
