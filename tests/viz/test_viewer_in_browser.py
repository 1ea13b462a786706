"""Pages of the viewer in a real browser: playback, mouse, keyboard, and no network requests."""

import json
import time

import jax
import numpy as np
import pytest

from tests.data import recorded
from tests.viz.browser import READY, SHIFT, differ, picture, screen_position
from tests.viz.pages import busy_scene, shifted_trace
from waymax_sim.datasets.loader import load
from waymax_sim.viz import Page, viewer


def recorded_scene():
    return jax.tree.map(np.asarray, load(str(recorded("womd/scenario_637f20cafde22ff8.tfrecord")))[0])


SCENES = pytest.mark.parametrize("make_scenario", [busy_scene, recorded_scene])


@SCENES
def test_a_page_plays_and_scrubs(browser, make_scenario):
    scenario = make_scenario()
    now, last = int(scenario.current_step), scenario.num_steps - 1
    browser.open(viewer(scenario).html, READY)
    assert browser.run("[panels.length, view.time]") == [1, now]
    before = picture(browser)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 8

    browser.click("#play")
    time.sleep(0.5)
    assert browser.run("byId('play').textContent") == "Pause"
    browser.press(" ")  # the button has the focus
    played = browser.run("view.time")
    assert browser.run("byId('play').textContent") == "Play"
    assert now + 1 < played <= last and differ(picture(browser), before)
    time.sleep(0.2)
    assert browser.run("view.time") == played

    browser.run("byId('time').focus()")
    browser.press("Home")
    browser.press("ArrowRight")
    assert browser.run("[view.time, byId('time').value]") == [1, "1"]
    assert browser.run("byId('clock').textContent") == f"step 1 of {last}, {scenario.timestamps[1]:.2f} s"
    browser.run("byId('time').blur()")
    browser.press("End")
    browser.press("ArrowLeft")
    assert browser.run("view.time") == last - 1
    browser.press("ArrowLeft", SHIFT)
    assert browser.run("view.time") == last - 11


def test_playback_ends_with_the_record_and_restarts(browser):
    browser.open(viewer(busy_scene()).html, READY)
    browser.run("byId('speed').value = '4'")
    browser.press("End")
    browser.press(" ")
    assert browser.run("view.playing && view.time < 20")
    browser.run("new Promise((done) => { const look = () => view.playing ? setTimeout(look, 20) : done(); look(); })")
    assert browser.run("view.time") == 20


@SCENES
def test_rollouts_side_by_side(browser, make_scenario):
    scenario = make_scenario()
    now, sdc = int(scenario.current_step), int(scenario.agents.is_sdc.argmax())
    num_steps, begins = scenario.num_steps - 1 - now, now + 4
    traces = {"left <b>": shifted_trace(scenario, num_steps), "right": shifted_trace(scenario, num_steps, -0.1)}
    browser.open(viewer(scenario, traces).html, READY)
    titles = browser.run("[...document.querySelectorAll('.panel h2')].map((title) => title.textContent)")
    assert titles == list(traces)
    row = "scene.agents[view.agent]?.row"
    assert browser.run(row) == sdc

    browser.press("n")
    event = f"overlap of {scenario.agents.id[sdc]} in left <b>, step {begins}"
    assert browser.run("[view.time, byId('status').textContent]") == [begins, event]
    facts = browser.run("byId('facts').textContent")
    assert "0.80 m" in facts and "0.40 m" in facts and "overlap" in facts
    assert browser.run("panels.map(({ rollout }) => driverName(rollout, view.agent))") == list(traces)
    assert differ(picture(browser, 0), picture(browser, 1))
    browser.press("n")
    assert browser.run("[view.time, byId('status').textContent]") == [begins, f"no event after step {begins}"]
    browser.press("Home")
    browser.press("p")
    assert browser.run("byId('status').textContent") == "no event before step 0"
    assert browser.run("document.querySelectorAll('.mark').length") == 2
    browser.click(".mark")
    assert browser.run("view.time") == begins

    # A click at the screen position of an agent selects it.
    browser.run("selectAgent(null)")
    browser.settle()
    assert browser.run("byId('facts').hidden")
    agent = browser.run("scene.agents.findIndex((agent) => agent.sdc)")
    position = screen_position(browser, 1, agent)
    browser.drag(position, position)
    assert browser.run(row) == sdc


