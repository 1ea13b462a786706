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
from waymax_sim.adapters.loop import DRIVE
from waymax_sim.bench.measure import compiled, interleaved
from waymax_sim.bench.rows import Json, Sampling, sample_times, single_row
from waymax_sim.datasets.loader import load
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import PRESETS, Env
from waymax_sim.env.auto_reset import AutoResetState
from waymax_sim.env.bank import ScenarioBank, build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import Array

SCENARIOS, NUM_ENVS = "synthetic:0:64", 32
# Steps before the measured ones, so that environments are at different times of their episodes, and measured steps.
WARM_UP, STEPS = 120, 40
# Standard deviation of the actions, as a share of the bounds: agents nearly keep their speed.
NOISE = 0.1

GOAL, VIEW = dataclasses.replace(PRESETS["goal"], max_controlled=16), FlatView(num_agents=8, num_elements=24)
ENVIRONMENTS: dict[str, FunctionalEnv] = {
    "interact_ego": FunctionalEnv(DRIVE),
    # All travelling vehicles all the time; and with those removed that have ended, so that few are left at last.
    "interact_all": FunctionalEnv(Env(Bicycle(normalized=True), dataclasses.replace(GOAL, at_end="respawn")), VIEW),
    "interact_goal": FunctionalEnv(Env(Bicycle(normalized=True), GOAL), VIEW),
}


class _Visited(NamedTuple):
    """States of all environments before some steps, [T, B, ...], the actions, and the agents that act, [T, B, ...]."""

    running: AutoResetState
    action: Float[Array, "T B *action"]
    active: Any


def interact_row(name: str, sampling: Sampling) -> Json:
    """Measures the steps of an environment with and without automatic resets, in turn and from the same states.

    `valid_agents` are the agents that act, per environment and step; `auto_reset_ratio` compares the CPU time of a step
    with automatic resets with that of a step without. Environments are spread over all devices.
    """
    env = ENVIRONMENTS[name]
    bank = build_bank(load(SCENARIOS, bucketed=False), env.env)
    visited = _visit(env, bank, jax.random.key(0))
    programs = [_program(env, bank, visited, resets) for resets in (True, False)]
    with_reset, without = interleaved([program.call for program in programs], sampling.repeats, 2 * sampling.seconds)
    steps, active = STEPS * NUM_ENVS, float(visited.active.reshape(STEPS, -1).sum(axis=-1).mean()) / NUM_ENVS
    row = single_row(name=name, batch=NUM_ENVS, agents=bank.num_agents, valid_agents=active, steps=STEPS)
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
def _visit(env: FunctionalEnv, bank: ScenarioBank, key: Key[Array, ""]) -> _Visited:
    """States that a run visits after a while, with the actions that follow."""
    keys = jax.random.split(key, NUM_ENVS)
    running, _ = jax.vmap(env.reset, in_axes=(None, 0))(bank, keys)
    low, _ = env.env.dynamics.bounds
    rows = () if env.env.config.controlled == "sdc" else (env.env.max_controlled(bank.num_agents),)

    def body(running: AutoResetState, key: Key[Array, ""]) -> tuple[AutoResetState, _Visited]:
        action = NOISE * jax.random.normal(key, (NUM_ENVS, *rows, len(low)))
        following, out = _batched(env)(bank, running, action)
        return following, _Visited(running, action, out.active)

    running, _ = jax.lax.scan(body, running, jax.random.split(jax.random.fold_in(key, 1), WARM_UP))
    return jax.lax.scan(body, running, jax.random.split(jax.random.fold_in(key, 2), STEPS))[1]


def _batched(env: FunctionalEnv, resets: bool = True) -> Callable[..., tuple[AutoResetState, Transition]]:
    return jax.vmap(functools.partial(env.step, resets=resets), in_axes=(None, 0, 0))


def _program(env: FunctionalEnv, bank: ScenarioBank, visited: _Visited, resets: bool) -> Any:
    def steps(bank: ScenarioBank, visited: _Visited) -> Any:
        def step(item: _Visited) -> Any:
            running, out = _batched(env, resets)(bank, item.running, item.action)
            return running.episode.state.agents, out.observation, out.reward, out.done

        return jax.lax.map(step, visited)

    devices = jax.devices()
    if len(devices) == 1 or NUM_ENVS % len(devices):
        return compiled(steps, [(bank, visited)])
    mesh = jax.make_mesh((len(devices),), ("environments",), axis_types=(AxisType.Auto,))
    specs = P(), P(None, "environments")
    spread = jax.shard_map(steps, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
    arguments = [
        jax.device_put(item, NamedSharding(mesh, spec)) for item, spec in zip((bank, visited), specs, strict=True)
    ]
    return compiled(spread, [tuple(arguments)])
