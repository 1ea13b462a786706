"""Small synthetic scenes for tests."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from waymax_sim.datasets.scene import RawRoutes, RawScene, to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.roadmap import ROAD_EDGE_BOUNDARY, ROAD_EDGE_TYPES, Segments
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.segments import build_segments
from waymax_sim.metrics import MetricValue, Snapshot


def raw_scene(num_steps: int = 21, num_agents: int = 3, current_step: int = 5, **changes) -> RawScene:
    """A straight road of 200 m along x with two lanes; agents drive in a row at 10 m/s, 20 m apart, the sdc first."""
    steps, agents = np.arange(num_steps), np.arange(num_agents)
    xyz = np.zeros((num_steps, num_agents, 3))
    xyz[..., 0] = 0.1 * 10.0 * (steps[:, None] - current_step) - 20.0 * agents
    xyz[..., 2] = 0.75
    velocity = np.zeros((num_steps, num_agents, 2))
    velocity[..., 0] = 10.0
    along = np.arange(-100.0, 100.5, 1.0)

    def line(y: float, direction: int) -> np.ndarray:
        return np.stack([along[::direction], np.full_like(along, y), np.zeros_like(along)], axis=-1)

    # Lane of the agents, oncoming lane, and an edge on either side with the road to its left.
    lines = [line(0.0, 1), line(3.5, -1), line(-1.75, 1), line(5.25, -1)]
    fields = dict(
        scenario_id="synthetic",
        timestamps=0.1 * steps,
        current_step=current_step,
        agent_id=agents + 100,
        agent_type=np.ones(num_agents, int),
        xyz=xyz,
        yaw=np.zeros((num_steps, num_agents)),
        velocity=velocity,
        size=np.broadcast_to([4.0, 2.0, 1.5], (num_steps, num_agents, 3)),
        valid=np.ones((num_steps, num_agents), bool),
        sdc_index=0,
        to_predict=agents == 1,
        of_interest=agents == 2,
        point_xyz=np.concatenate(lines),
        point_feature=np.repeat(np.arange(len(lines)), len(along)),
        feature_id=np.arange(len(lines)) + 10,
        feature_type=np.array([2, 2, 15, 15]),
        speed_limit=np.array([13.4, 13.4, 0.0, 0.0]),
        links=np.zeros((0, 3), int),
        signal_lane_id=np.array([10]),
        signal_state=np.full((num_steps, 1), 6),
        signal_stop_point=np.zeros((num_steps, 1, 3)),
        signal_valid=np.ones((num_steps, 1), bool),
    )
    return RawScene(**(fields | changes))


def scene(**changes) -> Scenario:
    """The same, in its local frame, without padding."""
    return to_scenario(raw_scene(**changes), pad_to_bucket=False)


def agent_state(xyz, yaw=0.0, velocity=(0.0, 0.0), valid=True) -> AgentState:
    """Agents at positions [..., 3] (or [..., 2] at height 0); the rest is broadcast."""
    xyz = np.asarray(xyz, np.float32)
    lead = xyz.shape[:-1]
    if xyz.shape[-1] == 2:
        xyz = np.concatenate([xyz, np.zeros((*lead, 1), np.float32)], axis=-1)
    return AgentState(
        xyz=jnp.asarray(xyz),
        yaw=jnp.asarray(np.broadcast_to(np.asarray(yaw, np.float32), lead)),
        velocity=jnp.asarray(np.broadcast_to(np.asarray(velocity, np.float32), (*lead, 2))),
        valid=jnp.asarray(np.broadcast_to(valid, lead)),
    )


def segments(*polylines) -> Segments:
    """Segments of polylines [n, 3] (or [n, 2] at height 0)."""
    lines = [np.asarray(line, float) for line in polylines]
    lines = [np.pad(line, ((0, 0), (0, 3 - line.shape[1]))) for line in lines]
    feature = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    built = build_segments(np.concatenate(lines), feature, np.full(len(lines), ROAD_EDGE_BOUNDARY), ROAD_EDGE_TYPES)
    return jax.device_put(built)


def measure(
    metric: Callable[[Snapshot], MetricValue],
    scenario: Scenario,
    agents: AgentState,
    previous: AgentState | None = None,
    step: int = 5,
) -> MetricValue:
    """A metric of `agents` in the scene; by default they were at the same positions one step earlier."""
    return _measure(metric, scenario, agents, agents if previous is None else previous, step)


@functools.partial(jax.jit, static_argnums=0)
def _measure(metric, scenario, agents, previous, step):
    history = jax.tree.map(lambda *leaves: jnp.stack(leaves), previous, agents)
    return metric(Snapshot(scenario, step, history))


def busy_raw_scene(seed: int = 0, num_agents: int = 12) -> RawScene:
    """The same road with a bridge across and a round island; agents of all types at random, two paths of the sdc."""
    base, rng = raw_scene(num_agents=num_agents), np.random.default_rng(seed)
    across, angle = np.arange(-20.0, 20.5, 1.0), np.linspace(0, -2 * np.pi, 25)
    bridge = [np.stack([np.full_like(across, x), across, np.full_like(across, 6.0)], axis=-1) for x in (-10, -12)]
    island = np.stack([20 + np.cos(angle), 1.75 + np.sin(angle), 0 * angle], axis=-1)
    lines = [*bridge, island]
    shape = base.valid.shape
    position = np.stack(
        [rng.uniform(-40, 40, shape), rng.uniform(-6, 9, shape), rng.choice([0.75, 6.75], shape)], axis=-1
    )
    along = np.arange(-80.0, 80.0, 2.0)
    path = np.stack([np.stack([along, np.full_like(along, y), 0 * along], axis=-1) for y in (0.0, 3.5)])
    return dataclasses.replace(
        base,
        agent_type=rng.integers(1, 4, num_agents),
        xyz=position,
        yaw=rng.uniform(-np.pi, np.pi, shape),
        velocity=rng.normal(0, 5, (*shape, 2)),
        size=np.broadcast_to(rng.uniform((1, 0.5, 1), (9, 2.5, 3), (num_agents, 3)), base.size.shape),
        valid=rng.random(shape) < 0.8,
        point_xyz=np.concatenate([base.point_xyz, *lines]),
        point_feature=np.concatenate([base.point_feature, np.repeat([4, 5, 6], [len(line) for line in lines])]),
        feature_id=np.arange(7) + 10,
        feature_type=np.array([2, 2, 15, 15, 15, 2, 16]),
        speed_limit=np.zeros(7),
        routes=RawRoutes(
            path, np.stack([along + 80, along + 80]), np.ones((2, len(along)), bool), np.array([True, False])
        ),
    )
