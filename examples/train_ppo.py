"""PPO (Schulman et al. 2017) by self-play of all traveling vehicles: simulator, network and updates in one program.

    python examples/train_ppo.py --train-path synthetic:0:100 --test-path synthetic:901:60

Rates are those of traveling vehicles in held-out scenarios, with sampled actions; goals exclude episodes with a
collision or off the road. The untrained network and the trained one without its goal are controls.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import waymax_sim as ws
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env import PRESETS, Env
from waymax_sim.env.bank import build_bank
from waymax_sim.env.flat_view import NUM_AGENT_VALUES, NUM_POLYLINE_VALUES, FlatView

ACCELERATIONS = (-5.0, -2.5, -1.0, 0.0, 1.0, 2.0, 3.5)  # m/s^2
CURVATURES = (-0.2, -0.08, -0.03, -0.01, 0.0, 0.01, 0.03, 0.08, 0.2)  # 1/m
ACTIONS = ws.Discrete(ws.Bicycle(), levels=(ACCELERATIONS, CURVATURES))
NUM_ACTIONS = ACTIONS.num_actions
VIEW = FlatView("controlled", num_agents=8, num_polylines=24)
ENV = FunctionalEnv(Env(ACTIONS, dataclasses.replace(PRESETS["goal"], steps_per_action=2, max_controlled=16)), VIEW)
NUM_ENVS = 32
DECISIONS = 40  # decisions of an episode of 8 s
CAPACITY = 5120  # transitions of an update
MINIBATCH = 1024  # transitions of a gradient step
EPOCHS = 3
DISCOUNT = 0.985  # per decision
GAE_LAMBDA = 0.95
CLIP = 0.2  # of the probability ratio
ENTROPY = 0.01  # weight of the entropy bonus
RATE = 1e-3  # initial learning rate


class ActorCritic(nnx.Module):
    """Max-pooled encoders of agents and map polylines, and a trunk with logits and value."""

    def __init__(self, rngs: nnx.Rngs, width: int = 64, trunk: int = 128):
        self.split = (8 * NUM_AGENT_VALUES, 8 * NUM_AGENT_VALUES + 24 * NUM_POLYLINE_VALUES)
        self.ego = nnx.Linear(NUM_AGENT_VALUES + VIEW.spec().size - self.split[1], width, rngs=rngs)
        self.agents = nnx.Linear(NUM_AGENT_VALUES, width, rngs=rngs)
        self.polylines = nnx.Linear(NUM_POLYLINE_VALUES, width, rngs=rngs)
        self.first, self.second = nnx.Linear(3 * width, trunk, rngs=rngs), nnx.Linear(trunk, trunk, rngs=rngs)
        self.logits = nnx.Linear(trunk, NUM_ACTIONS, kernel_init=nnx.initializers.normal(1e-3), rngs=rngs)
        self.value = nnx.Linear(trunk, 1, rngs=rngs)

    def __call__(self, observation):
        agents, polylines, rest = jnp.split(observation, self.split, axis=-1)
        agents = agents.reshape(*observation.shape[:-1], -1, NUM_AGENT_VALUES)
        polylines = polylines.reshape(*observation.shape[:-1], -1, NUM_POLYLINE_VALUES)
        ego = nnx.relu(self.ego(jnp.concatenate([agents[..., 0, :], rest], axis=-1)))
        others = jnp.max(nnx.relu(self.agents(agents[..., 1:, :])) * agents[..., 1:, :1], axis=-2)
        road = jnp.max(nnx.relu(self.polylines(polylines)) * polylines[..., :1], axis=-2)
        hidden = jnp.tanh(self.second(jnp.tanh(self.first(jnp.concatenate([ego, others, road], axis=-1)))))
        return self.logits(hidden), self.value(hidden)[..., 0]


def collect(env, network, bank, env_state, observation, key, goal=True):
    """Collects one episode length of decisions in all environments; without a network, at constant speed."""
    mask = np.concatenate([np.full(f.size, goal or f.name != "goal", np.float32) for f in VIEW.spec().features])
    keep = 1e9 * jax.nn.one_hot(ACTIONS.encode(jnp.zeros((1, 2)))[0, 0], NUM_ACTIONS)

    def step(carry, key):
        (env_state, observation), first = carry, (carry[0].count == 0)[:, None]
        constant_speed = keep[None, None] + 0 * observation[..., :1], 0
        logits, value = network(observation * mask[None, None]) if network else constant_speed
        action = jax.random.categorical(key, logits)
        log_prob = jnp.take_along_axis(nnx.log_softmax(logits), action[..., None], axis=-1)[..., 0]
        env_state, out = jax.vmap(env.step, in_axes=(None, 0, 0))(bank, env_state, action[..., None])
        return (env_state, out.observation), (observation, action, log_prob, value, out, first)

    return jax.lax.scan(step, (env_state, observation), jax.random.split(key, DECISIONS))


def end_rates(out, counted=True):
    """Rates of episodes that ended at the goal, in a collision, and off the road, and their number."""
    goal, hit, off = (out.metrics[name].value > 0 for name in ("goal_reached", "overlap", "offroad"))
    ended = counted & out.active & (out.terminated | out.truncated)
    goal, hit, off = (jnp.sum(ended & kind) / ended.sum() for kind in (goal & ~hit & ~off, hit, off & ~hit))
    return {"goal": goal, "collision": hit, "off-road": off, "agents": ended.sum()}


def train(bank, updates: int, seed: int = 0):
    """Trains a network on the scenarios of a bank."""
    (graph, params), key = nnx.split(ActorCritic(nnx.Rngs(seed))), jax.random.key(seed)
    rate = optax.linear_schedule(RATE, 0.05 * RATE, updates * EPOCHS * CAPACITY // MINIBATCH)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
    carry = jax.jit(jax.vmap(ENV.reset, in_axes=(None, 0)))(bank, jax.random.split(key, NUM_ENVS))

    def advantages(following, item):  # generalized advantage estimates (Schulman et al. 2016)
        (advantage, following), (value, reward, ended) = following, item
        delta = reward + DISCOUNT * jnp.where(ended, 0.0, following) - value
        advantage = delta + DISCOUNT * GAE_LAMBDA * jnp.where(ended, 0.0, advantage)
        return (advantage, value), advantage

    def loss(params, observation, action, old, advantage, target, weight):
        logits, value = nnx.merge(graph, params)(observation)
        log_probs = nnx.log_softmax(logits)
        ratio = jnp.exp(jnp.take_along_axis(log_probs, action[:, None], axis=-1)[:, 0] - old)
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
        return jnp.sum(weight * (-gain + 0.5 * (value - target) ** 2 - ENTROPY * entropy)) / weight.sum()

    @jax.jit
    def update(state, bank, carry, key):
        network = nnx.merge(graph, state[0])
        carry, (observation, action, old, value, out, _) = collect(ENV, network, bank, *carry, key)
        items, last = (value, out.reward, out.terminated | out.truncated), network(carry[1])[1]
        _, advantage = jax.lax.scan(advantages, (0 * last, last), items, reverse=True)
        rows = jnp.nonzero(out.active.reshape(-1), size=CAPACITY, fill_value=out.active.size)[0]
        weight = (rows < out.active.size).astype(jnp.float32)
        batch = observation, action, old, advantage, advantage + value
        data = [x.reshape(-1, *x.shape[3:]).at[rows].get(mode="clip") for x in batch]
        data[3] -= jnp.average(data[3], weights=weight)
        data[3] /= jnp.sqrt(jnp.average(data[3] ** 2, weights=weight) + 1e-8)

        def minibatch(state, index):
            grads = jax.grad(loss)(state[0], *(x[index] for x in (*data, weight)))
            change, moments = optimizer.update(grads, state[1], state[0])
            return (optax.apply_updates(state[0], change), moments), None

        order = [jax.random.permutation(jax.random.fold_in(key, epoch), CAPACITY) for epoch in range(EPOCHS)]
        state, _ = jax.lax.scan(minibatch, state, jnp.concatenate(order).reshape(-1, MINIBATCH))
        return state, carry, end_rates(out)

    state, spent = (params, optimizer.init(params)), 0.0
    for number in range(1, updates + 1):
        begin = time.process_time()
        state, carry, rates = jax.block_until_ready(update(state, bank, carry, jax.random.fold_in(key, number)))
        spent += (time.process_time() - begin) * (number > 1)  # the first update compiles
        if number % 10 == 0:
            print(f"update {number}, {spent:.0f} CPU s:", {kind: round(float(x), 3) for kind, x in rates.items()})
    return nnx.merge(graph, state[0])


def main(train_path: str = "synthetic:0:100", test_path: str = "synthetic:901:60", updates: int = 150, seed: int = 0):
    """Trains on one set of scenarios, and evaluates on all scenarios of another, each played once."""
    bank, held_out = (build_bank(ws.load(path, pad_to_bucket=False), ENV.env) for path in (train_path, test_path))
    env, keys = dataclasses.replace(ENV, sampling="order"), jax.random.split(jax.random.key(7), len(held_out))
    start = jax.jit(jax.vmap(env.reset, in_axes=(None, 0, None, 0)))(held_out, keys, None, jnp.arange(len(held_out)))
    evaluate = nnx.jit(collect, static_argnums=(0, 6))
    ppo = train(bank, updates, seed)
    rows = {"PPO": (ppo, True), "constant speed": (None, True), "PPO without goal": (ppo, False)}
    for kind, (network, goal) in (rows | {"untrained": (ActorCritic(nnx.Rngs(seed)), True)}).items():
        _, (*_, out, first) = evaluate(env, network, held_out, *start, keys[0], goal)
        print(f"held out, {kind}:", {name: round(float(x), 3) for name, x in end_rates(out, first).items()})


if __name__ == "__main__":
    tyro.cli(main)
