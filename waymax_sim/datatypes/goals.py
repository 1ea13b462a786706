"""Goals of agents."""

from jaxtyping import Bool, Float

from waymax_sim.pytree import Array, pytree


@pytree
class Goals:
    """A goal position for each agent.

    Attributes:
      xy: m, local frame.
      valid: Whether the agent has a goal.
    """

    xy: Float[Array, "N 2"]
    valid: Bool[Array, " N"]
