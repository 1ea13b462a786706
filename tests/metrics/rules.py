"""A synthetic map with all that traffic rules refer to, and whole episodes on it, evaluated step by step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.scenes import raw_scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.roadmap import CONTROLS, LANE_SURFACE_STREET, ROAD_EDGE_BOUNDARY, STOP_SIGN
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.metrics import METRICS, MetricValue, Snapshot, compute_metrics

NUM_STEPS, AGENTS, DT = 36, 6, 0.1
TIME = DT * np.arange(NUM_STEPS)
# Two lanes forward, one back; a bridge across, going left; two coincident lanes far to the left.
LANE, LEFT_LANE, ONCOMING, BRIDGE, ONE, SAME = 0, 1, 2, 5, 8, 9
LIMITS = {LANE: 13.4, LEFT_LANE: 20.0, ONCOMING: 13.4, BRIDGE: 13.4, ONE: 13.4, SAME: 13.4}
LIGHT_X, SIGN_X, FAR_Y, BRIDGE_Z = 20.0, 40.0, 60.0, 6.0
RED, GREEN = 4, 6
NAMES = tuple(
    name for name in METRICS if name not in ("kinematic_infeasibility", "log_divergence", "off_route", "wrong_way")
)


def lines() -> list[np.ndarray]:
    along = np.arange(-100.0, 100.5, 1.0)

    def line(y, direction=1):
        return np.stack([along[::direction], np.full_like(along, y), 0 * along], axis=-1)

    def across(x, direction=1):
        return np.stack([np.full_like(along, x), along[::direction], np.full_like(along, BRIDGE_Z)], axis=-1)

    return [
        *(line(0.0), line(3.5), line(7.0, -1), line(-1.75), line(8.75, -1)),
        *(across(0.0), across(2.0), across(-2.0, -1)),
        *(line(FAR_Y), line(FAR_Y)),
        np.array([[SIGN_X, 5.5, 0.0]]),
    ]


def track(x=0.0, y=0.0, speed=10.0, yaw=0.0, z=0.0, acceleration=0.0, velocity=None) -> dict[str, np.ndarray]:
    """A straight drive from a position at step 0 (m), along the heading (m/s, m/s^2) or with any velocity."""
    heading = np.array([np.cos(yaw), np.sin(yaw)])
    begins = speed * heading if velocity is None else np.asarray(velocity, float)
    gains = acceleration * heading
    xy = np.array([x, y]) + TIME[:, None] * begins + TIME[:, None] ** 2 / 2 * gains
    return dict(
        xyz=np.column_stack([xy, np.full(NUM_STEPS, z + 0.75)]),
        yaw=np.full(NUM_STEPS, yaw),
        velocity=begins + TIME[:, None] * gains,
    )


def circle(radius: float, speed: float, x=0.0, y=0.0) -> dict[str, np.ndarray]:
    """A steady bend to the left that begins at a position along x."""
    yaw = speed / radius * TIME
    xy = np.column_stack([x + radius * np.sin(yaw), y + radius * (1 - np.cos(yaw))])
    velocity = speed * np.column_stack([np.cos(yaw), np.sin(yaw)])
    return dict(xyz=np.column_stack([xy, np.full(NUM_STEPS, 0.75)]), yaw=yaw, velocity=velocity)


@functools.cache
def empty() -> Scenario:
    """The map without agents. All cases share it, and so one compiled program."""
    features, lane, edge = lines(), LANE_SURFACE_STREET, ROAD_EDGE_BOUNDARY
    raw = raw_scene(
        num_steps=NUM_STEPS,
        num_agents=AGENTS,
        current_step=0,
        point_xyz=np.concatenate(features),
        point_feature=np.repeat(np.arange(len(features)), [len(line) for line in features]),
        feature_id=10 + np.arange(len(features)),
        feature_type=np.array([lane, lane, lane, edge, edge, lane, edge, edge, lane, lane, STOP_SIGN]),
        speed_limit=np.array([LIMITS.get(row, 0.0) for row in range(len(features))]),
        links=np.array([[len(features) - 1, LEFT_LANE, CONTROLS]]),
        signal_lane_id=np.array([10 + LANE, 10 + ONE, 10 + SAME]),
        signal_state=np.full((NUM_STEPS, 3), RED),
        signal_stop_point=np.broadcast_to(
            [[LIGHT_X, 0, 0], [LIGHT_X, FAR_Y, 0], [LIGHT_X, FAR_Y, 0]], (NUM_STEPS, 3, 3)
        ),
        signal_valid=np.ones((NUM_STEPS, 3), bool),
    )
    return to_scenario(raw, pad_to_bucket=False)


def make_case(
    tracks, types=1, log=None, light=RED, signal_valid=True, sizes=(4.0, 2.0, 1.5), valid=True
) -> tuple[Scenario, AgentState]:
    """The scenario and the agents in it, in its local frame; by default the log has the same tracks."""
    exists, shape, kind = np.zeros((NUM_STEPS, AGENTS), bool), np.ones((AGENTS, 3)), np.ones(AGENTS)
    exists[:, : len(tracks)], shape[: len(tracks)], kind[: len(tracks)] = valid, sizes, types
    base = empty()
    state = np.stack(np.broadcast_arrays(light, np.full(NUM_STEPS, RED), GREEN), axis=-1)
    signals = dataclasses.replace(
        base.signals, state=state.astype(np.int32), valid=np.broadcast_to(signal_valid, state.shape).copy()
    )
    info = dataclasses.replace(base.agents, type=kind.astype(np.int32), size=shape.astype(np.float32))
    log, agents = (_stack_tracks(each, exists, base.origin) for each in (log or tracks, tracks))
    return dataclasses.replace(base, agents=info, log=log, signals=signals), agents


def _stack_tracks(tracks, exists: np.ndarray, origin) -> AgentState:
    def stacked(name: str) -> np.ndarray:
        values = np.stack([one[name] for one in tracks], axis=1)
        values = np.concatenate([values, np.zeros((NUM_STEPS, AGENTS - len(tracks), *values.shape[2:]))], axis=1)
        return np.where(exists.reshape(exists.shape + (1,) * (values.ndim - 2)), values, 0)

    return AgentState(
        xyz=np.where(exists[..., None], stacked("xyz") - np.asarray(origin), 0).astype(np.float32),
        yaw=np.where(exists, np.mod(stacked("yaw") + np.pi, 2 * np.pi) - np.pi, 0).astype(np.float32),
        velocity=stacked("velocity").astype(np.float32),
        valid=exists,
    )


def episode(tracks, **changes) -> dict[str, MetricValue]:
    """Values of all metrics over steps 1 and on, [T - 1, N], under their names."""
    return jax.device_get(evaluate_episode(*make_case(tracks, **changes)))


@jax.jit
def evaluate_episode(scenario: Scenario, agents: AgentState) -> dict[str, MetricValue]:
    """Evaluates each step with a history of up to 31 steps."""
    padded = jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros((30, *leaf.shape[1:]), leaf.dtype), leaf]), agents)

    def at(step):
        history = jax.tree.map(functools.partial(jax.lax.dynamic_slice_in_dim, start_index=step, slice_size=31), padded)
        return compute_metrics(Snapshot(scenario, step, history), {name: METRICS[name] for name in NAMES})

    return jax.lax.map(at, jnp.arange(1, NUM_STEPS))


# Index of a step in an episode, the first entry of which is step 1.
AT = {step: step - 1 for step in range(1, NUM_STEPS)}


def first_values(name: str, tracks, agent: int = 0, **changes) -> np.ndarray:
    """Values over time of a metric that is valid throughout."""
    found = episode(tracks, **changes)[name]
    assert found.valid[:, agent].all()
    return found.value[:, agent]


def total(name: str, tracks, agent: int = 0, **changes) -> float:
    """Sum over the episode."""
    return first_values(name, tracks, agent, **changes).sum()
