"""A small scene, vocabulary and network for tests of the scene decoder."""

import dataclasses
import functools

import jax
import numpy as np

from behavior_models.scene_decoder.decoder import DecoderConfig, DecoderModel
from behavior_models.scene_decoder.motion_tokens import Vocabulary
from behavior_models.scene_decoder.records import SceneRecord, record_scene
from behavior_models.scene_decoder.scene_map import MapTokenParams
from behavior_models.scene_decoder.scene_tokens import SceneTokenParams
from behavior_models.scene_decoder.vocabulary import arc
from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.scenario import Scenario

NUM_SLOTS = 5
MAP = MapTokenParams(num_lanes=80, num_edges=70, num_stops=3, num_route=8)
TOKENS = SceneTokenParams(num_lanes=6, num_edges=3, num_stops=2, num_route=2, num_agents=3)


@functools.cache
def vocabulary() -> Vocabulary:
    """Vehicle tokens of ten speeds and three turns, pedestrian and cyclist tokens of three speeds."""
    vehicles = [arc(length, turn) for length in np.linspace(0.0, 9.0, 10) for turn in (-0.2, 0.0, 0.2)]
    slow = [arc(length, 0.0) for length in (0.0, 0.7, 1.4)]
    return Vocabulary(np.stack([*vehicles, *slow, *slow]).astype(np.float32), (30, 3, 3))


@functools.cache
def scenario() -> Scenario:
    """A vehicle that turns, one that brakes, one that appears later, and a pedestrian, on a road of two lanes."""
    raw = raw_scene(num_steps=91, num_agents=4, current_step=10)
    time = 0.1 * np.arange(91)
    xyz, yaw, velocity = raw.xyz.copy(), raw.yaw.copy(), raw.velocity.copy()
    yaw[:, 0] = 0.2 * np.sin(time)
    velocity[:, 0] = 10.0 * np.stack([np.cos(yaw[:, 0]), np.sin(yaw[:, 0])], axis=-1)
    velocity[:, 1, 0] = 10.0 - time
    velocity[:, 3] = (0.0, 1.4)
    yaw[:, 3] = np.pi / 2
    for agent in (0, 1, 3):
        xyz[:, agent, :2] = xyz[10, agent, :2] + np.cumsum(0.1 * velocity[:, agent], axis=0)
    valid = raw.valid.copy()
    valid[:32, 2] = False
    types = np.array([1, 1, 1, 2])
    changed = dataclasses.replace(raw, xyz=xyz, yaw=yaw, velocity=velocity, valid=valid, agent_type=types)
    return to_scenario(changed)


@functools.cache
def record() -> SceneRecord:
    """The record of `scenario`."""
    return record_scene(scenario(), NUM_SLOTS, MAP)


@functools.cache
def model() -> DecoderModel:
    """A network of width 16."""
    sizes = vocabulary().sizes
    config = DecoderConfig(sizes, width=16, hidden=24, num_heads=2, head_size=8, tokens=TOKENS, map=MAP)
    return DecoderModel(config)


@functools.cache
def params():
    """Random parameters with biases by time."""
    values = model().init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(values)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def rigid_motion(record: SceneRecord, angle: float, shift: tuple[float, float]) -> SceneRecord:
    """The record in another frame."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    rotation = np.array([[cos, sin], [-sin, cos]], np.float32)

    def move(pose):
        xy = pose[..., :2] @ rotation + np.asarray(shift, np.float32)
        return np.concatenate([xy, pose[..., 2:] + np.float32(angle)], axis=-1)

    pieces = {
        name: dataclasses.replace(part, pose=move(part.pose))
        for name in ("lanes", "edges", "stops", "route")
        for part in [getattr(record.map, name)]
    }
    pose = np.where(record.valid[..., None], move(record.pose), 0.0).astype(np.float32)
    return dataclasses.replace(
        record, pose=pose, velocity=record.velocity @ rotation, map=dataclasses.replace(record.map, **pieces)
    )
