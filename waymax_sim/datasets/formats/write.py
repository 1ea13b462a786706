"""Writes scenes to TFRecord files, and says what a format cannot hold."""

import os
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from waymax_sim.datasets.encoding import tfrecord
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats.write_scenario_proto import NUMBER_OF, proto_of
from waymax_sim.datasets.formats.write_womd import NUM_POINTS, example_of, kept_agents, kept_lights, kept_points
from waymax_sim.datasets.raw_from_scenario import raw_of
from waymax_sim.datasets.scene import RawScene
from waymax_sim.datatypes.scenario import Scenario

Format = Literal["tf_example", "scenario_proto"]


def write_scenes(
    path: str | os.PathLike[str],
    scenes: Iterable[RawScene | Scenario],
    format: Format = "tf_example",
    num_points: int = NUM_POINTS,
) -> int:
    """Writes scenes to a TFRecord file, one record each, and returns how many.

    Scenes are taken one at a time. The file appears under its name when all are in it; an older one is replaced. What
    `lost` lists is not in it, nor is `RawScene.lacks`.

    Args:
      path: The file to write.
      scenes: As readers produce them, or scenarios without a batch axis.
      format: "tf_example" (see `example_of`) or "scenario_proto" (see `proto_of`).
      num_points: Slots for map samples of a tf.Example.

    Raises:
      DataError: A scene cannot be written; the error has its number. Nothing is left behind.
      ValueError: There is no such format.
    """
    if format not in get_args(Format):
        raise ValueError(f"unknown format {format!r}; use one of {', '.join(get_args(Format))}")
    unfinished, count = f"{os.fspath(path)}.unfinished", 0
    try:
        with open(unfinished, "wb") as file:
            for scene in scenes:
                raw = raw_of(scene) if isinstance(scene, Scenario) else scene
                try:
                    data = example_of(raw, num_points) if format == "tf_example" else proto_of(raw)
                except DataError as error:
                    raise error.at(file=os.fspath(path), record=count) from None
                file.write(tfrecord.frame(data))
                count += 1
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return count


def lost(raw: RawScene, format: Format = "tf_example", num_points: int = NUM_POINTS) -> list[str]:
    """Lists what of a scene is not in the record that `write_scenes` makes of it; empty when all of it is.

    Rounding to the number types of the format is not listed, see `example_of` and `proto_of`.
    """
    found = [] if raw.signal_valid.any(axis=0).all() else ["lights that are never seen"]
    if format == "scenario_proto":
        unknown = int((~np.isin(raw.feature_type, list(NUMBER_OF))).sum())
        found += [f"{unknown} map features of unknown type"] if unknown else []
        return found + (["routes"] if raw.routes is not None else [])
    agents = len(raw.agent_id) - len(kept_agents(raw))
    points = int((~kept_points(raw, num_points)).sum())
    lights = int((raw.signal_valid & ~kept_lights(raw)).sum())
    bare = len(raw.feature_id) - len(np.unique(raw.point_feature))
    counts = {
        "agents": agents,
        "map points": points,
        "sightings of lights": lights,
        "map features without points": bare,
        "links": len(raw.links),
        "speed limits": int((raw.speed_limit > 0).sum()),
    }
    return found + [f"{count} {what}" for what, count in counts.items() if count]
