"""PPO (Schulman et al. 2017) by self-play of all travelling vehicles, compiled whole: simulator, network and updates.

    pip install 'waymax-sim[train]'
    python examples/train_ppo.py --train synthetic:0:100 --test synthetic:901:60

Rates are of travelling vehicles of held-out scenarios, with sampled actions; a goal counts without a collision and
without leaving the road. "constant speed" is the baseline, "untrained" and "no goal" (goal features zeroed) are controls.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import waymax_sim as ws
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env import PRESETS, Env, EnvConfig
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.flat_view import FlatView

LEVELS = ((-5.0, -2.5, -1.0, 0.0, 1.0, 2.0, 3.5), (-0.2, -0.08, -0.03, -0.01, 0.0, 0.01, 0.03, 0.08, 0.2))
RULES: EnvConfig = dataclasses.replace(PRESETS["goal"], steps_per_action=2, max_controlled=16)
VIEW = FlatView(num_agents=8, num_elements=24)
ENV = FunctionalEnv(Env(ws.Discrete(ws.Bicycle(), levels=LEVELS), RULES), VIEW)
KEEP_SPEED = int(ENV.env.dynamics.encode(jnp.zeros((1, 2)))[0, 0])
DECISIONS = 40  # of an episode of 8 s


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the training."""

    updates: int = 110
    num_envs: int = 32
    learning_rate: float = 1e-3
    epochs: int = 3
    minibatch: int = 1024
    capacity: int = 5120  # transitions of an update; a rollout has room for num_envs * DECISIONS * 16
    discount: float = 0.985
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    seed: int = 0


class ActorCritic(nnx.Module):
    """Max-pooled encoders of agents and map elements, and a trunk with logits and value."""

    def __init__(self, rngs: nnx.Rngs, width: int = 48, trunk: int = 128):
        def dense(inputs: int, outputs: int, scale: float = np.sqrt(2)) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.orthogonal(scale), rngs=rngs)

        self.ego, self.agents, self.elements = dense(13 + 6 + 1 + 30, width), dense(13, width), dense(32, width)
        self.pooled = nnx.List([dense(width, width), dense(width, width)])
        self.trunk = nnx.List([dense(3 * width, trunk), dense(trunk, trunk)])
        self.logits, self.value = dense(trunk, ENV.env.dynamics.num_actions, 0.01), dense(trunk, 1, 1.0)

    def __call__(self, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        split = np.cumsum([feature.size for feature in VIEW.spec().features])[:-1]
        agents, elements, *rest = jnp.split(seen, split, axis=-1)
        agents = agents.reshape(*seen.shape[:-1], VIEW.num_agents, 13)
        elements = elements.reshape(*seen.shape[:-1], VIEW.num_elements, 32)
        parts = [nnx.relu(self.ego(jnp.concatenate([agents[..., 0, :], *rest], axis=-1)))]
        for encode, mix, tokens in zip((self.agents, self.elements), self.pooled, (agents[..., 1:, :], elements)):
            parts.append(nnx.relu(mix(jnp.max(nnx.relu(encode(tokens)) * tokens[..., :1], axis=-2))))
        hidden = jnp.concatenate(parts, axis=-1)
        for layer in self.trunk:
            hidden = jnp.tanh(layer(hidden))
        return self.logits(hidden), self.value(hidden)[..., 0]


def rollout(act: Any, bank: ScenarioBank, running: Any, seen: jax.Array, key: jax.Array, env: FunctionalEnv = ENV):
    """`DECISIONS` steps of all environments; `act` gives actions and what to keep of them."""

    def body(carry, key):
        running, seen = carry
        action, kept = act(seen, key)
        count = running.count
        running, out = jax.vmap(env.step, in_axes=(None, 0, 0))(bank, running, action[..., None])
        return (running, out.observation), (seen, action, kept, out, count)

    return jax.lax.scan(body, (running, seen), jax.random.split(key, DECISIONS))


def advantages(s: Settings, value, last_value, reward, ended):
    """Generalized advantage estimates (Schulman et al. 2016); the time left is observed, so every end has value 0."""

    def back(carry, item):
        advantage, following = carry
        value, reward, ended = item
        delta = reward + s.discount * jnp.where(ended, 0.0, following) - value
        advantage = delta + s.discount * s.gae_lambda * jnp.where(ended, 0.0, advantage)
        return (advantage, value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), (value, reward, ended), reverse=True)[1]


