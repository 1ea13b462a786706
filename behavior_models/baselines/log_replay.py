"""Replay of the log by any dynamics model."""

import jax.numpy as jnp
from jaxtyping import Key

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Dynamics, Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record, tree_index


@static_record
class LogReplay(Policy):
    """Drives to the next logged state: exactly by teleport, or approximately by another dynamics model.

    Where the log ends before the episode does, agents coast. For models other than `Teleport` the inverse of a single
    step amplifies the noise of the log; `LogExpert` looks further ahead.

    Attributes:
      dynamics: Model that the logged motion is expressed in.
    """

    dynamics: Dynamics = Teleport()
    privileged = True

    def act(self, observation: Observation, carry: tuple[()], key: Key[Array, ""]) -> tuple[Action, tuple[()]]:
        """The inverse from the simulated present to the logged next step."""
        log = observation.log
        assert log is not None, "privileged policies receive the log"
        # At the last step of the log its last state is repeated.
        following = tree_index(log, jnp.minimum(observation.step + 1, log.valid.shape[0] - 1))
        return self.dynamics.invert(observation.agents, following, observation.dt), carry
