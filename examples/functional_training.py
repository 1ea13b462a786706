"""Actor-critic training (A2C, Mnih et al. 2016) with simulator, network and updates in one compiled program.

    python examples/functional_training.py --path synthetic:0:64 --num-envs 64 --updates 500

The functional adapter resets within the program, so no data leaves the device during training.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import waymax_sim as ws
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env.bank import ScenarioBank, build_bank


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters."""

    num_envs: int = 64
    num_steps: int = 16  # per environment and update
    updates: int = 100
    learning_rate: float = 1e-3
    discount: float = 0.99  # per step
    spread: float = 0.3  # standard deviation of the actions
    width: int = 128  # of the hidden layer
    seed: int = 0


def main(path: str = "synthetic:0:64", settings: tyro.conf.OmitArgPrefixes[Settings] = Settings()) -> None:
    """Trains a policy of the ego.

    Args:
      path: Path of the scenes.
      settings: Hyperparameters.
    """
    env = FunctionalEnv()
    _, rewards = train(env, settings, build_bank(ws.load(path, pad_to_bucket=False), env.env))
    # A single update covers few episodes.
    period = max(1, settings.updates // 10)
    for update in range(0, settings.updates, period):
        print(f"{period} updates from {update}: mean reward of a step {rewards[update : update + period].mean():.4f}")


@jax.jit(static_argnums=(0, 1))
def train(env: FunctionalEnv, settings: Settings, bank: ScenarioBank) -> tuple[Any, jax.Array]:
    """All updates in one scan; returns the parameters and the mean reward of the steps of each update."""
    keys = jax.random.split(jax.random.key(settings.seed), settings.num_envs + 2)
    env_state, observation = jax.vmap(env.reset, in_axes=(None, 0))(bank, keys[2:])
    num_actions = len(env.env.dynamics.bounds[0])
    params = init(keys[0], observation.shape[-1], num_actions, settings.width)
    moment = jax.tree.map(jnp.zeros_like, params)

    def step(carry, key):
        params, env_state, observation = carry
        mean, _ = network(params, observation)
        action = mean + settings.spread * jax.random.normal(key, mean.shape)
        env_state, out = jax.vmap(env.step, in_axes=(None, 0, 0))(bank, env_state, action)
        done = out.done
        # A truncated episode is bootstrapped with the value of its last observation.
        is_cut = jnp.logical_and(out.truncated, ~out.terminated)
        reward = out.reward + settings.discount * jnp.where(is_cut, network(params, out.final_observation)[1], 0.0)
        return (params, env_state, out.observation), (observation, action, reward, done, out.reward)

    def update(carry, key):
        params, moment, env_state, observation = carry
        subkeys = jax.random.split(key, settings.num_steps)
        carry, batch = jax.lax.scan(step, (params, env_state, observation), subkeys)
        (_, env_state, observation), (observations, actions, rewards, dones, raw) = carry, batch

        def back(value, item):
            reward, done = item
            value = reward + settings.discount * jnp.where(done, 0.0, value)
            return value, value

        targets = jax.lax.scan(back, network(params, observation)[1], (rewards, dones), reverse=True)[1]

        def loss(params):
            mean, value = network(params, observations)
            gain = jax.lax.stop_gradient(targets - value)
            log_prob = -0.5 * jnp.sum(((actions - mean) / settings.spread) ** 2, axis=-1)
            return -jnp.mean(log_prob * gain) + 0.5 * jnp.mean((value - targets) ** 2)

        # RMSProp (Tieleman and Hinton 2012).
        grads = jax.grad(loss)(params)
        moment = jax.tree.map(lambda old, grad: 0.99 * old + 0.01 * grad**2, moment, grads)
        params = jax.tree.map(
            lambda p, grad, size: p - settings.learning_rate * grad / jnp.sqrt(size + 1e-5), params, grads, moment
        )
        return (params, moment, env_state, observation), jnp.mean(raw)

    updates = jax.random.split(keys[1], settings.updates)
    (params, *_), rewards = jax.lax.scan(update, (params, moment, env_state, observation), updates)
    return params, rewards


def init(key, num_inputs: int, num_actions: int, width: int):
    """Parameters of a network with one hidden layer and two heads: means of the actions, and the value."""
    first, second = jax.random.split(key)
    hidden = jax.nn.initializers.orthogonal(np.sqrt(2))(first, (num_inputs, width))
    heads = jax.nn.initializers.orthogonal(0.01)(second, (width, num_actions + 1))
    return {"hidden": hidden, "heads": heads, "bias": jnp.zeros(width)}


def network(params, observation):
    """Means of the actions and values."""
    bias = jax.lax.expand_dims(params["bias"], range(observation.ndim - 1))
    out = jnp.tanh(observation @ params["hidden"] + bias) @ params["heads"]
    return out[..., :-1], out[..., -1]


if __name__ == "__main__":
    tyro.cli(main)
