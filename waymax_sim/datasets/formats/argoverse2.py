"""Argoverse 2 motion forecasting scenarios (`scenario_<id>.parquet` and `log_map_archive_<id>.json`) to `RawScene`.

A table with a row per track and step (110 steps at 10 Hz, 50 of them observed), in a city frame, without box sizes and
heights. What takes their place is the least that lets a scene be simulated, and `lacks` says so: boxes have the nominal
size of their object type, and stand on the lane point that is nearest in the plane.
"""

import os
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.argoverse2_map import read_map
from waymax_sim.datasets.formats.map_features import MAX_STATES, ground_height, map_fields, no_lights
from waymax_sim.datasets.scene import INT32, RawScene
from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.roadmap import LANE_TYPES

STEP = 0.1  # s
REMEDY = "is it a scenario of Argoverse 2 motion forecasting?"
SDC = "AV"
SCORED, FOCAL = 2, 3  # of `object_category`

# Agent type and nominal length, width and height (m): a mid-size car, a city bus, two-wheelers as long as they are and
# with riders as wide as shoulders, a person with room to walk; what has no shape of its own gets a cube.
OBJECTS = {
    "vehicle": (VEHICLE, 4.7, 1.9, 1.6),
    "bus": (VEHICLE, 12.0, 2.6, 3.2),
    "motorcyclist": (VEHICLE, 2.2, 0.8, 1.7),
    "pedestrian": (PEDESTRIAN, 0.7, 0.7, 1.7),
    "cyclist": (CYCLIST, 1.8, 0.6, 1.7),
    "riderless_bicycle": (OTHER, 1.8, 0.6, 1.1),
}
ANY_OBJECT = (OTHER, 1.0, 1.0, 1.0)  # static, background, construction, unknown

COLUMNS = {
    "observed": bool,
    "track_id": str,
    "object_type": str,
    "object_category": np.int64,
    "timestep": np.int64,
    "position_x": np.float64,
    "position_y": np.float64,
    "heading": np.float64,
    "velocity_x": np.float64,
    "velocity_y": np.float64,
    "scenario_id": str,
    "num_timestamps": np.int64,
}
LARGEST, LARGEST_MAP = 64 * 2**20, 16 * 2**20  # bytes; samples have 0.1 MB each
MAX_ROWS = 1_000_000


def scene_from_file(path: str) -> RawScene:
    """Reads a scenario; its map must lie in the same folder.

    "Now" is the last observed step, 49. Scored and focal tracks are to predict, the focal one is of interest. Track ids
    that are no numbers, such as that of the ego "AV", get the numbers after the largest one. Motorcyclists and buses
    are vehicles; bicycles without riders, static objects and the like are "other". Without an ego the sdc index is -1.

    Raises:
      DataError: The file or its map is missing or damaged, or pyarrow is not installed.
    """
    rows = _rows(path)
    timestep, count = rows["timestep"], rows["num_timestamps"]
    names, first, track = np.unique(rows["track_id"], return_index=True, return_inverse=True)
    num_steps = int(count[0])
    if (count != num_steps).any() or not 0 <= timestep.min() <= timestep.max() < num_steps:
        raise DataError(f"not all steps are within {num_steps}", field="timestep", remedy=REMEDY)
    shape = num_steps, len(names)
    if num_steps * len(names) > MAX_STATES:
        raise DataError(f"{shape[1]} tracks of {num_steps} steps are too many", field="num_timestamps", remedy=REMEDY)
    if not rows["observed"].any():
        raise DataError("no step is observed", field="observed", remedy=REMEDY)
    if len(np.unique(timestep * len(names) + track)) < len(track):
        raise DataError("a track has two states at one step", field="timestep", remedy=REMEDY)

    def log(*columns: str) -> np.ndarray:
        values = np.zeros((*shape, len(columns)))
        values[timestep, track] = np.stack([rows[column] for column in columns], axis=-1)
        return values

    features, links = _map(path)
    lane_points = np.concatenate([np.zeros((0, 3)), *(each.xyz for each in features if each.type in LANE_TYPES)])
    objects = np.array([OBJECTS.get(kind, ANY_OBJECT) for kind in rows["object_type"][first]]).reshape(-1, 4)
    xyz = np.concatenate([log("position_x", "position_y"), np.zeros((*shape, 1))], axis=-1)
    ground = ground_height(lane_points, xyz[timestep, track, :2])
    xyz[timestep, track, 2] = ground + objects[track, 3] / 2
    valid = np.zeros(shape, bool)
    valid[timestep, track] = True
    category = rows["object_category"][first]
    return RawScene(
        scenario_id=rows["scenario_id"][0],
        timestamps=STEP * np.arange(num_steps),
        current_step=int(timestep[rows["observed"]].max()),
        agent_id=_numbers(names.tolist()),
        agent_type=objects[:, 0].astype(np.int64),
        xyz=xyz,
        yaw=log("heading")[..., 0],
        velocity=log("velocity_x", "velocity_y"),
        size=np.broadcast_to(objects[:, 1:], (*shape, 3)).copy(),
        valid=valid,
        sdc_index=names.tolist().index(SDC) if SDC in names else -1,
        to_predict=category >= SCORED,
        of_interest=category == FOCAL,
        **map_fields(features, links),
        **no_lights(num_steps),
        lacks=("lights", "stop signs", "speed limits", "box sizes", "heights of agents"),
    )


