"""Networks (flax.nnx). They know no algorithm."""
