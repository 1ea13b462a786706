"""CommonRoad: encoded scenarios of both versions, a recorded one, and damaged ones."""

import collections
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings

from tests.data import recorded
from tests.datasets.test_fuzz import MUTATIONS, check, mutate
from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.formats import commonroad, commonroad_xml
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import LEFT_NEIGHBOR, RIGHT_NEIGHBOR, SUCCESSOR, kind_name


def points(*coordinates):
    return "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in coordinates)


def lanelet(lane_id, left, right, rest="", marks=("", "")):
    mark = [f"<lineMarking>{each}</lineMarking>" if each else "" for each in marks]
    left, right = f"{points(*left)}{mark[0]}", f"{points(*right)}{mark[1]}"
    return f'<lanelet id="{lane_id}"><leftBound>{left}</leftBound><rightBound>{right}</rightBound>{rest}</lanelet>'


def state(step, x, y, turn=0.0, speed=None, tag="state"):
    velocity = "" if speed is None else f"<velocity><exact>{speed}</exact></velocity>"
    return (
        f"<{tag}><position>{points((x, y))}</position><orientation><exact>{turn}</exact></orientation>"
        f"<time><exact>{step}</exact></time>{velocity}</{tag}>"
    )


RECTANGLE = "<rectangle><length>4</length><width>2</width></rectangle>"


def obstacle(agent_id, states, kind="car", tag="dynamicObstacle", role="", shape=RECTANGLE):
    first, *later = [state(*each, tag="initialState" if i == 0 else "state") for i, each in enumerate(states)]
    role = f"<role>{role}</role>" if role else ""
    path = f"<trajectory>{''.join(later)}</trajectory>" if later else ""
    return f'<{tag} id="{agent_id}">{role}<type>{kind}</type><shape>{shape}</shape>{first}{path}</{tag}>'


def scenario(*parts, step=0.2, version="2020a"):
    head = (
        f'<?xml version="1.0"?><commonRoad benchmarkID="ZAM_X-1" commonRoadVersion="{version}" timeStepSize="{step}">'
    )
    return f"{head}{''.join(parts)}</commonRoad>"


def links(*items):
    return "".join(f'<{tag} ref="{ref}"{more}/>' for tag, ref, more in items)


SAME, OPPOSITE = ' drivingDir="same"', ' drivingDir="opposite"'
OLD = scenario(
    # Two lanelets side by side, one after them with another number of points on each side, and an oncoming one.
    lanelet(
        1,
        [(0, 2), (10, 2)],
        [(0, 0), (10, 0)],
        links(("successor", 3, ""), ("successor", 77, ""), ("adjacentRight", 2, SAME), ("adjacentLeft", 4, OPPOSITE))
        + "<speedLimit>13.5</speedLimit>",
    ),
    lanelet(2, [(0, 0), (10, 0)], [(0, -2), (10, -2)], links(("adjacentLeft", 1, SAME))),
    lanelet(3, [(10, 2), (12, 2), (20, 2)], [(10, 0), (20, 0)], links(("predecessor", 1, ""))),
    lanelet(4, [(10, 2), (0, 2)], [(10, 4), (0, 4)], links(("adjacentLeft", 1, OPPOSITE))),
    obstacle(10, [(0, 1, 1, 0.0, 5.0), (1, 2, 1, 0.0, 6.0), (3, 4, 1, np.pi / 2, 7.0)], tag="obstacle", role="dynamic"),
    obstacle(11, [(2, 8, 8, 1.0, 0.5)], "bicycle", tag="obstacle", role="dynamic"),
    obstacle(12, [(0, 5, -1, 0.5)], "parkedVehicle", tag="obstacle", role="static"),
    "<planningProblem id='9'><initialState/></planningProblem>",
    version="2018b",
)
CIRCLE = "<circle><radius>1.5</radius></circle>"
TURNED = (
    "<rectangle><length>4</length><width>2</width><orientation>1.5707963267948966</orientation>"
    "<center><x>1</x><y>0.5</y></center></rectangle>"
)
POLYGON = f"<polygon>{points((0, 0), (3, 0), (3, 1))}</polygon>"
NEW = scenario(
    lanelet(
        1,
        [(0, 2), (10, 2)],
        [(0, 0), (10, 0)],
        '<laneletType>highway</laneletType><laneletType>mainCarriageWay</laneletType><trafficSignRef ref="50"/>'
        '<trafficSignRef ref="51"/>',
        ("solid", "unknown"),
    ),
    lanelet(
        2, [(0, 0), (10, 0)], [(0, -2), (10, -2)], "<laneletType>urban</laneletType>", ("broad_dashed", "no_marking")
    ),
    lanelet(3, [(0, -2), (10, -2)], [(0, -3), (10, -3)], "<laneletType>bicycleLane</laneletType>"),
    lanelet(4, [(4, -5), (4, 5)], [(6, -5), (6, 5)], "<laneletType>crosswalk</laneletType>"),
    lanelet(5, [(0, -9), (9, -9)], [(0, -10), (9, -10)], "<laneletType>sidewalk</laneletType>"),
    lanelet(6, [(0, 40), (9, 40)], [(0, 39), (9, 39)], "<laneletType>busStop</laneletType>"),
    '<trafficSign id="50"><trafficSignElement><trafficSignID>R2-1</trafficSignID>'
    "<additionalValue>11.5</additionalValue></trafficSignElement></trafficSign>",
    '<trafficSign id="51"><trafficSignElement><trafficSignID>206</trafficSignID></trafficSignElement></trafficSign>',
    obstacle(20, [(0, 1, 1, np.pi / 2, 2.0)], "pedestrian", shape=CIRCLE),
    obstacle(21, [(0, 1, 1, np.pi / 2)], "train", tag="staticObstacle", shape=TURNED),
    obstacle(22, [(0, 1, 1), (1, 2, 2)][:1], "unknown", shape=POLYGON),
)


