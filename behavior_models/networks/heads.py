"""Distributions over actions, from the outputs of a network."""

from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from waymax_sim.pytree import Array, pytree

Mode = Literal["sample", "mode", "mean"]
# Distribution of continuous actions: a squashed Gaussian, or a mixture of Gaussians.
Head = Literal["gaussian", "mixture"]
# Components of a mixture (Waymax, Gulino et al. 2023).
NUM_COMPONENTS = 6
# Bounds of the logarithm of standard deviations.
MIN_LOG_STD = -5.0
MAX_LOG_STD = 2.0
# Actions of a squashed distribution stay this far from the bounds, where their density is infinite.
SQUASH_MARGIN = 1e-4


@runtime_checkable
class Distribution(Protocol):
    """A distribution over actions; leading axes are free."""

    def sample(self, key: Key[Array, ""]) -> Array: ...

    def mode(self) -> Array: ...

    def mean(self) -> Array: ...

    def log_prob(self, action: Array) -> Float[Array, "*lead"]: ...

    def entropy(self) -> Float[Array, "*lead"]: ...


@pytree
class Categorical:
    """One of L actions.

    Attributes:
      logits: Logarithms of the probabilities up to a constant; minus infinity for actions that are excluded.
      values: Values of the actions, from which `mean` selects the one nearest to their mean.
    """

    logits: Float[Array, "*lead L"]
    values: Float[Array, "L A"] | None = None

    @property
    def log_probs(self) -> Float[Array, "*lead L"]:
        """Logarithms of the probabilities."""
        return jax.nn.log_softmax(self.logits)

    def sample(self, key: Key[Array, ""]) -> Int[Array, "*lead 1"]:
        """A random action."""
        return jax.random.categorical(key, self.logits)[..., None]

    def mode(self) -> Int[Array, "*lead 1"]:
        """The most likely action."""
        return jnp.argmax(self.logits, axis=-1)[..., None]

    def mean(self) -> Int[Array, "*lead 1"]:
        """The action whose value is nearest to the mean of the values, in units of their standard deviations."""
        assert self.values is not None, "the mean needs values of the actions"
        scaled = self.values / (jnp.std(self.values, axis=0, keepdims=True) + 1e-9)
        center = jnp.exp(self.log_probs) @ scaled
        gap = center[..., None, :] - scaled.reshape(*(1 for _ in center.shape[:-1]), *scaled.shape)
        return jnp.argmin(jnp.sum(gap**2, axis=-1), axis=-1)[..., None]

    def log_prob(self, action: Int[Array, "*lead 1"]) -> Float[Array, "*lead"]:
        """Logarithm of the probability of an action."""
        return jnp.take_along_axis(self.log_probs, action, axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "*lead"]:
        """Entropy, nats."""
        return -jnp.sum(jnp.exp(self.log_probs) * jnp.where(jnp.isfinite(self.logits), self.log_probs, 0.0), axis=-1)


def kl_divergence(a: Categorical, b: Categorical) -> Float[Array, "*lead"]:
    """Kullback-Leibler divergence KL(a || b) of categorical distributions, nats."""
    return jnp.sum(jnp.exp(a.log_probs) * (a.log_probs - b.log_probs), axis=-1)


def two_hot(value: Float[Array, "*lead"], levels: Float[Array, " L"]) -> Float[Array, "*lead L"]:
    """Weights of the two ascending levels next to a value, whose mean is the value; clipped to the range of levels."""
    value = jnp.clip(value, levels[0], levels[-1])
    low = jnp.clip(jnp.searchsorted(levels, value) - 1, 0, levels.shape[0] - 2)
    share = (value - levels[low]) / (levels[low + 1] - levels[low])
    left, right = (jax.nn.one_hot(index, levels.shape[0]) for index in (low, low + 1))
    return (1.0 - share)[..., None] * left + share[..., None] * right


