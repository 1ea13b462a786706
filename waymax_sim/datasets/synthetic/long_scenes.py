"""Scenes of a minute or more, in which agents appear and leave."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datasets.synthetic.curves import line_through
from waymax_sim.datasets.synthetic.drivers import Driver, idm_acceleration
from waymax_sim.datasets.synthetic.scene import CURRENT_STEP, WorldTransform, feature_ids, map_fields
from waymax_sim.datasets.synthetic.streets import Section, add_center_line, add_street
from waymax_sim.datasets.synthetic.traffic import TrafficLog, simulate
from waymax_sim.datasets.synthetic.world import MAX_NUM_STEPS, NUM_WARM_UP_STEPS, World
from waymax_sim.datatypes.agents import VEHICLE
from waymax_sim.datatypes.scenario import TIME_STEP

Layout = Callable[[np.random.Generator], World]


@dataclasses.dataclass(frozen=True)
class LongSceneParams:
    """Length and traffic of a scene. The values are choices of this package.

    Attributes:
      num_steps: Steps of 0.1 s; the default is a minute after the current step.
      entry_distance: Distance before the border from which vehicles enter, m; a minute at the speed of a street.
      max_agents: Agents of the record: random ones that move, then those at rest.
    """

    num_steps: int = CURRENT_STEP + 601
    entry_distance: float = 700.0
    max_agents: int = 64


LONG_SCENE_PARAMS = LongSceneParams()


def corridor(rng: np.random.Generator) -> World:
    """A straight road of a kilometer with a lane in each direction, on which vehicles follow each other."""
    world = World(vehicle_density=0.04, pedestrian_density=0.0)
    section = Section(1, 1, rng.uniform(12.0, 15.0), 3.6, 0.6, "shoulder", "shoulder")
    add_center_line(world, add_street(world, line_through((-500.0, 0.0), (500.0, 0.0)), section))
    return world


def long_scene(
    seed: int,
    index: int = 0,
    params: LongSceneParams = LONG_SCENE_PARAMS,
    layout: Layout = corridor,
    driver: Driver = idm_acceleration,
) -> RawScene:
    """A scene with the exact states of all agents on the map, without sensors.

    The driver parameters of an agent are the same at all steps. The sdc is the vehicle that is present for the largest
    number of steps.

    Args:
      seed: Seed of a series of scenes, 0 or more.
      index: Index in the series, 0 or more.
      params: Length and traffic.
      layout: Draws the world, such as a function of `layouts`.
      driver: Driver model.

    Raises:
      DataError: The seed or index is negative, or the scene is too short or too long.
    """
    if seed < 0 or index < 0:
        raise DataError(f"seed {seed} and index {index} must not be negative", file="synthetic")
    if not CURRENT_STEP < params.num_steps <= MAX_NUM_STEPS:
        raise DataError(f"num_steps={params.num_steps} is not in {CURRENT_STEP + 1}..{MAX_NUM_STEPS}", file="synthetic")
    rng = np.random.default_rng([seed, index])
    # Drawn again without a vehicle that could be the sdc.
    while True:
        world = layout(rng)
        log = simulate(world, driver, rng, num_steps=params.num_steps, entry_distance=params.entry_distance)
        rows, sdc = _select_rows(log, params.max_agents, rng)
        if sdc >= 0:
            break
    transform = WorldTransform(rng)
    return RawScene(
        scenario_id=f"long-{seed}-{index}",
        timestamps=TIME_STEP * np.arange(params.num_steps),
        current_step=CURRENT_STEP,
        sdc_index=sdc,
        **_agents(log, rows, sdc, transform),
        **map_fields(world, transform),
        **_signals(world, params.num_steps, transform),
    )


def _select_rows(log: TrafficLog, max_agents: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, " M"], int]:
    """Rows of the record, and the position of the sdc among them; -1 without a vehicle at the current step."""
    num_present, moves = log.present.sum(axis=0), log.speed.max(axis=0) > 0.0
    order = rng.permutation(np.flatnonzero(num_present))
    rows = np.sort(order[np.argsort(~moves[order], kind="stable")][:max_agents])
    is_candidate = (log.type == VEHICLE) & (log.path >= 0) & log.present[CURRENT_STEP]
    duration = np.where(is_candidate, num_present, 0)[rows]
    return rows, int(np.argmax(duration)) if duration.any() else -1


def _agents(log: TrafficLog, rows: Int[np.ndarray, " M"], sdc: int, transform: WorldTransform) -> dict:
    """Agents of the `RawScene`."""
    valid = log.present[:, rows]
    yaw, speed = log.yaw[:, rows] + transform.yaw, log.speed[:, rows]
    is_other = np.arange(len(rows)) != sdc
    return {
        "agent_id": np.arange(1, len(rows) + 1),
        "agent_type": log.type[rows],
        "xyz": transform(log.xyz[:, rows]),
        "yaw": np.mod(yaw + np.pi, 2 * np.pi) - np.pi,
        "velocity": speed[..., None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1),
        "size": np.broadcast_to(log.size[rows], (*valid.shape, 3)).copy(),
        "valid": valid,
        "to_predict": valid[CURRENT_STEP] & is_other & (log.speed[:, rows].max(axis=0) > 0.0),
        "of_interest": np.zeros(len(rows), bool),
    }


def _signals(world: World, num_steps: int, transform: WorldTransform) -> dict:
    """Lights of the `RawScene`, all known."""
    lanes, columns = np.array(world.lights, int).reshape(-1, 2).T
    stop = np.array([world.features[row][1][0] for row in lanes]).reshape(-1, 3)
    states = np.stack(world.light_states) if world.light_states else np.zeros((0, MAX_NUM_STEPS), int)
    shape = (num_steps, len(lanes))
    return {
        "signal_lane_id": feature_ids(len(world.features))[lanes],
        "signal_state": states[columns, NUM_WARM_UP_STEPS : NUM_WARM_UP_STEPS + num_steps].T.reshape(shape),
        "signal_stop_point": np.broadcast_to(transform(stop), (*shape, 3)).copy(),
        "signal_valid": np.ones(shape, bool),
    }
