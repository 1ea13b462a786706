"""A planner by gradients: an action sequence is improved through the bicycle, with soft measures of what is wrong."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from behavior_models.planners.action_sequence import NUM_KNOTS, Search, changes, no_plan, shifted
from behavior_models.planners.pdm import action_of_ego, unless_emergency
from behavior_models.planners.prediction import BICYCLE, STRIDE, Outlook, Rollouts, outlook_of, replayed, serve, times
from behavior_models.planners.proposals import last_action, proposals, suitable_speeds
from behavior_models.planners.reference_path import along
from behavior_models.planners.scoring import corner_distances, cost_of, terms_of
from waymax_sim import geometry
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.metrics.comfort import MAX_ACCELERATION, MAX_LATERAL, MAX_LONGITUDINAL_JERK
from waymax_sim.pytree import Array, static_record

# Room to others and to the road edge (m), and time of way ahead to be kept free (s).
ROOM, EDGE_ROOM, HEADWAY = 0.5, 0.3, 1.0
# Steps of the optimiser are given in these units: accelerations (m/s^2), accelerations to the side (m/s^2).
UNITS = (1.0, 0.5)


@static_record
class GradientPlanner(Policy):
    """Improves an action sequence of the ego by gradients through the bicycle.

    At every step it starts from the last plan or from a proposal of `PDM`, whichever costs less, and takes a few steps
    of Adam (Kingma and Ba 2015) on a soft cost: room to others, who are thought to keep their velocity, and to the road
    edge, headway, stop lines, the speed that suits the road, distance from the course, comfort. If the start runs into
    somebody within 2 s, the ego brakes hard.

    It drives the sdc alone: other agents get no action, and coast where they are handed to it.

    Attributes:
      num_steps: Steps of the optimiser.
      rate: Size of a step, in `UNITS`.
    """

    num_steps: int = 6
    rate: float = 0.15
    dynamics = BICYCLE

    def init(self, observation: Observation, key: Key[Array, ""]) -> Search:
        """No plan yet."""
        return no_plan()

    def act(self, observation: Observation, carry: Search, key: Key[Array, ""]) -> tuple[Action, Search]:
        """The first action of the improved plan."""
        outlook = outlook_of(observation, jnp.argmax(observation.info.is_sdc), carry.served)
        before = replayed(outlook, shifted(carry.plan)[:, None])
        rollouts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), before, proposals(outlook))
        terms = terms_of(observation, outlook, rollouts)
        best = jnp.argmin(cost_of(terms, rollouts))
        plan = self.improve(observation, outlook, rollouts.value[:, best])
        value = unless_emergency(outlook, terms.contact[best], plan[0])
        return action_of_ego(observation, value), Search(plan=plan, served=serve(outlook, carry.served))

    def improve(self, observation: Observation, outlook: Outlook, plan: Float[Array, "T 2"]) -> Float[Array, "T 2"]:
        """The plan after some steps of Adam, or the best one on the way."""
        observation, outlook, plan = jax.lax.stop_gradient((observation, outlook, plan))

        def changed(change: Float[Array, "Q 2"]) -> Float[Array, "T 2"]:
            return plan + changes(change, outlook.speed, *UNITS)

        def cost(change: Float[Array, "Q 2"]) -> Float[Array, ""]:
            return soft_cost(observation, outlook, changed(change))

        def step(loop, number):
            change, mean, square, best, least = loop
            value, slope = jax.value_and_grad(cost)(change)
            best = jnp.where(value < least, change, best)
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
            unbiased = mean / (1 - 0.9**number), square / (1 - 0.99**number)
            change = change - self.rate * unbiased[0] / (jnp.sqrt(unbiased[1]) + 1e-6)
            return (change, mean, square, best, jnp.minimum(value, least)), None

        none = jnp.zeros((NUM_KNOTS, 2))
        numbers = jnp.arange(1, self.num_steps + 1, dtype=jnp.float32)
        (last, _, _, best, least), _ = jax.lax.scan(step, (none, none, none, none, jnp.asarray(jnp.inf)), numbers)
        return changed(jnp.where(cost(last) < least, last, best))


def soft_cost(observation: Observation, outlook: Outlook, plan: Float[Array, "T 2"]) -> Float[Array, ""]:
    """What is wrong with a plan, smooth enough to follow its slope."""
    rollouts = replayed(outlook, plan[:, None])
    agents, value = rollouts.agents, rollouts.value[:, 0]
    speed = geometry.dot(agents.velocity, geometry.heading(agents.yaw))[:, 0]
    suits = along(suitable_speeds(outlook.course)[0], rollouts.arc_length[:, 0])
    before = jnp.concatenate([last_action(outlook)[None, :1], value[:-1, :1]])
    jerk = (value[:, 0] - before[:, 0]) / outlook.dt
    sideways = value[:, 1] * speed**2
    edge = corner_distances(observation.edges, outlook, rollouts)
    past_line = rollouts.arc_length[:, 0] + outlook.size[0] / 2 + ROOM - outlook.halt
    past_line = jnp.where(jnp.isfinite(outlook.halt), past_line, 0.0)
    slow = jnp.clip(1.0 - speed / jnp.maximum(suits, 1.0), -1.0, 1.0)
    return (
        10.0 * _nearness(outlook, rollouts)
        + 10.0 * jnp.mean(jnp.maximum(edge[1:] + EDGE_ROOM, 0.0) ** 2)
        + 1.0 * jnp.mean(jnp.maximum(past_line, 0.0))
        + 1.0 * jnp.mean(slow**2)
        + 0.1 * jnp.mean(rollouts.lateral**2)
        + 0.1 * jnp.mean((value[:, 0] / MAX_ACCELERATION) ** 2 + (sideways / MAX_LATERAL) ** 2)
        + 0.05 * jnp.mean((jerk / MAX_LONGITUDINAL_JERK) ** 2)
    )


def _nearness(outlook: Outlook, rollouts: Rollouts) -> Float[Array, ""]:
    """Mean square of the room that is lacking to others (m^2), who are not behind now.

    The box of the ego is longer ahead by what it drives in a while, so that it keeps its distance.
    """
    agents = jax.tree.map(lambda leaf: leaf[STRIDE - 1 :: STRIDE, 0], rollouts.agents)
    speed = jnp.maximum(geometry.dot(agents.velocity, geometry.heading(agents.yaw)), 0.0)
    ahead, others, time = HEADWAY * speed, outlook.others, times(outlook.dt)[1:, None]
    xy = agents.xyz[:, :2] + geometry.heading(agents.yaw) * ahead[:, None] / 2
    size = jnp.stack([outlook.size[0] + ahead, jnp.broadcast_to(outlook.size[1], ahead.shape)], axis=-1)
    ego = jax.tree.map(lambda leaf: leaf[:, None], geometry.Boxes.of(xy, agents.yaw, size))
    row = jax.tree.map(lambda leaf: leaf[None], others)
    theirs = geometry.Boxes(row.x + time * row.u, row.y + time * row.v, row.cos, row.sin, row.long, row.wide)
    lacks = jnp.maximum(ROOM - geometry.boxes_gap(ego, theirs), 0.0)
    behind = outlook.strip.middle[0] < outlook.arc_length
    counts = others.present & ~behind
    return jnp.mean(jnp.sum(jnp.where(counts[None], lacks, 0.0) ** 2, axis=-1))
