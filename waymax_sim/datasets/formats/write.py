"""Writes scenes to TFRecord files, and lists content that a format does not support."""

import os
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.write_scenario_proto import FEATURE_FIELD, encode_scenario_proto
from waymax_sim.datasets.formats.write_womd import (
    NUM_POINT_SLOTS,
    encode_tf_example,
    select_agents,
    select_lights,
    select_points,
)
from waymax_sim.datasets.raw_from_scenario import to_raw_scene
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.scenario import Scenario

Format = Literal["tf_example", "scenario_proto"]


def write_scenes(
    path: str | os.PathLike[str],
    scenes: Iterable[RawScene | Scenario],
    format: Format = "tf_example",
    num_points: int = NUM_POINT_SLOTS,
) -> int:
    """Writes scenes to a TFRecord file, one record each.

    Scenes are consumed one at a time. The file is written under a temporary name and replaces an existing one when it
    is complete. Content listed by `unsupported_content` and `RawScene.missing_fields` is not written.

    Args:
      path: The file to write.
      scenes: Scenes as recorded, or scenarios without a batch axis.
      format: "tf_example" (see `encode_tf_example`) or "scenario_proto" (see `encode_scenario_proto`).
      num_points: Slots for map samples of a tf.Example.

    Returns:
      The number of scenes.

    Raises:
      DataError: A scene cannot be encoded; the error has its index. No file is left.
      ValueError: The format is unknown.
    """
    if format not in get_args(Format):
        raise ValueError(f"unknown format {format!r}; use one of {', '.join(get_args(Format))}")
    unfinished, count = f"{os.fspath(path)}.unfinished", 0
    try:
        with open(unfinished, "wb") as file:
            for scene in scenes:
                raw = to_raw_scene(scene) if isinstance(scene, Scenario) else scene
                try:
                    data = encode_tf_example(raw, num_points) if format == "tf_example" else encode_scenario_proto(raw)
                except DataError as error:
                    raise error.with_location(file=os.fspath(path), record=count) from None
                file.write(tfrecord.encode_record(data))
                count += 1
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return count


def unsupported_content(raw: RawScene, format: Format = "tf_example", num_points: int = NUM_POINT_SLOTS) -> list[str]:
    """Lists the content of a scene that `write_scenes` drops; empty if the record is complete.

    Rounding to the number types of the format is not listed; see `encode_tf_example` and `encode_scenario_proto`.

    Args:
      raw: The scene.
      format: "tf_example" or "scenario_proto".
      num_points: Slots for map samples of a tf.Example.
    """
    dropped = [] if raw.signal_valid.any(axis=0).all() else ["lights that are never observed"]
    dropped += ["marks of the lanes of the route"] if raw.on_route is not None else []
    if format == "scenario_proto":
        unknown = int((~np.isin(raw.feature_type, list(FEATURE_FIELD))).sum())
        dropped += [f"{unknown} map features of unknown type"] if unknown else []
        return dropped + (["routes"] if raw.routes is not None else [])
    agents = len(raw.agent_id) - len(select_agents(raw))
    points = int((~select_points(raw, num_points)).sum())
    lights = int((raw.signal_valid & ~select_lights(raw)).sum())
    bare = len(raw.feature_id) - len(np.unique(raw.point_feature))
    counts = {
        "agents": agents,
        "map points": points,
        "light observations": lights,
        "map features without points": bare,
        "links": len(raw.links),
        "speed limits": int((raw.speed_limit > 0).sum()),
    }
    return dropped + [f"{count} {content}" for content, count in counts.items() if count]
