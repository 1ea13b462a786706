"""Linear-quadratic tracking of a reference trajectory with accelerations and curvatures."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from waymax_sim import geometry
from waymax_sim.datatypes.agents import AgentState, forward_speed
from waymax_sim.dynamics.protocol import TimeStep
from waymax_sim.pytree import Array


@dataclasses.dataclass(frozen=True)
class TrackingParams:
    """Weights of the tracking cost per step. Chosen on synthetic logs of vehicles: errors of 1 m count like the inputs.

    Attributes:
      horizon: Number of steps ahead.
      along: Weight of squared longitudinal errors, 1/m^2.
      across: Weight of squared lateral errors, 1/m^2.
      heading: Weight of squared heading errors, 1/rad^2.
      acceleration: Weight of squared accelerations, s^4/m^2.
      curvature: Weight of squared differences of the curvature from that of the reference, m^2.
    """

    horizon: int = 15
    along: float = 1.0
    across: float = 1.0
    heading: float = 1.0
    acceleration: float = 0.01
    curvature: float = 1.0


class LinearSystem(NamedTuple):
    """States x with x' = a x + b u + c, and costs sum(q x'^2) + r u^2 per step; H steps, S states, one input.

    Attributes:
      a: [H, S, S].
      b: [H, S].
      c: [H, S].
      q: Weights of the state after the step, [H, S].
      r: Weight of the input, [H].
    """

    a: Float[Array, "H S S"]
    b: Float[Array, "H S"]
    c: Float[Array, "H S"]
    q: Float[Array, "H S"]
    r: Float[Array, " H"]


def optimal_input(system: LinearSystem, state: Float[Array, " S"]) -> Float[Array, ""]:
    """The first input of the sequence with the smallest cost, by the Riccati recursion.

    Args:
      system: The system; r > 0.
      state: The first state.
    """

    def backward(cost, step):
        hessian, gradient = cost
        hessian, gradient = hessian + jnp.diag(step.q), gradient + 0.0
        ahead = hessian @ step.b
        curvature = step.r + step.b @ ahead
        gain = (ahead @ step.a) / curvature
        offset = (ahead @ step.c + step.b @ gradient) / curvature
        closed, drift = step.a - jnp.outer(step.b, gain), step.c - step.b * offset
        before = closed.T @ hessian @ closed + step.r * jnp.outer(gain, gain)
        slope = closed.T @ (hessian @ drift + gradient) + step.r * gain * offset
        return (0.5 * (before + before.T), slope), (gain, offset)

    size = state.shape[0]
    start = jnp.zeros((size, size), jnp.float32), jnp.zeros(size, jnp.float32)
    _, (gains, offsets) = jax.lax.scan(backward, start, system, reverse=True)
    return -(gains[0] @ state + offsets[0])


class Reference(NamedTuple):
    """A reference trajectory of one agent at H + 1 steps; the first one is now.

    Attributes:
      xy: Positions, m, local frame.
      yaw: Headings, rad.
      given: Whether the trajectory reaches this step; errors after its end cost nothing.
    """

    xy: Float[Array, "H+1 2"]
    yaw: Float[Array, " H+1"]
    given: Float[Array, " H+1"]


def track(agents: AgentState, reference: Reference, params: TrackingParams, dt: TimeStep) -> Float[Array, "N 2"]:
    """Accelerations (m/s^2) and curvatures (1/m) that lead agents along their references.

    The longitudinal and the lateral errors are decoupled and linearized about the reference.

    Args:
      agents: N agents.
      reference: A reference per agent, with a leading axis N.
      params: Weights.
      dt: Time step, s.
    """

    def one(xy, yaw, speed, ref: Reference):
        along, across, turn = reference_steps(ref)
        given = ref.given[1:]
        error = geometry.rotate(xy - ref.xy[0], -ref.yaw[0])
        acceleration = optimal_input(_longitudinal(along, given, params, dt), jnp.stack([error[0], speed]))
        lateral = jnp.stack([error[1], geometry.wrap_angle(yaw - ref.yaw[0])])
        moving = jnp.abs(along[0]) > MIN_STEP
        own = jnp.where(moving, turn[0] / jnp.where(moving, along[0], 1.0), 0.0)
        change = optimal_input(_lateral(along, across, turn, own, given, params), lateral)
        return jnp.stack([acceleration, own + change])

    return jax.vmap(one)(agents.xyz[:, :2], agents.yaw, forward_speed(agents), reference)


# Length of a reference step below which it has no curvature, m.
MIN_STEP = 0.05


def reference_steps(reference: Reference) -> tuple[Float[Array, " H"], Float[Array, " H"], Float[Array, " H"]]:
    """Displacements along and across the heading at the start of each step (m), and turns (rad)."""
    turn = geometry.wrap_angle(reference.yaw[1:] - reference.yaw[:-1])
    step = geometry.rotate(reference.xy[1:] - reference.xy[:-1], -reference.yaw[:-1])
    return step[:, 0], step[:, 1], turn


def _longitudinal(along: Float[Array, " H"], given: Float[Array, " H"], params: TrackingParams, dt: TimeStep):
    """Error along the reference and speed; the input is the acceleration."""
    num_steps = along.shape[0]
    one, zero = jnp.ones(num_steps), jnp.zeros(num_steps)
    step = one * dt
    return LinearSystem(
        a=jnp.stack([jnp.stack([one, step], -1), jnp.stack([zero, one], -1)], -2),
        b=jnp.stack([0.5 * step**2, step], -1),
        c=jnp.stack([-along, zero], -1),
        q=jnp.stack([params.along * given, zero], -1),
        r=params.acceleration * one,
    )


def _lateral(
    along: Float[Array, " H"],
    across: Float[Array, " H"],
    turn: Float[Array, " H"],
    curvature: Float[Array, ""],
    given: Float[Array, " H"],
    params: TrackingParams,
):
    """Error across the reference and heading error; the input is the difference from `curvature`.

    The model moves along its old heading and turns afterwards, as `Bicycle` does.

    Args:
      along: Displacements of the reference along its heading, m.
      across: Displacements across it, m.
      turn: Turns, rad.
      curvature: Curvature of the first step, 1/m.
      given: 1 where the reference is given.
      params: Weights.
    """
    one, zero = jnp.ones_like(along), jnp.zeros_like(along)
    return LinearSystem(
        a=jnp.stack([jnp.stack([one, along], -1), jnp.stack([zero, one], -1)], -2),
        b=jnp.stack([zero, along], -1),
        c=jnp.stack([-across, along * curvature - turn], -1),
        q=jnp.stack([params.across * given, params.heading * given], -1),
        r=params.curvature * one,
    )
