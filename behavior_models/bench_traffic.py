"""Rows `traffic_*` of the benchmark: the same scenes and ego with different models of all other agents."""

import functools
from collections.abc import Callable
from typing import Any

import jax

import waymax_sim as ws
from behavior_models.baselines.kinematic import ConstantSpeed
from waymax_sim.datatypes.padding import pad_to_class
from waymax_sim.env import Policy
from waymax_sim.plugins import resolve_policy
from waymax_sim.pytree import stack

DATA = "synthetic:0:40"
NUM_SLOTS = 64  # agent slots of the scenes
TRAFFIC_SCENES = 8
TRAFFIC_STEPS = 80
TRAFFIC_ENV = ws.Env(
    config=ws.EnvConfig(
        metrics=("overlap", "offroad"), rewards=(), evaluated="sdc", goals="end_of_log", num_history_steps=11
    )
)
# Models by the name of the row. Traffic of the log is the baseline: its cost is that of the environment.
MODELS = {
    "traffic_log": None,
    "traffic_constant_velocity": "constant_velocity",
    "traffic_idm": "idm",
    "traffic_mobil": "mobil",
    "traffic_bc": "bc",
    "traffic_ppo_anchored": "ppo_anchored",
    "traffic_decoder_nano": "decoder-nano",
}


def traffic_workload(name: str) -> dict[str, Any]:
    """Rollouts of 8 s in which the ego keeps its speed among a model; agent-steps are those of present agents.

    Args:
      name: Name of the row.
    """
    scenes = [pad_to_class(scene) for scene in ws.load(DATA, pad_to_bucket=False)]
    scenes = [scene for scene in scenes if scene.num_agents == NUM_SLOTS][:TRAFFIC_SCENES]
    batch = jax.device_put(stack(scenes))
    model = MODELS[name]
    traffic = None if model is None else jax.device_put(resolve_policy(model))

    @jax.jit
    def run(traffic: Policy | None, batch: Any, key: Any) -> Any:
        policies = [(ConstantSpeed(), "sdc")] + ([] if traffic is None else [(traffic, "others")])
        return jax.vmap(lambda scene: ws.rollout(TRAFFIC_ENV, policies, scene, key, TRAFFIC_STEPS).metrics)(batch)

    keys = [jax.random.key(index) for index in range(4)]
    present = sum(int(scene.log.valid[scene.current_step].sum()) for scene in scenes)
    calls = {"total": lambda index: jax.block_until_ready(run(traffic, batch, keys[index % len(keys)]))}
    return {"calls": calls, "agent_steps": float(present * TRAFFIC_STEPS), "batch": len(scenes)}


def __getattr__(name: str) -> Callable[[], dict[str, Any]]:
    """The workload of a row; entry points refer to it by its name."""
    if name not in MODELS:
        raise AttributeError(name)
    return functools.partial(traffic_workload, name)