def write(folder, text):
    path = folder / "scenario.xml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path):
    return lambda text: load(write(tmp_path, text)).read(0)


def feature(raw, feature_id):
    (row,) = np.flatnonzero(raw.feature_id == feature_id)
    return raw.point_xyz[raw.point_feature == row, :2].tolist()


def test_obstacles_of_2018b(read):
    raw = read(OLD)
    assert (raw.scenario_id, raw.sdc_index, raw.current_step) == ("ZAM_X-1", -1, 0)
    np.testing.assert_allclose(raw.timestamps, [0, 0.2, 0.4, 0.6])
    assert raw.agent_id.tolist() == [10, 11, 12] and raw.agent_type.tolist() == [1, 3, 1]
    assert raw.valid.T.astype(int).tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_allclose(raw.xyz[[0, 1, 3], 0, :2], [[1, 1], [2, 1], [4, 1]])
    np.testing.assert_allclose(raw.velocity[[0, 1, 3], 0], [[5, 0], [6, 0], [0, 7]], atol=1e-12)
    np.testing.assert_allclose(raw.velocity[2, 1], [0.5 * np.cos(1), 0.5 * np.sin(1)])
    np.testing.assert_array_equal(raw.xyz[:, 2, :2], [[5, -1]] * 4)
    assert raw.yaw[:, 2].tolist() == [0.5] * 4 and not raw.velocity[:, 2].any()
    assert raw.size[0].tolist() == [[4, 2, 1.5], [4, 2, 1.7], [4, 2, 1.5]]
    np.testing.assert_array_equal(raw.xyz[..., 2], raw.size[..., 2] / 2)


def test_lanelets_of_2018b(read):
    raw = read(OLD)
    assert [kind_name(code) for code in raw.feature_type.tolist()] == ["lane"] * 4 + ["road_line"] * 6
    assert raw.speed_limit[:4].tolist() == [13.5, 0, 0, 0]
    assert feature(raw, 1) == [[0, 1], [10, 1]]
    assert feature(raw, 4) == [[10, 3], [0, 3]]
    # Three points on the left and two on the right: at relative arc lengths 0, 1/2 and 1.
    assert feature(raw, 3) == [[10, 1], [15, 1], [20, 1]]
    rows = {lane: row for row, lane in enumerate(raw.feature_id.tolist())}
    expected = [(1, 3, SUCCESSOR), (1, 2, RIGHT_NEIGHBOR), (2, 1, LEFT_NEIGHBOR)]
    assert sorted(map(tuple, raw.links.tolist())) == sorted((rows[a], rows[b], kind) for a, b, kind in expected)


