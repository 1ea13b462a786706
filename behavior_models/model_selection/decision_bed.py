"""One-shot driving decisions simulated in the graph: a contextual bandit with skewed logs.

The ego approaches a conflict and holds one of five accelerations for some seconds. Situations are an unprotected
crossing, a merge, a yellow light and a slow leading vehicle. The outcome is the progress minus penalties for small
clearances and for running a red light; it is random, because the other vehicle accelerates at random.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.model_selection.bandit_beds import Bandit, region_columns
from behavior_models.model_selection.decision_scene import DecisionParams
from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import TIME_STEP, Scenario
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Env, EnvConfig, Observation, Policy, rollout
from waymax_sim.pytree import Array, pytree

# Situations, each with its conflict at the origin of the lane of the ego.
SITUATIONS = ("crossing", "merge", "yellow light", "leading vehicle")
CROSSING = 0
MERGE = 1
YELLOW = 2
LEADING = 3


@pytree
class DecisionContexts:
    """m decision points.

    Attributes:
      situation: Index in `SITUATIONS`.
      site: Site of the situation.
      distance: Distance of the ego to the conflict, m.
      speed: Speed of the ego, m/s.
      other_position: Of the other vehicle along its path; the conflict is at 0, m.
      other_speed: Speed of the other vehicle, m/s.
      yellow_time: Time until the light is red, s; infinite without a light.
    """

    situation: Int[Array, "*m"]
    site: Int[Array, "*m"]
    distance: Float[Array, "*m"]
    speed: Float[Array, "*m"]
    other_position: Float[Array, "*m"]
    other_speed: Float[Array, "*m"]
    yellow_time: Float[Array, "*m"]


@pytree
class HeldAccelerations(Policy):
    """Every agent holds its acceleration along its heading, [N] m/s^2."""

    acceleration: Float[Array, "*N"]
    dynamics = Bicycle()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The accelerations without curvature."""
        value = jnp.stack([self.acceleration, jnp.zeros_like(self.acceleration)], axis=-1)
        return Action(value=value, valid=observation.agents.valid), carry


def sample_contexts(key: Key[Array, ""], count: int, params: DecisionParams) -> DecisionContexts:
    """Random decision points.

    Args:
      key: Random key.
      count: m.
      params: Constants.
    """
    keys = jax.random.split(key, 8)

    def uniform(index: int, low: float, high: float) -> Float[Array, " m"]:
        return jax.random.uniform(keys[index], (count,), minval=low, maxval=high)

    situation = jax.random.randint(keys[0], (count,), 0, len(SITUATIONS))
    distance, speed, other_speed = uniform(1, 10.0, 35.0), uniform(2, 4.0, 12.0), uniform(3, 4.0, 12.0)
    gap, arrival = uniform(4, 4.0, 25.0), uniform(5, 0.5, 5.0)
    is_leading = situation == LEADING
    # A leading vehicle is on the lane of the ego, at most as fast; other vehicles arrive at the conflict later.
    leading_position = -distance + gap + params.length
    other_position = jnp.where(is_leading, leading_position, -other_speed * arrival)
    other_speed = jnp.where(is_leading, jnp.minimum(other_speed, speed), other_speed)
    yellow = jnp.where(situation == YELLOW, uniform(6, 0.5, 4.0), jnp.inf)
    site = jax.random.randint(keys[7], (count,), 0, params.num_sites)
    # Cross traffic of a light starts far behind its line.
    other_position = jnp.where(situation == YELLOW, other_position - 60.0, other_position)
    return DecisionContexts(situation, site, distance, speed, other_position, other_speed, yellow)


