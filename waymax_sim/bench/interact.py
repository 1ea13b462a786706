"""The cost of an interaction in a bank of scenarios: simulation, metrics, observation, and the automatic reset."""

import dataclasses
import functools
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Key

from waymax_sim.adapters.functional import FunctionalEnv, Transition
from waymax_sim.adapters.loop import EGO_ENV
from waymax_sim.bench.measure import compile_program, interleaved
from waymax_sim.bench.rows import Json, Sampling, sample_times, single_row
from waymax_sim.datasets.loader import load
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import PRESETS, Env
from waymax_sim.env.auto_reset import AutoResetState
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import Array

BANK_DATA = "synthetic:0:64"
NUM_ENVS = 32  # parallel environments
WARM_UP_STEPS = 120  # steps before the measured ones; environments are then at different times of their episodes
MEASURED_STEPS = 40
ACTION_NOISE = 0.1  # standard deviation of the actions as a share of the bounds; agents nearly keep their speed

GOAL_CONFIG = dataclasses.replace(PRESETS["goal"], max_controlled=16)
RESPAWN_CONFIG = dataclasses.replace(GOAL_CONFIG, at_end="respawn")
GOAL_VIEW = FlatView(num_agents=8, num_polylines=24)
ENVIRONMENTS: dict[str, FunctionalEnv] = {
    "interact_ego": FunctionalEnv(EGO_ENV),
    # All travelling vehicles: respawned at the end of their episodes, or removed, which leaves few active ones.
    "interact_all": FunctionalEnv(Env(Bicycle(normalized=True), RESPAWN_CONFIG), GOAL_VIEW),
    "interact_goal": FunctionalEnv(Env(Bicycle(normalized=True), GOAL_CONFIG), GOAL_VIEW),
}


class _SampledSteps(NamedTuple):
    """States of all environments [T, B, ...], the actions, and the masks of acting agents [T, B, ...]."""

    running: AutoResetState
    action: Float[Array, "T B *action"]
    active: Any


def interact_row(name: str, sampling: Sampling) -> Json:
    """Measures the steps of an environment with and without automatic resets, in turn and from the same states.

    `valid_agents` are the agents that act, per environment and step; `auto_reset_ratio` compares the CPU time of a step
    with automatic resets with that of a step without. Environments are spread over all devices.
    """
    env = ENVIRONMENTS[name]
    bank = build_bank(load(BANK_DATA, pad_to_bucket=False), env.env)
    sampled = _sample_steps(env, bank, jax.random.key(0))
    programs = [_program(env, bank, sampled, resets) for resets in (True, False)]
    with_reset, without = interleaved([program.call for program in programs], sampling.repeats, 2 * sampling.seconds)
    steps, active = (
        MEASURED_STEPS * NUM_ENVS,
        float(sampled.active.reshape(MEASURED_STEPS, -1).sum(axis=-1).mean()) / NUM_ENVS,
    )
    row = single_row(name=name, batch=NUM_ENVS, agents=bank.num_agents, valid_agents=active, steps=MEASURED_STEPS)
    row |= sample_times(with_reset)
    ratios = [ours / other for ours, other in zip(with_reset.cpu, without.cpu, strict=True) if other > 0]
    return row | {
        "wall_ms_per_scene_step": row["wall_ms"] / steps,
        "cpu_ms_per_scene_step": row["cpu_ms"] / steps,
        "scene_steps_per_s": 1e3 * steps / row["wall_ms"],
        "agent_steps_per_s": 1e3 * steps * active / row["wall_ms"],
        "agent_steps_per_cpu_s": 1e3 * steps * active / row["cpu_ms"],
        "auto_reset_ratio": median(ratios) if ratios else None,
        "bank_mb_per_scene": bank.nbytes / 1e6 / len(bank),
        "compile_s": programs[0].compile_s,
    }


@functools.partial(jax.jit, static_argnums=0)
def _sample_steps(env: FunctionalEnv, bank: ScenarioBank, key: Key[Array, ""]) -> _SampledSteps:
    """Steps of a run with random actions, after a warm-up."""
    keys = jax.random.split(key, NUM_ENVS)
    running, _ = jax.vmap(env.reset, in_axes=(None, 0))(bank, keys)
    low, _ = env.env.dynamics.bounds
    rows = () if env.env.config.controlled == "sdc" else (env.env.max_controlled(bank.num_agents),)

    def body(running: AutoResetState, key: Key[Array, ""]) -> tuple[AutoResetState, _SampledSteps]:
        action = ACTION_NOISE * jax.random.normal(key, (NUM_ENVS, *rows, len(low)))
        following, out = _batched(env)(bank, running, action)
        return following, _SampledSteps(running, action, out.active)

    running, _ = jax.lax.scan(body, running, jax.random.split(jax.random.fold_in(key, 1), WARM_UP_STEPS))
    return jax.lax.scan(body, running, jax.random.split(jax.random.fold_in(key, 2), MEASURED_STEPS))[1]


def _batched(env: FunctionalEnv, resets: bool = True) -> Callable[..., tuple[AutoResetState, Transition]]:
    return jax.vmap(functools.partial(env.step, resets=resets), in_axes=(None, 0, 0))


def _program(env: FunctionalEnv, bank: ScenarioBank, sampled: _SampledSteps, resets: bool) -> Any:
    def steps(bank: ScenarioBank, sampled: _SampledSteps) -> Any:
        def step(item: _SampledSteps) -> Any:
            running, out = _batched(env, resets)(bank, item.running, item.action)
            return running.episode.state.agents, out.observation, out.reward, out.done

        return jax.lax.map(step, sampled)

    devices = jax.devices()
    if len(devices) == 1 or NUM_ENVS % len(devices):
        return compile_program(steps, [(bank, sampled)])
    mesh = jax.make_mesh((len(devices),), ("environments",), axis_types=(AxisType.Auto,))
    specs = P(), P(None, "environments")
    spread = jax.shard_map(steps, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
    arguments = [
        jax.device_put(item, NamedSharding(mesh, spec)) for item, spec in zip((bank, sampled), specs, strict=True)
    ]
    return compile_program(spread, [tuple(arguments)])
