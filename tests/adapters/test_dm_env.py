"""The dm_env adapter: the conformance tests of dm_env, and the ends of episodes."""

import dm_env
import numpy as np
import pytest
from absl.testing import absltest
from dm_env import specs, test_utils

import waymax_sim as ws
from tests.adapters.roads import LENGTH, ego_position, roads
from waymax_sim.adapters.dm_env import DriveEnvironment
from waymax_sim.adapters.loop import EGO_ENV

pytestmark = pytest.mark.compile_heavy


class TestDriveEnvironment(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """The mixin steps beyond the end of an episode: 20 actions in episodes of 6."""

    def make_object_under_test(self):
        return DriveEnvironment(roads(2), observe=ego_position)

    def make_action(self):
        return np.zeros(2, np.float32)


def test_the_end_of_a_record_keeps_the_discount():
    env = DriveEnvironment(roads(2), observe=ego_position)
    first = env.reset()
    steps = [env.step(np.zeros(2)) for _ in range(LENGTH)]
    assert [step.step_type for step in steps] == [dm_env.StepType.MID] * (LENGTH - 1) + [dm_env.StepType.LAST]
    assert steps[-1].discount == 1.0
    np.testing.assert_allclose([step.reward for step in steps], 1 / LENGTH, atol=1e-5)
    again = env.step(np.zeros(2))
    # The action is left out, and the next scene begins.
    assert again.first() and again.observation[1] - first.observation[1] == np.float32(0.001)


def test_a_crash_ends_with_discount_zero():
    env = DriveEnvironment(roads(1), observe=ego_position)
    env.reset()
    steps = [env.step(np.array([1.0, -1.0])) for _ in range(LENGTH)]
    last = next(step for step in steps if step.last())
    assert last.discount == 0.0 and last.reward < -0.5


def test_discrete_dynamics_have_a_discrete_spec():
    env = DriveEnvironment(
        roads(1), env=ws.Env(ws.Discrete(ws.Bicycle(), (2, 2)), EGO_ENV.config), observe=ego_position
    )
    assert env.action_spec() == specs.DiscreteArray(9, name="action")
    env.reset()
    assert env.step(4).observation[0] == np.float32(0.01)


def test_actions_that_are_not_finite_are_refused():
    env = DriveEnvironment(roads(1), observe=ego_position)
    env.reset()
    with pytest.raises(ValueError, match=r"action\[0\] is nan"):
        env.step(np.array([np.nan, 0.0]))
