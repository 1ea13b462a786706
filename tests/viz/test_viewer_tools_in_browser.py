"""Tools of the viewer in a real browser: menus, ruler, heading up, links, exports, lanes and derived quantities."""

import base64
import io
import json
import time

import jax
import numpy as np
import pytest
from PIL import Image

from tests.viz.browser import READY, differ, picture, screen_position
from tests.viz.pages import busy_scene, shifted_trace
from waymax_sim.datasets.loader import load
from waymax_sim.viz import viewer


def test_stop_signs_are_a_layer_of_their_own(browser):
    """The synthetic scene has two stop signs and no lights."""
    scenario = jax.tree.map(np.asarray, load("synthetic:0:5")[4])
    browser.open(viewer(scenario).html, READY)
    browser.press("0")
    reference = picture(browser)
    changes = {}
    for layer in ("signs", "lights"):
        browser.run(f"toggleLayer('{layer}')")
        browser.settle()
        changes[layer] = differ(picture(browser), reference)
        browser.run(f"toggleLayer('{layer}')")
        browser.settle()
    assert changes == {"signs": True, "lights": False}


def test_menus_close(browser):
    browser.open(viewer(busy_scene()).html, READY)
    opened = "[...document.querySelectorAll('details[open] summary')].map((node) => node.textContent)"
    browser.click("details:nth-of-type(1) summary")
    assert browser.run(opened) == ["Layers"]
    browser.click("#layers input")
    assert browser.run(opened) == ["Layers"], "a click inside leaves the menu open"
    browser.press("Escape")
    assert browser.run(opened) == [] and browser.run("document.activeElement.textContent") == "Layers"
    browser.click("details:nth-of-type(3) summary")
    browser.click("details:nth-of-type(2) summary")
    assert browser.run(opened) == ["Export"], "another menu replaces the first one"
    browser.click("canvas")
    assert browser.run(opened) == []


def test_the_heading_of_the_agent_is_up(browser):
    scenario = busy_scene()
    browser.open(viewer(scenario, shifted_trace(scenario, 15)).html, READY)
    browser.press("h")
    offset = """(() => {
      const { camera, rollout } = panels[0];
      const pose = agentAt(scene, rollout, view.agent, view.time);
      const [at, ahead] = [0, 10].map((distance) =>
        toCanvas(camera, pose.x + distance * Math.cos(pose.yaw), pose.y + distance * Math.sin(pose.yaw)));
      return [ahead[0] - at[0], (at[1] - ahead[1]) / camera.scale];
    })()"""
    assert browser.run(offset) == pytest.approx([0, 10], abs=1e-6)
    round_trip = "toMap(panels[0].camera, ...toCanvas(panels[0].camera, 12.5, -3))"
    assert browser.run(round_trip) == pytest.approx([12.5, -3])
    agent = browser.run("view.agent")
    start = screen_position(browser, 0, agent)
    browser.drag(start, [start[0] + 40, start[1] - 30])
    assert screen_position(browser, 0, agent) == pytest.approx([start[0] + 40, start[1] - 30], abs=0.1)
    before = screen_position(browser, 0, agent)
    browser.press("w")
    moved = screen_position(browser, 0, agent)
    assert moved[0] == pytest.approx(before[0], abs=0.1) and moved[1] > before[1] + 10


def test_the_ruler_measures_distances(browser):
    browser.open(viewer(busy_scene()).html, READY)
    agent = browser.run("view.agent")
    start = screen_position(browser, 0, agent)
    browser.press("m")
    browser.drag(start, start)
    end = [start[0] + 90, start[1] - 120]
    browser.drag(end, end)
    meters = 150 * browser.run("devicePixelRatio / panels[0].camera.scale")
    assert browser.run("rulerText(view.ruler.points)") == f"{meters:.2f} m"
    assert browser.run("view.agent") == agent, "clicks of the ruler select nothing"
    browser.press("Escape")
    assert browser.run("[view.ruler.active, view.ruler.points.length]") == [False, 0]