@pytree
class TanhGaussian:
    """A Gaussian with independent components, squashed into (-1, 1) by the hyperbolic tangent.

    Source: soft actor-critic (Haarnoja et al. 2018), appendix C.

    Attributes:
      location: Mean before squashing.
      log_std: Logarithm of the standard deviation before squashing.
    """

    location: Float[Array, "*lead A"]
    log_std: Float[Array, "*lead A"]

    @classmethod
    def from_outputs(cls, outputs: Float[Array, "*lead B"]) -> "TanhGaussian":
        """The distribution of 2 A outputs of a network."""
        location, log_std = jnp.split(outputs, 2, axis=-1)
        return cls(location, jnp.clip(log_std, MIN_LOG_STD, MAX_LOG_STD))

    def sample_and_log_prob(self, key: Key[Array, ""]) -> tuple[Float[Array, "*lead A"], Float[Array, "*lead"]]:
        """A random action, through which gradients flow, and the logarithm of its density."""
        noise = jax.random.normal(key, self.location.shape)
        raw = self.location + jnp.exp(self.log_std) * noise
        return jnp.tanh(raw), self._raw_log_prob(raw)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*lead A"]:
        """A random action."""
        return self.sample_and_log_prob(key)[0]

    def mode(self) -> Float[Array, "*lead A"]:
        """The squashed mean, which is the median."""
        return jnp.tanh(self.location)

    mean = mode

    def log_prob(self, action: Float[Array, "*lead A"]) -> Float[Array, "*lead"]:
        """Logarithm of the density of an action within the bounds; those at a bound are moved inside."""
        limit = 1.0 - SQUASH_MARGIN
        return self._raw_log_prob(jnp.arctanh(jnp.clip(action, -limit, limit)))

    def entropy(self) -> Float[Array, "*lead"]:
        """Entropy before squashing, nats: an upper bound up to a constant."""
        return jnp.sum(self.log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e), axis=-1)

    def _raw_log_prob(self, raw: Float[Array, "*lead A"]) -> Float[Array, "*lead"]:
        gaussian = gaussian_log_prob(raw, self.location, self.log_std)
        # log(1 - tanh(x)^2) without cancellation.
        squashing = 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
        return jnp.sum(gaussian - squashing, axis=-1)


@pytree
class GaussianMixture:
    """A mixture of M Gaussians with independent components.

    Attributes:
      logits: Logarithms of the weights up to a constant.
      location: Means.
      log_std: Logarithms of the standard deviations.
    """

    logits: Float[Array, "*lead M"]
    location: Float[Array, "*lead M A"]
    log_std: Float[Array, "*lead M A"]

    @classmethod
    def from_outputs(cls, outputs: Float[Array, "*lead B"], num_components: int) -> "GaussianMixture":
        """The distribution of M (1 + 2 A) outputs of a network."""
        parts = outputs.reshape(*outputs.shape[:-1], num_components, -1)
        location, log_std = jnp.split(parts[..., 1:], 2, axis=-1)
        return cls(parts[..., 0], location, jnp.clip(log_std, MIN_LOG_STD, MAX_LOG_STD))

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*lead A"]:
        """A random action."""
        choice_key, noise_key = jax.random.split(key)
        component = jax.random.categorical(choice_key, self.logits)
        location, log_std = (_take(values, component) for values in (self.location, self.log_std))
        return location + jnp.exp(log_std) * jax.random.normal(noise_key, location.shape)

    def mode(self) -> Float[Array, "*lead A"]:
        """The mean of the most likely component."""
        return _take(self.location, jnp.argmax(self.logits, axis=-1))

    def mean(self) -> Float[Array, "*lead A"]:
        """The mean of the mixture."""
        return jnp.sum(jax.nn.softmax(self.logits)[..., None] * self.location, axis=-2)

    def log_prob(self, action: Float[Array, "*lead A"]) -> Float[Array, "*lead"]:
        """Logarithm of the density of an action."""
        parts = jnp.sum(gaussian_log_prob(action[..., None, :], self.location, self.log_std), axis=-1)
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + parts, axis=-1)

    def entropy(self) -> Float[Array, "*lead"]:
        """Lower bound of the entropy, nats: the mean of those of the components."""
        parts = jnp.sum(self.log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e), axis=-1)
        return jnp.sum(jax.nn.softmax(self.logits) * parts, axis=-1)


def gaussian_log_prob(
    value: Float[Array, "*#b"], location: Float[Array, "*#b"], log_std: Float[Array, "*#b"]
) -> Float[Array, "*#b"]:
    """Logarithm of the Gaussian density of each component.

    Args:
      value: Values.
      location: Means.
      log_std: Logarithms of the standard deviations.
    """
    return -0.5 * ((value - location) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)


def _take(values: Float[Array, "*lead M A"], component: Int[Array, "*lead"]) -> Float[Array, "*lead A"]:
    return jnp.take_along_axis(values, component[..., None, None], axis=-2)[..., 0, :]
