"""Policies without intentions: baselines that need nothing but the present state."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Dynamics, Teleport
from waymax_sim.env import Observation
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class ConstantVelocity:
    """Keeps the velocity vector and the heading."""

    privileged: bool = dataclasses.field(default=False, init=False)
    dynamics: Dynamics = dataclasses.field(default=Teleport(), init=False)

    def init(self, observation: Observation, key: Key[Array, ""]) -> tuple[()]:
        """Needs no state."""
        return ()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The pose that the velocity leads to."""
        now = observation.agents
        xy = now.xyz[:, :2] + now.velocity * observation.dt
        return Action(value=jnp.concatenate([xy, now.yaw[:, None], now.velocity], axis=-1), valid=now.valid), carry


@dataclasses.dataclass(frozen=True)
class ConstantSpeed:
    """Keeps the speed along the heading: a bicycle that neither accelerates nor steers."""

    privileged: bool = dataclasses.field(default=False, init=False)
    dynamics: Dynamics = dataclasses.field(default=Bicycle(), init=False)

    def init(self, observation: Observation, key: Key[Array, ""]) -> tuple[()]:
        """Needs no state."""
        return ()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """No acceleration, no curvature."""
        valid = observation.agents.valid
        return Action(value=jnp.zeros((valid.shape[0], 2)), valid=valid), carry


@dataclasses.dataclass(frozen=True)
class Stationary:
    """Stands still where it is, from one step to the next."""

    privileged: bool = dataclasses.field(default=False, init=False)
    dynamics: Dynamics = dataclasses.field(default=Teleport(), init=False)

    def init(self, observation: Observation, key: Key[Array, ""]) -> tuple[()]:
        """Needs no state."""
        return ()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The present pose with no velocity."""
        now = observation.agents
        pose = jnp.concatenate([now.xyz[:, :2], now.yaw[:, None], jnp.zeros_like(now.velocity)], axis=-1)
        return Action(value=pose, valid=now.valid), carry
