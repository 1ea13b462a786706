"""Argoverse 2: an encoded scenario, a recorded one, and damaged ones."""

import collections
import json
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from tests.data import recorded
from tests.datasets.encode_argoverse2 import NUM_STEPS, OBSERVED, archive, line, records, rows, table_bytes
from tests.datasets.test_fuzz import MUTATIONS, mutate
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats import argoverse2
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR, kind_name
from waymax_sim.maps.nearest import signed_distance


def write(folder, columns=None, roads=None):
    """Writes both files and returns the path of the table."""
    (folder / "log_map_archive_abc.json").write_text(json.dumps(archive() if roads is None else roads))
    path = folder / "scenario_abc.parquet"
    path.write_bytes(table_bytes(records() if columns is None else columns))
    return path


def read(folder, columns=None, roads=None):
    return load(write(folder, columns, roads)).read(0)


def feature(raw, row):
    return raw.point_xyz[raw.point_feature == row]


def test_tracks(tmp_path):
    raw = read(tmp_path)
    assert (raw.scenario_id, raw.current_step, len(raw.timestamps)) == ("abc", OBSERVED - 1, NUM_STEPS)
    np.testing.assert_allclose(raw.timestamps, 0.1 * np.arange(NUM_STEPS))
    by_id = dict(zip(raw.agent_id.tolist(), range(5), strict=True))
    # "007", "AV" and "x-1" are not integers and come after 12.
    assert by_id.keys() == {12, 7, 13, 14, 15}
    assert raw.agent_id[raw.sdc_index] == 14
    assert raw.agent_type[[by_id[each] for each in (12, 7, 13, 14, 15)]].tolist() == [1, 2, 4, 1, 1]
    assert raw.agent_id[raw.to_predict].tolist() == [12, 7]
    assert raw.agent_id[raw.of_interest].tolist() == [12]
    assert raw.valid[:, by_id[7]].tolist() == [False, True, True, False, True, False]
    assert raw.valid.sum() == 4 * NUM_STEPS + 3
    ego = raw.sdc_index
    # The file has the rear axle; the heading is 0.25 rad and constant.
    ahead = 1.339 * np.array([np.cos(0.25), np.sin(0.25)])
    np.testing.assert_allclose(raw.xyz[:, ego, :2] - ahead, [[5 + step, 0] for step in range(NUM_STEPS)])
    np.testing.assert_allclose(raw.velocity[:, ego], [[10, -0.5]] * NUM_STEPS)
    np.testing.assert_array_equal(raw.yaw[:, ego], [0.25] * NUM_STEPS)
    assert raw.size[0, ego].tolist() == [4.869, 1.852, 1.476]
    np.testing.assert_array_equal(raw.xyz[:, by_id[12], :2], [[5 + step, 0] for step in range(NUM_STEPS)])
    assert "box sizes" in raw.missing_fields


def test_boxes_stand_on_the_nearest_lane_point(tmp_path):
    raw = read(tmp_path)
    bus = int(np.argmax(raw.size[0, :, 0]))
    assert raw.size[:, bus].tolist() == [[12.0, 2.6, 3.2]] * NUM_STEPS
    lanes = raw.point_xyz[np.isin(raw.feature_type[raw.point_feature], (1, 2, 3))]
    for step, agent in np.argwhere(raw.valid):
        away = np.linalg.norm(lanes[:, :2] - raw.xyz[step, agent, :2], axis=-1)
        heights = lanes[np.isclose(away, away.min()), 2] + raw.size[step, agent, 2] / 2
        assert np.isclose(heights, raw.xyz[step, agent, 2]).any()


def test_lanes_take_their_height_from_their_boundaries(tmp_path):
    raw = read(tmp_path)
    assert raw.feature_id[:4].tolist() == [1, 2, 3, 4] and raw.feature_type[:4].tolist() == [2, 2, 2, 3]
    np.testing.assert_allclose(feature(raw, 0), [(0, 0, 15), (5, 0, 15.5), (20, 0, 17)])
    np.testing.assert_allclose(feature(raw, 1), [(20, 0, 12), (40, 0, 14)])


