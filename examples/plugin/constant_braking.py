"""A policy that brakes, and a command that counts agents."""

import jax.numpy as jnp
import tyro
from jaxtyping import Key

import waymax_sim as ws
from waymax_sim.pytree import Array, static_record


@static_record
class ConstantBraking(ws.Policy):
    """Brakes at a constant rate until it stands still.

    Attributes:
      deceleration: Rate at which the speed decreases, m/s^2.
    """

    deceleration: float = 1.0
    dynamics = ws.Bicycle()

    def act(self, observation: ws.Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[ws.Action, tuple[()]]:
        """The same acceleration for all agents, no curvature."""
        valid = observation.agents.valid
        acceleration = jnp.full(valid.shape, -self.deceleration)
        value = jnp.stack([acceleration, jnp.zeros_like(acceleration)], axis=-1)
        return ws.Action(value=value, valid=valid), carry


def count_agents(path: tyro.conf.Positional[str], /, min_agents: int = 0) -> int:
    """Lists the scenes of a path with the number of agents in each.

    Args:
      path: Path of the scenes.
      min_agents: Leave out scenes with fewer agents.
    """
    for scenario in ws.load(path):
        if scenario.num_agents >= min_agents:
            print(scenario.scenario_id, scenario.num_agents)
    return 0
