"""Traffic by a car-following law that a search has found."""

import functools
from pathlib import Path

from jaxtyping import Key

from behavior_models.program_search.domains.follower import FOLLOWER_SPACE, program_law
from behavior_models.program_search.export import from_json, to_formula
from behavior_models.program_search.program import Program
from behavior_models.traffic.idm import IDM, drive
from behavior_models.traffic.route_following import DriverState, init_driver_state, update_paths
from waymax_sim.datatypes.state import Action
from waymax_sim.env import Observation, Policy
from waymax_sim.pytree import Array, static_record

# The law of a search on synthetic scenes; docs/program_search.md has its command.
LAW_FILE = Path(__file__).parent / "found_follower.json"


@functools.cache
def _released_law() -> str:
    return LAW_FILE.read_text(encoding="utf-8")


@static_record
class FoundFollower(Policy):
    """Drivers on the lane graph as `IDM`, whose acceleration behind a leading vehicle is a program.

    Lights, stop signs, right of way, curves and free roads are those of `IDM`.

    Attributes:
      law: A program of the domain "follower" as JSON (`export.to_json`); empty for the released one.
    """

    law: str = ""

    dynamics = IDM.dynamics

    @property
    def program(self) -> Program:
        """The law."""
        return from_json(FOLLOWER_SPACE, self.law or _released_law())

    @property
    def formula(self) -> str:
        """The acceleration (m/s^2) of speed v, approach rate dv, gap and desired speed v0 as a formula."""
        return to_formula(FOLLOWER_SPACE, self.program)

    def init(self, observation: Observation, key: Key[Array, ""]) -> DriverState:
        """Parameters of the drivers; paths are assigned at the first step of each agent."""
        return init_driver_state(observation, key)

    def act(self, observation: Observation, carry: DriverState, key: Key[Array, ""]) -> tuple[Action, DriverState]:
        """Acceleration along the path and curvature towards it."""
        drivers, position = update_paths(observation, carry)
        return drive(observation, drivers, position, program_law(self.program))
