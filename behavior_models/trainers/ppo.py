"""Training by PPO self-play."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from behavior_models.networks.checkpoint import load_policy
from behavior_models.networks.policy import NetworkPolicy
from behavior_models.reinforcement.ppo import PPO, PPOConfig, PPOState
from behavior_models.trainers.common import (
    compile_seeds,
    network_config,
    open_folder,
    open_scenarios,
    resident_bank,
    run,
    save,
    training_keys,
    training_mesh,
)
from behavior_models.trainers.options import PPOOptions
from behavior_models.training.devices import put_on_devices
from behavior_models.training.loop import LoopConfig
from behavior_models.training.presets import goal_task


def train_ppo(options: PPOOptions) -> NetworkPolicy:
    """Trains by self-play, anchored if an anchor is given."""
    open_folder(options)
    mesh, env = training_mesh(options), goal_task(at_end=options.at_end)
    scenarios = open_scenarios(options, env, mesh)
    reference = None if options.anchor is None else load_policy(options.anchor)
    config = PPOConfig(
        num_updates=options.num_steps or PPOConfig.num_updates,
        anchor_weight=0.0 if reference is None else options.anchor_weight,
        **batch_sizes(options.num_envs),
    )
    # Several devices share the environments of one seed, or the seeds.
    own_mesh = mesh if options.seeds == 1 else None
    graph = None if reference is None else reference.graph
    learner = PPO(env, config, network_config(options), graph, own_mesh)
    anchor_params = None if reference is None else put_on_devices(jax.device_put(reference.params), mesh, True)
    init = compile_seeds(options, lambda key, bank: learner.init(bank, key), mesh)
    step = compile_seeds(options, lambda state, bank, anchor: learner.train_step(state, bank, None, anchor), mesh)
    sample = jax.jit(lambda state, bank: learner.sample(state, bank)[2])

    def tempered(params: Any) -> Any:
        return learner.model.at_temperature(params, options.sampling_temperature)

    state = run(
        options,
        env,
        distribute_state(
            init(put_on_devices(training_keys(options), mesh, options.seeds == 1), resident_bank(scenarios)), own_mesh
        ),
        lambda state: step(state, resident_bank(scenarios), anchor_params),
        LoopConfig(config.num_updates),
        lambda params: learner.model.actor(tempered(params), "sample"),
        scenarios,
        (lambda state: sample(state, resident_bank(scenarios))) if options.seeds == 1 else None,
    )
    return save(options, env, learner.model, tempered(state.params), "sample")


def batch_sizes(num_envs: int) -> dict[str, int]:
    """Capacity and minibatch for another number of environments, in proportion."""
    share = num_envs / PPOConfig.num_envs
    minibatch = max(round(PPOConfig.minibatch * share), 1)
    return {
        "num_envs": num_envs,
        "minibatch": minibatch,
        "capacity": minibatch * (PPOConfig.capacity // PPOConfig.minibatch),
    }


def distribute_state(state: PPOState, mesh: Mesh | None) -> PPOState:
    """A state whose environments are shared by devices, and whose network all of them have.

    Args:
      state: The state of one seed.
      mesh: The devices; None for the state of several seeds or of one device, which is unchanged.
    """
    environments = put_on_devices(state.environments, mesh, False)
    return dataclasses.replace(put_on_devices(state, mesh, True), environments=environments)