def _rows(path: str) -> dict[str, Shaped[np.ndarray, " R"]]:
    """The columns of the table."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("needs pyarrow", file=path, remedy="pip install 'waymax-sim[argoverse]'") from None
    source = pyarrow.BufferReader(read_bytes(path, LARGEST))
    try:
        metadata = pyarrow.parquet.read_metadata(source)
        num_rows = sum(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        if not 0 < num_rows <= MAX_ROWS:
            raise DataError(f"has {num_rows} rows", remedy=REMEDY)
        schema = metadata.schema.to_arrow_schema()
        for name, kind in COLUMNS.items():
            if name not in schema.names:
                raise DataError("missing column", field=name, remedy=REMEDY)
            # Anything else could be far larger than the file.
            if not (pyarrow.types.is_string if kind is str else pyarrow.types.is_primitive)(schema.field(name).type):
                raise DataError(f"holds {schema.field(name).type}", field=name, remedy=REMEDY)
        text = [name for name, kind in COLUMNS.items() if kind is str]
        file = pyarrow.parquet.ParquetFile(source, metadata=metadata, read_dictionary=text)
        table = file.read(columns=list(COLUMNS), use_threads=False)
        return {name: _column(table[name], name) for name in COLUMNS}
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        raise DataError(f"cannot be read: {str(error)[:200]}", remedy=REMEDY) from None


def _column(column: Any, name: str) -> Shaped[np.ndarray, " R"]:
    kind = COLUMNS[name]
    if column.null_count:
        raise DataError(f"{column.null_count} values are missing", field=name, remedy=REMEDY)
    if kind is str:
        # Each text is kept once, however often it occurs.
        chunks = [np.array(each.dictionary.to_pylist(), object)[each.indices.to_numpy()] for each in column.chunks]
        return np.concatenate(chunks)
    values = column.to_numpy()
    if not np.can_cast(values.dtype, kind, "same_kind"):
        raise DataError(f"holds {values.dtype}", field=name, remedy=REMEDY)
    if not (np.abs(values.astype(np.float64)) < 1e7).all():
        raise DataError("values are not finite or absurdly large", field=name, remedy=REMEDY)
    return values.astype(kind)


def _map(path: str) -> tuple[list, set]:
    folder, name = os.path.split(path)
    scenario = os.path.splitext(name)[0].removeprefix("scenario_")
    where = os.path.join(folder, f"log_map_archive_{scenario}.json")
    if not os.path.exists(where):
        raise DataError("no such file", file=where, remedy="put the map of a scenario into the same folder")
    try:
        return read_map(read_bytes(where, LARGEST_MAP))
    except DataError as error:
        raise error.at(file=where) from None


def _numbers(names: list[str]) -> Int[np.ndarray, " N"]:
    """Ids that are whole numbers as such, others counted on after the largest of them."""
    number = {name: int(name) for name in names if len(name) < 11 and name.isdecimal() and str(int(name)) == name}
    free = max((value for value in number.values() if value <= INT32.max), default=-1)
    for name in names:
        if number.get(name, INT32.max + 1) > INT32.max:
            free += 1
            number[name] = free
    return np.array([number[name] for name in names], np.int64)