def test_links_are_between_lanes_of_the_map_and_not_to_oncoming_ones(tmp_path):
    expected = [(0, 1, SUCCESSOR), (1, 3, RIGHT_NEIGHBOR), (3, 1, LEFT_NEIGHBOR)]
    assert [tuple(link) for link in read(tmp_path).links.tolist()] == expected


def test_painted_boundaries_are_lines_once(tmp_path):
    raw = read(tmp_path)
    lines = {int(raw.feature_type[row]): feature(raw, row).tolist() for row in range(len(raw.feature_id))}
    counts = collections.Counter(raw.feature_type.tolist())
    # Double solid yellow; solid yellow and dashed white, both shared by two lanes; and blue, which is unknown.
    assert [counts[code] for code in (12, 11, 6, 5)] == [1, 1, 1, 1]
    assert sum(counts[code] for code in range(5, 14)) == 4
    assert lines[11] == [[20, 2, 12], [40, 2, 14]]


def test_crossings_are_polygons(tmp_path):
    raw = read(tmp_path)
    (row,) = np.flatnonzero(raw.feature_type == 18)
    assert raw.feature_id[row] == 8
    assert feature(raw, row)[:, :2].tolist() == [[10, -5], [10, 5], [13, 5], [13, -5]]


def test_edges_have_the_road_on_the_left_and_end_where_it_goes_on(tmp_path):
    raw = read(tmp_path)
    edges = [feature(raw, row)[:, :2].tolist() for row in np.flatnonzero(raw.feature_type == 15)]
    bottoms, tops = [[[0, -5], [20, -5]], [[20, -5], [40, -5]]], [[[20, 5], [0, 5]], [[40, 5], [20, 5]]]
    yard = [[0, 20], [3, 20], [3, 23], [0, 23], [0, 20]]
    assert sorted(edges) == sorted([*bottoms, *tops, yard])


def test_ids_are_not_used_twice(tmp_path):
    raw = read(tmp_path)
    assert len({*raw.feature_id.tolist()}) == len(raw.feature_id)
    assert len({*raw.agent_id.tolist()}) == len(raw.agent_id)


def test_ids_stay_different_at_the_limit_of_32_bits(tmp_path):
    names = [str(2**31 - 1), "AV", str(2**31), "0", "x"]
    raw = read(tmp_path, [row for name in names for row in rows(name)])
    by_name = dict(zip(sorted(names), raw.agent_id.tolist(), strict=True))
    assert by_name[names[0]] == 2**31 - 1 and by_name["0"] == 0
    assert sorted(by_name.values()) == [0, 1, 2, 3, 2**31 - 1]


def test_scenes_without_an_ego_or_a_map_load(tmp_path):
    empty = {name: {} for name in archive()}
    raw = read(tmp_path, rows("5"), empty)
    assert raw.sdc_index == -1 and len(raw.feature_id) == 0
    assert raw.xyz[0, 0, 2] == 0.8
    assert load(tmp_path / "scenario_abc.parquet")[0].agents.exists.sum() == 1


def without(column):
    return [{name: value for name, value in row.items() if name != column} for row in records()]


def changed(column, value, index=3):
    found = records()
    found[index][column] = value
    return found


@pytest.mark.parametrize("column", argoverse2.SCENARIO_COLUMNS)
def test_missing_columns_and_values_are_named(tmp_path, column):
    for columns in (without(column), changed(column, None)):
        with pytest.raises(DataError) as caught:
            read(tmp_path, columns)
        assert caught.value.field == column
        assert caught.value.file == str(tmp_path / "scenario_abc.parquet")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("position_x", np.nan),
        ("position_y", np.inf),
        ("heading", 1e300),
        ("timestep", -1),
        ("timestep", NUM_STEPS),
        ("timestep", 2),
        ("timestep", -(2**63)),
        ("num_timestamps", 5),
        ("num_timestamps", 2**40),
    ],
)
def test_impossible_values_are_refused(tmp_path, column, value):
    with pytest.raises(DataError, match="scenario_abc"):
        read(tmp_path, changed(column, value))


