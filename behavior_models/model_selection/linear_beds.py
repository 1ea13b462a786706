"""Finite Markov decision processes with a known smallest complete linear class, and exact regret."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Key

from behavior_models.model_selection.linear import nested_masks
from behavior_models.model_selection.linear_ladders import LinearLadder, TableLadder
from behavior_models.model_selection.modbe import (
    DEFAULT_PARAMS,
    LoggedSteps,
    ModBEParams,
    Selection,
    modbe,
    split_steps,
)
from waymax_sim.pytree import Array, pytree, static_record


@static_record
class LinearMDPParams:
    """Random linear MDPs: simplex features of the true dimension, then columns without a meaning.

    Attributes:
      num_states: S.
      num_actions: A.
      horizon: H.
      true_dimension: Columns that determine transitions and rewards.
      dimensions: Columns of each class.
      noise: Standard deviation of rewards.
      complete: Whether the true columns are the first ones; otherwise one of them is the last column of all, so that
        no class but the largest is complete.
    """

    num_states: int = 80
    num_actions: int = 4
    horizon: int = 4
    true_dimension: int = 8
    dimensions: tuple[int, ...] = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    noise: float = 0.5
    complete: bool = True


@static_record
class DensityParams:
    """MDPs with a persistent state that no action influences, as traffic density: the reward is w (1 + c_a).

    Classes that ignore w have targets of small variance, and therefore the least temporal difference error.

    Attributes:
      num_levels: Levels of w from -1 to 1, a random walk.
      num_nuisance: Levels of a second state without effect.
      num_actions: A.
      horizon: H.
      step_probability: Probability of a step of w in each direction.
      action_effect: c_a is uniform between its negative and positive value.
      nuisance_columns: Columns without a meaning of the classes above the smallest complete one.
      noise: Standard deviation of rewards.
    """

    num_levels: int = 9
    num_nuisance: int = 8
    num_actions: int = 3
    horizon: int = 14
    step_probability: float = 0.3
    action_effect: float = 0.4
    nuisance_columns: tuple[int, ...] = (15, 30, 60)
    noise: float = 0.2

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Columns of the classes: constant, actions, half of the table of w and action, the table, nuisance."""
        actions, table = self.num_actions, self.num_levels * self.num_actions
        complete = actions + table
        return (1, actions, actions + table // 2, complete, *(complete + count for count in self.nuisance_columns))


# Index of the smallest complete class of the densities.
DENSITY_COMPLETE_CLASS = 3


@pytree
class FiniteMDP:
    """A finite MDP with S states, A actions and H steps; the first state is uniform.

    Attributes:
      transition: Probabilities of the next state.
      reward: Mean rewards.
      features: D columns of each state and action.
    """

    transition: Float[Array, "H S A S"]
    reward: Float[Array, "H S A"]
    features: Float[Array, "S A D"]


def random_linear_mdp(key: Key[Array, ""], params: LinearMDPParams) -> FiniteMDP:
    """A linear MDP: transitions and rewards are linear in the true columns."""
    keys = jax.random.split(key, 4)
    states, actions, size = params.num_states, params.num_actions, params.true_dimension
    # Squares of normal values have the gamma distribution of shape 1/2: a Dirichlet distribution of 1/2 each.
    squares = jnp.square(jax.random.normal(keys[0], (states, actions, size)))
    simplex = squares / jnp.sum(squares, axis=-1, keepdims=True)
    measures = jax.random.dirichlet(keys[1], jnp.full(states, 0.1), (params.horizon, size))
    # Draws of very small concentrations may be zero throughout.
    measures = jnp.where(jnp.isfinite(measures), measures, 1.0 / states)
    weights = jax.random.uniform(keys[2], (params.horizon, size))
    num_nuisance = params.dimensions[-1] - size
    nuisance = jax.random.normal(keys[3], (states, actions, num_nuisance)) / np.sqrt(size)
    features = jnp.concatenate([simplex, nuisance], axis=-1)
    if not params.complete:
        order = np.concatenate([np.arange(size - 1), np.arange(size, params.dimensions[-1]), [size - 1]])
        features = features[..., order]
    transition = jnp.einsum("sad,hdt->hsat", simplex, measures)
    return FiniteMDP(transition, jnp.einsum("sad,hd->hsa", simplex, weights), features)


def density_mdp(key: Key[Array, ""], params: DensityParams) -> FiniteMDP:
    """An MDP with a persistent state that no action influences."""
    levels, other, actions = params.num_levels, params.num_nuisance, params.num_actions
    level = np.repeat(np.arange(levels), other)
    walk = np.zeros((levels, levels))
    for offset in (-1, 1):
        np.add.at(
            walk, (np.arange(levels), np.clip(np.arange(levels) + offset, 0, levels - 1)), params.step_probability
        )
    walk += (1 - 2 * params.step_probability) * np.eye(levels)
    states = levels * other
    both = np.kron(walk, np.full((other, other), 1.0 / other))
    transition = np.broadcast_to(both[None, :, None], (params.horizon, states, actions, states))
    effect_key, nuisance_key = jax.random.split(key)
    effect = jax.random.uniform(effect_key, (actions,), minval=-params.action_effect, maxval=params.action_effect)
    reward = jnp.asarray(np.linspace(-1, 1, levels)[level])[:, None] * (1 + effect)[None]
    one_hot = np.eye(actions)
    constant = np.concatenate([np.ones((actions, 1)), one_hot[:, 1:]], axis=1)
    table = np.einsum("sw,ab->sawb", np.eye(levels)[level], one_hot).reshape(states, actions, -1)
    nuisance = jax.random.normal(nuisance_key, (states, actions, params.nuisance_columns[-1]))
    meaningful = np.concatenate([np.broadcast_to(constant[None], (states, *constant.shape)), table], axis=-1)
    features = jnp.concatenate([jnp.asarray(meaningful, jnp.float32), nuisance], axis=-1)
    reward = jnp.broadcast_to(reward[None], (params.horizon, states, actions))
    return FiniteMDP(jnp.asarray(transition, jnp.float32), reward.astype(jnp.float32), features)


def sample_steps(mdp: FiniteMDP, key: Key[Array, ""], num_samples: int, noise: float) -> LoggedSteps:
    """Transitions of uniform states and actions at every step, as indices for a `TableLadder`.

    Args:
      mdp: The process.
      key: Random key.
      num_samples: Transitions per step.
      noise: Standard deviation of rewards.
    """
    horizon, states, actions, _ = mdp.transition.shape
    keys, shape = jax.random.split(key, 4), (horizon, num_samples)
    state = jax.random.randint(keys[0], shape, 0, states)
    action = jax.random.randint(keys[1], shape, 0, actions)
    step = jnp.arange(horizon)[:, None]
    # The sums of a table and not of each transition: its rows repeat. They are not computed by the compiler.
    table = jnp.cumsum(jax.lax.optimization_barrier(mdp.transition), axis=-1)
    cumulative = table[step, state, action]
    draw = jax.random.uniform(keys[2], shape)[..., None]
    following = jnp.minimum(jnp.sum(cumulative < draw, axis=-1), states - 1)
    reward = mdp.reward[step, state, action] + noise * jax.random.normal(keys[3], shape)
    return LoggedSteps(state * actions + action, reward, jnp.ones(shape), following)


def feature_steps(mdp: FiniteMDP, steps: LoggedSteps) -> LoggedSteps:
    """The transitions of `sample_steps` with features instead of indices.

    Args:
      mdp: The process.
      steps: Its transitions.
    """
    table = mdp.features.reshape(-1, mdp.features.shape[-1])
    return LoggedSteps(table[steps.inputs], steps.reward, steps.discount, mdp.features[steps.next_inputs])


def optimal_value(mdp: FiniteMDP) -> Float[Array, ""]:
    """Value of the optimal policy, by dynamic programming."""

    def backup(value: Float[Array, " S"], step: tuple[Array, Array]) -> tuple[Array, None]:
        reward, transition = step
        return jnp.max(reward + transition @ value, axis=-1), None

    first, _ = jax.lax.scan(backup, jnp.zeros(mdp.reward.shape[1]), (mdp.reward, mdp.transition), reverse=True)
    return jnp.mean(first)


def policy_value(mdp: FiniteMDP, action: Int[Array, "H S"]) -> Float[Array, ""]:
    """Value of a deterministic policy, by dynamic programming."""

    def backup(value: Float[Array, " S"], step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        reward, transition, chosen = step
        values = reward + transition @ value
        return jnp.take_along_axis(values, chosen[:, None], axis=1)[:, 0], None

    steps = mdp.reward, mdp.transition, action
    first, _ = jax.lax.scan(backup, jnp.zeros(mdp.reward.shape[1]), steps, reverse=True)
    return jnp.mean(first)


def class_regrets(mdp: FiniteMDP, weights: Float[Array, "H K D"]) -> Float[Array, " K"]:
    """Regret of the greedy policy of each class."""
    action = jnp.argmax(jnp.einsum("sad,hkd->khsa", mdp.features, weights), axis=-1)
    return optimal_value(mdp) - jax.vmap(policy_value, in_axes=(None, 0))(mdp, action)


@pytree
class Instance:
    """The result of one instance of a bed.

    Attributes:
      chosen: Class of ModBE.
      held_out_choice: Class of the least held-out temporal difference error.
      regret: Regret of each class.
    """

    chosen: Int[Array, ""]
    held_out_choice: Int[Array, ""]
    regret: Float[Array, " K"]


def run_instance(
    key: Key[Array, ""],
    bed: LinearMDPParams | DensityParams,
    num_samples: int,
    params: ModBEParams = DEFAULT_PARAMS,
) -> Instance:
    """ModBE on one random instance. Pure; `run_instances` batches it.

    Args:
      key: Random key of the instance and of its data.
      bed: The family of instances.
      num_samples: Transitions per step.
      params: Constants of the test.
    """
    instance_key, data_key = jax.random.split(key)
    make = random_linear_mdp if isinstance(bed, LinearMDPParams) else density_mdp
    mdp = make(instance_key, bed)  # type: ignore[arg-type]
    result = select_class(mdp, sample_steps(mdp, data_key, num_samples, bed.noise), bed.dimensions, params)
    return Instance(result.chosen, result.held_out_choice, class_regrets(mdp, result.params))


def select_class(
    mdp: FiniteMDP, steps: LoggedSteps, dimensions: Sequence[int], params: ModBEParams = DEFAULT_PARAMS
) -> Selection:
    """ModBE with classes of the first columns.

    Args:
      mdp: The process.
      steps: Transitions of all steps.
      dimensions: Columns of each class.
      params: Constants.
    """
    train, valid = split_steps(steps)
    linear = LinearLadder(nested_masks(dimensions, mdp.features.shape[-1]))
    return modbe(TableLadder(linear, mdp.features), train, valid, params)


@jax.jit(static_argnums=(1, 2, 3))
def run_instances(
    keys: Key[Array, " I"], bed: LinearMDPParams | DensityParams, num_samples: int, params: ModBEParams = DEFAULT_PARAMS
) -> Instance:
    """All instances and classes in one program, [I].

    Args:
      keys: Random keys.
      bed: The family of instances.
      num_samples: Transitions per step.
      params: Constants.
    """
    # One instance after another: the features of all of them together would not fit in a cache.
    return jax.lax.map(lambda key: run_instance(key, bed, num_samples, params), keys)