def initial_agents(contexts: DecisionContexts, params: DecisionParams) -> AgentState:
    """The ego and the other vehicle, [*m, 2]."""
    angles = jnp.asarray([np.pi / 2, params.merge_angle, np.pi / 2, 0.0], jnp.float32)
    yaw = jnp.stack([jnp.zeros_like(contexts.speed), angles[contexts.situation]], axis=-1)
    along = jnp.stack([-contexts.distance, contexts.other_position], axis=-1)
    speed = jnp.stack([contexts.speed, contexts.other_speed], axis=-1)
    forward = geometry.unit_vector(yaw)
    xy = along[..., None] * forward
    xyz = jnp.concatenate([xy, jnp.zeros_like(xy[..., :1])], axis=-1)
    return AgentState(xyz, yaw, speed[..., None] * forward, jnp.ones(yaw.shape, bool))


ENV = Env(dynamics=Bicycle(), config=EnvConfig(controlled="all", height_source="log", metrics=(), rewards=()))


def simulate_decisions(
    scenario: Scenario,
    contexts: DecisionContexts,
    acceleration: Float[Array, " m"],
    key: Key[Array, ""],
    params: DecisionParams,
) -> Float[Array, " m"]:
    """Outcomes of decisions in the simulator.

    Args:
      scenario: From `template_scenario`.
      contexts: The decision points.
      acceleration: Of the ego, m/s^2.
      key: Random key of the other vehicles.
      params: Constants.
    """
    noise = params.other_noise * jax.random.normal(key, acceleration.shape)
    # Cross traffic starts only after the light has changed.
    noise = jnp.where(contexts.situation == YELLOW, 0.0, noise)

    def one(start: AgentState, held: Float[Array, " 2"]) -> AgentState:
        steps = scenario.log.valid.shape[0]
        log = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (steps, *leaf.shape)), start)
        moved = dataclasses.replace(scenario, log=log)
        trace = rollout(ENV, HeldAccelerations(held), moved, jax.random.key(0), params.duration, record=("agents",))
        assert trace.agents is not None
        return trace.agents

    starts = initial_agents(contexts, params)
    agents = jax.vmap(one)(starts, jnp.stack([acceleration, noise], axis=-1))
    return compute_outcomes(agents, contexts, acceleration, params)


def compute_outcomes(
    agents: AgentState, contexts: DecisionContexts, acceleration: Float[Array, "*m"], params: DecisionParams
) -> Float[Array, "*m"]:
    """Progress minus penalties.

    Args:
      agents: Both vehicles after each step, [*m, T, 2].
      contexts: The decision points.
      acceleration: Of the ego, m/s^2.
      params: Constants.
    """
    clearance, progress, is_red = decision_terms(agents, contexts, params)
    outcome = progress / params.progress_scale - clearance_penalty(clearance, params)
    outcome = outcome - params.red_penalty * is_red.astype(jnp.float32) - 0.02 * (acceleration / 4.0) ** 2
    # A diverged simulation is as bad as a collision.
    worst = -params.near_miss_penalty - params.collision_penalty - params.red_penalty
    return jnp.where(jnp.isfinite(outcome), outcome, worst)


def clearance_penalty(clearance: Float[Array, "*m"], params: DecisionParams) -> Float[Array, "*m"]:
    """Penalty of a small clearance (m) and of a collision."""
    near = params.near_miss_penalty * jnp.clip(1.0 - clearance / params.safe_clearance, 0.0, 1.0)
    return near + params.collision_penalty * (clearance <= 0).astype(jnp.float32)


