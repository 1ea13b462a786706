"""PPO (Schulman et al. 2017) in one file, through the vector environment of gymnasium.

    pip install 'waymax-sim[rl]'
    python examples/ppo_gymnasium.py --path synthetic:0:64 --num-envs 16 --updates 200

`train` applies to any vector environment of gymnasium with vectors as observations and actions. Baselines with the same
rewards in the same scenes are printed before the curve.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import behavior_models
import waymax_sim as ws
from behavior_models.training.returns import mean_returns
from waymax_sim.adapters.gymnasium import DriveVectorEnv
from waymax_sim.adapters.loop import EGO_ENV, EGO_VIEW, ObservationFn
from waymax_sim.env.bank import build_bank

BASELINES = {"coast": behavior_models.ConstantSpeed, "idm": behavior_models.IDM, "log": behavior_models.LogReplay}


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
    spread: tuple[float, ...] = (0.3, 0.03)  # initial standard deviations; more curvature leaves the road
    width: int = 128  # of the hidden layers
    seed: int = 0


def main(
    path: str = "synthetic:0:64",
    baselines: tuple[str, ...] = tuple(BASELINES),
    quick: bool = False,
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),
) -> None:
    """Trains a policy of the ego, after baselines in the same scenes.

    Args:
      path: Path of the scenes.
      baselines: Names of `BASELINES`.
      quick: Two updates of four environments, for a test of the installation.
      settings: Hyperparameters.
    """
    if quick:
        settings = dataclasses.replace(settings, num_envs=4, num_steps=8, updates=2)
    bank = build_bank(ws.load(path, pad_to_bucket=False), EGO_ENV)
    for name, result in mean_returns(EGO_ENV, {name: BASELINES[name]() for name in baselines}, bank).items():
        print(f"{name}: {result}", flush=True)
    train(path, settings)


def train(scenarios: str | Sequence, settings: Settings, observe: ObservationFn = EGO_VIEW) -> tuple[Any, list[float]]:
    """Trains, prints progress, and returns the parameters and the mean episode return of each update."""
    env = DriveVectorEnv(scenarios, num_envs=settings.num_envs, observe=observe)
    size = (env.single_observation_space.shape[0], env.single_action_space.shape[0])
    key, sub = jax.random.split(jax.random.key(settings.seed))
    params = init(sub, *size, settings)
    state = make_optimizer(settings).init(params)
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
                params, state = learn(settings, params, state, tuple(part[rows] for part in batch))
        returns.append(float(np.mean(ended_returns)) if ended_returns else float("nan"))
        speed = (update + 1) * settings.num_steps * settings.num_envs / (time.perf_counter() - start_time)
        print(f"update {update}: return {returns[-1]:.3f} in {len(ended_returns)} episodes, {speed:.0f} steps/s")
    env.close()
    return params, returns


def init(key, num_inputs: int, num_actions: int, settings: Settings):
    """Parameters of a network with two hidden layers: means and standard deviation of the actions, and the value."""
    keys, width = jax.random.split(key, 4), settings.width
    shapes = [(num_inputs, width), (width, width), (width, num_actions), (width, 1)]
    scales = [2**0.5, 2**0.5, 0.01, 1.0]
    make = jax.nn.initializers.orthogonal
    weights = [make(scale)(sub, shape) for sub, shape, scale in zip(keys, shapes, scales, strict=True)]
    return {
        "weights": weights,
        "biases": [jnp.zeros(shape[1]) for shape in shapes],
        "spread": jnp.log(jnp.asarray(settings.spread)),
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


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with clipped gradients."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(settings.learning_rate))


@jax.jit(static_argnums=0)
def learn(settings: Settings, params, state, batch):
    """One gradient step on a minibatch."""

    def loss(params):
        observation, action, log_prob, gain, target = batch
        mean, spread, value = network(params, observation)
        ratio = jnp.exp(log_density(action, mean, spread) - log_prob)
        gain = (gain - jnp.mean(gain)) / (jnp.std(gain) + 1e-8)
        clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio * gain, clipped * gain))
        return policy_loss + 0.5 * jnp.mean((value - target) ** 2) - settings.entropy * jnp.sum(spread)

    updates, state = make_optimizer(settings).update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


if __name__ == "__main__":
    tyro.cli(main)
