"""Reader of Argoverse 2 motion forecasting scenarios (`scenario_<id>.parquet` and `log_map_archive_<id>.json`).

A scenario is a table with a row per track and step (110 steps at 10 Hz, 50 of them observed), in a city frame, without
box sizes and heights. Boxes get the nominal size of their object type, that of the ego the size of its car, and the
height of the lane point that is nearest in the plane; `missing_fields` lists both. The position of the ego is that of
the middle of its rear axle; it is moved to the box center (see `rear_axle`).
"""

import itertools
import os
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.files import read_bytes
from waymax_sim.datasets.formats.argoverse2_map import read_map
from waymax_sim.datasets.formats.map_features import check_num_states, empty_light_fields, ground_height, map_fields
from waymax_sim.datasets.formats.rear_axle import ARGOVERSE2_EGO, rear_axle_to_center
from waymax_sim.datasets.scene import INT32, RawScene
from waymax_sim.datatypes.agents import CYCLIST, OTHER, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.roadmap import LANE_TYPES
from waymax_sim.datatypes.scenario import TIME_STEP

ARGOVERSE2_REMEDY = "give a scenario of Argoverse 2 motion forecasting"
SDC_TRACK_ID = "AV"
SCORED_TRACK = 2  # value of `object_category`
FOCAL_TRACK = 3  # value of `object_category`

# Object type -> agent type and nominal length, width and height (m): a mid-size car, a city bus, two-wheelers with the
# shoulder width of the rider, a walking person.
OBJECT_TYPES = {
    "vehicle": (VEHICLE, 4.7, 1.9, 1.6),
    "bus": (VEHICLE, 12.0, 2.6, 3.2),
    "motorcyclist": (VEHICLE, 2.2, 0.8, 1.7),
    "pedestrian": (PEDESTRIAN, 0.7, 0.7, 1.7),
    "cyclist": (CYCLIST, 1.8, 0.6, 1.7),
    "riderless_bicycle": (OTHER, 1.8, 0.6, 1.1),
}
OTHER_OBJECT = (OTHER, 1.0, 1.0, 1.0)  # static, background, construction and unknown objects: a cube