def test_lanelets_of_2020a(read):
    raw = read(NEW)
    types = dict(zip(raw.feature_id.tolist(), raw.feature_type.tolist(), strict=True))
    assert {lane: types[lane] for lane in (1, 2, 3, 4, 6)} == {1: 1, 2: 2, 3: 3, 4: 18, 6: 2}
    assert 5 not in types
    assert raw.speed_limit[raw.feature_id == 1] == 11.5
    assert feature(raw, 4) == [[4, -5], [4, 5], [6, 5], [6, -5]]
    lines = {
        raw.point_xyz[raw.point_feature == row][0, 1]: code for row, code in enumerate(raw.feature_type) if code > 4
    }
    # At y: solid; dashed on one side and unknown on the other; the bike lane has no marking of the bound at -2.
    assert {y: lines[y] for y in (2, 0, -2, -3)} == {2: 7, 0: 6, -2: 5, -3: 5}
    assert collections.Counter(raw.feature_type.tolist())[6] == 1


def test_shapes(read):
    raw = read(NEW)
    assert raw.agent_type.tolist() == [2, 4, 4]
    np.testing.assert_allclose(raw.size[0, :, :2], [[3, 3], [2, 4], [3, 1]], atol=1e-12)
    # Centers of shapes are in the frame of the obstacle, whose heading is y.
    np.testing.assert_allclose(raw.xyz[0, :, :2], [[1, 1], [0.5, 2], [2.5, 1.5]], atol=1e-12)


def test_scenes_without_a_map_or_obstacles_load(read, tmp_path):
    assert len(read(scenario(obstacle(1, [(0, 0, 0, 0, 0)]))).feature_id) == 0
    raw = read(scenario())
    assert (len(raw.timestamps), len(raw.agent_id)) == (1, 0)
    for text in (OLD, NEW, scenario()):
        write(tmp_path, text)
        assert load(tmp_path / "scenario.xml")[0].num_steps == len(read(text).timestamps)


def test_one_id_of_two_obstacles_is_kept_and_said(read, tmp_path):
    from waymax_sim.datatypes.validate import validate

    text = scenario(*[obstacle(1, [(0, x, 0, 0, 0)]) for x in (0, 9)])
    assert read(text).agent_id.tolist() == [1, 1]
    assert "1 agent ids are used twice" in validate(load(write(tmp_path, text))[0])


ENTITIES = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
DOCTYPES = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY a0 "ha">{ENTITIES}]><commonRoad timeStepSize="0.1">&a9;</commonRoad>',
    "external": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///a.txt">]><commonRoad timeStepSize="0.1">&a;</commonRoad>',
    "external subset": '<!DOCTYPE x SYSTEM "http://example.invalid/a.dtd"><commonRoad timeStepSize="0.1"/>',
}


@pytest.mark.parametrize("text", DOCTYPES.values(), ids=DOCTYPES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path, text, encoding):
    path = tmp_path / "scenario.xml"
    path.write_bytes(text.encode(encoding))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="has a document type"):
            load(path).read(0)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('timeStepSize="0.2"', "", "timeStepSize"),
        ('timeStepSize="0.2"', 'timeStepSize="0"', "not a valid time step"),
        ('timeStepSize="0.2"', 'timeStepSize="nan"', "timeStepSize"),
        ("<time><exact>1</exact>", "<time><exact>0</exact>", "two states at 0"),
        ("<time><exact>1</exact>", "<time><exact>-1</exact>", "not a nonnegative integer"),
        ("<time><exact>1</exact>", "<time><exact>1.5</exact>", "not a nonnegative integer"),
        ("<time><exact>1</exact>", "<time><exact>2000000000</exact>", "too many"),
        ("<time><exact>1</exact>", f"<time><exact>{'9' * 5000}</exact>", "not a nonnegative integer"),
        ("<time><exact>1</exact>", "<time><intervalStart>1</intervalStart>", "not a nonnegative integer"),
        ("<exact>6.0</exact>", "<exact>fast</exact>", "'fast' is not a number"),
        ("<velocity><exact>6.0</exact></velocity>", "<velocity/>", "velocity/exact"),
        ("<velocity><exact>6.0</exact>", "<velocity><intervalStart>6</intervalStart>", "velocity/intervalEnd"),
        (points((4, 1)), '<lanelet ref="1"/>', "is a lanelet, not a point"),
        (points((4, 1)), "<polygon/>", "region without points"),
        ("<x>4</x>", "<x>NaN</x>", "'NaN' is not a number"),
        ("<x>4</x>", "<x>1e300</x>", "not a number or too large"),
        ("<x>4</x>", "", "field position/point/x"),
        ('lanelet id="2"', 'lanelet id="1"', "has id 1 twice"),
        ('lanelet id="2"', "lanelet", r"field lanelet\.id"),
        ('lanelet id="2"', 'lanelet id="3000000000"', r"field lanelet\.id"),
        ('obstacle id="12"', 'obstacle id="x"', r"field obstacle\.id"),
        ('successor ref="3"', 'successor ref="three"', r"field successor\.ref"),
        (f"<leftBound>{points((0, 0), (10, 0))}</leftBound>", "<leftBound/>", "lanelet 2 has no points"),
        (f"<leftBound>{points((0, 0), (10, 0))}</leftBound>", "", "field leftBound"),
        (f"<shape>{RECTANGLE}</shape>", "<shape/>", "field shape"),
        (f"<shape>{RECTANGLE}</shape>", "", "field shape"),
        (RECTANGLE, "<polygon/>", "field shape"),
        (RECTANGLE, "<blob/>", "field length"),
        ("<speedLimit>13.5", "<speedLimit>none", "field speedLimit"),
        ("commonRoad", "openScenario", "not <commonRoad>"),
        ("</commonRoad>", "", "not XML"),
    ],
)
def test_damage_is_named(tmp_path, old, new, problem):
    assert old in OLD
    path = write(tmp_path, OLD.replace(old, new))
    with pytest.raises(DataError, match=problem) as caught:
        load(path).read(0)
    assert caught.value.file == str(path) and caught.value.remedy


