"""Small made-up scenes for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from waymax_sim.datasets.scene import RawScene, to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.roadmap import ROAD_EDGE_BOUNDARY, ROAD_EDGE_TYPES, Segments
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.maps.segments import build_segments
from waymax_sim.metrics import Snapshot


def raw_scene(num_steps: int = 21, num_agents: int = 3, current_step: int = 5, **changes) -> RawScene:
    """A straight road of 200 m along x with two lanes; agents drive in a row at 10 m/s, 20 m apart, agent 0 is the sdc."""
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
        scenario_id="made-up",
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
    return to_scenario(raw_scene(**changes), bucketed=False)


def agent_state(xyz, yaw=0.0, velocity=(0.0, 0.0), valid=True) -> AgentState:
    """Agents at places [..., 3] (or [..., 2] at height 0); the rest is broadcast."""
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
    return jax.tree.map(jnp.asarray, built)


def snapshot(scenario: Scenario, agents: AgentState, previous: AgentState | None = None, step: int = 5) -> Snapshot:
    """The moment when `agents` are in the scene; one step before they were where they are unless told."""
    on_device = jax.tree.map(jnp.asarray, (scenario, agents, agents if previous is None else previous))
    return Snapshot(on_device[0], jnp.int32(step), *on_device[1:], dt=0.1)