def test_the_address_links_to_a_step_and_an_agent(browser):
    scenario = busy_scene()
    other = int(np.flatnonzero(scenario.agents.exists & ~scenario.agents.is_sdc)[0])
    page = viewer(scenario, shifted_trace(scenario, 15)).html
    browser.open(page, READY, f"#step=9&agent={scenario.agents.id[other]}")
    assert browser.run("[view.time, scene.agents[view.agent].row]") == [9, other]
    browser.press("End")
    time.sleep(0.5)
    assert browser.run("location.hash") == f"#step=20&agent={scenario.agents.id[other]}"
    browser.run("new Promise((done) => { addEventListener('hashchange', done); location.hash = 'step=3'; })")
    assert browser.run("view.time") == 3
    browser.open(page, READY, "#step=999&agent=none")
    assert browser.run("[view.time, scene.agents[view.agent].sdc]") == [20, True]


def test_images_and_videos_are_exported(browser):
    scenario = busy_scene()
    traces = {"left": shifted_trace(scenario, 15), "right": shifted_trace(scenario, 15, -0.1)}
    browser.open(viewer(scenario, traces).html, READY)
    text = "async (blob) => btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())))"
    with Image.open(io.BytesIO(base64.b64decode(browser.run(f"imageBlob().then({text})")))) as image:
        width, height = browser.run("[byId('panels').clientWidth, byId('panels').clientHeight]")
        assert (image.format, image.size) == ("PNG", (width, height))
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 8
    browser.run("jump(18)")
    header = "videoBlob().then((blob) => blob.arrayBuffer()).then((data) => [...new Uint8Array(data).slice(0, 4)])"
    assert bytes(browser.run(header)) == b"\x1a\x45\xdf\xa3"  # EBML
    assert browser.run("[view.time, view.playing, video]") == [20, False, None]


def test_quantities_of_hand_computed_tracks(browser):
    """Derivatives, lanes and routes at a position, and the clock of a record with uneven steps."""
    browser.open(viewer(busy_scene()).html, READY)
    # 2 m/s² forward and 0.5 rad/s, in steps of 0.1 s and 0.3 s; the last step is not valid.
    times = [0.0, 0.1, 0.4, 0.5, 0.8, 0.9]
    track = {"valid": [True] * 5 + [False], "yaw": [0.5 * t for t in times]}
    track |= {name: [2 * t * f(0.5 * t) for t in times] for name, f in (("vx", np.cos), ("vy", np.sin))}
    record = json.dumps({"times": times, "length": 6, "log": [track]})
    for step in (0, 2, 4):
        result = browser.run(f"derivatives({record}, null, 0, {step})")
        assert result == {"acceleration": pytest.approx(2.0), "yawRate": pytest.approx(0.5)}
    assert browser.run(f"derivatives({record}, null, 0, 5)") == {"acceleration": None, "yawRate": None}
    assert browser.run(f"[recordTime({record}, 1.5), stepAt({record}, 0.25), stepAt({record}, 7)]") == [0.25, 1.5, 5]
    lanes = [{"id": 1, "x": [0, 100], "y": [0, 0]}, {"id": 2, "x": [100, 0], "y": [1, 1]}]
    shown = json.dumps([{"id": a["id"], "limit": 5, "height": 1.0, "line": {"x": a["x"], "y": a["y"]}} for a in lanes])
    poses = {"{ x: 5, y: 0.9 }": 2, "{ x: 5, y: 0.9, yaw: 0.1, z: 0 }": 1, "{ x: 5, y: -3 }": None}
    poses |= {"{ x: 5, y: 0, z: 9 }": None, "{ x: 5, y: 0.5, yaw: 1.57 }": None}
    for pose, expected in poses.items():
        assert browser.run(f"laneAt({shown}, {pose})?.id ?? null") == expected
    routes = json.dumps({"routes": [{"on_route": on, "x": [0, 9], "y": [y, y]} for on, y in ((True, 0), (False, 5))]})
    assert browser.run(f"[0, 5, 9].map((y) => routeAt({routes}, {{ x: 3, y }}))") == ["on", "other path", "off"]
    assert browser.run("routeAt({ routes: [] }, { x: 0, y: 0 })") is None


def test_lane_and_agent_under_the_cursor(browser):
    scenario = busy_scene()
    browser.open(viewer(scenario).html, READY)
    agent = browser.run("view.agent")
    x, y = screen_position(browser, 0, agent)
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    browser.settle()
    text = browser.run("panels[0].probe.textContent")
    assert text.startswith("x ") and f"sdc {scenario.agents.id[scenario.agents.is_sdc][0]}" in text
    lane = browser.run("laneAt(lanes, agentAt(scene, null, view.agent, view.time))?.id ?? null")
    assert lane is None or f"lane {lane}" in text
    assert browser.run("byId('facts').textContent").count("m/s²") == 1
