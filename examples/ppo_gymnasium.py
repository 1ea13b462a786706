"""PPO (Schulman et al. 2017) in one file, through the vector environment of gymnasium.

    pip install 'waymax-sim[rl]'
    python examples/ppo_gymnasium.py --path synthetic:0:64 --num-envs 16 --updates 200

It applies to any gymnasium environment with vectors as observations and actions. The network is a small one of plain
arrays; only JAX and gymnasium are required.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from waymax_sim.adapters.gymnasium import DriveVectorEnv
from waymax_sim.adapters.loop import EGO_VIEW, ObservationFn


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters, with common defaults."""

    num_envs: int = 16
    num_steps: int = 128  # per environment and update
    updates: int = 100
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 3e-4
    discount: float = 0.99  # per step
    trace: float = 0.95  # lambda of generalized advantage estimation
    clip: float = 0.2  # of the probability ratio
    entropy: float = 0.001  # weight of the entropy bonus
    width: int = 128  # of the hidden layers
    seed: int = 0


def main(path: str = "synthetic:0:64", settings: tyro.conf.OmitArgPrefixes[Settings] = Settings()) -> None:
    """Trains a policy of the ego.

    Args:
      path: Path of the scenes.
      settings: Hyperparameters.
    """
    train(path, settings)


def train(scenarios: str | Sequence, settings: Settings, observe: ObservationFn = EGO_VIEW) -> tuple[Any, list[float]]:
    """Trains, prints progress, and returns the parameters and the mean episode return of each update."""
    env = DriveVectorEnv(scenarios, num_envs=settings.num_envs, observe=observe)
    size = (env.single_observation_space.shape[0], env.single_action_space.shape[0])
    key, sub = jax.random.split(jax.random.key(settings.seed))
    params = init(sub, *size, settings.width)
    moments = (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), jnp.asarray(0.0))
    observation, _ = env.reset(seed=settings.seed)
    running, returns, start_time = np.zeros(settings.num_envs), [], time.perf_counter()
    for update in range(settings.updates):
        memory, ended_returns = [], []
        for _ in range(settings.num_steps):
            key, sub = jax.random.split(key)
            action, log_prob, value = map(np.array, act(params, observation, sub))
            next_observation, reward, terminated, truncated, infos = env.step(np.clip(action, -1, 1))
            done = terminated | truncated
            running += reward
            if truncated.any():
                # An episode that ends with the record is bootstrapped with the value of its last observation.
                last = np.stack([final if final is not None else next_observation[0] for final in infos["final_obs"]])
                reward = reward + settings.discount * np.asarray(act(params, last, sub)[2]) * (truncated & ~terminated)
            memory.append((observation, action, log_prob, value, reward.astype(np.float32), done))
            ended_returns += running[done].tolist()
            running[done] = 0.0
            observation = next_observation
        batch = advantages(settings, *map(np.stack, zip(*memory, strict=True)), act(params, observation, key)[2])
        rng = np.random.default_rng([settings.seed, update])
        for _ in range(settings.epochs):
            for rows in np.array_split(rng.permutation(len(batch[0])), settings.minibatches):
                params, moments = learn(settings, params, moments, tuple(part[rows] for part in batch))
        returns.append(float(np.mean(ended_returns)) if ended_returns else float("nan"))
        speed = (update + 1) * settings.num_steps * settings.num_envs / (time.perf_counter() - start_time)
        print(f"update {update}: return {returns[-1]:.3f} in {len(ended_returns)} episodes, {speed:.0f} steps/s")
    env.close()
    return params, returns


def init(key, num_inputs: int, num_actions: int, width: int):
    """Parameters of a network with two hidden layers: means and standard deviation of the actions, and the value."""
    keys = jax.random.split(key, 4)
    shapes = [(num_inputs, width), (width, width), (width, num_actions), (width, 1)]
    scales = [2**0.5, 2**0.5, 0.01, 1.0]
    make = jax.nn.initializers.orthogonal
    weights = [make(scale)(sub, shape) for sub, shape, scale in zip(keys, shapes, scales, strict=True)]
    return {
        "weights": weights,
        "biases": [jnp.zeros(shape[1]) for shape in shapes],
        "spread": jnp.zeros(num_actions) - 1,
    }


def network(params, observation):
    """Means and log standard deviations of the actions, and values."""
    (first, second, mean, value), biases = params["weights"], params["biases"]
    hidden = jnp.tanh(observation @ first + biases[0][None])
    hidden = jnp.tanh(hidden @ second + biases[1][None])
    return hidden @ mean + biases[2][None], params["spread"][None], (hidden @ value + biases[3][None])[:, 0]


def log_density(action, mean, spread):
    """Log density of a normal distribution."""
    off = (action - mean) / jnp.exp(spread)
    return jnp.sum(-0.5 * off**2 - spread - 0.5 * np.log(2 * np.pi).astype(np.float32), axis=-1)


@jax.jit
def act(params, observation, key):
    """Actions, their log probabilities, and values."""
    mean, spread, value = network(params, observation)
    action = mean + jnp.exp(spread) * jax.random.normal(key, mean.shape)
    return action, log_density(action, mean, spread), value


def advantages(settings: Settings, observation, action, log_prob, value, reward, done, last):
    """Generalized advantage estimation (Schulman et al. 2016), flattened over steps and environments."""
    gain, gains = np.zeros(len(last), np.float32), []
    following = np.concatenate([value[1:], np.asarray(last)[None]])
    for t in reversed(range(len(reward))):
        continues = (~done[t]).astype(np.float32)
        error = reward[t] + settings.discount * continues * following[t] - value[t]
        gain = error + settings.discount * settings.trace * continues * gain
        gains.append(gain.astype(np.float32))
    gain = np.stack(gains[::-1])
    parts = (observation, action, log_prob, gain, gain + value)
    return tuple(part.reshape(-1, *part.shape[2:]) for part in parts)


@jax.jit(static_argnums=0)
def learn(settings: Settings, params, moments, batch):
    """One step of Adam (Kingma and Ba 2015) on a minibatch."""

    def loss(params):
        observation, action, log_prob, gain, target = batch
        mean, spread, value = network(params, observation)
        ratio = jnp.exp(log_density(action, mean, spread) - log_prob)
        gain = (gain - jnp.mean(gain)) / (jnp.std(gain) + 1e-8)
        clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio * gain, clipped * gain))
        return policy_loss + 0.5 * jnp.mean((value - target) ** 2) - settings.entropy * jnp.sum(spread)

    grads = jax.grad(loss)(params)
    norm = jnp.sqrt(sum(jnp.sum(grad**2) for grad in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda grad: grad * jnp.minimum(1.0, 0.5 / (norm + 1e-8)), grads)
    first, second, count = moments
    count = count + 1
    first = jax.tree.map(lambda old, grad: 0.9 * old + 0.1 * grad, first, grads)
    second = jax.tree.map(lambda old, grad: 0.999 * old + 0.001 * grad**2, second, grads)
    rate = settings.learning_rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, first, second)
    return params, (first, second, count)


if __name__ == "__main__":
    tyro.cli(main)
