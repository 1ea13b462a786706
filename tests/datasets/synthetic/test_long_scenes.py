"""Scenes of a minute: agents appear and leave, and drivers have a persistent style."""

import numpy as np
import pytest

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datasets.synthetic.layouts import crossing
from waymax_sim.datasets.synthetic.long_scenes import LongSceneParams, corridor, long_scene
from waymax_sim.datatypes.validate import validate


@pytest.fixture(scope="module", params=[corridor, crossing], ids=["corridor", "crossing"])
def raw(request):
    return long_scene(3, 1, layout=request.param)


def test_tens_of_agents_appear_and_leave(raw):
    now, end = raw.valid[raw.current_step], raw.valid[-1]
    appears, leaves = ~now & raw.valid[raw.current_step :].any(axis=0), now & ~end
    assert raw.valid.shape == (611, 64)
    assert now.sum() >= 15 and appears.sum() >= 10 and leaves.sum() >= 3
    # Each is present in one interval: its validity changes at most twice.
    assert (np.abs(np.diff(raw.valid.astype(int), axis=0)).sum(axis=0) <= 2).all()
    assert raw.valid[raw.current_step, raw.sdc_index]


def test_motion_is_continuous(raw):
    both = raw.valid[1:] & raw.valid[:-1]
    step = np.linalg.norm(np.diff(raw.xyz[..., :2], axis=0), axis=-1)[both]
    assert step.max() < 2.0
    speed = np.linalg.norm(raw.velocity, axis=-1)
    assert np.abs(np.diff(speed, axis=0))[both].max() < 0.8


def test_lights_change_during_the_minute():
    raw = long_scene(3, 1, layout=crossing)
    assert (np.diff(raw.signal_state, axis=0) != 0).any(axis=1).sum() >= 4
    assert raw.signal_state.shape == (611, raw.signal_lane_id.size)


def test_scenes_are_valid_and_reproducible():
    params = LongSceneParams(num_steps=120, entry_distance=120.0, max_agents=16)
    raw = long_scene(0, 2, params)
    assert validate(to_scenario(raw, pad_to_bucket=False)) == []
    np.testing.assert_array_equal(long_scene(0, 2, params).xyz, raw.xyz)
    with pytest.raises(DataError, match="must not be negative"):
        long_scene(-1)
    with pytest.raises(DataError, match="num_steps=5000"):
        long_scene(0, 0, LongSceneParams(num_steps=5000))
