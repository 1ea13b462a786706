"""Searches for changes in which a policy fails: at random, by the cross-entropy method, and by gradients."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.attack.oracle import all_maneuvers
from behavior_models.attack.variant import VariantParams, change_log
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, Policy, rollout
from waymax_sim.pytree import Array

Search = Literal["random", "cross-entropy", "gradient"]
SEARCHES = typing.get_args(Search)
ATTACK_METRICS = ("overlap", "at_fault_collision", "clearance", "time_to_collision")
ATTACK_ENV = Env(
    config=EnvConfig(metrics=ATTACK_METRICS, rewards=(), evaluated="sdc", goals="end_of_log", num_history_steps=11)
)
# Clearance above which an agent is no danger, m.
SAFE_CLEARANCE = 10.0
# Time to collision above which an agent is no danger, s.
SAFE_TIME = 5.0


@dataclasses.dataclass(frozen=True)
class SearchParams:
    """Budget and settings. Chosen, not tuned.

    Attributes:
      generations: Number of generations.
      population: Changes per generation.
      elite: Share of a generation that the cross-entropy method fits.
      min_spread: Smallest standard deviation of it.
      learning_rate: Step of the gradient search, in units of the change.
    """

    generations: int = 6
    population: int = 24
    elite: float = 0.25
    min_spread: float = 0.15
    learning_rate: float = 0.2


class Outcome(NamedTuple):
    """Results of the ego in a variant.

    Attributes:
      failed: Whether it was at fault for a collision.
      contact: Whether it touched another agent at any time.
      margin: Smaller is nearer to a failure, about 0 to 2.
    """

    failed: Bool[Array, "..."]
    contact: Bool[Array, "..."]
    margin: Float[Array, "..."]


def simulate(policy: Policy, scenario: Scenario, key: Key[Array, ""], num_steps: int) -> Outcome:
    """The outcome of the ego among its log.

    Args:
      policy: Policy of the ego.
      scenario: One scenario.
      key: Random key.
      num_steps: Number of steps.
    """
    metrics = rollout(ATTACK_ENV, policy, scenario, key, num_steps, record=("metrics",)).metrics
    assert metrics is not None
    sdc = jnp.argmax(scenario.agents.is_sdc)

    def ego_values(name, empty):
        value, valid = metrics[name].value[:, sdc], metrics[name].valid[:, sdc]
        return jnp.where(valid, value, empty)

    failed, contact = (jnp.any(ego_values(name, 0.0) > 0) for name in ("at_fault_collision", "overlap"))
    proximity = jnp.clip(jnp.min(ego_values("clearance", SAFE_CLEARANCE)) / SAFE_CLEARANCE, 0.0, 1.0)
    urgency = jnp.clip(jnp.min(ego_values("time_to_collision", SAFE_TIME)) / SAFE_TIME, 0.0, 1.0)
    return Outcome(failed, contact, proximity + urgency)


@dataclasses.dataclass(frozen=True)
class Attack:
    """Compiled functions of one number of steps; scenarios of one shape share them.

    Attributes:
      num_steps: Simulated steps.
      variant: Bounds of the changes.
      params: Budget of the searches.
      outcomes: Outcomes of a policy in variants by a batch of changes.
      slopes: Gradients of the margin by the changes, and the outcomes.
      avoided: Which maneuvers avoid all contacts in a variant.
    """

    num_steps: int
    variant: VariantParams = VariantParams()
    params: SearchParams = SearchParams()
    outcomes: Callable = dataclasses.field(init=False, repr=False, compare=False)
    slopes: Callable = dataclasses.field(init=False, repr=False, compare=False)
    avoided: Callable = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def one(policy, scenario, rows, change, key):
            return simulate(policy, change_log(scenario, rows, change, self.variant), key, self.num_steps)

        def loss(change, policy, scenario, rows, key):
            outcome = one(policy, scenario, rows, change, key)
            return outcome.margin, outcome

        def slopes(policy, scenario, rows, changes, key):
            gradient = jax.vmap(jax.grad(loss, has_aux=True), (0, None, None, None, None))
            return gradient(changes, policy, scenario, rows, key)

        def avoided(scenario, rows, change, key):
            variant = change_log(scenario, rows, change, self.variant)
            by_maneuver = jax.vmap(lambda policy: simulate(policy, variant, key, self.num_steps))
            return ~by_maneuver(jax.device_put(all_maneuvers())).contact

        set_field = object.__setattr__
        set_field(self, "outcomes", jax.jit(jax.vmap(one, (None, None, None, 0, None))))
        set_field(self, "slopes", jax.jit(slopes))
        set_field(self, "avoided", jax.jit(avoided))

    def search(
        self, kind: Search, policy: Policy, scenario: Scenario, rows: Int[np.ndarray, " M"], seed: int
    ) -> "AttackResult":
        """The first feasible failure among `generations * population` simulated changes.

        Args:
          kind: Search.
          policy: Policy of the ego.
          scenario: One scenario on the device.
          rows: Adversaries.
          seed: Seed of the draws.
        """
        rng, key = np.random.default_rng([seed, SEARCHES.index(kind)]), jax.random.key(0)
        shape = (self.params.population, self.variant.size)
        mean, spread = np.zeros(shape[1]), np.full(shape[1], 0.6)
        changes, slope, used = rng.uniform(-1, 1, shape), None, 0
        for _ in range(self.params.generations):
            changes = np.clip(changes, -1.0, 1.0).astype(np.float32)
            if kind == "gradient":
                slope, outcome = jax.device_get(self.slopes(policy, scenario, rows, changes, key))
            else:
                outcome = jax.device_get(self.outcomes(policy, scenario, rows, changes, key))
            used += len(changes)
            failure = self._feasible(scenario, rows, changes, outcome, key)
            if failure is not None:
                return AttackResult(failure, used)
            if kind == "random":
                changes = rng.uniform(-1, 1, shape)
            elif kind == "cross-entropy":
                best = changes[np.argsort(outcome.margin + outcome.contact)[: int(self.params.elite * shape[0])]]
                mean, spread = best.mean(axis=0), np.maximum(best.std(axis=0), self.params.min_spread)
                changes = rng.normal(mean, spread, shape)
            else:
                changes = self._descend(rng, changes, slope, outcome)
        return AttackResult(None, used)

    def _descend(self, rng: np.random.Generator, changes, slope, outcome: Outcome) -> np.ndarray:
        """A step against the gradient; changes without a usable one, or with another contact, are drawn again."""
        length = np.linalg.norm(slope, axis=-1, keepdims=True)
        stuck = ~np.isfinite(length) | (length < 1e-6) | outcome.contact[:, None]
        step = self.params.learning_rate * slope / np.where(stuck, 1.0, length)
        return np.where(stuck, rng.uniform(-1, 1, changes.shape), changes - step)

    def _feasible(self, scenario: Scenario, rows, changes, outcome: Outcome, key) -> Float[np.ndarray, " D"] | None:
        """The first failing change that a maneuver avoids."""
        for index in np.flatnonzero(outcome.failed):
            if self.is_feasible(scenario, rows, changes[index], key):
                return changes[index]
        return None

    def is_feasible(self, scenario: Scenario, rows, change, key: Key[Array, ""]) -> bool:
        """Whether a maneuver of the ego avoids all contacts in a variant.

        Args:
          scenario: One scenario on the device.
          rows: Adversaries.
          change: The change.
          key: Random key.
        """
        return bool(jax.device_get(self.avoided(scenario, rows, change, key)).any())

    def shrink(self, policy: Policy, scenario: Scenario, rows, change: Float[np.ndarray, " D"]) -> np.ndarray:
        """A smaller change with a feasible failure: fewer adversaries, then smaller changes of speed.

        Args:
          policy: Policy of the ego.
          scenario: One scenario on the device.
          rows: Adversaries.
          change: A change with a feasible failure.
        """
        key, best = jax.random.key(0), change.copy()

        def holds(candidate):
            batch = np.tile(candidate, (self.params.population, 1)).astype(np.float32)
            failed = jax.device_get(self.outcomes(policy, scenario, rows, batch, key)).failed[0]
            return bool(failed) and self.is_feasible(scenario, rows, batch[0], key)

        for index in range(self.variant.num_adversaries):
            candidate = best.copy()
            candidate[3 * index + 2] = 0.0
            best = candidate if holds(candidate) else best
        for index in range(self.variant.num_adversaries):
            low, high = 0.0, 1.0
            for _ in range(4 if best[3 * index + 2] else 0):
                middle = 0.5 * (low + high)
                candidate = best.copy()
                candidate[3 * index + 2] *= middle
                low, high = (low, middle) if holds(candidate) else (middle, high)
            best[3 * index + 2] *= high
        return best


class AttackResult(NamedTuple):
    """Result of a search: the change, or None, and the number of simulated changes."""

    change: Float[np.ndarray, " D"] | None
    used: int
