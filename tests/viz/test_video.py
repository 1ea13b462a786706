"""Videos: frames, and errors of ffmpeg, which a script replaces."""

import itertools
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.scenes import raw_scene, scene
from waymax_sim.datasets.errors import DataError
from waymax_sim.pytree import tree_index
from waymax_sim.viz import animate, draw, to_image
from waymax_sim.viz.draw import view_centers


def frames(path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray((image.seek(index), image.convert("RGB"))[1]).astype(int) for index in range(image.n_frames)]


def test_a_gif_has_all_frames_and_they_differ(tmp_path):
    scenario = scene()
    path = animate(scenario, tree_index(scenario.log, slice(0, 6)), tmp_path / "a.gif", size=2.0, fps=20.0)
    assert path == tmp_path / "a.gif"
    images = frames(path)
    assert len(images) == 6 and images[0].shape == (200, 200, 3)
    for one, other in itertools.pairwise(images):
        assert (np.abs(one - other).max(axis=-1) > 40).any()
    with Image.open(path) as image:
        assert image.info["duration"] == 50 and image.info["loop"] == 0


@pytest.mark.parametrize(("time_step", "stride", "duration"), [(0.1, 1, 100), (0.2, 1, 200), (0.1, 3, 300)])
def test_animations_are_in_real_time(tmp_path, time_step, stride, duration):
    scenario = scene(timestamps=time_step * np.arange(21))
    steps = stride * np.arange(2)
    path = animate(scenario, tree_index(scenario.log, steps), tmp_path / "a.gif", steps=steps, size=1.0)
    with Image.open(path) as image:
        assert image.info["duration"] == duration


def test_the_view_stays_while_the_agent_is_not_valid():
    valid = np.ones((21, 3), bool)
    valid[[0, 1, 6, 7, 20], 0] = False
    scenario = scene(valid=valid)
    centers, radius = view_centers(scenario, scenario.log, "sdc", 30.0)
    assert radius == 30.0
    x = scenario.log.xyz[:, 0, 0]
    np.testing.assert_allclose(centers[[0, 1, 2, 5, 6, 7, 8, 20], 0], x[[2, 2, 2, 5, 5, 5, 8, 19]])


def test_jax_arrays_are_drawn(tmp_path):
    scenario = jax.device_put(scene())
    path = animate(
        scenario, tree_index(scenario.log, slice(4, 6)), tmp_path / "a.GIF", steps=jnp.array([4, 5]), size=2.0
    )
    assert len(frames(path)) == 2


def test_without_ffmpeg_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"ffmpeg is not installed.*use \.gif or install ffmpeg"):
        animate(scene(), scene().log, tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


def replace_ffmpeg(tmp_path, monkeypatch, code: str) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(script))


def test_frames_of_an_mp4_equal_images_of_draw(tmp_path, monkeypatch):
    """ffmpeg receives every pixel; no artist of earlier frames remains; the map, drawn once, is complete."""
    save_input = "open(sys.argv[-1], 'wb').write(' '.join(sys.argv).encode() + b'|' + sys.stdin.buffer.read())"
    replace_ffmpeg(tmp_path, monkeypatch, save_input)
    # The second lane is outside of the first view.
    ends = np.array([[-50.0, 0.0, 0.0], [10.0, 0.0, 0.0], [30.0, 0.0, 0.0], [38.0, 0.0, 0.0]])
    table = {"feature_id": np.array([1, 2]), "feature_type": np.array([2, 2]), "speed_limit": np.zeros(2)}
    scenario = scene(point_xyz=ends, point_feature=np.array([0, 0, 1, 1]), **table)
    steps = np.array([3, 9, 10, 20])
    agents = tree_index(scenario.log, steps)
    overlap = np.zeros((4, 3), bool)
    overlap[1, 1] = True
    options = {"size": 3.0, "radius": 25.0, "controlled": np.arange(3) == 1}
    path = animate(scenario, agents, tmp_path / "a.mp4", steps=steps, flags={"overlap": overlap}, fps=10.0, **options)
    command, pixels = path.read_bytes().split(b"|", 1)
    assert b"-s 300x300 -r 10.0" in command
    images = np.frombuffer(pixels, np.uint8).reshape(4, 300, 300, 3)
    for index, step in enumerate(steps.tolist()):
        past = tree_index(agents, slice(0, index + 1))
        flags = {"overlap": overlap[index]}
        frame = draw(scenario, tree_index(agents, index), step=step, past=past, flags=flags, **options)
        np.testing.assert_array_equal(images[index], to_image(frame))


def test_a_failing_ffmpeg_is_quoted(tmp_path, monkeypatch):
    replace_ffmpeg(tmp_path, monkeypatch, "sys.exit('no such encoder')")
    with pytest.raises(DataError, match="no such encoder"):
        animate(scene(), scene().log, tmp_path / "a.mp4", size=2.0)


def test_errors_name_the_problem(tmp_path):
    scenario = scene()
    with pytest.raises(DataError, match=r"'\.avi'.*use \.gif or \.mp4"):
        animate(scenario, scenario.log, tmp_path / "a.avi")
    with pytest.raises(ValueError, match="3 steps for 21 states"):
        animate(scenario, scenario.log, tmp_path / "a.gif", steps=np.arange(3))
    with pytest.raises(ValueError, match="step 21 is not one of"):
        animate(scenario, scenario.log, tmp_path / "a.gif", steps=np.arange(1, 22))
    with pytest.raises(ValueError, match="at least one"):
        animate(scenario, tree_index(scenario.log, slice(0, 0)), tmp_path / "a.gif")


def test_incomplete_scenes_are_animated(tmp_path):
    raw = raw_scene(valid=np.zeros((21, 3), bool), sdc_index=-1)
    scenario = scene(**{name: getattr(raw, name) for name in ("valid", "sdc_index")})
    path = animate(scenario, tree_index(scenario.log, slice(0, 3)), tmp_path / "a.gif", size=2.0)
    assert len(frames(path)) == 3
