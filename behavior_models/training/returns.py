"""Returns of policies of the sdc, by the rewards of an environment: the scale of a learning curve."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from waymax_sim.adapters.loop import select_sdc
from waymax_sim.env import Assignment, Env, rollout
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array


class MeanReturn(NamedTuple):
    """Rewards of a policy in one episode of each scenario.

    Attributes:
      per_episode: Mean sum of the rewards of an episode.
      per_step: Mean reward of a step, over all steps of all episodes.
    """

    per_episode: float
    per_step: float

    def __str__(self) -> str:
        return f"{self.per_episode:.3f} per episode, {self.per_step:.4f} per step"


def mean_returns(env: Env, policies: Mapping[str, Any], bank: ScenarioBank) -> dict[str, MeanReturn]:
    """Mean rewards of policies that drive the sdc among the log, until a terminating metric or the end of the record.

    Args:
      env: Rewards and terminating metrics; it controls the sdc.
      policies: Policies by name, with dynamics of their own or those of the environment.
      bank: The scenarios.

    Raises:
      ValueError: The environment does not control the sdc.
    """
    if env.config.controlled != "sdc":
        raise ValueError(f"returns are those of the sdc, but the environment has {env.config.controlled=}")
    results = {}
    for name, policy in policies.items():
        total, length = map(np.asarray, _episodes(env, policy, bank))
        results[name] = MeanReturn(float(total.mean()), float(total.sum() / max(length.sum(), 1)))
    return results


@functools.partial(jax.jit, static_argnums=0)
def _episodes(env: Env, policy: Any, bank: ScenarioBank) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """Sum of rewards and number of steps of an episode in each scenario."""

    def episode(scene: Int[Array, ""]) -> tuple[Float[Array, ""], Int[Array, ""]]:
        scenario = bank.scenario(scene)
        num_steps = (scenario.num_steps - 1) // env.config.steps_per_action * env.config.steps_per_action
        trace = rollout(env, Assignment([policy], ["sdc"]), scenario, jax.random.key(0), num_steps, ("reward", "ended"))
        assert trace.reward is not None and trace.ended is not None
        is_sdc = scenario.agents.is_sdc
        ended = trace.ended[:, jnp.argmax(is_sdc)]
        reward = jax.vmap(select_sdc, in_axes=(0, None))(trace.reward, is_sdc)
        had_ended = jnp.concatenate([jnp.zeros(1, bool), ended[:-1]])
        return jnp.sum(reward), jnp.sum(trace.active & ~had_ended).astype(jnp.int32)

    return jax.vmap(episode)(jnp.arange(len(bank), dtype=jnp.int32))