SCENARIO_COLUMNS = {
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
MAX_TABLE_BYTES = 64 * 2**20  # samples have 0.1 MB
MAX_MAP_BYTES = 16 * 2**20  # samples have 0.1 MB
MAX_ROWS = 1_000_000


def scene_from_file(path: str) -> RawScene:
    """Reads a scenario; its map must be in the same folder.

    The current step is the last observed one, 49. Scored and focal tracks are to predict, the focal one is of interest.
    Track ids that are not integers, such as "AV" of the ego, get the integers after the largest id. Motorcyclists and
    buses are vehicles; bicycles without riders, static objects and unknown ones are "other". Without an ego the sdc
    index is -1.

    Raises:
      DataError: The file or its map is missing or damaged, or pyarrow is not installed.
    """
    rows = _rows(path)
    timestep, count = rows["timestep"], rows["num_timestamps"]
    names, first, track = np.unique(rows["track_id"], return_index=True, return_inverse=True)
    num_steps = int(count[0])
    if (count != num_steps).any() or not 0 <= timestep.min() <= timestep.max() < num_steps:
        raise DataError(f"has steps outside 0..{num_steps - 1}", field="timestep", remedy=ARGOVERSE2_REMEDY)
    shape = num_steps, len(names)
    check_num_states(num_steps, len(names), field="num_timestamps", remedy=ARGOVERSE2_REMEDY)
    if not rows["observed"].any():
        raise DataError("has no observed step", field="observed", remedy=ARGOVERSE2_REMEDY)
    if len(np.unique(timestep * len(names) + track)) < len(track):
        raise DataError("has a track with two states at one step", field="timestep", remedy=ARGOVERSE2_REMEDY)

    def log(*columns: str) -> np.ndarray:
        values = np.zeros((*shape, len(columns)))
        values[timestep, track] = np.stack([rows[column] for column in columns], axis=-1)
        return values

    features, links = _map(path)
    lane_points = np.concatenate(
        [np.zeros((0, 3)), *(feature.xyz for feature in features if feature.type in LANE_TYPES)]
    )
    objects = np.array([OBJECT_TYPES.get(kind, OTHER_OBJECT) for kind in rows["object_type"][first]]).reshape(-1, 4)
    xyz = np.concatenate([log("position_x", "position_y"), np.zeros((*shape, 1))], axis=-1)
    yaw, velocity, timestamps = (
        log("heading")[..., 0],
        log("velocity_x", "velocity_y"),
        TIME_STEP * np.arange(num_steps),
    )
    valid = np.zeros(shape, bool)
    valid[timestep, track] = True
    sdc_index = names.tolist().index(SDC_TRACK_ID) if SDC_TRACK_ID in names else -1
    if sdc_index >= 0:
        objects[sdc_index, 1:] = ARGOVERSE2_EGO.length, ARGOVERSE2_EGO.width, ARGOVERSE2_EGO.height
        xyz[:, sdc_index, :2], velocity[:, sdc_index] = rear_axle_to_center(
            xyz[:, sdc_index, :2],
            yaw[:, sdc_index],
            velocity[:, sdc_index],
            valid[:, sdc_index],
            timestamps,
            ARGOVERSE2_EGO,
        )
    ground = ground_height(lane_points, xyz[timestep, track, :2])
    xyz[timestep, track, 2] = ground + objects[track, 3] / 2
    category = rows["object_category"][first]
    return RawScene(
        scenario_id=rows["scenario_id"][0],
        timestamps=timestamps,
        current_step=int(timestep[rows["observed"]].max()),
        agent_id=_numbers(names.tolist()),
        agent_type=objects[:, 0].astype(np.int64),
        xyz=xyz,
        yaw=yaw,
        velocity=velocity,
        size=np.broadcast_to(objects[:, 1:], (*shape, 3)).copy(),
        valid=valid,
        sdc_index=sdc_index,
        to_predict=category >= SCORED_TRACK,
        of_interest=category == FOCAL_TRACK,
        **map_fields(features, links),
        **empty_light_fields(num_steps),
        missing_fields=("lights", "stop signs", "speed limits", "box sizes", "heights of agents"),
    )


def _rows(path: str) -> dict[str, Shaped[np.ndarray, " R"]]:
    """The columns of the table by name."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("needs the package pyarrow", file=path, remedy="pip install 'waymax-sim[argoverse]'") from None
    source = pyarrow.BufferReader(read_bytes(path, MAX_TABLE_BYTES))
    try:
        metadata = pyarrow.parquet.read_metadata(source)
        num_rows = sum(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        if not 0 < num_rows <= MAX_ROWS:
            raise DataError(f"has {num_rows} rows", remedy=ARGOVERSE2_REMEDY)
        schema = metadata.schema.to_arrow_schema()
        for name, kind in SCENARIO_COLUMNS.items():
            if name not in schema.names:
                raise DataError("missing column", field=name, remedy=ARGOVERSE2_REMEDY)
            # Nested types could expand to far more than the size of the file.
            if not (pyarrow.types.is_string if kind is str else pyarrow.types.is_primitive)(schema.field(name).type):
                raise DataError(f"has type {schema.field(name).type}", field=name, remedy=ARGOVERSE2_REMEDY)
        text = [name for name, kind in SCENARIO_COLUMNS.items() if kind is str]
        file = pyarrow.parquet.ParquetFile(source, metadata=metadata, read_dictionary=text)
        table = file.read(columns=list(SCENARIO_COLUMNS), use_threads=False)
        return {name: _column(table[name], name) for name in SCENARIO_COLUMNS}
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        raise DataError(f"cannot be read: {str(error)[:200]}", remedy=ARGOVERSE2_REMEDY) from None


def _column(column: Any, name: str) -> Shaped[np.ndarray, " R"]:
    kind = SCENARIO_COLUMNS[name]
    if column.null_count:
        raise DataError(f"has {column.null_count} missing values", field=name, remedy=ARGOVERSE2_REMEDY)
    if kind is str:
        # Dictionary-encoded, so that repeated strings share memory.
        chunks = [np.array(chunk.dictionary.to_pylist(), object)[chunk.indices.to_numpy()] for chunk in column.chunks]
        return np.concatenate(chunks)
    values = column.to_numpy()
    if not np.can_cast(values.dtype, kind, "same_kind"):
        raise DataError(f"has type {values.dtype}", field=name, remedy=ARGOVERSE2_REMEDY)
    if not (np.abs(values.astype(np.float64)) < 1e7).all():
        raise DataError("has values that are not finite or too large", field=name, remedy=ARGOVERSE2_REMEDY)
    return values.astype(kind)


def companion_files(path: str) -> list[str]:
    """Path of the map of a scenario."""
    folder, name = os.path.split(path)
    scenario = os.path.splitext(name)[0].removeprefix("scenario_")
    return [os.path.join(folder, f"log_map_archive_{scenario}.json")]


def _map(path: str) -> tuple[list, set]:
    (map_path,) = companion_files(path)
    if not os.path.exists(map_path):
        raise DataError("no such file", file=map_path, remedy="put the map of the scenario into its folder")
    try:
        return read_map(read_bytes(map_path, MAX_MAP_BYTES))
    except DataError as error:
        raise error.with_location(file=map_path) from None


def _numbers(names: list[str]) -> Int[np.ndarray, " N"]:
    """Ids that are 32-bit integers as such; the others get unused integers after the largest of them, then below it."""
    integers = {name: int(name) for name in names if len(name) < 11 and name.isdecimal() and str(int(name)) == name}
    number = {name: value for name, value in integers.items() if value <= INT32.max}
    used, after = set(number.values()), 1 + max(number.values(), default=-1)
    unused = (value for value in itertools.chain(range(after, INT32.max + 1), range(after)) if value not in used)
    number |= {name: next(unused) for name in names if name not in number}
    return np.array([number[name] for name in names], np.int64)
