"""Traffic lights, one column per controlled lane."""

from jaxtyping import Bool, Float, Int

from waymax_sim.pytree import Array, pytree

# States as in the WOMD `TrafficSignalLaneState.state` field.
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


@pytree
class Signals:
    """Lights of lanes. The leading axes are free: [T] in a scenario, none in an observation.

    Attributes:
      lane_id: Map id of the lane the light controls; -1 for padding.
      state: 0 unknown, 1-3 arrow stop/caution/go, 4-6 stop/caution/go, 7-8 flashing stop/caution (WOMD).
      stop_point: Where to stop, m, local frame.
      valid: Whether the light was seen at that step.
    """

    lane_id: Int[Array, " S"]
    state: Int[Array, "*lead S"]
    stop_point: Float[Array, "*lead S 3"]
    valid: Bool[Array, "*lead S"]
