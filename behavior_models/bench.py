"""Rows of the benchmark: training steps and images (entry points of the group `waymax_sim.bench`)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

import waymax_sim as ws
from behavior_models.checkpoints import decoder_nano
from behavior_models.encoders.drawing import Pose, RasterContent, rotate_back, to_frame
from behavior_models.encoders.grid import Grid
from behavior_models.encoders.raster import Raster
from behavior_models.imitation.behavior_cloning import BCConfig, BehaviorCloning
from behavior_models.imitation.demonstrations import collect_demonstrations
from behavior_models.offline.behaviors import noisy_actor, stack_actors
from behavior_models.offline.simulation import TaskSimulator
from behavior_models.offline.tasks import TASKS, concatenate_scenes, draw_scenes
from behavior_models.reinforcement.ppo import PPO, PPOConfig
from behavior_models.reinforcement.sac import SAC, SACConfig
from behavior_models.trainers.ppo import distribute_state
from behavior_models.training.devices import device_mesh, put_on_devices
from behavior_models.training.presets import GOAL_TASK, SHAPED_TASK
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Policy
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.evaluation.realism.evaluate import realism_env, simulate_rollouts
from waymax_sim.pytree import Array, stack

BANK_DATA = "synthetic:0:64"
NUM_DECISIONS = 40  # decisions of an episode
# Training steps before the measured ones; environments are then at different times of their episodes.
WARM_UP_UPDATES = 3
NUM_SCENES = 16  # scenarios of the row `observe_raster`
LOGGED_SCENES = 8  # scenes of each driving task
DECODER_DATA = "synthetic:0:40"  # scenes of the rows `rollout80_decoder`, of which those of one size are used
DECODER_SLOTS = 64  # their slots of agents
DECODER_ROLLOUTS = 32  # rollouts of a scene
DECODER_STEPS = 80  # steps of a rollout


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


class BruteForceRaster(Raster):
    """The raster with each cell compared with each box."""

    def _draw_boxes(self, grid: Grid, content: RasterContent, ego: Pose) -> list[Int[Array, "H W"]]:
        x, y = (item[:, None, None] for item in to_frame(content.agents.xy, ego))
        cos, sin = (item[:, None, None] for item in rotate_back(content.heading, ego))
        length, width = (item[:, None, None] for item in content.half_size)
        dx, dy = grid.centers(grid.behind)[None, :, None] - x, grid.centers(grid.right)[None, None] - y
        inside = (jnp.abs(cos * dx + sin * dy) <= length) & (jnp.abs(cos * dy - sin * dx) <= width)
        half = grid.resolution / 2
        inside |= (jnp.maximum(dx, dy) <= half) & (jnp.minimum(dx, dy) > -half)
        level = jnp.where(inside & content.agents.valid[:, None, None], content.agents.level[:, None, None], 0)
        image = jnp.max(level.reshape(content.num_steps, -1, grid.size, grid.size), axis=1)
        return [image[step] for step in range(content.num_steps)]


def observe_raster_ego() -> dict[str, Any]:
    """The image of one ego, 64 x 64 x 8; brute force compares each cell with each box."""
    env = _raster_env()
    scenarios = ws.load("synthetic:0:2", pad_to_bucket=False)
    observe = jax.jit(lambda scenario: env.observe(scenario, env.initial_state(scenario, jax.random.key(0))))
    observations = [observe(scenario) for scenario in scenarios]

    def call(raster):
        draw = jax.jit(lambda observation: raster(observation))
        return lambda index: jax.block_until_ready(draw(observations[index % len(observations)]))

    return _raster_workload(call, 1)


def observe_raster() -> dict[str, Any]:
    """The images of the egos of 16 scenarios of a bank in one program, with the first states of their episodes."""
    env = _raster_env()
    bank = build_bank(ws.load(f"synthetic:0:{NUM_SCENES}", pad_to_bucket=False), env)
    orders = [jnp.arange(NUM_SCENES, dtype=jnp.int32), jnp.arange(NUM_SCENES, dtype=jnp.int32)[::-1]]

    def call(raster):
        def observe(bank, index):
            scenario = bank.scenario(index)
            return raster(env.observe(scenario, env.initial_state(scenario, jax.random.key(0))))

        draw = jax.jit(jax.vmap(observe, in_axes=(None, 0)))
        return lambda index: jax.block_until_ready(draw(bank, orders[index % len(orders)]))

    return _raster_workload(call, NUM_SCENES)


def _raster_env() -> ws.Env:
    return ws.Env(config=ws.EnvConfig(metrics=(), rewards=(), num_history_steps=Raster().num_history_steps))


def _raster_workload(call: Callable[[Raster], Callable[[int], Any]], batch: int) -> dict[str, Any]:
    calls = {"total": call(Raster(goal=False)), "baseline": call(BruteForceRaster(goal=False))}
    return {"calls": calls, "agent_steps": float(batch), "batch": batch}


def log_transitions() -> dict[str, Any]:
    """Logged transitions of driving tasks by a planner with noise; agent-steps are simulated steps of the egos."""
    scenes = concatenate_scenes([draw_scenes(name, 0, range(LOGGED_SCENES)) for name in TASKS])
    simulator, keys = TaskSimulator(), jax.random.split(jax.random.key(0), 16)
    actor = stack_actors([noisy_actor("lookahead", 0.2)] * len(scenes.task))
    steps = float(simulator.run(actor, scenes, keys[0]).steps)
    calls = {"total": lambda index: jax.block_until_ready(simulator.run(actor, scenes, keys[index % len(keys)]))}
    return {"calls": calls, "agent_steps": steps, "batch": len(scenes.task)}


def rollout80_decoder() -> dict[str, Any]:
    """32 rollouts of 8 s of a scene with 64 slots, all agents by the released scene decoder."""
    return _decoder_workload(1)


def rollout80_decoder_16() -> dict[str, Any]:
    """The same of 16 scenes, one after another in one program."""
    return _decoder_workload(16)


def _decoder_workload(num_scenes: int) -> dict[str, Any]:
    """Rollouts of scenes of one size by the released scene decoder; agent-steps are those of present agents."""
    policy = jax.device_put(decoder_nano())
    scenes = [pad_to_class(scene) for scene in ws.load(DECODER_DATA, pad_to_bucket=False)]
    scenes = [scene for scene in scenes if scene.num_agents == DECODER_SLOTS][:num_scenes]
    repeated = [scenes[index % len(scenes)] for index in range(num_scenes)]
    stacked = jax.device_put(stack(repeated))
    env = realism_env(policy)

    @jax.jit
    def run(policy: Policy, scenes: Scenario, key: Any) -> Any:
        def rollouts(scene: Scenario) -> Any:
            return simulate_rollouts(env, policy, scene, key, DECODER_ROLLOUTS, DECODER_STEPS).yaw

        return jax.lax.map(rollouts, scenes)

    keys = [jax.random.key(index) for index in range(4)]
    calls = {"total": lambda index: jax.block_until_ready(run(policy, stacked, keys[index % len(keys)]))}
    present = sum(int(scene.log.valid[scene.current_step].sum()) for scene in repeated)
    return {"calls": calls, "agent_steps": float(present * DECODER_ROLLOUTS * DECODER_STEPS), "batch": num_scenes}


def _bank() -> ScenarioBank:
    return build_bank(ws.load(BANK_DATA, pad_to_bucket=False), GOAL_TASK.env)
