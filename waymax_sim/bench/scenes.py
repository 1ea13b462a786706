"""Scenes of a given size, and the steps at which they are evaluated."""

import dataclasses
import functools
import math
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from waymax_sim.datasets.loader import load
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.roadmap import ROAD_EDGE_TYPES
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import State
from waymax_sim.env import Env
from waymax_sim.pytree import Array, stack

T = TypeVar("T")
DEFAULT_DATA = "synthetic:0:2"
DEFAULT_INDEX = 1  # a crossing
COPY_GAP = 20.0  # distance between copies of a scene, m


@dataclasses.dataclass(frozen=True)
class SizedScene:
    """One scene of a given size.

    Attributes:
      scenario: The scene, in host memory.
      agents: Agent slots, valid or not.
      points: Map points.
    """

    scenario: Scenario
    agents: int
    points: int


def open_scenes(data: str | None) -> tuple[Scenarios, int]:
    """The scenes at a path and the index of the measured one: the first of a file, or a synthetic crossing.

    Raises:
      DataError: No usable scenes.
    """
    return (load(DEFAULT_DATA), DEFAULT_INDEX) if data is None else (load(data), 0)


def resize(raw: RawScene, num_agents: int, num_points: int) -> SizedScene:
    """Copies and crops a scene to given numbers of agents and map points.

    Copies form a square grid. As few copies as possible contain agents: the sdc and those with most valid steps. Map
    features are selected by distance from the sdc, with equal shares of road edges and other features; the last ones
    are cut. Traffic lights and routes are unchanged.

    Args:
      raw: The scene.
      num_agents: Agent slots of the result.
      num_points: Map points of the result.

    Raises:
      DataError: The scene is unusable.
    """
    if (num_agents, num_points) == (len(raw.agent_id), len(raw.point_xyz)):
        return SizedScene(to_scenario(raw), num_agents, num_points)
    occupied = math.ceil(num_agents / len(raw.agent_id))
    copies = max(occupied, math.ceil(num_points / len(raw.point_xyz)))
    distance = np.tile(_feature_distances(raw), copies)
    candidates = len(raw.agent_id) * occupied
    raw = _crop_map(_crop_agents(_tile(raw, copies), candidates, num_agents), distance, num_points)
    return SizedScene(to_scenario(raw, pad_to_bucket=False), num_agents, num_points)


def device_batch(record: T, batch: int) -> T:
    """Copies of a record on the device, with separate memory."""
    return jax.device_put(stack(batch * [record]))


def sample_steps(num_steps: int, num_history: int, batch: int, variant: int) -> Int[np.ndarray, " B"]:
    """Steps of the log to evaluate, one per scene of the batch, different for each variant.

    Args:
      num_steps: Steps of the log.
      num_history: Steps of history, the current one included.
      batch: Number of scenes.
      variant: Index of the variant.
    """
    first = min(num_history - 1, num_steps - 2)
    # 37 is coprime to the usual number of steps, so that neighbors in a batch are far apart in time.
    return (first + (37 * np.arange(batch) + 11 * variant) % (num_steps - 1 - first)).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0))
def states_at(env: Env, scenario: Scenario, step: Int[Array, ""]) -> State:
    """Logged states with the preceding steps as history.

    Args:
      env: The environment.
      scenario: The scene.
      step: Steps of the log.
    """
    return env.initial_state(dataclasses.replace(scenario, current_step=step), jax.random.key(0))


def _tile(raw: RawScene, copies: int) -> RawScene:
    side = math.ceil(math.sqrt(copies))
    extent = np.ptp(raw.point_xyz, axis=0) + COPY_GAP
    shifts = [extent * [index % side, index // side, 0] for index in range(copies)]
    number = np.arange(copies)

    def repeated(values: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.concatenate([values] * copies, axis=axis)

    def renumbered(ids: np.ndarray) -> np.ndarray:
        rest = len(ids) * (copies - 1)
        return np.concatenate([ids, ids.max() + 1 + np.arange(rest)])

    num_features = len(raw.feature_id)
    return dataclasses.replace(
        raw,
        agent_id=renumbered(raw.agent_id),
        agent_type=repeated(raw.agent_type),
        xyz=np.concatenate([raw.xyz + shift for shift in shifts], axis=1),
        yaw=repeated(raw.yaw, 1),
        velocity=repeated(raw.velocity, 1),
        size=repeated(raw.size, 1),
        valid=repeated(raw.valid, 1),
        to_predict=repeated(raw.to_predict),
        of_interest=repeated(raw.of_interest),
        point_xyz=np.concatenate([raw.point_xyz + shift for shift in shifts]),
        point_feature=repeated(raw.point_feature) + np.repeat(number * num_features, len(raw.point_feature)),
        feature_id=renumbered(raw.feature_id),
        feature_type=repeated(raw.feature_type),
        speed_limit=repeated(raw.speed_limit),
        on_route=None,
        links=np.concatenate([raw.links + [num_features * index, num_features * index, 0] for index in number]),
    )


def _crop_agents(raw: RawScene, candidates: int, num_agents: int) -> RawScene:
    num_valid = raw.valid.sum(axis=0)[:candidates]
    is_sdc = np.arange(candidates) == raw.sdc_index
    keep = np.lexsort((-num_valid, ~is_sdc))[:num_agents]
    by_agent = ("agent_id", "agent_type", "to_predict", "of_interest")
    by_step = ("xyz", "yaw", "velocity", "size", "valid")
    return dataclasses.replace(
        raw,
        sdc_index=0 if is_sdc.any() else -1,
        **{name: getattr(raw, name)[keep] for name in by_agent},
        **{name: getattr(raw, name)[:, keep] for name in by_step},
    )


def _feature_distances(raw: RawScene) -> Float[np.ndarray, " F"]:
    center = raw.xyz[raw.current_step, max(raw.sdc_index, 0), :2]
    distance = np.full(len(raw.feature_id), np.inf)
    np.minimum.at(distance, raw.point_feature, np.linalg.norm(raw.point_xyz[:, :2] - center, axis=-1))
    return distance


def _crop_map(raw: RawScene, distance: Float[np.ndarray, " F"], num_points: int) -> RawScene:
    rank = np.argsort(np.argsort(distance, kind="stable"))
    order = np.argsort(rank[raw.point_feature], kind="stable")
    # Equal shares of road edges and other features, so that small maps have edges.
    is_edge = np.isin(raw.feature_type[raw.point_feature[order]], ROAD_EDGE_TYPES)
    share = np.empty(len(order))
    for kind in (is_edge, ~is_edge):
        share[kind] = np.arange(kind.sum()) / max(kind.sum(), 1)
    points = order[np.sort(np.argsort(share, kind="stable")[:num_points])]
    features, point_feature = np.unique(raw.point_feature[points], return_inverse=True)
    row = np.full(len(raw.feature_id), -1)
    row[features] = np.arange(len(features))
    links = np.concatenate([row[raw.links[:, :2]], raw.links[:, 2:]], axis=-1)
    return dataclasses.replace(
        raw,
        point_xyz=raw.point_xyz[points],
        point_feature=point_feature,
        feature_id=raw.feature_id[features],
        feature_type=raw.feature_type[features],
        speed_limit=raw.speed_limit[features],
        on_route=None if raw.on_route is None else raw.on_route[features],
        links=links[np.all(links[:, :2] >= 0, axis=-1)],
    )
