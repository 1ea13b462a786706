"""PPO (Schulman et al. 2017) of the ego with simulator, network and updates in one compiled program.

    python examples/functional_training.py --path synthetic:0:64 --updates 120

The functional adapter resets within the program, so no data leaves the device during training. Rule-based policies earn
the same rewards; they are printed before the curve, and the trained policy after it, in one episode of each scene.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import behavior_models
import waymax_sim as ws
from behavior_models.training.advantages import generalized_advantages
from behavior_models.training.returns import mean_returns
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.adapters.loop import EGO_ENV
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.env.observation import scatter_actions
from waymax_sim.pytree import pytree, static

VIEW = FlatView(num_agents=8, num_polylines=16)
# Standard deviations of acceleration and curvature, fractions of 6 m/s^2 and 0.3 1/m; more curvature leaves the road.
# They are the unit of the outputs of the network, so a gradient step changes a mean by a fraction of the deviation.
SPREAD = np.array([0.3, 0.06], np.float32)
BASELINES = {"coast": behavior_models.ConstantSpeed, "idm": behavior_models.IDM, "log": behavior_models.LogReplay}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters."""

    num_envs: int = 64
    num_steps: int = 32  # per environment and update
    updates: int = 120
    epochs: int = 4
    minibatches: int = 8
    learning_rate: float = 5e-4  # at the start; decays linearly to 0
    discount: float = 0.99  # per step
    trace: float = 0.95  # lambda of generalized advantage estimation
    clip: float = 0.2  # of the probability ratio
    width: int = 128  # of the hidden layers
    seed: int = 0


@pytree
class Driver(ws.Policy):
    """The means of the actions of the network."""

    params: Any
    encoder: FlatView = static(default=VIEW)
    dynamics = EGO_ENV.dynamics

    def act(self, observation, carry, key):
        """Actions of the controlled agents."""
        return scatter_actions(observation, SPREAD[None] * network(self.params, self.encoder(observation))[0]), carry