@pytest.mark.parametrize("column", argoverse2.SCENARIO_COLUMNS)
def test_wrong_types_are_refused(tmp_path, column):
    wrong = [[1.5]] * len(records())
    table = pa.Table.from_pylist(records())
    index = table.schema.get_field_index(column)
    with pytest.raises(DataError) as caught:
        read(tmp_path, table.set_column(index, column, pa.array(wrong)))
    assert caught.value.field == column
    dates = pa.array([7] * len(wrong), pa.timestamp("us"))
    with pytest.raises(DataError) as caught:
        read(tmp_path, table.set_column(index, column, dates))
    assert caught.value.field == column


def test_huge_declared_counts_and_no_rows_are_refused(tmp_path):
    for columns in ([row | {"num_timestamps": 9_000_000} for row in records()], pa.Table.from_pylist(records())[:0]):
        with pytest.raises(DataError):
            read(tmp_path, columns)
    with pytest.raises(DataError, match="no observed step"):
        read(tmp_path, [row | {"observed": False} for row in records()])


def test_text_that_is_repeated_takes_its_space_once(tmp_path):
    """A small file could otherwise expand to any size."""
    count = 20_000
    table = pa.table({name: [value] * count for name, value in records()[0].items()})
    wide = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["w" * 2**20]))
    table = table.set_column(table.schema.get_field_index("object_type"), "object_type", wide)
    path = write(tmp_path, records())
    path.write_bytes(table_bytes(table, store_schema=False))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="two states at one step"):
            load(path).read(0)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert pa.default_memory_pool().max_memory() < 2**28


def broken(change):
    roads = archive()
    change(roads)
    return roads


@pytest.mark.parametrize(
    "roads",
    [
        [],
        {},
        broken(lambda roads: roads.pop("drivable_areas")),
        broken(lambda roads: roads["lane_segments"]["1"].pop("centerline")),
        broken(lambda roads: roads["lane_segments"]["1"].update(centerline=[])),
        broken(lambda roads: roads["lane_segments"]["1"].update(left_lane_boundary=[])),
        broken(lambda roads: roads["lane_segments"]["1"].update(id=2)),
        broken(lambda roads: roads["lane_segments"]["1"].update(id=10**12)),
        broken(lambda roads: roads["lane_segments"]["1"].update(id="one")),
        broken(lambda roads: roads["lane_segments"]["1"].update(lane_type=[])),
        broken(lambda roads: roads["lane_segments"]["1"].update(successors=None)),
        broken(lambda roads: roads["lane_segments"]["1"].update(left_neighbor_id={})),
        broken(lambda roads: roads["lane_segments"]["1"]["centerline"][0].update(x=float("nan"))),
        broken(lambda roads: roads["drivable_areas"]["0"]["area_boundary"][0].update(y=float("inf"))),
        broken(lambda roads: roads["drivable_areas"]["0"]["area_boundary"][0].update(y=10**400)),
        broken(lambda roads: roads["pedestrian_crossings"]["8"].update(edge1=7)),
    ],
)
def test_damaged_maps_are_refused(tmp_path, roads):
    with pytest.raises(DataError) as caught:
        read(tmp_path, roads=roads)
    assert caught.value.remedy or caught.value.field == "feature_id"


def test_odd_maps_load(tmp_path):
    roads = archive()
    for ring in roads["drivable_areas"].values():
        ring["area_boundary"] = [ring["area_boundary"][0]] * 3
    roads["drivable_areas"]["9"] = {"area_boundary": []}
    roads["lane_segments"]["1"]["centerline"] = line((3, 3, 0), (3, 3, 0))
    roads["lane_segments"]["2"]["lane_type"] = "TRAM"
    write(tmp_path, roads=roads)
    scenario = load(tmp_path / "scenario_abc.parquet")[0]
    assert scenario.edges.valid.sum() == 0
    assert scenario.roadmap.feature_type[:2].tolist() == [2, 0]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nul", "\ud800"])
