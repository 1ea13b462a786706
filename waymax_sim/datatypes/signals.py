"""Traffic lights, one column per controlled lane."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# States as in the WOMD `TrafficSignalLaneState.state` field.
UNKNOWN = 0
ARROW_STOP = 1
ARROW_CAUTION = 2
ARROW_GO = 3
STOP = 4
CAUTION = 5
GO = 6
FLASHING_STOP = 7
FLASHING_CAUTION = 8
SIGNAL_STATE_NAMES = (
    "unknown",
    "arrow_stop",
    "arrow_caution",
    "arrow_go",
    "stop",
    "caution",
    "go",
    "flashing_stop",
    "flashing_caution",
)
# Groups of steady states. A flashing red light is a stop sign and a flashing yellow one asks for caution (MUTCD 4D), so
# flashing states are in no group: users that treat them like steady ones add them and give the reason.
STOP_STATES = (ARROW_STOP, STOP)
CAUTION_STATES = (ARROW_CAUTION, CAUTION)
GO_STATES = (ARROW_GO, GO)


@pytree
class Signals:
    """States of traffic lights by lane. The leading axes are free: [T] in a scenario, none in an observation.

    Attributes:
      lane_id: Map id of the lane the light controls; -1 for padding.
      state: Light state, see `SIGNAL_STATE_NAMES` (WOMD numbering).
      stop_point: Stop position on the lane, m, local frame.
      valid: Whether the light was observed at that step.
    """

    lane_id: Int[Array, " S"]
    state: Int[Array, "*lead S"]
    stop_point: Float[Array, "*lead S 3"]
    valid: Bool[Array, "*lead S"]


def observed_states(signals: Signals) -> Int[Array, "*lead S"]:
    """States of lights; a light without an observation is unknown, not open."""
    return jnp.where(signals.valid, signals.state, UNKNOWN)
