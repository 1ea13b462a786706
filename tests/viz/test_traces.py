"""Rollouts as arguments of images and videos: their own steps, and short texts of records for notebooks."""

import jax
import numpy as np
import pytest
from PIL import Image

from behavior_models import ConstantVelocity
from tests.programs import compiled_rollout
from tests.scenes import scene
from waymax_sim.datasets.loader import load
from waymax_sim.env import Env, EnvConfig
from waymax_sim.pytree import stack, tree_index
from waymax_sim.viz import animate, draw, to_image

ENV = Env(config=EnvConfig(controlled="all"))


@pytest.fixture(scope="module")
def run():
    scenario = scene()
    return scenario, compiled_rollout(ENV, ConstantVelocity(), scenario, jax.random.key(0), 6, record=("agents",))


def title(figure) -> str:
    return next(text.get_text() for text in figure.axes[0].texts if "step" in text.get_text())


def test_an_image_of_a_rollout_shows_its_own_step(run):
    scenario, trace = run
    for step, row in ((None, -1), (int(trace.step[2]), 2)):
        figure = draw(scenario, trace, step=step, size=2.0)
        assert f"step {int(trace.step[row])} " in title(figure)
        by_hand = draw(
            scenario,
            tree_index(trace.agents, row),
            step=int(trace.step[row]),
            past=tree_index(trace.agents, slice(0, row + 1 or None)),
            size=2.0,
        )
        np.testing.assert_array_equal(to_image(figure), to_image(by_hand))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_video_of_a_rollout_shows_its_own_steps(run, tmp_path):
    scenario, trace = run
    whole = animate(scenario, trace, tmp_path / "a.gif", size=1.0)
    by_hand = animate(scenario, trace.agents, tmp_path / "b.gif", steps=trace.step, size=1.0)
    assert whole.read_bytes() == by_hand.read_bytes()
    some = animate(scenario, trace, tmp_path / "c.gif", steps=trace.step[::3], size=1.0)
    with Image.open(some) as image:
        assert image.n_frames == 2
    with pytest.raises(ValueError, match=r"steps \[99\] are not in"):
        animate(scenario, trace, tmp_path / "d.gif", steps=np.array([99]))


def test_unusable_rollouts_are_named(run):
    scenario, trace = run
    with pytest.raises(ValueError, match="step 0 is not one of"):
        draw(scenario, trace, step=0)
    with pytest.raises(ValueError, match="has a batch axis"):
        draw(scenario, jax.tree.map(lambda leaf: leaf[None], trace))
    empty = compiled_rollout(ENV, ConstantVelocity(), scenario, jax.random.key(0), 6, record=())
    with pytest.raises(ValueError, match="has no agents; record them"):
        draw(scenario, empty)


def test_texts_of_records_are_short(run):
    scenario, trace = run
    assert repr(scenario).startswith(f"Scenario({scenario.scenario_id!r}: 3 agents, ")
    assert "<td>agents</td><td>3</td>" in scenario._repr_html_()
    assert repr(trace) == "Trace(6 steps; agents)"
    assert repr(trace.agents).startswith("AgentState(xyz=float32[6,3,3], ")
    batch = stack([scenario, scenario])
    assert "float32[2," in repr(batch) and "<td>" in batch._repr_html_()
    assert all(len(repr(each)) < 3000 for each in (scenario, trace, batch, scenario.log, trace.final))
    assert repr(load("synthetic:0:3")[1:]) == "Scenarios(2 of synthetic:0:3)"


def test_traced_records_have_a_text(run):
    scenario, trace = run
    texts = []

    def describe_all(*records):
        texts.extend(map(repr, records))

    jax.eval_shape(describe_all, scenario, trace)
    assert texts[0].startswith("Scenario(") and texts[1].startswith("Trace(")
