"""Kinematic baselines: policies that extrapolate the present state."""

import jax.numpy as jnp
from jaxtyping import Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Bicycle, Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record


@static_record
class ConstantVelocity(Policy):
    """Keeps the velocity vector and the heading."""

    dynamics = Teleport()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The pose that the velocity leads to."""
        now = observation.agents
        xy = now.xyz[:, :2] + now.velocity * observation.dt
        return Action(value=jnp.concatenate([xy, now.yaw[:, None], now.velocity], axis=-1), valid=now.valid), carry


@static_record
class ConstantSpeed(Policy):
    """Keeps the speed along the heading: a bicycle that neither accelerates nor steers."""

    dynamics = Bicycle()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """No acceleration, no curvature."""
        valid = observation.agents.valid
        # Zero acceleration keeps the speed, zero curvature the heading.
        return Action(value=jnp.zeros((valid.shape[0], 2)), valid=valid), carry


@static_record
class Stationary(Policy):
    """Keeps its position at zero velocity."""

    dynamics = Teleport()

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The present pose with no velocity."""
        now = observation.agents
        # A pose with zero velocity, so that metrics see a stationary agent.
        pose = jnp.concatenate([now.xyz[:, :2], now.yaw[:, None], jnp.zeros_like(now.velocity)], axis=-1)
        return Action(value=pose, valid=now.valid), carry