def decision_terms(
    agents: AgentState, contexts: DecisionContexts, params: DecisionParams
) -> tuple[Float[Array, "*m"], Float[Array, "*m"], Bool[Array, "*m"]]:
    """Smallest clearance (m), progress (m), and whether the ego crosses the line at red.

    Args:
      agents: Both vehicles after each step, [*m, T, 2].
      contexts: The decision points.
      params: Constants.
    """
    size = jnp.broadcast_to(jnp.asarray([params.length, params.width]), (*agents.yaw.shape, 2))
    boxes = geometry.Boxes.from_poses(agents.xyz[..., :2], agents.yaw, size)
    ego, other = (geometry.Boxes(*(leaf[..., index] for leaf in boxes)) for index in range(2))
    clearance = jnp.min(geometry.boxes_distance(ego, other), axis=-1)
    front = agents.xyz[..., 0, 0] + params.length / 2
    progress = agents.xyz[..., -1, 0, 0] + contexts.distance
    crosses = (front[..., 1:] > 0) & (front[..., :-1] <= 0)
    time = TIME_STEP * jnp.arange(2, front.shape[-1] + 1, dtype=jnp.float32).reshape((1,) * (front.ndim - 1) + (-1,))
    is_red = jnp.any(crosses & (time > contexts.yellow_time[..., None]), axis=-1)
    return clearance, progress, is_red


def predict_agents(
    contexts: DecisionContexts, acceleration: Float[Array, "*m 2"], params: DecisionParams
) -> AgentState:
    """Motion with held accelerations, [*m, T, 2].

    Args:
      contexts: The decision points.
      acceleration: Of the ego and of the other vehicle, m/s^2.
      params: Constants.
    """
    start = initial_agents(contexts, params)
    time = TIME_STEP * jnp.arange(1, params.duration + 1, dtype=jnp.float32).reshape(
        (1,) * (acceleration.ndim - 1) + (-1, 1)
    )
    speed, rate = jnp.stack([contexts.speed, contexts.other_speed], axis=-1)[..., None, :], acceleration[..., None, :]
    # Braking ends at standstill.
    moving = jnp.where(rate < 0, jnp.minimum(time, -speed / jnp.minimum(rate, -1e-6)), time)
    traveled = speed * moving + 0.5 * rate * moving**2
    forward = geometry.unit_vector(start.yaw)[..., None, :, :]
    xy = start.xyz[..., None, :, :2] + traveled[..., None] * forward
    shape = traveled.shape
    yaw = jnp.broadcast_to(start.yaw[..., None, :], shape)
    xyz = jnp.concatenate([xy, jnp.zeros_like(xy[..., :1])], axis=-1)
    return AgentState(xyz, yaw, jnp.zeros((*shape, 2)), jnp.ones(shape, bool))


# Accelerations of the other vehicle in predictions, in standard deviations, and spreads that they are weighted by.
DEVIATIONS = tuple(round(-2.4 + 0.4 * index, 1) for index in range(13))
SPREADS = (0.5, 1.0, 2.0)


def predict_terms(
    contexts: DecisionContexts, deviation: float, params: DecisionParams
) -> tuple[Float[Array, "m A"], Float[Array, "m A"], Bool[Array, "m A"]]:
    """Clearance (m), progress (m), and whether a red light is run, of each action for one acceleration of the other.

    Args:
      contexts: The decision points.
      deviation: Acceleration of the other vehicle in standard deviations.
      params: Constants.
    """
    rates, shape = jnp.asarray(params.accelerations, jnp.float32), (*contexts.speed.shape, len(params.accelerations))
    repeated = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], shape), contexts)
    other = jnp.where(repeated.situation == YELLOW, 0.0, params.other_noise * deviation)
    both = jnp.stack([jnp.broadcast_to(rates[None], shape), other], axis=-1)
    return decision_terms(predict_agents(repeated, both, params), repeated, params)


def action_columns(contexts: DecisionContexts, params: DecisionParams) -> Float[Array, "m A d"]:
    """Columns of each action: predicted progress, red light, effort, and mean clearance penalty by spread."""
    terms = [predict_terms(contexts, deviation, params) for deviation in DEVIATIONS]
    _, progress, is_red = terms[0]
    effort = jnp.broadcast_to((jnp.asarray(params.accelerations, jnp.float32) / 4.0)[None] ** 2, progress.shape)
    penalty = jnp.stack([clearance_penalty(clearance, params) for clearance, _, _ in terms], axis=-1)
    weights = np.exp(-((np.array(DEVIATIONS)[:, None] / SPREADS) ** 2) / 2)
    penalties = penalty @ jnp.asarray(weights / weights.sum(axis=0), jnp.float32)
    columns = jnp.ones_like(progress), progress / params.progress_scale, is_red.astype(jnp.float32), effort
    return jnp.concatenate([jnp.stack(columns, axis=-1), penalties], axis=-1)


