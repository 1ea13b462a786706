"""Evaluation on held-out scenarios: every scenario is played once, all controlled agents by the policy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key

from behavior_models.training.collect import Actor, collect, end_rates, reset_environments
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.env import Policies
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.pytree import Array

# Largest number of scenarios that are simulated together.
GROUP_SIZE = 30


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """An evaluation; equal instances share programs.

    Attributes:
      env: The environment; its metrics include "goal_reached", "overlap" and "offroad".
      num_decisions: Decisions of the longest episode.
    """

    env: FunctionalEnv
    num_decisions: int

    def rates(
        self, actor: Actor, bank: ScenarioBank, key: Key[Array, ""], traffic: Policies = None
    ) -> dict[str, float]:
        """Shares of the episodes that end at the goal without harm, in a collision, and off the road; their number.

        Args:
          actor: The policy of all controlled agents, a pytree whose weights may differ between calls.
          bank: The scenarios.
          key: Random key.
          traffic: Policies of agents that are not controlled.
        """
        size, totals = min(GROUP_SIZE, len(bank)), {}
        for begin in range(0, len(bank), size):
            index = np.arange(begin, begin + size)
            ordered = dataclasses.replace(bank, order=jnp.asarray(index % len(bank), jnp.int32))
            own_key = jax.random.fold_in(key, begin)
            rates = jax.device_get(_group_rates(self, actor, ordered, jnp.asarray(index < len(bank)), own_key, traffic))
            episodes = float(rates.pop("episodes"))
            for name, rate in (rates | {"episodes": 1.0}).items():
                totals[name] = totals.get(name, 0.0) + float(rate) * episodes
        episodes = totals.pop("episodes")
        return {name: total / max(episodes, 1.0) for name, total in totals.items()} | {"episodes": episodes}


@functools.partial(jax.jit, static_argnums=0)
def _group_rates(
    evaluation: HeldOut,
    actor: Actor,
    bank: ScenarioBank,
    is_new: Bool[Array, " E"],
    key: Key[Array, ""],
    traffic: Policies,
) -> dict[str, Float[Array, ""]]:
    env = dataclasses.replace(evaluation.env, sampling="order")
    environments = reset_environments(env, bank, key, bank.order.shape[0], traffic)
    _, decisions = collect(env, actor, bank, environments, key, evaluation.num_decisions, traffic)
    is_first = (decisions.episode == 0) & is_new[None]
    return end_rates(decisions.result, is_first[..., None])
