"""Rows of the benchmark: training steps from end to end (entry points of the group `waymax_sim.bench`)."""

from typing import Any

import jax
import numpy as np

import waymax_sim as ws
from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import collect_demonstrations
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.reinforcement.sac import SAC, SACConfig
from behavior_models.trainers.ppo import distribute_state
from behavior_models.training.devices import device_mesh, put_on_devices
from behavior_models.training.presets import GOAL_TASK, SHAPED_TASK
from waymax_sim.env.bank import ScenarioBank, build_bank

BANK_DATA = "synthetic:0:64"
NUM_DECISIONS = 40  # decisions of an episode
# Training steps before the measured ones; environments are then at different times of their episodes.
WARM_UP_UPDATES = 3


def train_ppo() -> dict[str, Any]:
    """A training step of PPO with default settings, and its collection; agent-steps are decisions of agents."""
    mesh = device_mesh(PPOConfig.num_envs)
    learner, bank = PPO(GOAL_TASK, mesh=mesh), put_on_devices(_bank(), mesh, True)
    step = jax.jit(lambda state, bank: learner.train_step(state, bank))
    collect = jax.jit(lambda state, bank: learner.sample(state, bank)[2])
    state = distribute_state(jax.jit(learner.init)(bank, jax.random.key(0)), mesh)
    states, steps = [], []
    for _ in range(WARM_UP_UPDATES):
        state, scalars = step(state, bank)
        states.append(state)
        steps.append(float(scalars["agent_steps"]))
    fit = jax.jit(lambda state, batch: learner._fit(state.params, state.optimizer, batch, state.key, None)[0])
    batch = collect(state, bank)
    calls = {
        "total": lambda index: jax.block_until_ready(step(states[index % len(states)], bank)),
        "collect": lambda index: jax.block_until_ready(collect(states[index % len(states)], bank)),
        "fit": lambda index: jax.block_until_ready(fit(states[index % len(states)], batch)),
    }
    return {"calls": calls, "agent_steps": float(np.mean(steps)), "batch": PPOConfig.num_envs}


def train_bc() -> dict[str, Any]:
    """An epoch of behavior cloning; agent-steps are the transitions of the demonstrations."""
    demonstrations = collect_demonstrations(GOAL_TASK, _bank(), jax.random.key(0), num_decisions=NUM_DECISIONS)
    learner = BehaviorCloning(GOAL_TASK, len(demonstrations), BCConfig())
    data, step = jax.device_put(demonstrations), jax.jit(learner.train_step)
    state = learner.init(jax.random.key(0))
    calls = {"total": lambda index: jax.block_until_ready(step(state, data))}
    return {"calls": calls, "agent_steps": float(len(demonstrations)), "batch": BCConfig.minibatch}


def train_sac() -> dict[str, Any]:
    """A training step of soft actor-critic with default settings, its collection, and its gradient steps."""
    learner, bank, config = SAC(SHAPED_TASK), _bank(), SACConfig()
    state, step = jax.jit(learner.init)(bank, jax.random.key(0)), jax.jit(learner.train_step)
    steps = []
    for _ in range(WARM_UP_UPDATES):
        state, scalars = step(state, bank)
        steps.append(float(scalars["agent_steps"]))
    sample, fit = jax.jit(learner.sample), jax.jit(learner.fit)
    calls = {
        "total": lambda index: jax.block_until_ready(step(state, bank)),
        "collect": lambda index: jax.block_until_ready(sample(state, bank)),
        "fit": lambda index: jax.block_until_ready(fit(state.learner, state.replay, state.key)),
    }
    return {"calls": calls, "agent_steps": float(np.mean(steps)), "batch": config.num_envs}


def _bank() -> ScenarioBank:
    return build_bank(ws.load(BANK_DATA, pad_to_bucket=False), GOAL_TASK.env)
