"""Routes: the possible paths of the sdc from its initial position."""

from jaxtyping import Bool, Float

from waymax_sim.pytree import Array, pytree


@pytree
class Routes:
    """Sampled paths (the `path_samples` of tf.Examples, or derived from the lane graph).

    Attributes:
      xyz: Samples of M paths, m, local frame.
      arc_length: Distance from the start of the path, m.
      valid: False for padding samples.
      on_route: Whether a path agrees with the log of the sdc.
    """

    xyz: Float[Array, "M R 3"]
    arc_length: Float[Array, "M R"]
    valid: Bool[Array, "M R"]
    on_route: Bool[Array, " M"]
