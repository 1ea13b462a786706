"""Rows of the benchmark: training steps from end to end (entry points of the group `waymax_sim.bench`)."""

from typing import Any

import jax
import numpy as np

import waymax_sim as ws
from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import collect_demonstrations
from behavior_models.offline.behaviors import noisy_actor, stack_actors
from behavior_models.offline.simulation import TaskSimulator
from behavior_models.offline.tasks import TASKS, concatenate_scenes, draw_scenes
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.trainers.ppo import distribute_state
from behavior_models.training.devices import device_mesh, put_on_devices
from behavior_models.training.presets import GOAL_TASK
from waymax_sim.env.bank import ScenarioBank, build_bank

BANK_DATA = "synthetic:0:64"
NUM_DECISIONS = 40  # decisions of an episode
LOGGED_SCENES = 8  # scenes of each driving task
WARM_UP_UPDATES = (
    3  # training steps before the measured ones; environments are then at different times of their episodes
)


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


def log_transitions() -> dict[str, Any]:
    """Logged transitions of driving tasks by a planner with noise; agent-steps are simulated steps of the egos."""
    scenes = concatenate_scenes([draw_scenes(name, 0, range(LOGGED_SCENES)) for name in TASKS])
    simulator, keys = TaskSimulator(), jax.random.split(jax.random.key(0), 16)
    actor = stack_actors([noisy_actor("lookahead", 0.2)] * len(scenes.task))
    steps = float(simulator.run(actor, scenes, keys[0]).steps)
    calls = {"total": lambda index: jax.block_until_ready(simulator.run(actor, scenes, keys[index % len(keys)]))}
    return {"calls": calls, "agent_steps": steps, "batch": len(scenes.task)}


def _bank() -> ScenarioBank:
    return build_bank(ws.load(BANK_DATA, pad_to_bucket=False), GOAL_TASK.env)