REGION = (
    "<rectangle><length>3</length><width>1</width><orientation>0.7</orientation>"
    "<center><x>2</x><y>1</y></center></rectangle>"
)
# A right triangle; its centroid is at a third of its sides.
TRIANGLE = f"<polygon>{points((1, 1), (4, 1), (1, 4))}</polygon>"


def test_the_middles_of_uncertain_states_are_used(read):
    text = OLD.replace(points((2, 1)), REGION, 1).replace(points((4, 1)), TRIANGLE, 1)
    text = text.replace("<exact>6.0</exact>", "<intervalStart>5</intervalStart><intervalEnd>8</intervalEnd>")
    interval = "<intervalStart>-1</intervalStart><intervalEnd>2</intervalEnd>"
    text = text.replace("<orientation><exact>0.0</exact>", f"<orientation>{interval}", 1)
    raw = read(text)
    np.testing.assert_allclose(raw.xyz[[0, 1, 3], 0, :2], [[1, 1], [2, 1], [2, 2]])
    np.testing.assert_allclose(np.linalg.norm(raw.velocity[[0, 1, 3], 0], axis=-1), [5, 6.5, 7])
    assert raw.yaw[[0, 1], 0].tolist() == [0.5, 0]
    assert "exact states of 1 obstacles" in raw.missing_fields
    assert not any("exact" in name for name in read(OLD).missing_fields)


def test_absent_speeds_follow_from_the_positions(read):
    """Positions 0, 1, 3 m along x at the steps 0, 1, 3 of 0.2 s; the last orientation is against the motion."""
    raw = read(scenario(obstacle(1, [(0, 0, 0), (1, 1, 0), (3, 3, 0, np.pi)])))
    np.testing.assert_allclose(raw.velocity[[0, 1, 3], 0], [[5, 0]] * 3, atol=1e-9)
    assert "speeds of 1 obstacles" in raw.missing_fields
    given = read(scenario(obstacle(1, [(0, 0, 0, 0, 2.0), (1, 1, 0)])))
    np.testing.assert_allclose(given.velocity[:2, 0], [[2, 0], [5, 0]])
    at_rest = read(scenario(obstacle(1, [(0, 0, 0)])))
    assert not at_rest.velocity.any() and not any("speeds" in name for name in at_rest.missing_fields)


def test_the_initial_state_may_be_repeated(read):
    states = [(0, 1, 1, 0.0, 5.0), (0, 1, 1, 0.0, 5.0), (1, 2, 1, 0.0, 5.0)]
    raw = read(scenario(obstacle(1, states)))
    assert raw.valid[:, 0].tolist() == [True, True]
    # Without speeds too.
    assert read(scenario(obstacle(1, [each[:4] for each in states]))).xyz[:, 0, 0].tolist() == [1, 2]


def test_missing_content_is_listed(read):
    assert "1 sidewalks" in read(NEW).missing_fields
    occupancy = obstacle(1, [(0, 0, 0, 0, 1)]).replace("</dynamicObstacle>", "<occupancySet/></dynamicObstacle>")
    assert "states of 1 obstacles after the first one" in read(scenario(occupancy)).missing_fields


def test_ids_of_scenarios_without_benchmark_depend_on_the_content(read):
    ids = [
        read(scenario(obstacle(1, [(0, x, 0, 0, 0)])).replace('benchmarkID="ZAM_X-1"', "")).scenario_id for x in (0, 1)
    ]
    assert ids[0] != ids[1] and len(ids[0]) == 16


