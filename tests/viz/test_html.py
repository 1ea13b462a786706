"""Pages of the viewer hold the scene within the documented precision, and no external resources."""

import dataclasses
import html
import json
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import recorded
from tests.scenes import raw_scene, scene
from tests.viz.pages import busy_scene, decode_page, flags, numbers, shifted_trace
from waymax_sim.datasets.loader import load
from waymax_sim.datatypes.roadmap import LANE_TYPES
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import tree_index
from waymax_sim.viz import style, viewer
from waymax_sim.viz.html import PAGE_DIR
from waymax_sim.viz.packing import NUM_METRIC_LEVELS, POSITION_UNIT, SIMPLIFY_TOLERANCE, STATE_UNITS, simplify

RECORDED = (
    "womd/scenario_637f20cafde22ff8.tfrecord",
    "womd/scenario_2a1e44d405a6833f.tfrecord",
    "womd/tf_example_a3bb37c25ce56418.tfrecord",
)
# The scripts and the style take 50 kB of it.
MAX_BYTES = 160_000


def check_track(track: dict, states, agent: int) -> None:
    """A packed track is the column `agent` of the states where they are valid."""
    valid = states.valid[:, agent]
    np.testing.assert_array_equal(flags(track["valid"], len(valid)), valid)
    columns = {"x": states.xyz[..., 0], "y": states.xyz[..., 1], "z": states.xyz[..., 2], "yaw": states.yaw}
    columns |= {"vx": states.velocity[..., 0], "vy": states.velocity[..., 1]}
    for name, unit in STATE_UNITS.items():
        off = numbers(track[name], unit) - columns[name][:, agent]
        if name == "yaw":
            off = (off + np.pi) % (2 * np.pi) - np.pi
        assert np.abs(off[valid]).max(initial=0.0) <= unit / 2 + 1e-5


def check_log(packed: dict, scenario) -> None:
    rows = np.flatnonzero(scenario.agents.exists)
    assert [item["row"] for item in packed["agents"]] == rows.tolist()
    assert [item["id"] for item in packed["agents"]] == scenario.agents.id[rows].tolist()
    assert [item["sdc"] for item in packed["agents"]] == scenario.agents.is_sdc[rows].tolist()
    sizes = np.reshape([item["size"] for item in packed["agents"]], (-1, 3))
    np.testing.assert_allclose(sizes, scenario.agents.size[rows], atol=0.005 + 1e-6)
    for track, row in zip(packed["log"], rows, strict=True):
        check_track(track, scenario.log, row)