def cautious_actions(contexts: DecisionContexts, params: DecisionParams) -> Int[Array, " m"]:
    """The largest acceleration with a sufficient predicted clearance and without a red light, else the first."""
    clearance, _, is_red = predict_terms(contexts, 0.0, params)
    usable = (clearance >= params.logged_clearance) & ~is_red
    index = jnp.arange(usable.shape[-1])[None]
    return jnp.max(jnp.where(usable, index, 0), axis=-1).astype(jnp.int32)


def site_columns(contexts: DecisionContexts, params: DecisionParams) -> Float[Array, "K m A D"]:
    """Columns of K classes: class k pools the sites of situation k, and fits each site of the others separately."""
    columns = action_columns(contexts, params)
    return region_columns(columns, contexts.situation, contexts.site, len(SITUATIONS), params.num_sites)


def logged_decisions(
    scenario: Scenario, key: Key[Array, ""], count: int, params: DecisionParams
) -> tuple[DecisionContexts, Int[Array, " n"], Float[Array, " n"]]:
    """Decisions of a mostly cautious driver with their simulated outcomes.

    Args:
      scenario: From `template_scenario`.
      key: Random key.
      count: n.
      params: Constants.
    """
    keys = jax.random.split(key, 4)
    contexts = sample_contexts(keys[0], count, params)
    uniform = jax.random.randint(keys[1], (count,), 0, len(params.accelerations))
    is_random = jax.random.bernoulli(keys[2], params.random_share, (count,))
    action = jnp.where(is_random, uniform, cautious_actions(contexts, params))
    rates = jnp.asarray(params.accelerations, jnp.float32)[action]
    return contexts, action, simulate_decisions(scenario, contexts, rates, keys[3], params)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def expected_outcomes(
    scenario: Scenario, key: Key[Array, ""], count: int, num_draws: int, params: DecisionParams
) -> tuple[DecisionContexts, Float[Array, "m A"]]:
    """Random contexts, and mean outcomes of all actions over draws of the other vehicle.

    Args:
      scenario: From `template_scenario`.
      key: Random key.
      count: m.
      num_draws: Simulations of each context and action.
      params: Constants.
    """
    context_key, key = jax.random.split(key)
    contexts = sample_contexts(context_key, count, params)

    def draw(own: Key[Array, ""]) -> Float[Array, "m A"]:
        # All actions meet the same draw of the other vehicle.
        rates = [jnp.full(count, rate, jnp.float32) for rate in params.accelerations]
        return jnp.stack([simulate_decisions(scenario, contexts, rate, own, params) for rate in rates], axis=-1)

    return contexts, jnp.mean(jax.lax.map(draw, jax.random.split(key, num_draws)), axis=0)


def decision_bandit(
    scenario: Scenario,
    key: Key[Array, ""],
    count: int,
    contexts: DecisionContexts,
    mean: Float[Array, "m A"],
    params: DecisionParams,
) -> Bandit:
    """Logged decisions of one seed with the columns of all classes.

    Args:
      scenario: From `template_scenario`.
      key: Random key.
      count: Logged decisions.
      contexts: Test contexts.
      mean: Their expected outcomes.
      params: Constants.
    """
    logged, action, outcome = logged_decisions(scenario, key, count, params)
    features, tested = site_columns(logged, params), site_columns(contexts, params)
    masks = jnp.ones((len(SITUATIONS), features.shape[-1]), bool)
    return Bandit(features, action, outcome, masks, tested, mean)