def test_the_order_of_states_does_not_matter(read):
    states = [(3, 3, 0, 0, 0), (1, 1, 0, 0, 0), (2, 2, 0, 0, 0)]
    raw = read(scenario(obstacle(1, states)))
    assert raw.xyz[1:, 0, 0].tolist() == [1, 2, 3] and raw.valid[:, 0].tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 99, b'<?xml version="1.0" encoding="nonsense"?><commonRoad/>', b"<a>" * 99_999]
)
def test_files_that_are_not_xml_are_refused(tmp_path, data):
    path = tmp_path / "scenario.xml"
    path.write_bytes(data)
    with pytest.raises(DataError, match="not XML"):
        load(path).read(0)


def test_elements_and_bytes_are_bounded(tmp_path, monkeypatch):
    path = write(tmp_path, OLD)
    monkeypatch.setattr(commonroad_xml, "MAX_ELEMENTS", 50)
    with pytest.raises(DataError, match="more than 50 elements"):
        load(path).read(0)
    monkeypatch.setattr(commonroad, "MAX_COMMONROAD_BYTES", 100)
    with pytest.raises(DataError, match="more than 100"):
        load(path).read(0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("commonroad") / "scenario.xml"


def damage(path, mutations):
    for text in (OLD, NEW):
        path.write_bytes(mutate(text.encode(), mutations))
        check(path)


@settings(max_examples=60)
@given(mutations=MUTATIONS)
def test_damaged_files(path, mutations):
    damage(path, mutations)


@pytest.mark.slow
@settings(max_examples=5000)
@given(mutations=MUTATIONS)
def test_many_damaged_files(path, mutations):
    damage(path, mutations)


@pytest.fixture(scope="module")
def sample():
    return load(recorded("commonroad/USA_Lanker-1_1_T-1.xml"))


def test_numbers_of_the_recorded_scene(sample):
    raw = sample.read(0)
    assert (raw.scenario_id, raw.sdc_index, raw.current_step) == ("USA_Lanker-1_1_T-1", -1, 0)
    np.testing.assert_allclose(raw.timestamps, 0.1 * np.arange(41))
    assert raw.agent_type.tolist() == [1] * 24
    # All are valid at first; one ends after step 8 and one after step 26.
    assert raw.valid.sum(axis=1).tolist() == [24] * 9 + [23] * 18 + [22] * 14
    assert (raw.agent_id[0], raw.size[0, 0].tolist()) == (1213, [3.1699, 2.0726, 1.5])
    np.testing.assert_allclose(raw.xyz[1, 0], [7.1255, 15.1052, 0.75])
    np.testing.assert_allclose(raw.velocity[1, 0], 9.6774 * np.array([np.cos(1.0983), np.sin(1.0983)]))
    kinds = collections.Counter(kind_name(code) for code in raw.feature_type.tolist())
    # The 182 bounds of 91 lanelets hold 880 points; 58 are shared, so 124 lines with 636 points remain, and each
    # centerline has as many points as either of its bounds.
    assert kinds == {"lane": 91, "road_line": 124}
    assert len(raw.point_xyz) == 636 + 880 // 2
    assert collections.Counter(raw.speed_limit[:91].tolist()) == {13.4112: 74, 11.176: 17}
    assert feature(raw, 3419)[0] == pytest.approx([(29.1793 + 26.4695) / 2, (70.0118 + 71.4029) / 2])


def test_recorded_traffic_drives_along_lanes(sample):
    raw, lanes = sample.read(0), sample[0].lanes
    origin = sample[0].origin[:2]
    course = np.arctan2(*(lanes.end - lanes.start)[:, 1::-1].T)
    for agent in np.flatnonzero(np.linalg.norm(raw.velocity[0], axis=-1) > 3):
        away = np.linalg.norm(lanes.start[:, :2] + origin - raw.xyz[0, agent, :2], axis=-1)
        assert np.cos(course[away < 8] - raw.yaw[0, agent]).max() > 0.95


def test_lanes_of_the_recorded_scene_are_linked(sample):
    """Successors start at the end of their predecessor."""
    raw = sample.read(0)
    rows = [raw.point_xyz[raw.point_feature == row] for row in range(len(raw.feature_id))]
    for before, after, kind in raw.links:
        if kind == SUCCESSOR:
            np.testing.assert_allclose(rows[before][-1], rows[after][0], atol=0.5)
