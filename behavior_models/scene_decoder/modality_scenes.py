"""Scenes of the drives of `modality_bed`, in the form of recorded ones."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from behavior_models.scene_decoder.modality_bed import (
    MODALITY_BED,
    ROAD_SPACING,
    EgoMotion,
    Situation,
    draw_situations,
    drive_expert,
    road_middle,
)
from waymax_sim.datasets.scene import RawRoutes, RawScene
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.roadmap import LANE_SURFACE_STREET, SUCCESSOR
from waymax_sim.datatypes.scenario import TIME_STEP

# Agent type of obstacles: neither vehicle nor pedestrian nor cyclist.
OTHER = 4
ToWorld = Callable[..., np.ndarray]


def raw_scenes(seed: int, count: int, noisy: bool = True) -> list[RawScene]:
    """Scenes of drives in random world frames, whose current step is that of the first decision.

    Args:
      seed: Seed of a series of drives.
      count: Number of drives.
      noisy: Whether the driving is noisy.
    """
    situations = draw_situations(seed, count)
    middles = np.stack([road_middle(situations.bend, np.full(count, index)) for index in range(3)], axis=1)
    own = np.take_along_axis(middles, situations.exit[:, None, None, None], axis=1)[:, 0]
    states = jax.device_get(drive_expert(situations, own, np.int32(seed), noisy))
    rows = [jax.tree.map(lambda leaf, index=index: leaf[index], situations) for index in range(count)]
    logs = [jax.tree.map(lambda leaf, index=index: leaf[:, index], states) for index in range(count)]
    scenes = zip(rows, logs, middles, strict=True)
    return [_raw_scene(f"modality-{seed}-{index}", *scene, seed, index) for index, scene in enumerate(scenes)]


def _raw_scene(
    name: str, row: Situation, log: EgoMotion, middles: Float[np.ndarray, "3 K 3"], seed: int, index: int
) -> RawScene:
    """The scene of a drive."""
    rng = np.random.default_rng([seed, index, 1])
    turn, shift = rng.uniform(-np.pi, np.pi), rng.uniform(1000.0, 2000.0, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def to_world(xy: np.ndarray, height: float = 0.0) -> np.ndarray:
        return np.concatenate([xy @ rotation.T + shift, np.full((*xy.shape[:-1], 1), height)], axis=-1)

    num_steps, exact = len(log.yaw), middles.astype(np.float64)
    stop_point = to_world(_middle_at(exact[0], MODALITY_BED.line)[None, :2])
    return RawScene(
        scenario_id=name,
        timestamps=TIME_STEP * np.arange(num_steps),
        current_step=MODALITY_BED.first_step,
        sdc_index=0,
        **_agents(row, log, exact[0], to_world, turn),
        **_map_fields(exact, to_world),
        signal_lane_id=np.array([1]),
        signal_state=np.asarray(row.light)[:, None],
        signal_stop_point=np.broadcast_to(stop_point, (num_steps, 1, 3)).copy(),
        signal_valid=np.ones((num_steps, 1), bool),
        routes=_routes(exact, int(row.exit), to_world),
    )


def _agents(row: Situation, log: EgoMotion, middle: Float[np.ndarray, "K 3"], to_world: ToWorld, turn: float) -> dict:
    """The sdc and the obstacles."""
    obstacles, num_steps = _obstacles(row, middle), len(log.yaw)
    rest = np.zeros((num_steps, len(obstacles)))
    at_rest = np.broadcast_to(obstacles[:, :2], (num_steps, len(obstacles), 2))
    xy = np.concatenate([log.xy[:, None], at_rest], axis=1).astype(np.float64)
    yaw = np.concatenate([log.yaw[:, None], rest + obstacles[:, 2]], axis=1).astype(np.float64) + turn
    speed = np.concatenate([log.speed[:, None], rest], axis=1).astype(np.float64)
    sizes = np.array(
        [MODALITY_BED.size, *[(MODALITY_BED.obstacle_size, MODALITY_BED.obstacle_size, 1.0)] * len(obstacles)]
    )
    none = np.zeros(len(sizes), bool)
    return {
        "agent_id": np.arange(1, len(sizes) + 1),
        "agent_type": np.where(np.arange(len(sizes)) == 0, VEHICLE, OTHER),
        "xyz": to_world(xy, 0.8),
        "yaw": np.mod(yaw + np.pi, 2 * np.pi) - np.pi,
        "velocity": speed[..., None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1),
        "size": np.broadcast_to(sizes, (num_steps, *sizes.shape)).copy(),
        "valid": np.ones((num_steps, len(sizes)), bool),
        "to_predict": none,
        "of_interest": none,
    }


def _middle_at(middle: Float[np.ndarray, "K 3"], arc: float) -> Float[np.ndarray, " 3"]:
    return middle[round(arc / ROAD_SPACING)].copy()


def _obstacles(row: Situation, middle: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "O 3"]:
    """Poses of the obstacles on the closed lane."""
    arcs = np.linspace(*MODALITY_BED.closed_range, MODALITY_BED.num_obstacles)
    poses = np.stack([_middle_at(middle, arc) for arc in arcs])
    poses[:, 1] += MODALITY_BED.lane_offset * int(row.closed)
    return poses


def _map_fields(middles: Float[np.ndarray, "3 K 3"], to_world: ToWorld) -> dict:
    """Two lanes up to the junction, and two for each exit."""
    split = round(MODALITY_BED.junction[0] / ROAD_SPACING)
    behind = np.array([[-12.0, 0.0, 0.0], [-6.0, 0.0, 0.0]])
    end = round(MODALITY_BED.map_length / ROAD_SPACING) + 1
    parts = [np.concatenate([behind, middles[0, : split + 1]]), *(middle[split:end] for middle in middles)]
    lines = [_parallel(part[::2], side * MODALITY_BED.lane_offset) for part in parts for side in (-1, 1)]
    links = [(side, 2 * exit_index + side, SUCCESSOR) for exit_index in (1, 2, 3) for side in (0, 1)]
    return {
        "point_xyz": to_world(np.concatenate(lines)),
        "point_feature": np.repeat(np.arange(len(lines)), [len(line) for line in lines]),
        "feature_id": np.arange(1, len(lines) + 1),
        "feature_type": np.full(len(lines), LANE_SURFACE_STREET),
        "speed_limit": np.full(len(lines), 13.4),
        "links": np.array(links),
    }


def _parallel(samples: Float[np.ndarray, "n 3"], offset: float) -> Float[np.ndarray, "n 2"]:
    yaw = samples[:, 2]
    return samples[:, :2] + offset * np.stack([-np.sin(yaw), np.cos(yaw)], axis=-1)


def _routes(middles: Float[np.ndarray, "3 K 3"], exit_index: int, to_world: ToWorld) -> RawRoutes:
    """The paths to the three exits, of which one is on route."""
    samples = middles[:, : round(MODALITY_BED.map_length / ROAD_SPACING) + 1 : 2, :2]
    shape = samples.shape[:2]
    return RawRoutes(
        xyz=to_world(samples),
        arc_length=np.broadcast_to(2 * ROAD_SPACING * np.arange(shape[1]), shape).copy(),
        valid=np.ones(shape, bool),
        on_route=np.arange(3) == exit_index,
    )