def test_the_view_moves_with_mouse_and_keys(browser):
    scenario = busy_scene()
    browser.open(viewer(scenario, shifted_trace(scenario, 15)).html, READY)
    assert browser.run("view.follow")
    agent = browser.run("view.agent")
    start = screen_position(browser, 0, agent)
    browser.drag(start, [start[0] + 60, start[1] - 30])
    assert not browser.run("view.follow") and browser.run("view.agent") == agent
    # Dragging and zooming keep the map point under the pointer.
    assert screen_position(browser, 0, agent) == pytest.approx([start[0] + 60, start[1] - 30], abs=0.1)
    radius = browser.run("view.radius")
    browser.wheel([start[0] + 60, start[1] - 30], -200)
    assert browser.run("view.radius") < radius
    assert screen_position(browser, 0, agent) == pytest.approx([start[0] + 60, start[1] - 30], abs=0.6)
    browser.press("f")
    assert screen_position(browser, 0, agent) == pytest.approx(start, abs=0.6)
    browser.press("0")
    assert browser.run("view.radius") > radius
    for key, sign, axis in (("a", -1, "x"), ("d", 1, "x"), ("w", 1, "y"), ("s", -1, "y")):
        before = browser.run(f"view.{axis}")
        browser.press(key)
        assert (browser.run(f"view.{axis}") - before) * sign > 0
    browser.press("+")
    assert browser.run("view.radius") < browser.run("FIRST_RADIUS") * 4


def test_layers_and_themes_change_the_picture(browser):
    scenario = busy_scene()
    browser.open(viewer(scenario, shifted_trace(scenario, 15, 0.5)).html, READY)
    themes, light = [browser.run("document.documentElement.dataset.theme")], picture(browser)
    browser.press("t")
    themes.append(browser.run("document.documentElement.dataset.theme"))
    assert sorted(themes) == ["dark", "light"] and differ(picture(browser), light)
    for key in ("End", "0"):
        browser.press(key)
    visible, reference = set(), picture(browser)
    for layer in browser.run("LAYERS"):
        browser.run(f"byId('layers').querySelector('[value={layer}]').click()")
        browser.settle()
        if differ(picture(browser), reference):
            visible.add(layer)
        browser.run(f"byId('layers').querySelector('[value={layer}]').click()")
        browser.settle()
        assert not differ(picture(browser), reference)
    # This scene has neither road lines nor areas.
    assert visible == {"lanes", "edges", "lights", "agents", "ids", "routes", "trails", "log"}
    assert browser.run("findLanes(scene).length") > 0


def test_keys_select_agents(browser):
    browser.open(viewer(busy_scene()).html, READY)
    agent = browser.run("view.agent")
    browser.press("]")
    other = browser.run("view.agent")
    assert other != agent and browser.run("byId('agent').value") == str(other)
    browser.press("[")
    assert browser.run("view.agent") == agent


def test_every_control_has_a_name_and_is_reachable_by_tab(browser):
    scenario = busy_scene()
    browser.open(viewer(scenario, shifted_trace(scenario, 15)).html, READY)
    controls = "[...document.querySelectorAll('button, input, select, canvas[tabindex], summary')]"
    assert browser.run(f"{controls}.length") > 20
    named = "node.ariaLabel || node.textContent.trim() || node.labels?.length"
    assert browser.run(f"{controls}.filter((node) => !({named})).map((node) => node.outerHTML)") == []
    assert browser.run(f"{controls}.filter((node) => node.tabIndex < 0).map((node) => node.outerHTML)") == []
    assert browser.run("panels.map((panel) => panel.canvas.ariaLabel)") == ["Map of simulation"]


def test_an_incomplete_scene_has_a_page(browser):
    scenario = busy_scene(sdc_index=-1, valid=np.zeros((21, 12), bool))
    browser.open(viewer(scenario).html, READY)
    for key in (" ", "n", "p", "]", "[", "f", "0", "End"):
        browser.press(key)
    assert browser.run("view.agent") is None


def test_a_page_works_in_a_frame_of_a_notebook(browser):
    frame = viewer(busy_scene())._repr_html_()
    inner = "document.querySelector('iframe')?.contentDocument"
    browser.open(Page(f"<!doctype html><meta charset='utf-8'>{frame}").html, f"{inner}?.documentElement?.dataset.ready")
    assert browser.run(f"{inner}.getElementById('clock').textContent") == "step 5 of 20, 0.50 s"
    assert json.loads(browser.run(f"JSON.stringify({inner}.title)")) == "synthetic"
