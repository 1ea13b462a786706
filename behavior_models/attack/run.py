"""Attacks on a policy scene by scene, with rows and pages."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from behavior_models.attack.attribution import find_causes
from behavior_models.attack.oracle import Maneuver, all_maneuvers
from behavior_models.attack.search import ATTACK_ENV, Attack, Search
from behavior_models.attack.variant import VariantParams, change_log, nearest_adversaries
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Policy, Trace, rollout
from waymax_sim.pytree import tree_index
from waymax_sim.results_dir import Json


class AttackRun:
    """Attacks of one kind on one policy; scenes of one shape share the compiled programs."""

    def __init__(self, policy: Policy, search: Search, num_steps: int, seed: int):
        self.policy, self.seed = policy, seed
        self.search: Search = search
        self.attack = Attack(num_steps)
        self._rollout = jax.jit(lambda policy, scenario, key: rollout(ATTACK_ENV, policy, scenario, key, num_steps))

    def scene(self, index: int, scenario: Scenario) -> tuple[Json, dict[str, Trace] | None]:
        """The row of a scene, and rollouts in the original and in the variant if a feasible failure was result.

        Args:
          index: Index of the scene.
          scenario: The scene, in NumPy arrays.
        """
        rows, device = nearest_adversaries(scenario, self.attack.variant), jax.device_put(scenario)
        row: Json = {"index": index, "scenario_id": scenario.scenario_id, "found": False, "used": 0, "page": None}
        nothing = np.zeros((self.attack.params.population, self.attack.variant.size), np.float32)
        original = self.attack.outcomes(self.policy, device, rows, nothing, jax.random.key(0))
        row["fails_already"] = bool(original.failed[0])
        if row["fails_already"] or (rows < 0).all():
            return row, None
        result = self.attack.search(self.search, self.policy, device, rows, self.seed)
        row["used"] = result.used
        if result.change is None:
            return row, None
        change = self.attack.shrink(self.policy, device, rows, result.change)
        causes = find_causes(self.attack, self.policy, device, rows, change)
        row |= {"found": True, "causes": causes, "changes": describe(scenario, rows, change, self.attack.variant)}
        return row, self._traces(device, rows, change)

    def _traces(
        self, scenario: Scenario, rows: Int[np.ndarray, " M"], change: Float[np.ndarray, " D"]
    ) -> dict[str, Trace]:
        """The variant with the policy and a maneuver that avoids the collision, and the policy in the original."""
        key = jax.random.key(0)
        variant = change_log(scenario, jnp.asarray(rows), jnp.asarray(change), self.attack.variant)
        avoided = np.asarray(self.attack.avoided(scenario, rows, change, key))
        maneuver: Maneuver = tree_index(all_maneuvers(), int(avoided.argmax()))
        return jax.device_get(
            {
                "original": self._rollout(self.policy, scenario, key),
                "variant": self._rollout(self.policy, variant, key),
                "variant, avoided": self._rollout(maneuver, variant, key),
            }
        )


def describe(
    scenario: Scenario, rows: Int[np.ndarray, " M"], change: Float[np.ndarray, " D"], params: VariantParams
) -> list[Json]:
    """The changed agents with the begin (s), the duration (s) and the speed ratio of their changes.

    Args:
      scenario: One scenario.
      rows: Adversaries.
      change: The change.
      params: Bounds.
    """
    result = []
    for row, (begin, duration, ratio) in zip(rows, np.asarray(change, float).reshape(-1, 3), strict=True):
        if row < 0 or ratio == 0:
            continue
        times = [low + 0.5 * (value + 1) * (high - low) for value, (low, high) in
                 ((begin, params.begin), (duration, params.duration))]  # fmt: skip
        speed = 1 + (ratio if ratio < 0 else ratio * (params.max_speed_ratio - 1))
        agent = int(np.asarray(scenario.agents.id)[row])
        result.append({"agent": agent, "begin_s": times[0], "duration_s": times[1], "speed_ratio": speed})
    return result
