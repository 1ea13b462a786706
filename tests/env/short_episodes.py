"""Short episodes for the tests of interactions: small scenes, quickly compiled metrics, one program."""

import jax
import numpy as np

from tests.programs import compiled_rollout
from tests.scenes import scene
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig
from waymax_sim.metrics import Metric
from waymax_sim.metrics.metric import flag, masked_value

KEY = jax.random.key(11)
STEPS = 12  # steps of the record
N = 4  # agents
START = 5  # current step
LINE = 3.5  # coordinate of a line across the road, m


def along(snapshot):
    """Coordinate of an agent along the road (m)."""
    return masked_value(snapshot.evaluated_agents.xyz[:, 0], snapshot.evaluated_agents.valid)


def beyond(snapshot):
    """Whether an agent is beyond the line."""
    return flag(snapshot.evaluated_agents.xyz[:, 0] > LINE, snapshot.evaluated_agents.valid)


ALONG = Metric("along", along, per="agent", unit="m", over_time="mean")
BEYOND = Metric("beyond", beyond, per="agent", unit="1", over_time="max")
# Rules: a reward that is the coordinate, and agents whose episode ends on its own at the line.
REWARDED = {"metrics": (ALONG,), "rewards": (("along", 1.0),)}
PER_AGENT = {"metrics": (BEYOND,), "terminate_on": ("beyond",), "ends": "agent", "despawn": "log"}
RECORD = ("agents", "metrics", "reward", "terminated", "actions", "ended", "invalid_action")

run = compiled_rollout


def env_of(**changes) -> Env:
    """An environment in which policies control all agents and no metric is computed."""
    return Env(config=EnvConfig(**({"controlled": "all", "metrics": (), "rewards": ()} | changes)))


def row_of_agents() -> Scenario:
    """Four agents in a row at 10 m/s; the log of the last one ends with step 8."""
    valid = np.ones((STEPS, N), bool)
    valid[9:, 3] = False
    return scene(num_steps=STEPS, num_agents=N, current_step=START, valid=valid)


def coming_and_going() -> Scenario:
    """Five agents at 10 m/s: agent 0 crosses the line at step 9, 1 appears at step 7, 3 never, 4 vanishes at step 9."""
    valid = np.ones((STEPS, 5), bool)
    valid[:7, 1] = valid[:, 3] = valid[9:, 4] = False
    return scene(num_steps=STEPS, num_agents=5, current_step=START, valid=valid)


# Agents of that scene that act in each step, with the rules `PER_AGENT` and constant speed: their slots, or -1.
ROWS = np.array(
    [
        [0, -1, 2, -1, 4],
        [0, -1, 2, -1, 4],
        [0, 1, 2, -1, 4],
        [0, 1, 2, -1, 4],
        [-1, 1, 2, -1, -1],
        [-1, 1, 2, -1, -1],
    ]
)


def close(ours, theirs) -> None:
    """Checks that trees are equal but for rounding."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6), ours, theirs)