def test_files_that_are_not_json_are_refused(tmp_path, text):
    path = write(tmp_path)
    (tmp_path / "log_map_archive_abc.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match="log_map_archive_abc"):
        load(path).read(0)


def test_a_missing_map_is_named_with_a_remedy(tmp_path):
    path = write(tmp_path)
    (tmp_path / "log_map_archive_abc.json").unlink()
    with pytest.raises(DataError, match=r"log_map_archive_abc\.json.*: no such file \(put the map") as caught:
        load(path).read(0)
    assert caught.value.file == str(tmp_path / "log_map_archive_abc.json")


def test_without_pyarrow_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'waymax-sim\[argoverse\]'"):
        load(path).read(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("argoverse2")


SOUND = {"scenario_abc.parquet": table_bytes(records()), "log_map_archive_abc.json": json.dumps(archive()).encode()}


def damage(folder, mutations):
    """Damages one of the two files after the other."""
    for damaged in SOUND:
        for name, data in SOUND.items():
            (folder / name).write_bytes(mutate(data, mutations) if name == damaged else data)
        for _, outcome in load(folder / "scenario_abc.parquet", pad_to_bucket=False).iter_results():
            assert not isinstance(outcome, DataError) or outcome.file.startswith(str(folder))


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_damaged_files(folder, mutations):
    damage(folder, mutations)


@pytest.mark.slow
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_many_damaged_files(folder, mutations):
    damage(folder, mutations)


@pytest.fixture(scope="module")
def sample():
    return load(recorded("argoverse2/scenario_0a1e6f0a-1817-4a98-b02e-db8c9327d151.parquet"))


def test_numbers_of_the_recorded_scene(sample):
    raw = sample.read(0)
    assert raw.scenario_id == "0a1e6f0a-1817-4a98-b02e-db8c9327d151"
    assert (len(raw.timestamps), raw.current_step, raw.sdc_index) == (110, 49, 57)
    # 8 static, 2 background and 4 riderless bicycles are "other".
    assert collections.Counter(raw.agent_type.tolist()) == {1: 32, 2: 12, 4: 14}
    assert raw.valid.sum() == 2434 and raw.valid[49].sum() == 25
    assert raw.to_predict.sum() == 2
    assert raw.agent_id[raw.of_interest].tolist() == [138951]
    first = int(np.flatnonzero(raw.agent_id == 138902)[0])
    np.testing.assert_allclose(raw.xyz[0, first, :2], [-436.0898832937501, 1311.1898651654426], rtol=1e-15)
    kinds = collections.Counter(kind_name(code) for code in raw.feature_type.tolist())
    # 121 of 142 boundaries are distinct, and 37 of these are painted.
    assert (kinds["lane"], kinds["crosswalk"], kinds["road_line"]) == (71, 6, 37)
    assert raw.point_xyz[:, 2].min() > 21 and raw.point_xyz[:, 2].max() < 26
    np.testing.assert_allclose(raw.xyz[..., 2][raw.valid], 24, atol=2.5)


def test_the_recorded_scene_drives_on_its_road(sample):
    """The ego follows a lane, and lanes are inside of the nearest edges."""
    scenario = sample[0]
    log, lanes = scenario.log, scenario.lanes
    ego = int(np.argmax(scenario.agents.is_sdc))
    now = log.xyz[49, ego]
    start = lanes.start[lanes.valid.reshape(-1)]
    assert np.linalg.norm(start[:, :2] - now[:2], axis=-1).min() < 3
    roadmap = scenario.roadmap
    on_lanes = roadmap.xyz[np.isin(roadmap.feature_type[roadmap.feature], (2, 3)) & roadmap.valid]
    distance, found = signed_distance(scenario.edges, on_lanes, np.ones(len(on_lanes), bool))
    assert found.all()
    assert np.mean(np.asarray(distance) < 0) > 0.97