def distance_to_line(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of points to a polyline."""
    start, chord = line[:-1], np.diff(line, axis=0)
    fraction = np.einsum("psi,si->ps", points[:, None] - start, chord) / np.maximum((chord**2).sum(axis=-1), 1e-12)
    foot = start + np.clip(fraction, 0, 1)[..., None] * chord
    return np.linalg.norm(points[:, None] - foot, axis=-1).min(axis=1)


def check_map(packed: dict, scenario) -> None:
    """Every map point is close to a line of its type on the page, and lanes have their ids and limits."""
    limits = {
        number: limit
        for group in packed["map"]
        for number, limit in zip(group.get("id", []), group.get("limit", []), strict=True)
    }
    is_lane = np.isin(scenario.roadmap.feature_type, LANE_TYPES)
    used = np.intersect1d(np.flatnonzero(is_lane), scenario.roadmap.feature[scenario.roadmap.valid])
    ids, expected = scenario.roadmap.feature_id[used], scenario.roadmap.speed_limit[used]
    assert limits == dict(zip(ids.tolist(), np.round(expected.astype(float), 1).tolist(), strict=True))
    roadmap = scenario.roadmap
    kind = roadmap.feature_type[roadmap.feature]
    drawn: dict[int, list] = {}
    for group in packed["map"]:
        lines = [np.stack([numbers(axis, POSITION_UNIT) for axis in line], axis=-1) for line in group["lines"]]
        drawn.setdefault(group["type"], []).extend(line if len(line) > 1 else line[[0, 0]] for line in lines)
    assert set(drawn) == set(np.unique(kind[roadmap.valid]).tolist())
    for code, lines in drawn.items():
        points = roadmap.xyz[roadmap.valid & (kind == code), :2].astype(float)
        off = np.min([distance_to_line(points[::7], line) for line in lines], axis=0)
        assert off.max() <= SIMPLIFY_TOLERANCE + POSITION_UNIT


def test_a_scene_is_decoded():
    scenario = busy_scene()
    packed = decode_page(viewer(scenario).html)
    check_log(packed, scenario)
    check_map(packed, scenario)
    assert packed["id"] == scenario.scenario_id and packed["now"] == scenario.current_step
    np.testing.assert_allclose(packed["times"], scenario.timestamps, atol=1e-3)
    assert [route["on_route"] for route in packed["routes"]] == [True, False]
    np.testing.assert_allclose(
        numbers(packed["routes"][1]["line"][1], POSITION_UNIT), scenario.routes.xyz[1, 0, 1], atol=0.006
    )


def test_lights_are_decoded():
    state = np.full((21, 2), 6)
    state[7:, 0] = 4
    valid = np.ones((21, 2), bool)
    valid[:3, 0], valid[:, 1] = False, False
    position = np.tile([12.34, -5.0, 0.0], (21, 2, 1))
    lights = {"signal_lane_id": np.array([10, 11]), "signal_state": state, "signal_stop_point": position}
    scenario = scene(**lights, signal_valid=valid)
    (light,) = decode_page(viewer(scenario).html)["lights"]
    assert light["lane"] == 10
    decoded_valid = flags(light["valid"], 21)
    np.testing.assert_array_equal(decoded_valid, valid[:, 0])
    np.testing.assert_array_equal(numbers(light["state"], 1.0)[decoded_valid], state[decoded_valid, 0])
    for axis, name in enumerate("xy"):
        stop = scenario.signals.stop_point[decoded_valid, 0, axis]
        np.testing.assert_allclose(numbers(light[name], POSITION_UNIT)[decoded_valid], stop, atol=0.006)


def test_rollouts_are_decoded():
    scenario = busy_scene()
    trace = shifted_trace(scenario, 9, lateral_step=-0.37)
    packed = decode_page(viewer(scenario, {"first": trace, "second": shifted_trace(scenario, 5)}).html)
    first, second = packed["rollouts"]
    assert (first["name"], first["first"], first["last"]) == ("first", 6, 14)
    assert (second["name"], second["first"], second["last"]) == ("second", 6, 10)
    sdc = int(scenario.agents.is_sdc.argmax())
    # Only the sdc leaves the log.
    assert list(first["tracks"]) == list(second["tracks"]) == [str(sdc)]
    states = jax.tree.map(np.copy, scenario.log)
    for whole, part in zip(jax.tree.leaves(states), jax.tree.leaves(trace.agents), strict=True):
        whole[6:15] = part
    check_track(first["tracks"][str(sdc)], states, sdc)
    assert first["drivers"] == ["first"]
    named = decode_page(viewer(scenario, {"first": trace}, {"first": ("idm", "log")}).html)
    assert named["rollouts"][0]["drivers"] == ["idm", "log"]
    assert first["controller"][sdc] == 2 and sum(first["controller"]) == 2


def test_metrics_are_decoded():
    scenario = busy_scene()
    trace = shifted_trace(scenario, 9)
    packed = decode_page(viewer(scenario, trace).html)
    sdc = int(scenario.agents.is_sdc.argmax())
    described = {item["name"]: (row, item) for row, item in enumerate(packed["metrics"])}
    assert {name: (item["unit"], item["events"]) for name, (_, item) in described.items()} == {
        "overlap": ("", True),
        "log_divergence": ("m", False),
        "route_progression": ("", False),
    }
    for name, (row, item) in described.items():
        (series,) = packed["rollouts"][0]["metrics"][row]
        metric = trace.metrics[name]
        per_agent = metric.value.ndim == 2
        assert series["agent"] == (sdc if per_agent else None)
        value, valid = (metric.value[:, sdc], metric.valid[:, sdc]) if per_agent else (metric.value, metric.valid)
        np.testing.assert_array_equal(flags(series["valid"], 21)[6:15], valid)
        assert not flags(series["valid"], 21)[:6].any()
        off = numbers(series["value"], item["quantum"])[6:15] - value
        assert np.abs(off[valid]).max() <= np.abs(metric.value[metric.valid]).max() / NUM_METRIC_LEVELS


def test_steps_after_the_record_are_left_out():
    scenario = scene()
    trace = shifted_trace(scenario, 9)
    ended = dataclasses.replace(trace, active=np.arange(9) < 4)
    (rollout,) = decode_page(viewer(scenario, ended).html)["rollouts"]
    assert (rollout["first"], rollout["last"]) == (6, 9)


def test_diverged_states_are_not_valid():
    scenario = scene()
    trace = shifted_trace(scenario, 9)
    trace.agents.xyz[4, 0, 0], trace.agents.xyz[5, 0, 0] = np.nan, 1e30
    trace.metrics["log_divergence"].value[4, 0] = np.inf
    packed = decode_page(viewer(scenario, trace).html)
    track = packed["rollouts"][0]["tracks"]["0"]
    np.testing.assert_array_equal(flags(track["valid"], 21), ~np.isin(np.arange(21), (10, 11)))
    (series,) = packed["rollouts"][0]["metrics"][1]
    assert not flags(series["valid"], 21)[10]


@pytest.mark.parametrize("sample", RECORDED)
def test_recorded_scenes_are_decoded_and_their_pages_are_small(sample):
    scenario = jax.tree.map(np.asarray, load(str(recorded(sample)))[0])
    page = viewer(scenario, {"one": shifted_trace(scenario, 80), "two": shifted_trace(scenario, 80, -0.3)})
    assert len(page.html.encode()) <= MAX_BYTES
    packed = decode_page(page.html)
    check_log(packed, scenario)
    check_map(packed, scenario)


def test_the_page_of_a_rollout_of_all_agents_is_small():
    """The worst case: every agent of a crowded scene leaves the log and is evaluated."""
    scenario = jax.tree.map(np.asarray, load(str(recorded(RECORDED[1])))[0])
    trace = shifted_trace(scenario, 80)
    rng = np.random.default_rng(0)
    wander = rng.normal(0, 0.05, trace.agents.xyz.shape).cumsum(axis=0).astype(np.float32)
    agents = dataclasses.replace(trace.agents, xyz=trace.agents.xyz + wander)
    final = dataclasses.replace(trace.final, controller=np.full(scenario.num_agents, 2, np.int32))
    metrics = trace.metrics | {
        "log_divergence": MetricValue(value=np.linalg.norm(wander, axis=-1), valid=agents.valid),
    }
    page = viewer(scenario, dataclasses.replace(trace, agents=agents, final=final, metrics=metrics))
    assert len(page.html.encode()) <= MAX_BYTES


def test_the_page_makes_no_network_request():
    page = viewer(busy_scene(), shifted_trace(busy_scene(), 9)).html
    without_data = re.sub(r'(<script id="scene"[^>]*>)[^<]*', r"\1", page)
    assert len(without_data) < len(page)
    for word in ("http", "//cdn", "src=", "href=", "import ", "fetch(", "XMLHttpRequest", "url("):
        assert word not in without_data
    assert "<!--" not in without_data


def test_names_are_text_and_never_markup():
    scenario = scene(scenario_id="</title><script>alert(1)</script>")
    page = viewer(scenario, {"</script><b>": shifted_trace(scenario, 9)})
    assert "alert(1)</script>" not in page.html and "</script><b>" not in page.html
    assert html.escape(scenario.scenario_id) in page.html


def test_a_page_is_saved_and_shown_in_notebooks(tmp_path):
    page = viewer(jax.device_put(scene()))
    assert page.save(tmp_path / "scene.html") == tmp_path / "scene.html"
    assert (tmp_path / "scene.html").read_text(encoding="utf-8") == page.html
    (inside,) = re.findall(r'<iframe [^>]*srcdoc="([^"]*)"', page._repr_html_())
    assert html.unescape(inside) == page.html


def test_incomplete_scenes_have_pages():
    raw = raw_scene(valid=np.zeros((21, 3), bool), sdc_index=-1)
    packed = decode_page(viewer(scene(valid=raw.valid, sdc_index=-1)).html)
    assert all(track["valid"] == [] for track in packed["log"])


def test_errors_name_the_problem():
    scenario = scene()
    trace = shifted_trace(scenario, 9)
    with pytest.raises(ValueError, match=r"'simulation' has no agents; record them"):
        viewer(scenario, dataclasses.replace(trace, agents=None))
    with pytest.raises(ValueError, match=r"'a' has a batch axis; pick one"):
        viewer(scenario, {"a": jax.tree.map(lambda leaf: leaf[None], trace)})
    with pytest.raises(ValueError, match="no active step"):
        viewer(scenario, dataclasses.replace(trace, active=np.zeros(9, bool)))
    with pytest.raises(ValueError, match="not of this scene"):
        viewer(scene(num_agents=4), trace)
    with pytest.raises(ValueError, match="not of this scene"):
        viewer(scene(num_steps=12), trace)
    with pytest.raises(ValueError, match="batch"):
        viewer(tree_index(scenario, np.newaxis))


def test_colors_of_agents_are_those_of_images():
    css = (PAGE_DIR / "style.css").read_text(encoding="utf-8")
    for color in (style.SDC_COLOR, *style.AGENT_COLORS.values(), style.GO_COLOR, style.CAUTION_COLOR, style.STOP_COLOR):
        assert f": {color};" in css


@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 2), min_size=1, max_size=30), st.floats(0.001, 5))
def test_simplified_lines_are_close_to_all_points(points, tolerance):
    points = np.array(points)
    line = simplify(points, tolerance)
    np.testing.assert_array_equal(line[[0, -1]], points[[0, -1]])
    assert distance_to_line(points, line if len(line) > 1 else line[[0, 0]]).max() <= tolerance + 1e-6


def test_straight_lines_become_two_points():
    assert len(simplify(np.stack([np.arange(50.0), 2 * np.arange(50.0)], axis=-1), 0.01)) == 2


def test_the_decoder_of_the_page_inverts_the_encoder(tmp_path):
    """The JavaScript decoder, run by node, gives the encoded numbers."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; it runs the decoder of the page without a browser")
    scenario = busy_scene()
    trace = shifted_trace(scenario, 9)
    (tmp_path / "scene.txt").write_text(
        re.findall(r'type="text/plain">([^<]*)<', viewer(scenario, trace).html)[0], encoding="utf-8"
    )
    query = """
      const text = require("fs").readFileSync(process.argv[2], "utf-8");
      inflate(text).then((packed) => {
        const scene = decodeScene(packed);
        const [rollout] = scene.rollouts;
        const sdc = scene.agents.findIndex((agent) => agent.sdc);
        console.log(JSON.stringify({
          log: scene.log, own: rollout.tracks.get(sdc), metrics: rollout.metrics, events: findEvents(scene),
          ended: agentAt(scene, rollout, sdc, 15),
          between: poseAt({ ...scene.log[sdc], valid: Array(21).fill(true) }, 3.25),
          near: nearestAgent(scene, null, 5, scene.log[sdc].x[5], scene.log[sdc].y[5], 0.1),
        }));
      });
    """
    script = tmp_path / "query.js"
    script.write_text((PAGE_DIR / "scene.js").read_text(encoding="utf-8") + query, encoding="utf-8")
    run = subprocess.run([node, script, tmp_path / "scene.txt"], capture_output=True, text=True, check=True)
    answers = json.loads(run.stdout)
    log, sdc = scenario.log, int(scenario.agents.is_sdc.argmax())
    rows = np.flatnonzero(scenario.agents.exists)
    for track, row in zip(answers["log"], rows, strict=True):
        valid = log.valid[:, row]
        assert track["valid"] == valid.tolist()
        np.testing.assert_allclose(np.array(track["x"])[valid], log.xyz[valid, row, 0], atol=0.0051)
        np.testing.assert_allclose(np.cos(track["yaw"])[valid], np.cos(log.yaw[valid, row]), atol=0.0051)
    own = np.array(answers["own"]["y"])[6:15][trace.agents.valid[:, sdc]]
    np.testing.assert_allclose(own, trace.agents.xyz[trace.agents.valid[:, sdc], sdc, 1], atol=0.0051)
    assert answers["events"] == [{"step": 9, "rollout": 0, "metric": 0, "agents": [sdc]}]
    assert answers["ended"] is None and answers["near"] == sdc
    x = answers["log"][sdc]["x"]
    assert answers["between"]["x"] == pytest.approx(0.75 * x[3] + 0.25 * x[4])