def main(
    path: str = "synthetic:0:64",
    held_out: str = "synthetic:901:60",
    baselines: tuple[str, ...] = tuple(BASELINES),
    quick: bool = False,
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),
) -> None:
    """Trains a policy of the ego and compares it with baselines.

    Args:
      path: Path of the scenes.
      held_out: Path of scenes for the comparison.
      baselines: Names of `BASELINES`.
      quick: Two updates of eight environments, for a test of the installation.
      settings: Hyperparameters.
    """
    if quick:
        settings = dataclasses.replace(settings, num_envs=8, num_steps=8, updates=2, minibatches=2)
    env = FunctionalEnv(observe=VIEW)
    bank, test_bank = (build_bank(ws.load(name, pad_to_bucket=False), env.env) for name in (path, held_out))
    rules = {name: BASELINES[name]() for name in baselines}
    for name, result in mean_returns(env.env, rules, test_bank).items():
        print(f"{held_out}, {name}: {result}", flush=True)
    params, rewards = train(env, settings, bank)
    # A single update covers few episodes.
    period = max(1, settings.updates // 10)
    for update in range(0, settings.updates, period):
        print(f"{period} updates from {update}: mean reward of a step {rewards[update : update + period].mean():.4f}")
    print(f"{held_out}, trained: {mean_returns(env.env, {'trained': Driver(params)}, test_bank)['trained']}")


@jax.jit(static_argnums=(0, 1))
def train(env: FunctionalEnv, settings: Settings, bank: ScenarioBank) -> tuple[Any, jax.Array]:
    """All updates in one scan; returns the parameters and the mean reward of the steps of each update."""
    keys = jax.random.split(jax.random.key(settings.seed), settings.num_envs + 2)
    env_state, observation = jax.vmap(env.reset, in_axes=(None, 0))(bank, keys[2:])
    params = init(keys[0], observation.shape[-1], settings.width)
    num_gradient_steps = settings.updates * settings.epochs * settings.minibatches
    rate = optax.linear_schedule(settings.learning_rate, 0.0, num_gradient_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate))

    def step(carry, key):
        params, env_state, observation = carry
        mean, value = network(params, observation)
        action = mean + jax.random.normal(key, mean.shape)
        env_state, out = jax.vmap(env.step, in_axes=(None, 0, 0))(bank, env_state, SPREAD[None] * action)
        # A truncated episode is bootstrapped with the value of its last observation.
        is_cut = jnp.logical_and(out.truncated, ~out.terminated)
        reward = out.reward + settings.discount * jnp.where(is_cut, network(params, out.final_observation)[1], 0.0)
        record = (observation, action, log_density(action, mean), value, reward, out.done)
        return (params, env_state, out.observation), (record, out.reward)

    def gradient_step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, settings, batch), state)
        return (optax.apply_updates(params, updates), state), None

    def update(carry, key):
        params, state, env_state, observation = carry
        collect_key, *epoch_keys = jax.random.split(key, settings.epochs + 1)
        subkeys = jax.random.split(collect_key, settings.num_steps)
        (_, env_state, observation), (record, raw) = jax.lax.scan(step, (params, env_state, observation), subkeys)
        observations, actions, log_prob, value, reward, done = record
        last_value = network(params, observation)[1]
        gain = generalized_advantages(value, reward, done, last_value, settings.discount, settings.trace)
        batch = (observations, actions, log_prob, gain, gain + value)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        for epoch_key in epoch_keys:
            rows = jax.random.permutation(epoch_key, len(batch[2])).reshape(settings.minibatches, -1)
            minibatches = jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)
            (params, state), _ = jax.lax.scan(gradient_step, (params, state), minibatches)
        return (params, state, env_state, observation), jnp.mean(raw)

    updates = jax.random.split(keys[1], settings.updates)
    (params, *_), rewards = jax.lax.scan(update, (params, optimizer.init(params), env_state, observation), updates)
    return params, rewards


def loss(params, settings: Settings, batch):
    """The clipped surrogate and the squared error of the values."""
    observation, action, log_prob, gain, target = batch
    mean, value = network(params, observation)
    ratio = jnp.exp(log_density(action, mean) - log_prob)
    gain = (gain - jnp.mean(gain)) / (jnp.std(gain) + 1e-8)
    clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
    return -jnp.mean(jnp.minimum(ratio * gain, clipped * gain)) + 0.5 * jnp.mean((value - target) ** 2)


def log_density(action, mean):
    """Log density of actions in units of their deviations, up to a constant."""
    return -0.5 * jnp.sum((action - mean) ** 2, axis=-1)


def init(key, num_inputs: int, width: int):
    """Parameters of networks with two hidden layers, one for the means of the actions and one for the value."""
    sizes, scales = ((num_inputs, width), (width, width)), (2**0.5, 2**0.5)
    params = {}
    for name, outputs, scale, own_key in zip("av", (2, 1), (0.01, 1.0), jax.random.split(key), strict=True):
        shapes, gains = (*sizes, (width, outputs)), (*scales, scale)
        make = [jax.nn.initializers.orthogonal(np.float32(gain)) for gain in gains]
        layers = zip(make, jax.random.split(own_key, 3), shapes, strict=True)
        params[name] = [(build(sub, shape), jnp.zeros(shape[1])) for build, sub, shape in layers]
    return params


def network(params, observation):
    """Means of the actions in units of `SPREAD`, and values."""

    def apply(layers):
        hidden = observation
        for index, (weight, bias) in enumerate(layers):
            hidden = hidden @ weight + jax.lax.expand_dims(bias, range(hidden.ndim - 1))
            hidden = jnp.tanh(hidden) if index < len(layers) - 1 else hidden
        return hidden

    return apply(params["a"]), apply(params["v"])[..., 0]


if __name__ == "__main__":
    tyro.cli(main)
