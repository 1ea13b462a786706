"""The report of an evaluation in a real browser: sorting, filters, the scatter plot, and links into viewers."""

from tests.evaluation.evaluated import summary_of, two_policies
from tests.viz.browser import READY
from tests.viz.pages import busy_scene, shifted_trace
from waymax_sim.evaluation import SceneViewer, html_report
from waymax_sim.evaluation.report.viewers import first_events
from waymax_sim.viz import viewer

NUM_SCENES = 12
COLUMN = "[...document.querySelectorAll('#scenes tbody td:nth-child({})')].map((cell) => cell.textContent)"
SCENES = COLUMN.format(1)
SCORES = COLUMN.format(4)


def report() -> str:
    """A report of two policies; scene 0 can be played."""
    scenario, rows, run = busy_scene(), two_policies(NUM_SCENES), ("a", "log_replay", 0)
    trace = shifted_trace(scenario, 9)
    events = tuple(first_events(scenario, {run: trace}))
    return html_report(summary_of(rows), rows, [SceneViewer("scene 0", viewer(scenario, trace).html, 0, events)])


def choose(browser, element: str, value: str) -> None:
    browser.run(
        f"(() => {{ byId('{element}').value = '{value}'; byId('{element}').dispatchEvent(new Event('change'));"
        f"byId('{element}').dispatchEvent(new Event('input')); }})()"
    )


def test_a_report_is_sorted_filtered_and_linked(browser):
    browser.open(report(), READY)
    assert len(browser.run(SCENES)) == NUM_SCENES
    for descending in (False, True):
        browser.run("document.querySelector('#scenes th:nth-child(4) button').click()")
        scores = [float(text) for text in browser.run(SCORES)]
        assert scores == sorted(scores, reverse=descending) and len(set(scores)) == NUM_SCENES
    assert browser.run("document.querySelector('[aria-sort]').ariaSort") == "descending"
    choose(browser, "result", "1")
    assert [float(text) for text in browser.run(SCORES)] != scores[::-1]
    choose(browser, "kind", "turning")
    assert browser.run("byId('count').textContent") == f"{NUM_SCENES // 2} of {NUM_SCENES} scenes"
    choose(browser, "kind", "")
    choose(browser, "filter", "scene 11")
    assert browser.run(SCENES) == ["scene 11"]

    # Each scene is a point, and a click on it selects its row.
    assert browser.run("document.querySelectorAll('#scatter circle').length") == NUM_SCENES
    assert "b<i> among log_replay is higher in 6, lower in 5, equal in 1" in browser.run(
        "byId('scatter-note').textContent"
    )
    browser.run("document.querySelector('#scatter circle').dispatchEvent(new Event('click'))")
    assert len(browser.run(SCENES)) == 1

    # A link opens the viewer of its scene at the event.
    choose(browser, "filter", "scene 0")
    choose(browser, "result", "0")
    browser.run("document.querySelector('#scenes a').click()")
    frame = "document.querySelector('#viewer-0 iframe')"
    browser.run(f"""new Promise((done) => {{
      const look = () => {frame}.contentDocument?.documentElement.dataset.ready ? done() : setTimeout(look, 20);
      look();
    }})""")
    browser.settle()
    assert browser.run(f"{frame}.contentDocument.getElementById('time').value") == "9"
    assert browser.run("location.hash") == "#viewer-0"
    # Another link, when the viewer is loaded.
    browser.run("openViewer(0, 'step=12')")
    browser.settle()
    assert browser.run(f"{frame}.contentDocument.getElementById('time').value") == "12"
