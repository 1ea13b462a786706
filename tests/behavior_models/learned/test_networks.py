"""Encoders: invariance to order and padding, and policies that share programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from behavior_models.networks.actor_critic import ActorCritic
from behavior_models.networks.policy import NetworkActor
from behavior_models.networks.scene_encoder import NO_ELEMENT, NetworkConfig, SceneEncoder, max_linear
from waymax_sim.dynamics import Bicycle, Discrete
from waymax_sim.env.flat_view import NUM_AGENT_VALUES, NUM_POLYLINE_VALUES, FlatView

VIEW = FlatView("controlled", num_agents=4, num_polylines=6)
SPEC = VIEW.spec()
CONFIGS = {
    "pool": NetworkConfig("pool", width=16, trunk=16),
    "attention": NetworkConfig("attention", width=16, trunk=16, num_layers=1, num_latents=2, num_heads=2),
}
ACTIONS = Discrete(Bicycle(), bins=(2, 2))


def rows(seed: int = 0, num_rows: int = 3) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(num_rows, SPEC.size)).astype(np.float32)
    agents = values[:, : 4 * NUM_AGENT_VALUES].reshape(num_rows, 4, -1)
    polylines = values[:, 4 * NUM_AGENT_VALUES : 4 * NUM_AGENT_VALUES + 6 * NUM_POLYLINE_VALUES].reshape(
        num_rows, 6, -1
    )
    agents[..., 0], polylines[..., 0] = 1, 1
    # The last agent and the last two polylines are padding.
    agents[:, 3], polylines[:, 4:] = 0, 0
    return values


def permuted(values: np.ndarray) -> np.ndarray:
    """Other agents and polylines in another order."""
    changed = values.copy()
    agents = changed[:, : 4 * NUM_AGENT_VALUES].reshape(len(values), 4, -1)
    polylines = changed[:, 4 * NUM_AGENT_VALUES : 4 * NUM_AGENT_VALUES + 6 * NUM_POLYLINE_VALUES]
    agents[:, 1:] = agents[:, [3, 1, 2]]
    polylines = polylines.reshape(len(values), 6, -1)
    polylines[:] = polylines[:, [5, 2, 0, 4, 1, 3]]
    return changed


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_encoders_do_not_depend_on_order_and_padding(config):
    encoder = SceneEncoder(SPEC, config, rngs=nnx.Rngs(0))
    values = rows()
    expected = encoder(values)
    assert expected.shape == (3, encoder.num_outputs)
    np.testing.assert_allclose(encoder(permuted(values)), expected, rtol=1e-4, atol=1e-5)
    padding = values.copy()
    padding[:, 3 * NUM_AGENT_VALUES + 1 : 4 * NUM_AGENT_VALUES] = 5.0
    np.testing.assert_allclose(encoder(padding), expected, rtol=1e-4, atol=1e-5)
    moved = values.copy()
    moved[:, NUM_AGENT_VALUES + 1] += 1.0
    assert np.abs(encoder(moved) - expected).max() > 1e-3


def test_maxima_of_linear_functions_have_the_gradient_of_a_maximum():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    values[..., 1, :] = values[..., 0, :]  # equal elements share the gradient
    mask, kernel = rng.random((2, 3, 5)) < 0.7, rng.normal(size=(4, 6)).astype(np.float32)
    mask[0, 0] = False
    slope = rng.normal(size=(2, 3, 6)).astype(np.float32)

    def direct(values, mask, kernel):
        return jnp.max(jnp.where(mask[..., None], values @ kernel, NO_ELEMENT), axis=-2)

    def gradients(function):
        return jax.jit(jax.grad(lambda values, kernel: jnp.sum(slope * function(values, mask, kernel)), (0, 1)))

    np.testing.assert_allclose(max_linear(values, mask, kernel), direct(values, mask, kernel), rtol=1e-5)
    for found, expected in zip(gradients(max_linear)(values, kernel), gradients(direct)(values, kernel), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_finite_without_any_agent_and_map(config):
    graph, params = nnx.split(ActorCritic(SPEC, 5, config, rngs=nnx.Rngs(0)))

    def total(params, values):
        outputs, value = nnx.merge(graph, params)(values)
        return jnp.sum(outputs) + jnp.sum(value)

    gradients = jax.jit(jax.grad(total))(params, jnp.zeros((2, SPEC.size)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_first_policy_is_nearly_uniform():
    outputs, _ = ActorCritic(SPEC, 9, CONFIGS["pool"], rngs=nnx.Rngs(0))(rows())
    np.testing.assert_allclose(jax.nn.softmax(outputs), 1 / 9, rtol=0.05)


def test_sets_of_parameters_share_a_program():
    traced = []

    @jax.jit
    def act(actor, values, key):
        traced.append(1)
        return actor(values, key)[0]

    actions = []
    for seed in range(3):
        graph, params = nnx.split(ActorCritic(SPEC, 9, CONFIGS["pool"], rngs=nnx.Rngs(seed)))
        scaled = jax.tree.map(lambda leaf: 1e4 * leaf, params)
        actions.append(act(NetworkActor(scaled, graph, ACTIONS), rows(), jax.random.key(0)))
    assert len(traced) == 1
    assert len({np.asarray(action).tobytes() for action in actions}) > 1
    assert dataclasses.is_dataclass(NetworkActor)


def test_history_and_lights_reach_the_network():
    """The history of an agent belongs to its row, and lights are a set: the order of both does not matter."""
    view = FlatView("controlled", 4, 6, num_history=2, lights="set", num_lights=3)
    encoder = SceneEncoder(view.spec(), CONFIGS["pool"], rngs=nnx.Rngs(0))
    values = np.random.default_rng(1).normal(size=(2, view.spec().size)).astype(np.float32)
    sizes = {feature.name: feature.size for feature in view.spec().features}
    begin = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))

    def part(values, name, count):
        return values[:, begin[name] : begin[name] + sizes[name]].reshape(len(values), count, -1)

    for name, count in (("agents", 4), ("lights", 3)):
        part(values, name, count)[..., 0] = 1.0
    expected = encoder(values)
    swapped = values.copy()
    for name in ("agents", "history"):
        part(swapped, name, 4)[:, 1:] = part(values, name, 4)[:, [2, 3, 1]]
    part(swapped, "lights", 3)[:] = part(values, "lights", 3)[:, [1, 2, 0]]
    np.testing.assert_allclose(encoder(swapped), expected, rtol=1e-4, atol=1e-5)
    for name, count in (("history", 4), ("lights", 3)):
        changed = values.copy()
        part(changed, name, count)[:, 1] += 3.0
        assert np.abs(encoder(changed) - expected).max() > 1e-3, name
