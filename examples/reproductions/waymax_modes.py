"""Behavior cloning of two equally likely lane choices, by kind of action distribution (Gulino et al. 2023, section 5).

    python -m examples.reproductions.waymax_modes

A vehicle between two lanes changes to either of them, from the same observations. The distribution of its curvature is
categorical, a Gaussian (the control), or a mixture of six Gaussians. The policy acts by the most likely action, as in
the paper, or by a sample.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Float, Key

from behavior_models.networks.heads import Categorical, Distribution, GaussianMixture, Mode
from behavior_models.networks.policy import choose
from examples.reproductions.waymax_common import Criterion, table_line
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.dynamics import Bicycle
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class LaneChoice:
    """The problem. The values are choices of this package.

    Attributes:
      offset: Lateral distance of each lane from the start, m.
      speed: m/s.
      duration: s.
      dt: Time between decisions, s.
      lookahead: Distance of the point on the lane that the expert steers to, m.
      position_noise: Standard deviation of the start across the lanes, m.
      yaw_noise: Standard deviation of the heading at the start, rad.
      max_curvature: Bound of the actions, 1/m.
      num_levels: Discrete actions.
      tolerance: Distance from a lane within which it is reached, m.
    """

    offset: float = 1.75
    speed: float = 10.0
    duration: float = 3.0
    dt: float = 0.2
    lookahead: float = 10.0
    position_noise: float = 0.1
    yaw_noise: float = 0.01
    max_curvature: float = 0.06
    num_levels: int = 25
    tolerance: float = 0.5

    @property
    def num_decisions(self) -> int:
        """Decisions of an episode."""
        return round(self.duration / self.dt)

    @property
    def levels(self) -> Float[np.ndarray, " L"]:
        """Discrete actions, in units of the bound."""
        return np.linspace(-1.0, 1.0, self.num_levels, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class ModesConfig:
    """Sizes of the experiment.

    Attributes:
      num_episodes: Demonstrated episodes, and evaluated ones.
      num_steps: Gradient steps.
      batch: Transitions per gradient step.
      width: Units of the two hidden layers.
      learning_rate: Initial learning rate of Adam; it falls to 0.
      seeds: Seeds of demonstrations and parameters.
    """

    num_episodes: int = 1000
    num_steps: int = 1500
    batch: int = 512
    width: int = 64
    learning_rate: float = 3e-3
    seeds: tuple[int, ...] = (0, 1, 2)


PROBLEM = LaneChoice()
# Kinds of distributions: number of outputs, and the distribution of the outputs.
HEADS: dict[str, tuple[int, Callable[[Array], Distribution]]] = {
    "categorical": (PROBLEM.num_levels, lambda outputs: Categorical(outputs)),
    "Gaussian": (3, lambda outputs: GaussianMixture.from_outputs(outputs, 1)),
    "mixture of 6": (18, lambda outputs: GaussianMixture.from_outputs(outputs, 6)),
}
# From states and a key to actions in units of the bound.
Controller = Callable[[AgentState, Key[Array, ""], Array], Float[Array, " E"]]


def simulate(controller: Controller, key: Key[Array, ""], count: int) -> tuple[Array, Array, AgentState]:
    """Observations [T, E, 3], actions [T, E] and the last states of E episodes.

    Args:
      controller: Chooses actions.
      key: Random key.
      count: E.
    """
    start_key, key = jax.random.split(key)
    noise = jax.random.normal(start_key, (2, count))
    yaw = PROBLEM.yaw_noise * noise[1]
    xyz = jnp.zeros((count, 3)).at[:, 1].set(PROBLEM.position_noise * noise[0])
    velocity = PROBLEM.speed * jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], axis=-1)
    model = Bicycle(max_curvature=PROBLEM.max_curvature)

    def step(agents: AgentState, item: tuple[Array, Array]):
        time, key = item
        action = controller(agents, key, time)
        value = jnp.stack([jnp.zeros(count), PROBLEM.max_curvature * action], axis=-1)
        return model.apply(agents, value, PROBLEM.dt), (observe(agents, time), action)

    times = PROBLEM.dt * jnp.arange(PROBLEM.num_decisions, dtype=jnp.float32)
    start = AgentState(xyz, yaw, velocity, jnp.ones(count, bool))
    last, (observation, action) = jax.lax.scan(step, start, (times, jax.random.split(key, len(times))))
    return observation, action, last


def observe(agents: AgentState, time: Float[Array, ""]) -> Float[Array, "E 3"]:
    """Lateral position, heading and time, in units of the problem; the chosen lane is not observed."""
    time = jnp.broadcast_to(time / PROBLEM.duration, agents.yaw.shape)
    return jnp.stack([agents.xyz[:, 1] / PROBLEM.offset, 5.0 * agents.yaw, time], axis=-1)


def demonstrate(key: Key[Array, ""], count: int) -> tuple[Float[Array, "B 3"], Float[Array, " B"]]:
    """Observations and actions of an expert that pursues a random lane."""
    lane_key, key = jax.random.split(key)
    lane = PROBLEM.offset * jnp.where(jax.random.bernoulli(lane_key, shape=(count,)), 1.0, -1.0)

    def pursue(agents: AgentState, key: Key[Array, ""], time: Array) -> Float[Array, " E"]:
        bearing = jnp.arctan2(lane - agents.xyz[:, 1], PROBLEM.lookahead) - agents.yaw
        return jnp.clip(2.0 * jnp.sin(bearing) / PROBLEM.lookahead / PROBLEM.max_curvature, -1.0, 1.0)

    observation, action, _ = simulate(pursue, key, count)
    return observation.reshape(-1, 3), action.reshape(-1)


def init_network(key: Key[Array, ""], width: int, num_outputs: int) -> list[tuple[Array, Array]]:
    """Weights and offsets of three layers.

    Args:
      key: Random key.
      width: Units of the hidden layers.
      num_outputs: Outputs.
    """
    sizes = (3, width, width, num_outputs)
    keys = jax.random.split(key, 3)
    scaled = [jax.random.normal(own, (a, b)) / a**0.5 for own, a, b in zip(keys, sizes, sizes[1:], strict=False)]
    return [(weight, jnp.zeros(weight.shape[1])) for weight in scaled]


def apply_network(params: list[tuple[Array, Array]], observation: Float[Array, "B 3"]) -> Float[Array, "B O"]:
    """Outputs of the network."""
    hidden = observation
    for weight, offset in params[:-1]:
        hidden = jnp.tanh(hidden @ weight + offset[None])
    return hidden @ params[-1][0] + params[-1][1][None]


def log_prob(actions: Distribution, action: Float[Array, " B"]) -> Float[Array, " B"]:
    """Logarithm of the probability of the nearest level, or of the density."""
    if isinstance(actions, Categorical):
        nearest = jnp.argmin(jnp.abs(action[:, None] - PROBLEM.levels[None]), axis=-1).astype(jnp.int32)
        return actions.log_prob(nearest[:, None])
    return actions.log_prob(action[:, None])


def clone(config: ModesConfig, head: str, key: Key[Array, ""]) -> list[tuple[Array, Array]]:
    """Parameters by maximum likelihood.

    Args:
      config: Sizes.
      head: Kind of distribution.
      key: Random key.
    """
    data_key, params_key, key = jax.random.split(key, 3)
    observation, action = demonstrate(data_key, config.num_episodes)
    num_outputs, distribution = HEADS[head]
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))

    def loss(params: Any, rows: Array) -> Float[Array, ""]:
        return -jnp.mean(log_prob(distribution(apply_network(params, observation[rows])), action[rows]))

    def step(carry: tuple[Any, Any], key: Key[Array, ""]):
        params, state = carry
        rows = jax.random.randint(key, (config.batch,), 0, len(action))
        change, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, change), state), None

    params = init_network(params_key, config.width, num_outputs)
    carry = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, carry, jax.random.split(key, config.num_steps))
    return params


def reached(params: Any, head: str, mode: Mode, key: Key[Array, ""], count: int) -> tuple[Array, Array]:
    """Shares of episodes that end within the tolerance of a lane, and of those the share on the left one.

    Args:
      params: Parameters.
      head: Kind of distribution.
      mode: How the policy acts.
      key: Random key.
      count: Episodes.
    """

    def act(agents: AgentState, key: Key[Array, ""], time: Array) -> Float[Array, " E"]:
        actions = HEADS[head][1](apply_network(params, observe(agents, time)))
        chosen = choose(actions, mode, key)[:, 0]
        return jnp.asarray(PROBLEM.levels)[chosen] if isinstance(actions, Categorical) else chosen

    _, _, last = simulate(act, key, count)
    gap = jnp.abs(last.xyz[:, 1:2] - jnp.asarray([[PROBLEM.offset, -PROBLEM.offset]]))
    left, right = jnp.mean((gap < PROBLEM.tolerance).astype(jnp.float32), axis=0)
    return left + right, left / jnp.maximum(left + right, 1e-9)


def main(config: ModesConfig) -> list[Criterion]:
    """Prints shares per distribution and mode, as mean and range over the seeds, and returns the criteria."""
    shares: dict[tuple[str, Mode], list[float]] = {}
    print("| distribution | action | within 0.5 m of a lane, % | of these on the left, % |\n|---|---|---|---|")
    modes: tuple[Mode, ...] = ("mode", "sample")
    for head in HEADS:
        run = jax.jit(functools.partial(clone, config, head))
        all_params = [run(jax.random.key(seed)) for seed in config.seeds]
        for mode in modes:
            test = jax.jit(functools.partial(reached, head=head, mode=mode, count=config.num_episodes))
            results = [test(params, key=jax.random.key(100 + seed)) for seed, params in enumerate(all_params)]
            near, left = (100 * np.asarray(column) for column in zip(*results, strict=True))
            shares[head, mode] = near.tolist()
            columns = {"near": near, "left": left}
            cells = {name: f"{v.mean():.1f} ({v.min():.1f} to {v.max():.1f})" for name, v in columns.items()}
            print(table_line(f"{head} | {mode}", dict(cells)), flush=True)
    means = {run: float(np.mean(values)) for run, values in shares.items()}
    return [
        Criterion("W4 categorical within 0.5 m of a lane, mean of seeds, %", means["categorical", "mode"], low=90.0),
        Criterion("W4 control, Gaussian, mean of seeds, %", means["Gaussian", "mode"], high=50.0),
    ]


if __name__ == "__main__":
    for criterion in main(tyro.cli(ModesConfig)):
        print(criterion)
