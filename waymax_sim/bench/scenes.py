"""Scenes of a wanted size, and the moments they are measured at."""

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
SYNTHETIC = "synthetic:0:2"
# Empty ground between copies of a scene (m).
GAP = 20.0


@dataclasses.dataclass(frozen=True)
class Workload:
    """One scene of a wanted size.

    Attributes:
      scenario: The scene, on the host.
      agents: Agent slots, valid or not.
      points: Map points.
    """

    scenario: Scenario
    agents: int
    points: int


def source(data: str | None) -> tuple[Scenarios, int]:
    """The scenes at a path and which of them is measured: the first of a file, or a made-up crossing.

    Raises:
      DataError: Nothing usable is there.
    """
    return (load(SYNTHETIC), 1) if data is None else (load(data), 0)


def sized(raw: RawScene, num_agents: int, num_points: int) -> Workload:
    """A scene of exactly so many agents and map points, made from `raw` by copying and cropping.

    Copies lie in a square grid, side by side. As few as possible are inhabited; of their agents the sdc is taken and
    those that are seen most often. Of every map the features nearest to the place of the sdc are taken, as large a
    part of the road edges as of the rest, and the last ones are cut off. Lights and routes stay as they are.

    Raises:
      DataError: The scene cannot be used.
    """
    if (num_agents, num_points) == (len(raw.agent_id), len(raw.point_xyz)):
        return Workload(to_scenario(raw), num_agents, num_points)
    inhabited = math.ceil(num_agents / len(raw.agent_id))
    copies = max(inhabited, math.ceil(num_points / len(raw.point_xyz)))
    distance = np.tile(_distance_of_features(raw), copies)
    candidates = len(raw.agent_id) * inhabited
    raw = _crop_map(_crop_agents(_tile(raw, copies), candidates, num_agents), distance, num_points)
    return Workload(to_scenario(raw, bucketed=False), num_agents, num_points)


def batched(record: T, batch: int) -> T:
    """So many copies of a scene, or of any record, on the device, each with memory of its own."""
    return jax.device_put(stack(batch * [record]))


def moments(num_steps: int, num_history: int, batch: int, variant: int) -> Int[np.ndarray, " B"]:
    """Steps of the record to look at, one per scene of the batch, others for each variant."""
    first = min(num_history - 1, num_steps - 2)
    # 37 is prime to the number of steps of a usual record, so neighbours of a batch are far apart in time.
    return (first + (37 * np.arange(batch) + 11 * variant) % (num_steps - 1 - first)).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0))
def states_at(env: Env, scenario: Scenario, step: Int[Array, ""]) -> State:
    """The logged states at given steps, with the steps before them as history."""
    return env.initial_state(dataclasses.replace(scenario, current_step=step), jax.random.key(0))


def _tile(raw: RawScene, copies: int) -> RawScene:
    side = math.ceil(math.sqrt(copies))
    extent = np.ptp(raw.point_xyz, axis=0) + GAP
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
        links=np.concatenate([raw.links + [num_features * index, num_features * index, 0] for index in number]),
    )


def _crop_agents(raw: RawScene, candidates: int, num_agents: int) -> RawScene:
    seen = raw.valid.sum(axis=0)[:candidates]
    is_sdc = np.arange(len(seen)) == raw.sdc_index
    keep = np.lexsort((-seen, ~is_sdc))[:num_agents]
    by_agent = ("agent_id", "agent_type", "to_predict", "of_interest")
    by_step = ("xyz", "yaw", "velocity", "size", "valid")
    return dataclasses.replace(
        raw,
        sdc_index=0 if is_sdc.any() else -1,
        **{name: getattr(raw, name)[keep] for name in by_agent},
        **{name: getattr(raw, name)[:, keep] for name in by_step},
    )


def _distance_of_features(raw: RawScene) -> Float[np.ndarray, " F"]:
    center = raw.xyz[raw.current_step, max(raw.sdc_index, 0), :2]
    distance = np.full(len(raw.feature_id), np.inf)
    np.minimum.at(distance, raw.point_feature, np.linalg.norm(raw.point_xyz[:, :2] - center, axis=-1))
    return distance


def _crop_map(raw: RawScene, distance: Float[np.ndarray, " F"], num_points: int) -> RawScene:
    rank = np.argsort(np.argsort(distance, kind="stable"))
    order = np.argsort(rank[raw.point_feature], kind="stable")
    # The same part of the road edges and of the rest, so that a small map is not one without edges.
    is_edge = np.isin(raw.feature_type[raw.point_feature[order]], ROAD_EDGE_TYPES)
    part = np.empty(len(order))
    for kind in (is_edge, ~is_edge):
        part[kind] = np.arange(kind.sum()) / max(kind.sum(), 1)
    points = order[np.sort(np.argsort(part, kind="stable")[:num_points])]
    kept, point_feature = np.unique(raw.point_feature[points], return_inverse=True)
    row = np.full(len(raw.feature_id), -1)
    row[kept] = np.arange(len(kept))
    links = np.concatenate([row[raw.links[:, :2]], raw.links[:, 2:]], axis=-1)
    return dataclasses.replace(
        raw,
        point_xyz=raw.point_xyz[points],
        point_feature=point_feature,
        feature_id=raw.feature_id[kept],
        feature_type=raw.feature_type[kept],
        speed_limit=raw.speed_limit[kept],
        links=links[np.all(links[:, :2] >= 0, axis=-1)],
    )