def train(s: Settings, bank: ScenarioBank, report: Any = print) -> tuple[Any, Any]:
    """Trains on the scenarios of a bank; returns the structure of the network and its weights."""
    graph, params = nnx.split(ActorCritic(nnx.Rngs(s.seed)))
    steps = s.updates * s.epochs * (s.capacity // s.minibatch)
    rate = optax.linear_schedule(s.learning_rate, 0.05 * s.learning_rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
    key = jax.random.key(s.seed)
    running, seen = jax.jit(jax.vmap(ENV.reset, in_axes=(None, 0)))(bank, jax.random.split(key, s.num_envs))

    def loss(params, seen, action, old, advantage, target, weight):
        logits, value = nnx.merge(graph, params)(seen)
        log_probs = jax.nn.log_softmax(logits)
        ratio = jnp.exp(jnp.take_along_axis(log_probs, action[:, None], axis=-1)[:, 0] - old)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - s.clip, 1 + s.clip) * advantage)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
        terms = -gain + 0.5 * (value - target) ** 2 - s.entropy * entropy
        return jnp.sum(weight * terms) / jnp.maximum(weight.sum(), 1.0)

    @jax.jit(donate_argnums=(0, 1, 3))
    def update(params, moments, bank, carry, key):
        network = nnx.merge(graph, params)
        carry, (seen, action, (old, value), out, _) = rollout(sampled(network), bank, *carry, jax.random.fold_in(key, 0))
        ended = out.terminated | out.truncated
        advantage = advantages(s, value, network(carry[1])[1], out.reward, ended)
        chosen = jnp.nonzero(out.active.reshape(-1), size=s.capacity, fill_value=out.active.size)[0]
        weight = (chosen < out.active.size).astype(jnp.float32)
        data = [
            leaf.reshape(-1, *leaf.shape[3:]).at[chosen].get(mode="clip")
            for leaf in (seen, action, old, advantage, advantage + value)
        ]
        mean = jnp.sum(weight * data[3]) / weight.sum()
        data[3] = (data[3] - mean) / jnp.sqrt(jnp.sum(weight * (data[3] - mean) ** 2) / weight.sum() + 1e-8)

        def minibatch(carry, index):
            params, moments = carry
            grads = jax.grad(loss)(params, *(leaf[index] for leaf in (*data, weight)))
            change, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, change), moments), None

        keys = jax.random.split(key, s.epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, s.capacity))(keys).reshape(-1, s.minibatch)
        (params, moments), _ = jax.lax.scan(minibatch, (params, moments), order)
        return params, moments, carry, rates(out, out.active)

    moments, carry, spent = optimizer.init(params), (running, seen), 0.0
    for number in range(s.updates):
        begin = time.process_time()
        params, moments, carry, found = update(params, moments, bank, carry, jax.random.fold_in(key, 1 + number))
        found = jax.device_get(found)
        spent += (time.process_time() - begin) * (number > 0)  # the first update compiles
        if number % 10 == 9:
            report(f"update {number + 1}, {spent:.0f} CPU s: {describe(found)}")
    return graph, params


def sampled(network: ActorCritic, use_goal: bool = True):
    """Actions sampled from a network, with their log probability and the value."""
    goal = np.concatenate([np.full(f.size, use_goal or f.name != "goal") for f in VIEW.spec().features])

    def act(seen, key):
        logits, value = network(jnp.where(goal[None, None], seen, 0.0))
        action = jax.random.categorical(key, logits)
        return action, (jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0], value)

    return act


def rates(out: Any, counted: jax.Array) -> dict[str, jax.Array]:
    """Ends of counted agents by kind, and their number."""
    goal, hit, off = (out.metrics[name].value > 0 for name in ("goal_reached", "overlap", "offroad"))
    kinds = {"goal": goal & ~hit & ~off, "collision": hit, "off-road": off & ~hit}
    ended = counted & (out.terminated | out.truncated)
    return {"agents": ended.sum()} | {name: (kind & ended).sum() for name, kind in kinds.items()}


def describe(found: dict[str, Any]) -> str:
    """Rates in percent."""
    return ", ".join(f"{n} {100 * found[n] / found['agents']:.1f} %" for n in ("goal", "collision", "off-road"))


def evaluate(act: Any, bank: ScenarioBank, key: jax.Array) -> dict[str, Any]:
    """Rates over all scenarios of a bank, each played once."""
    env = dataclasses.replace(ENV, sampling="order")
    keys, position = jax.random.split(key, len(bank)), jnp.arange(len(bank))
    running, seen = jax.vmap(env.reset, in_axes=(None, 0, None, 0))(bank, keys, None, position)
    _, (*_, out, count) = rollout(act, bank, running, seen, key, env)
    return rates(out, out.active & (count == 0)[..., None])


def main(
    train_path: str = "synthetic:0:100",
    test_path: str = "synthetic:901:60",
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),
) -> None:
    """Trains on one set of scenarios and evaluates on another."""
    banks = [build_bank(ws.load(path, bucketed=False), ENV.env) for path in (train_path, test_path)]
    print(f"{len(banks[0])} scenarios, {banks[0].nbytes / 1e6 / len(banks[0]):.2f} MB each")
    graph, params = train(settings, banks[0], lambda line: print(line, flush=True))
    evaluated = jax.jit(lambda params, bank, key, use_goal: evaluate(sampled(nnx.merge(graph, params), use_goal), bank, key), static_argnums=3)
    constant = jax.jit(lambda bank, key: evaluate(lambda seen, key: (jnp.full(seen.shape[:-1], KEEP_SPEED), ()), bank, key))
    untrained = nnx.split(ActorCritic(nnx.Rngs(settings.seed)))[1]
    key = jax.random.key(7)
    rows = {
        "PPO": evaluated(params, banks[1], key, True),
        "constant speed": constant(banks[1], key),
        "untrained": evaluated(untrained, banks[1], key, True),
        "no goal": evaluated(params, banks[1], key, False),
    }
    for name, found in rows.items():
        print(f"held out, {name}: {describe(found)} of {found['agents']} agents")


if __name__ == "__main__":
    tyro.cli(main)
