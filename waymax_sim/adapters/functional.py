"""Pure functions that reset themselves, for training loops that are compiled whole, as with gymnax and Brax."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key, Num

from waymax_sim.adapters.loop import DRIVE, EGO_VIEW, Episode, Loop, Observe, episode_key, of_sdc, require_sdc
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, Policy
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, pytree, take


@pytree
class Running:
    """What goes on from step to step, across episodes.

    Attributes:
      episode: The present episode.
      scene: Which of the scenarios it is in.
      count: How many episodes there were before it.
      key: Random key of all episodes.
    """

    episode: Episode
    scene: Int[Array, ""]
    count: Int[Array, ""]
    key: Key[Array, ""]


@pytree
class Transition:
    """What a step led to.

    Attributes:
      observation: What is seen now: of the next episode where one ended.
      final_observation: What is seen at the end of the step, before anything is reset. Costs nothing where unused.
      reward: Of the sdc.
      terminated: Whether a terminating metric ended the episode.
      truncated: Whether the record ended.
      metrics: All metrics of the state at the end of the step.
    """

    observation: Float[Array, "*shape"]
    final_observation: Float[Array, "*shape"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    metrics: dict[str, MetricValue]


@dataclasses.dataclass(frozen=True)
class FunctionalEnv:
    """Drives the sdc in a scene drawn at random for each episode. Pure, for one environment; batch it with `vmap`.

    The scenarios are stacked (`stack_scenarios`) and shared by all environments: map over keys, states and actions,
    and leave the scenarios unmapped.

    Attributes:
      env: Dynamics, metrics, rewards and what terminates; the caller must control the sdc.
      observe: What is observed: any function of an `Observation` to a float32 array.
      traffic: Who drives all others; None for the log.

    Raises:
      ValueError: The environment does not control the sdc.
    """

    env: Env = DRIVE
    observe: Observe = EGO_VIEW
    traffic: Policy | None = None

    def __post_init__(self):
        require_sdc(self.env)

    @property
    def _loop(self) -> Loop:
        return Loop(self.env, self.observe, self.traffic)

    def reset(self, scenarios: Scenario, key: Key[Array, ""]) -> tuple[Running, Float[Array, "*shape"]]:
        """The first episode, and what is seen of it.

        Args:
          scenarios: Scenes with a leading axis B.
          key: Random key of all episodes of this environment.
        """
        return self._start(scenarios, key, jnp.asarray(0, jnp.int32))

    def step(self, scenarios: Scenario, running: Running, action: Num[Array, " A"]) -> tuple[Running, Transition]:
        """One step of the sdc; where it ends the episode, the next one starts.

        Args:
          scenarios: Those of `reset`.
          running: From `reset` or `step`.
          action: Numbers for the dynamics.
        """
        scenario = take(scenarios, running.scene)
        episode, seen, out = self._loop.step_sdc(scenario, running.episode, action)
        done = jnp.logical_or(out.terminated, out.truncated)
        following, first = self._start(scenarios, running.key, running.count + 1)
        running = dataclasses.replace(running, episode=episode)
        running = jax.tree.map(lambda new, old: jnp.where(done, new, old), following, running)
        return running, Transition(
            observation=jnp.where(done, first, seen),
            final_observation=seen,
            reward=of_sdc(out.reward, scenario.agents.is_sdc),
            terminated=out.terminated,
            truncated=out.truncated,
            metrics=out.metrics,
        )

    def _start(
        self, scenarios: Scenario, key: Key[Array, ""], count: Int[Array, ""]
    ) -> tuple[Running, Float[Array, "*shape"]]:
        own = episode_key(key, count)
        num_scenes = scenarios.current_step.shape[0]
        scene = jax.random.randint(jax.random.fold_in(own, 0), (), 0, num_scenes, dtype=jnp.int32)
        episode, seen, _ = self._loop.reset(take(scenarios, scene), jax.random.fold_in(own, 1))
        return Running(episode=episode, scene=scene, count=count, key=key), seen
