"""Roads with an ego and three other agents, all of equal array shapes, so one program is compiled for all cases."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool

from tests.scenes import raw_scene
from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.padding import axis_lengths, pad
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import Action, State
from waymax_sim.dynamics import Bicycle
from waymax_sim.env import Env, EnvConfig, Observation
from waymax_sim.pytree import Array, stack, tree_index

OFF_ROAD = (-90.0, 3.5, np.pi, 0.0)
GREEN, RED = 6, 4
# Axes that differ between straight and bent roads.
SIZES = {"edges.G": 32, "edges.Q": 1024, "edges.L": 1024, "lanes.G": 32, "lanes.Q": 1024, "lanes.L": 1024}
LIMIT = 13.4
ENV = Env(dynamics=Bicycle(max_acceleration=8.0), config=EnvConfig(metrics=("overlap",), rewards=()))


def road(*others, speed=10.0, light=GREEN, line=40.0, radius=None, y=0.0, width=1.75, num_steps=66) -> Scenario:
    """The ego at the origin of a straight lane along x, 3.5 m wide, an oncoming lane on its left, a light ahead.

    Args:
      others: x, y (m), yaw (rad) and speed (m/s) of up to three others that keep their velocity.
      speed: Of the ego, m/s.
      light: State of the light.
      line: x of the stop line, m.
      radius: Bends the road to the left on a circle, m.
      y: Of the ego, m.
      width: Half the width of its lane to the right, m.
      num_steps: Steps of the record; the present is the sixth.
    """
    agents = [(0.0, y, 0.0, speed), *others, *[OFF_ROAD] * (3 - len(others))]
    x, y, yaw, speeds = (np.array(column) for column in zip(*agents, strict=True))
    time = 0.1 * (np.arange(num_steps) - 5)[:, None]
    heading = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    base = raw_scene(num_steps=num_steps, num_agents=4)
    xyz = np.zeros((num_steps, 4, 3))
    xyz[..., :2] = np.stack([x, y], axis=-1) + time[..., None] * speeds[:, None] * heading
    xyz[..., 2] = 0.75
    points = base.point_xyz.copy()
    points[points[:, 1] == -1.75, 1] = -width
    raw = dataclasses.replace(
        base,
        xyz=xyz,
        yaw=np.broadcast_to(yaw, xyz.shape[:2]).copy(),
        velocity=np.broadcast_to(speeds[:, None] * heading, (num_steps, 4, 2)).copy(),
        point_xyz=points,
        signal_state=np.full((num_steps, 1), light),
        signal_stop_point=np.broadcast_to([line, 0.0, 0.0], (num_steps, 1, 3)).copy(),
    )
    scenario = to_scenario(raw if radius is None else _bent(raw, radius), pad_to_bucket=False)
    return pad(scenario, SIZES | {axis: size for axis, size in axis_lengths(scenario).items() if axis not in SIZES})


def _bent(raw: RawScene, radius: float) -> RawScene:
    """The scene bent to a circle: x becomes arc length."""

    def bend(xyz):
        angle, distance = xyz[..., 0] / radius, radius - xyz[..., 1]
        return np.stack([distance * np.sin(angle), radius - distance * np.cos(angle), xyz[..., 2]], axis=-1)

    turn = raw.xyz[..., 0] / radius
    cos, sin = np.cos(turn), np.sin(turn)
    u, v = raw.velocity[..., 0], raw.velocity[..., 1]
    return dataclasses.replace(
        raw,
        xyz=bend(raw.xyz),
        yaw=raw.yaw + turn,
        velocity=np.stack([cos * u - sin * v, sin * u + cos * v], axis=-1),
        point_xyz=bend(raw.point_xyz),
        signal_stop_point=bend(raw.signal_stop_point),
    )


reset = jax.jit(ENV.reset)


@jax.jit
def observe(scenario: Scenario) -> Observation:
    """The first observation."""
    return ENV.observe(scenario, ENV.initial_state(scenario, jax.random.key(0)))


@jax.jit
def step(scenario: Scenario, state: State, action: Action) -> tuple[State, Observation, Bool[Array, ""]]:
    """The next state, its observation, and whether the ego overlaps another agent."""
    state, out = ENV.step(scenario, state, action)
    return state, ENV.observe(scenario, state), out.metrics["overlap"].value[0] > 0


def drive(act, carry, scenario: Scenario, num_steps: int = 60):
    """The states of the ego under a policy, by repeated calls of one compiled step; and whether it ever overlaps.

    Args:
      act: From observation, carry and key to action and carry.
      carry: The first one.
      scenario: The road; others keep their velocity.
      num_steps: Steps of 0.1 s.
    """
    key = jax.random.key(0)
    state, _ = reset(scenario, key)
    observation, ego, overlaps = observe(scenario), [], False
    for number in range(num_steps):
        action, carry = act(observation, carry, jax.random.fold_in(key, number))
        state, observation, overlap = step(scenario, state, action)
        ego.append(tree_index(jax.device_get(observation.agents), 0))
        overlaps |= bool(overlap)
    return stack(ego), overlaps
