"""Losses of value learners as programs, scored by policies that are trained with them on car following.

The inputs of a program are the action values Q(s, .), those of a target network Q'(s', .), the reward, the discount
with the mask of terminal states, and the action as a one-hot vector. Its output is the loss of one transition. The mean
over a batch of logged transitions is minimized with respect to the parameters of Q; the target network follows it
slowly. The fitness is the sum over environments of the normalized return of the greedy policy; only losses that pass a
hurdle in the first environment are trained in the others.

Source: Evolving Reinforcement Learning Algorithms (Co-Reyes et al. 2021), there with learning online.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, Key

from behavior_models.offline.car_following_bed import (
    BED,
    EVALUATED_STARTS,
    LOGGED_STARTS,
    OBSERVATION_SIZE,
    CarFollowingBedParams,
    drive,
    epsilon_idm,
    evaluate,
    reset,
)
from behavior_models.program_search import operators as ops
from behavior_models.program_search.domain import Domain
from behavior_models.program_search.domains.perceptron import Perceptron, apply_perceptron, init_perceptron
from behavior_models.program_search.mutation import MutationParams
from behavior_models.program_search.program import Program, ProgramSpace, interpret
from waymax_sim.pytree import Array, pytree

LOSS_INPUTS = ("q", "q_target", "reward", "discount", "action")
LOSS_SPACE = ProgramSpace(
    LOSS_INPUTS,
    (
        ops.ADD,
        ops.SUBTRACT,
        ops.MULTIPLY,
        ops.MAXIMUM,
        ops.MINIMUM,
        ops.ABSOLUTE,
        ops.SQUARE,
        ops.EXPONENTIAL,
        ops.LOGARITHM,
        ops.TENTH,
        ops.HALF_SQUARED_DIFFERENCE,
        ops.DOT,
        ops.LARGEST,
        ops.MEAN,
        ops.LOG_SUM_EXP,
        ops.SOFTMAX,
        ops.ENTROPY,
    ),
    num_nodes=14,
    input_types=(ops.VECTOR, ops.VECTOR, ops.SCALAR, ops.SCALAR, ops.VECTOR),
)
NUM_LOSS_PROBES = 26
# Driving of the search, and of the evaluation of its result: other leading vehicles.
SEARCH_BEDS = (BED, dataclasses.replace(BED, lead_speed=6.0, lead_noise=2.5))
HELD_OUT_BEDS = (
    dataclasses.replace(BED, lead_speed=13.0, lead_noise=2.0),
    dataclasses.replace(BED, lead_speed=8.0, lead_rate=0.2, lead_noise=3.0),
)


@dataclasses.dataclass(frozen=True)
class LossTrainingParams:
    """Training and evaluation of one policy.

    Attributes:
      epsilon: Probability of a random action of the logged driver.
      num_logged: Logged vehicles.
      num_logged_decisions: Decisions of each.
      hidden: Widths of the hidden layers.
      learning_rate: Step size of Adam.
      max_gradient_norm: Norm to which gradients are cut.
      num_steps: Gradient steps. After half of these DQN crashes in most trainings, after twice as many in none.
      batch_size: Transitions per gradient step.
      discount: Discount per decision.
      target_rate: Share of the difference by which the target network moves per step.
      num_seeds: Trainings whose mean score counts.
      num_vehicles: Vehicles of an evaluation.
      num_decisions: Decisions of an evaluation.
      hurdle: Score in the first environment below which a loss is not trained in others (Co-Reyes et al.: 0.6).
    """

    epsilon: float = 0.5
    num_logged: int = 100
    num_logged_decisions: int = 40
    hidden: tuple[int, ...] = (32, 32)
    learning_rate: float = 3e-3
    max_gradient_norm: float = 10.0
    num_steps: int = 1000
    batch_size: int = 64
    discount: float = 0.95
    target_rate: float = 0.02
    num_seeds: int = 8
    num_vehicles: int = 100
    num_decisions: int = 60
    hurdle: float = 0.6


LOSS_TRAINING = LossTrainingParams()


@pytree
class ValueBatch:
    """Values and rewards of B transitions with A actions.

    Attributes:
      q: Action values of the states.
      q_target: Action values of the next states by the target network.
      reward: Rewards.
      discount: Discount; 0 where the episode ended.
      action: Indices of the actions.
    """

    q: Float[Array, "B A"]
    q_target: Float[Array, "B A"]
    reward: Float[Array, " B"]
    discount: Float[Array, " B"]
    action: Int[Array, " B"]


# Losses of the transitions of a batch [B].
TransitionLoss = Callable[[ValueBatch], Array]


@pytree
class LoggedTransitions:
    """Logged transitions, M of which `count` exist, listed first.

    Attributes:
      observation: Observations.
      action: Actions.
      reward: Rewards.
      ended: Transitions that end their episode.
      following: Observations after the transition.
      count: Number of transitions.
    """

    observation: Float[Array, "M D"]
    action: Int[Array, " M"]
    reward: Float[Array, " M"]
    ended: Bool[Array, " M"]
    following: Float[Array, "M D"]
    count: Int[Array, ""]


@pytree
class LossScore:
    """Result of a training.

    Attributes:
      score: Normalized mean return; NaN if the loss is not finite or changes no parameter.
      returns: Mean return.
      crashes: Share of the vehicles that crash.
    """

    score: Float[Array, "*s"]
    returns: Float[Array, "*s"]
    crashes: Float[Array, "*s"]


def program_loss(program: Program) -> TransitionLoss:
    """The loss of a program.

    Args:
      program: A program of `LOSS_SPACE`.
    """

    def loss(batch: ValueBatch) -> Array:
        shape = batch.q.shape
        scalars = [jnp.broadcast_to(item[:, None], shape) for item in (batch.reward, batch.discount)]
        action = jax.nn.one_hot(batch.action, shape[-1])
        inputs = jnp.stack([batch.q, batch.q_target, *scalars, action])
        return interpret(LOSS_SPACE, program, inputs)[0, :, 0]

    return loss


def dqn_program() -> Program:
    """Half the squared temporal difference (Mnih et al. 2015)."""
    return LOSS_SPACE.build(_temporal_difference())


def dqn_reg_program() -> Program:
    """DQNReg, 0.1 Q(s, a) + 0.5 (Q(s, a) - y)^2: as in the published graph, with a factor of one half."""
    node, first = LOSS_SPACE.node, LOSS_SPACE.num_leaves
    nodes = _temporal_difference()
    return LOSS_SPACE.build([*nodes, node("tenth", first), node("add", first + 4, first + 5)])


def _temporal_difference() -> list[tuple[int, int, int]]:
    node, first = LOSS_SPACE.node, LOSS_SPACE.num_leaves
    q, q_target, reward, discount, action = range(first)
    return [
        node("dot", q, action),
        node("largest", q_target),
        node("multiply", discount, first + 1),
        node("add", reward, first + 2),
        node("half_squared_difference", first, first + 3),
    ]


def log_transitions(
    key: Key[Array, ""], bed: CarFollowingBedParams, params: LossTrainingParams = LOSS_TRAINING
) -> LoggedTransitions:
    """Transitions of a driver that acts at random at times.

    Args:
      key: Random key.
      bed: Environment.
      params: Training.
    """
    start_key, drive_key = jax.random.split(key)
    start = reset(start_key, params.num_logged, LOGGED_STARTS)
    decisions = drive(epsilon_idm(params.epsilon, bed), start, drive_key, params.num_logged_decisions, bed)
    before, after = (decisions.observation[part] for part in (slice(None, -1), slice(1, None)))
    columns = before, decisions.action[:-1], decisions.reward[:-1], decisions.ended[:-1], after
    active = decisions.active[:-1].reshape(-1)
    order = jnp.argsort(~active, stable=True)
    flat = [column.reshape(-1, *column.shape[2:])[order] for column in columns]
    return LoggedTransitions(*flat, count=active.sum())


def train_values(
    loss: TransitionLoss,
    data: LoggedTransitions,
    key: Key[Array, ""],
    num_actions: int,
    params: LossTrainingParams = LOSS_TRAINING,
) -> tuple[Perceptron, Bool[Array, ""]]:
    """Parameters of action values that minimize a loss on logged transitions.

    Args:
      loss: The loss.
      data: Logged transitions.
      key: Random key of the initial parameters and the batches.
      num_actions: Number of actions.
      params: Training.

    Returns:
      The parameters, and whether they are finite and differ from the initial ones.
    """
    init_key, batch_key = jax.random.split(key)
    first = init_perceptron(init_key, (OBSERVATION_SIZE, *params.hidden, num_actions))
    optimizer = optax.chain(optax.clip_by_global_norm(params.max_gradient_norm), optax.adam(params.learning_rate))

    def step(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, None]:
        network, target, state = carry
        rows = jax.random.randint(key, (params.batch_size,), 0, data.count)
        discount = jnp.where(data.ended[rows], 0.0, params.discount)
        q_target = apply_perceptron(target, data.following[rows])

        def mean_loss(network: Perceptron) -> Array:
            q = apply_perceptron(network, data.observation[rows])
            return jnp.mean(loss(ValueBatch(q, q_target, data.reward[rows], discount, data.action[rows])))

        updates, state = optimizer.update(jax.grad(mean_loss)(network), state)
        network = optax.apply_updates(network, updates)
        return (network, optax.incremental_update(network, target, params.target_rate), state), None

    carry = first, first, optimizer.init(first)
    network = jax.lax.scan(step, carry, jax.random.split(batch_key, params.num_steps))[0][0]
    leaves = list(zip(jax.tree.leaves(network), jax.tree.leaves(first), strict=True))
    is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(new)) for new, _ in leaves]))
    return network, is_finite & jnp.any(jnp.stack([jnp.any(new != old) for new, old in leaves]))


def greedy(network: Perceptron) -> Callable[[Array, Key[Array, ""]], Array]:
    """The policy of the largest action value."""
    return lambda observation, _: jnp.argmax(apply_perceptron(network, observation), axis=-1)


def return_range(bed: CarFollowingBedParams, params: LossTrainingParams = LOSS_TRAINING) -> tuple[float, float]:
    """Returns of the scores 0 and 1.

    The score is 0 for uniformly random actions. It is 1 for a vehicle that covers the mean distance of the leading
    vehicle and closes the mean initial gap, without accelerations; real returns are lower.

    Args:
      bed: Environment.
      params: Evaluation.
    """
    random = evaluate(epsilon_idm(1.0, bed), jax.random.key(7), 400, params.num_decisions, bed)[0]
    distance = params.num_decisions * bed.interval * bed.lead_speed + sum(EVALUATED_STARTS.gap) / 2
    return float(np.mean(random)), distance / (bed.interval * bed.max_speed)


def score_loss(
    loss: TransitionLoss,
    bed: CarFollowingBedParams,
    keys: Key[Array, " S"],
    limits: tuple[float, float],
    params: LossTrainingParams = LOSS_TRAINING,
) -> LossScore:
    """Scores of the policies that a loss trains, one per key.

    Args:
      loss: The loss.
      bed: Environment of the logged transitions and of the evaluation.
      keys: Random keys of transitions, training and evaluation.
      limits: Returns of the scores 0 and 1.
      params: Training and evaluation.
    """

    def score(key: Key[Array, ""]) -> LossScore:
        log_key, train_key, evaluation_key = jax.random.split(key, 3)
        data = log_transitions(log_key, bed, params)
        network, is_usable = train_values(loss, data, train_key, bed.num_actions, params)
        own = evaluate(greedy(network), evaluation_key, params.num_vehicles, params.num_decisions, bed)
        returns, crashes = jnp.mean(own[0]), jnp.mean(own[1].astype(jnp.float32))
        value = jnp.clip((returns - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0)
        return LossScore(jnp.where(is_usable, value, jnp.nan), returns, crashes)

    return jax.vmap(score)(keys)


def rl_loss_domain(
    seed: int = 0,
    beds: tuple[CarFollowingBedParams, ...] = SEARCH_BEDS,
    params: LossTrainingParams = LOSS_TRAINING,
) -> Domain:
    """The domain that begins with the loss of DQN.

    Args:
      seed: Seed of transitions, trainings and evaluations, equal for all losses.
      beds: Environments; the first has the hurdle.
      params: Training and evaluation.
    """
    limits = [return_range(bed, params) for bed in beds]
    keys = jax.random.split(jax.random.key(seed), params.num_seeds)

    def fitness(program: Program) -> Float[Array, ""]:
        loss = program_loss(program)

        def mean_score(index: int) -> Array:
            return jnp.mean(score_loss(loss, beds[index], keys, limits[index], params).score)

        def others() -> Array:
            # A loss that fails in a later environment keeps the score of the others.
            scores = jnp.stack([mean_score(index) for index in range(1, len(beds))])
            return jnp.sum(jnp.where(jnp.isfinite(scores), scores, 0.0))

        first = mean_score(0)
        if len(beds) == 1:
            return first
        return first + jax.lax.cond(first >= params.hurdle, others, lambda: jnp.zeros(()))

    mutation = MutationParams(fresh=0.05)
    first = (dqn_program(),)
    return Domain("rl_loss", LOSS_SPACE, fitness, loss_probes(), mutation, 0.0, in_sequence=True, first=first)


def loss_probes(seed: int = 0, num_actions: int = 3) -> Float[np.ndarray, "5 P A"]:
    """Random inputs with few actions: losses that differ do so for any number of actions.

    Args:
      seed: Seed.
      num_actions: Number of actions A.
    """
    rng, shape = np.random.default_rng(seed), (NUM_LOSS_PROBES, num_actions)
    q, q_target = rng.normal(1.0, 2.0, (2, *shape))
    reward, discount = (
        rng.normal(size=(NUM_LOSS_PROBES, 1)),
        rng.choice([0.0, 0.95], (NUM_LOSS_PROBES, 1), p=[0.2, 0.8]),
    )
    action = np.eye(num_actions)[rng.integers(0, num_actions, NUM_LOSS_PROBES)]
    return np.stack([q, q_target, *(np.broadcast_to(item, shape) for item in (reward, discount)), action])
