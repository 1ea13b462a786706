"""Vector environment of Stable-Baselines3: many scenes in one compiled call."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from waymax_sim.adapters import missing_library

try:
    from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise missing_library("stable_baselines3", extra="sb3") from error

from waymax_sim.adapters.gymnasium import DriveVectorEnv

SAME_STEP = "SameStep"
# Entries of the infos of ended episodes.
FINAL_INFOS = ("final_obs", "final_info", "_final_obs", "_final_info")


class DriveVecEnv(VecEnv):
    """`DriveVectorEnv` with the interface of Stable-Baselines3.

    The info of an environment holds its valid metrics. Where an episode ends, it also holds "terminal_observation", and
    "TimeLimit.truncated" whether the episode ended without a terminating metric; the first observation of the next
    episode is returned, and `reset_infos` has its scene. All environments share one object: attributes and methods are
    those of the `DriveVectorEnv`. Wrap it in `VecMonitor` for returns of episodes.

    Args:
      scenarios: A path as in `waymax_sim.load`, or a sequence of scenarios.
      num_envs: Number of parallel environments.
      options: Further arguments of `DriveVectorEnv`, such as `env`, `observe`, `traffic` and `render_mode`.

    Raises:
      ValueError: An argument is not valid for `DriveVectorEnv`, or `autoreset_mode` is given.
      ImportError: stable_baselines3 or gymnasium is not installed.
    """

    def __init__(self, scenarios: str | Sequence, num_envs: int = 1, **options: Any):
        if "autoreset_mode" in options:
            raise ValueError(
                f"autoreset_mode is always {SAME_STEP!r} here, the mode of Stable-Baselines3; leave it out"
            )
        self.envs = DriveVectorEnv(scenarios, num_envs, autoreset_mode=SAME_STEP, **options)
        self._actions: Any = None
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)

    def reset(self) -> np.ndarray:
        """First observations of the next scenes, [num_envs, ...], with the seeds of `seed`, which apply once.

        Raises:
          ValueError: `set_options` has set options, which this environment does not have.
        """
        if any(self._options):
            raise ValueError(
                f"options {self._options} are not supported: environment i plays scenes i, i + num_envs, ..."
            )
        observations, infos = self.envs.reset(seed=list(self._seeds))
        self.reset_infos = _info_dicts(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Sets the actions of `step_wait`, [num_envs, A]."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations, rewards, ends of episodes and infos of one step with the actions of `step_async`.

        Raises:
          RuntimeError: `step_async` has not been called since the last step.
        """
        if self._actions is None:
            raise RuntimeError("call step_async before step_wait")
        actions, self._actions = self._actions, None
        observations, rewards, terminated, truncated, infos = self.envs.step(actions)
        done = terminated | truncated
        return observations, rewards.astype(np.float32), done, self._step_infos(infos, done, truncated & ~terminated)

    def close(self) -> None:
        """Closes the environments; further calls have no effect."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """The attribute of the vector environment, once per selected environment."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Sets the attribute of the vector environment, which all environments share.

        Args:
          attr_name: Name of the attribute.
          value: Its value.
          indices: None, or all environments.

        Raises:
          ValueError: Only some environments are selected.
        """
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"{attr_name!r} is shared by all environments: set it without indices")
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        """The result of one call of the vector environment's method, once per selected environment.

        Args:
          method_name: Name of the method.
          method_args: Its positional arguments.
          indices: Selected environments; None for all.
          method_kwargs: Its keyword arguments.
        """
        value = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """False per selected environment: the scenes of one program have no wrappers."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """An image of each environment, [height, width, 3]; None without a render mode."""
        images = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    def _step_infos(self, infos: dict[str, Any], done: np.ndarray, is_cut: np.ndarray) -> list[dict[str, Any]]:
        """Infos of the step: of the episode that ended where one has ended."""
        dicts = _info_dicts({name: value for name, value in infos.items() if name not in FINAL_INFOS}, self.num_envs)
        finals = _info_dicts(infos.get("final_info", {}), self.num_envs)
        for index in np.flatnonzero(done):
            self.reset_infos[index] = dicts[index]
            dicts[index] = finals[index] | {
                "terminal_observation": infos["final_obs"][index],
                "TimeLimit.truncated": bool(is_cut[index]),
            }
        return dicts


def _info_dicts(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's arrays and masks of all environments as a record per environment."""
    return [
        {
            name: value[index].item()
            for name, value in infos.items()
            if not name.startswith("_") and infos[f"_{name}"][index]
        }
        for index in range(num_envs)
    ]
