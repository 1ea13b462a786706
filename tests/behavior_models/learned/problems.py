"""Known problems without the simulator: a contextual bandit, and a road of a few positions."""

import jax
import jax.numpy as jnp
import numpy as np

from behavior_models.networks.scene_encoder import NetworkConfig
from behavior_models.training.replay_buffer import ReplayRows
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env import Env
from waymax_sim.env.flat_view import FlatView

VIEW = FlatView("controlled", num_agents=2, num_polylines=2)
ACTIONS = Discrete(Bicycle(), levels=((-2.0, 0.0, 2.0), (-0.1, 0.0, 0.1)))
TASK = FunctionalEnv(Env(ACTIONS), VIEW)
NETWORK = NetworkConfig(width=16, trunk=32)
SIZE = VIEW.spec().size
ROAD_LENGTH = 6
DISCOUNT = 0.9
COLLISION_REWARD = -0.5


def contexts(key, count: int):
    """Random contexts 0..8 and observations that show them in the frame of the observer."""
    context = jax.random.randint(key, (count,), 0, ACTIONS.num_actions)
    return context, encode(context)


def encode(index):
    """Observations that show a number 0..8 in the frame of the observer."""
    rows = jnp.zeros((len(index), SIZE)).at[:, 0].set(1.0)
    return rows.at[jnp.arange(len(index)), 1 + index].set(3.0)


def road_step(position, action):
    """The position after an action, the reward, and whether the episode ends.

    The first three actions drive back, the next three stay, the last three drive on. The end of the road is rewarded
    with 1, its other end is a collision.
    """
    moved = position + action // 3 - 1
    reached, collided = moved == ROAD_LENGTH, moved < 0
    return moved, np.where(reached, 1.0, np.where(collided, COLLISION_REWARD, 0.0)), reached | collided


def road_values() -> np.ndarray:
    """Optimal values of positions and actions, [P, L], by value iteration."""
    position, action = np.meshgrid(np.arange(ROAD_LENGTH), np.arange(ACTIONS.num_actions), indexing="ij")
    moved, reward, ended = road_step(position, action)
    values = np.zeros(position.shape)
    for _ in range(200):
        following = values[np.clip(moved, 0, ROAD_LENGTH - 1)].max(axis=-1)
        values = reward + DISCOUNT * np.where(ended, 0.0, following)
    return values


def random_drives(num_decisions: int, num_streams: int, seed: int = 0) -> ReplayRows:
    """Decisions of random drivers on the road, each of whose episodes starts at a random position."""
    rng = np.random.default_rng(seed)
    position, records = rng.integers(0, ROAD_LENGTH, num_streams), []
    for _ in range(num_decisions):
        action = rng.integers(0, ACTIONS.num_actions, num_streams)
        moved, reward, ended = road_step(position, action)
        records.append((position, action, reward, ended))
        position = np.where(ended, rng.integers(0, ROAD_LENGTH, num_streams), moved)
    positions, actions, rewards, ended = (np.stack(values) for values in zip(*records, strict=True))
    observation = np.asarray(encode(positions.reshape(-1))).reshape(num_decisions, num_streams, SIZE)
    actions = actions[..., None].astype(np.int32)
    return ReplayRows(observation, actions, rewards.astype(np.float32), ended, np.ones(ended.shape, bool))
