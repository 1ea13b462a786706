"""Expert actions by the corners of boxes: exact on tracks of the model, and never worse than the analytic inverse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from behavior_models.baselines.log_expert import arc_action
from behavior_models.imitation.corner_expert import FitParams, fit_corners
from tests.scenes import agent_state
from waymax_sim import geometry
from waymax_sim.datatypes.agents import where
from waymax_sim.dynamics import Bicycle, Delta

DT = 0.1
N = 64
MODELS = {
    "bicycle": Bicycle(normalized=True),
    "delta": Delta("body", max_displacement=4.0, max_turn=0.3, normalized=True),
}
SIZE = jnp.broadcast_to(jnp.asarray([4.5, 2.0]), (N, 2))


BICYCLE = MODELS["bicycle"]


@jax.jit
def fit(before, after, num_steps):
    """Fits of both models over up to six steps, of the bicycle over one, and the latter without iterations."""
    first = {
        "bicycle": arc_action(BICYCLE, before, after, num_steps, DT),
        "delta": MODELS["delta"].invert(before, after, DT),
    }
    several = {
        name: fit_corners(model, before, after, SIZE, DT, initial=first[name], num_steps=num_steps, max_steps=6)
        for name, model in MODELS.items()
    }
    params = FitParams(num_iterations=0)
    one, analytic = (fit_corners(BICYCLE, before, after, SIZE, DT, params=each) for each in (FitParams(), params))
    return several, one, analytic


def starts(rng):
    yaw, speed = rng.uniform(-3, 3, N), rng.uniform(3, 20, N)
    velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    return agent_state(rng.uniform(-200, 200, (N, 2)), yaw, velocity)


def corners(agents):
    return np.asarray(geometry.box_corners(agents.xyz[:, :2], agents.yaw, SIZE))


@pytest.mark.parametrize("name", MODELS)
def test_actions_of_the_model_are_recovered(name):
    rng, model = np.random.default_rng(0), MODELS[name]
    before, num_steps = starts(rng), rng.integers(1, 7, N).astype(np.int32)
    scale = {"bicycle": (0.5, 0.3), "delta": (0.9, 0.1, 0.3)}[name]
    value = jnp.asarray(rng.uniform(-1, 1, (N, len(scale))) * scale, jnp.float32)
    after = before
    for step in range(6):
        moved = model.apply(after, value, DT)
        moves = jnp.asarray(step < num_steps)
        after = where(moves, moved, after)
    found = fit(before, after, jnp.asarray(num_steps))[0][name]
    assert np.asarray(found.action.valid).all()
    # float32 at 200 m: the position is known to 1e-5 m. One step of 0.1 s makes 4 cm of the full acceleration.
    assert np.asarray(found.error).max() < 1e-8
    tolerance = np.where(num_steps == 1, 5e-3, 1e-3)[:, None]
    assert (np.abs(found.action.value - value) <= tolerance).all()


def test_the_error_is_that_of_the_corners_and_not_larger_than_that_of_the_inverse():
    rng = np.random.default_rng(1)
    before = starts(rng)
    after = BICYCLE.apply(before, jnp.asarray(rng.uniform(-0.8, 0.8, (N, 2)), jnp.float32), DT)
    noise = rng.normal(0, 0.05, (N, 2)).astype(np.float32)
    after = dataclasses.replace(
        after,
        xyz=after.xyz + np.pad(noise, ((0, 0), (0, 1))),
        yaw=after.yaw + rng.normal(0, 0.02, N).astype(np.float32),
        velocity=after.velocity + rng.normal(0, 0.3, (N, 2)).astype(np.float32),
    )
    _, found, analytic = fit(before, after, jnp.full(N, 6, jnp.int32))
    np.testing.assert_allclose(analytic.action.value, jax.jit(BICYCLE.invert)(before, after, DT).value, atol=2e-5)
    reached = BICYCLE.apply(before, found.action.value, DT)
    expected = np.mean(np.sum((corners(reached) - corners(after)) ** 2, axis=-1), axis=-1)
    np.testing.assert_allclose(found.error, expected, rtol=1e-2, atol=1e-6)
    assert (np.asarray(found.error) <= np.asarray(analytic.error)).all()
    assert np.median(found.error) < 0.9 * np.median(analytic.error)
    assert (np.abs(found.action.value) <= 1).all()


def test_invalid_and_stationary_agents_have_finite_actions():
    before = agent_state(np.zeros((N, 2)), 0.0, 0.0, valid=np.arange(N) > 3)
    found = fit(before, before, jnp.full(N, 6, jnp.int32))[0]["bicycle"]
    np.testing.assert_array_equal(found.action.valid, np.arange(N) > 3)
    np.testing.assert_allclose(found.action.value, 0.0, atol=1e-6)
    broken = dataclasses.replace(before, xyz=before.xyz.at[5].set(jnp.nan))
    found = fit(before, broken, jnp.full(N, 6, jnp.int32))[0]["bicycle"]
    assert not np.isfinite(found.error[5]) and np.isfinite(found.error[6])
