"""The members of Stable-Baselines3 that its adapter uses, for tests without that library."""

import types
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class VecEnv:
    """`stable_baselines3.common.vec_env.VecEnv` (version 2.9): state and methods that subclasses inherit."""

    def __init__(self, num_envs: int, observation_space: Any, action_space: Any):
        self.num_envs, self.observation_space, self.action_space = num_envs, observation_space, action_space
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._reset_seeds(), self._reset_options()
        (self.render_mode,) = set(self.get_attr("render_mode"))

    def _reset_seeds(self) -> None:
        self._seeds: list[int | None] = [None] * self.num_envs

    def _reset_options(self) -> None:
        self._options: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

    def seed(self, seed: int) -> Sequence[int | None]:
        self._seeds = [seed + index for index in range(self.num_envs)]
        return self._seeds

    def set_options(self, options: dict[str, Any]) -> None:
        self._options = [dict(options) for _ in range(self.num_envs)]

    def step(self, actions: np.ndarray):
        self.step_async(actions)
        return self.step_wait()

    def render(self, mode: str | None = None) -> np.ndarray | None:
        return np.concatenate(self.get_images(), axis=1) if self.render_mode == "rgb_array" else None

    def _get_indices(self, indices: int | Iterable[int] | None) -> Iterable[int]:
        return range(self.num_envs) if indices is None else [indices] if isinstance(indices, int) else indices


def modules() -> dict[str, types.ModuleType]:
    """Modules by name, for `sys.modules`."""
    names = ("stable_baselines3", "stable_baselines3.common", "stable_baselines3.common.vec_env")
    made = {name: types.ModuleType(name) for name in names}
    made[names[-1]].VecEnv = VecEnv
    return made
