"""Closed-loop drives of a decoder of modalities, and a metric for each modality."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.scene_decoder.modality_bed import (
    MODALITY_BED,
    EgoMotion,
    Situation,
    advance,
    closed_lane_entry,
    project,
    road_middle,
    token_values,
)
from behavior_models.scene_decoder.modality_decoder import ModalityModel
from behavior_models.scene_decoder.modality_tokens import SceneTokens
from waymax_sim import geometry
from waymax_sim.datatypes.signals import STOP
from waymax_sim.metrics import MetricValue
from waymax_sim.metrics.metric import flag, masked_value
from waymax_sim.pytree import Array, pytree, static_record, tree_index

# Metric of each modality; all are lower for a better model.
METRIC_OF_MODALITY = {
    "map": "off_road",
    "route": "off_route",
    "raster": "closed_lane",
    "lights": "red_light",
    "history": "style_nll",
}


@static_record
class ModalityMetricParams:
    """Limits of the metrics; all are choices.

    Attributes:
      road_half_width: Distance from the middle of the road to its edge, m.
      max_lateral: Lateral offset up to which an approach to the light and to the junction counts, m.
      exit_distance: Distance driven in the junction after which the exit is determined, m.
      exit_turn: Change of the heading above which the exit is the left or the right one, rad.
      num_style_decisions: First decisions whose likelihood depends on the motion before.
    """

    road_half_width: float = 3.5
    max_lateral: float = 4.0
    exit_distance: float = 14.0
    exit_turn: float = 0.35
    num_style_decisions: int = 2


MODALITY_METRICS = ModalityMetricParams()


@pytree
class Drives:
    """Closed-loop drives.

    Attributes:
      state: States after each step of 0.1 s, [T * k, E].
      token: Motion tokens, [T, E].
    """

    state: EgoMotion
    token: Int[Array, "T E"]


@functools.partial(jax.jit, static_argnames=("model", "num_decisions"))
def drive(
    model: ModalityModel,
    params: Any,
    tokens: SceneTokens,
    present: Bool[Array, "E 5"],
    key: Key[Array, ""],
    temperature: Float[Array, ""] | float = 1.0,
    num_decisions: int = MODALITY_BED.num_decisions,
) -> Drives:
    """Drives from the first decision on, with the lights of the record.

    Args:
      model: The decoder.
      params: Its parameters.
      tokens: Contents of the tokens; poses and labels after the first decision are not read.
      present: Modalities that the decoder observes.
      key: Random key.
      temperature: Temperature of the samples; 0 for the most likely motion tokens.
      num_decisions: Number of decisions.
    """
    network = model.network(params)

    def decide(carry: tuple[EgoMotion, Any], inputs: tuple[Array, Array, Array]):
        state, caches = carry
        light, step, key = inputs
        logits, caches = network.decide(caches, light, _ego_values(state), step, present)
        token = sample_token(logits, key, temperature)
        state, states = advance(state, *token_values(token))
        return (state, caches), (states, token)

    steps = jnp.arange(num_decisions, dtype=jnp.int32)
    lights = jnp.swapaxes(jnp.asarray(tokens.lights), 0, 1)[:num_decisions]
    first = _first_state(tokens), network.begin(tokens, present)
    _, (states, token) = jax.lax.scan(decide, first, (lights, steps, jax.random.split(key, num_decisions)))
    return Drives(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states), token)


def sample_token(
    logits: Float[Array, "E V"], key: Key[Array, ""], temperature: Float[Array, ""] | float
) -> Int[Array, " E"]:
    """A token of the softmax at a temperature; the most likely one at temperature 0.

    Args:
      logits: Logits.
      key: Random key.
      temperature: Temperature.
    """
    noise = jax.random.gumbel(key, logits.shape) * temperature
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def _first_state(tokens: SceneTokens) -> EgoMotion:
    ego = jnp.asarray(tokens.ego)[:, 0]
    return EgoMotion(ego[:, :2], jnp.arctan2(ego[:, 3], ego[:, 2]), ego[:, 4])


def _ego_values(state: EgoMotion) -> Float[Array, "E 5"]:
    return jnp.concatenate([state.xy, geometry.unit_vector(state.yaw), state.speed[:, None]], axis=-1)


@functools.partial(jax.jit, static_argnames="model")
def token_nll(
    model: ModalityModel, params: Any, tokens: SceneTokens, present: Bool[Array, "E 5"]
) -> Float[Array, "E T"]:
    """Negative log-likelihood of the motion tokens of the record, nats.

    Args:
      model: The decoder.
      params: Its parameters.
      tokens: Drives.
      present: Modalities that the decoder observes.
    """
    log_probs = jax.nn.log_softmax(model.network(params)(tokens, present))
    return -jnp.take_along_axis(log_probs, jnp.asarray(tokens.label)[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnames="model")
def acceleration_nll(
    model: ModalityModel, params: Any, tokens: SceneTokens, present: Bool[Array, "E 5"]
) -> Float[Array, "E T"]:
    """Negative log-likelihood of the accelerations of the record, summed over curvatures, nats.

    Args:
      model: The decoder.
      params: Its parameters.
      tokens: Drives.
      present: Modalities that the decoder observes.
    """
    log_probs = jax.nn.log_softmax(model.network(params)(tokens, present))
    num_curvatures = len(MODALITY_BED.curvatures)
    by_acceleration = log_probs.reshape(*log_probs.shape[:-1], -1, num_curvatures)
    marginal = jax.nn.logsumexp(by_acceleration, axis=-1)
    row = jnp.asarray(tokens.label)[..., None] // num_curvatures
    return -jnp.take_along_axis(marginal, row, axis=-1)[..., 0]


def style_nll(nll: Float[Array, "E T"], situation: Situation) -> MetricValue:
    """Mean over the first decisions, for drivers with the smallest or the largest acceleration.

    Args:
      nll: From `acceleration_nll`.
      situation: Situations of the drives.
    """
    is_extreme = (situation.style == 0) | (situation.style == len(MODALITY_BED.styles) - 1)
    return masked_value(jnp.mean(nll[:, : MODALITY_METRICS.num_style_decisions], axis=-1), is_extreme)


@jax.jit
def drive_metrics(drives: Drives, situation: Situation, middle: Float[Array, "E K 3"]) -> dict[str, MetricValue]:
    """The metrics of map, route, raster and lights, and the lateral error, of each drive.

    - off_road: the box leaves the road between line and junction. Valid for drives that reach the end of the
      bend, or leave the road.
    - lateral_error: mean distance from the center of the open lane in the bend, m; for the same drives.
    - closed_lane: the box meets an obstacle.
    - red_light: the center crosses the line at red.
    - off_route: the exit is another one than that of the route. Valid for drives that pass the junction.

    Metrics of the light and of the junction are not valid for drives that leave the road before, and those of the light
    not for drives that never meet a light that is closed within 30 m.

    Args:
      drives: Drives.
      situation: Their situations.
      middle: Middle of the road and of the straight exit, from `straight_middle`.
    """
    states = drives.state
    position = jax.lax.map(lambda xy: project(middle, xy), states.xy)
    arc, lateral = position.arc, position.lateral
    before_junction = jax.lax.cummax(arc, axis=0) <= MODALITY_BED.junction[0]
    in_bend = (arc >= MODALITY_BED.bend[0]) & (arc <= MODALITY_BED.bend[1]) & before_junction
    beyond = jnp.abs(lateral) + MODALITY_BED.size[1] / 2 > MODALITY_METRICS.road_half_width
    leaves = jnp.any(beyond & before_junction & (arc > MODALITY_BED.line), axis=0)
    reached = jnp.any(arc >= MODALITY_BED.bend[1] - 1.0, axis=0) | leaves
    goal = -MODALITY_BED.lane_offset * situation.closed.astype(jnp.float32)
    error = jnp.sum(jnp.where(in_bend, jnp.abs(lateral - goal[None]), 0.0), axis=0) / jnp.maximum(
        jnp.sum(in_bend, axis=0), 1
    ).astype(jnp.float32)
    entries = jax.lax.map(lambda now: closed_lane_entry(now, situation.closed), position)
    far = jnp.abs(lateral) > MODALITY_METRICS.max_lateral
    stays_to_line = ~jnp.any(far & (jax.lax.cummax(arc, axis=0) <= MODALITY_BED.line), axis=0)
    stays_to_junction = ~jnp.any(far & before_junction, axis=0)
    return {
        "off_road": flag(leaves, reached),
        "lateral_error": masked_value(error, reached & jnp.any(in_bend, axis=0)),
        "closed_lane": flag(jnp.any(entries, axis=0), jnp.ones_like(leaves)),
        "red_light": _red_light(arc, situation, stays_to_line),
        "off_route": _off_route(states, arc, situation, stays_to_junction),
    }


def straight_middle(situation: Situation) -> Float[np.ndarray, "E K 3"]:
    """Middle of the road and of the straight exit."""
    bend = np.asarray(situation.bend)
    return road_middle(bend, np.ones(len(bend), np.int32))


def _red_light(arc: Float[Array, "S E"], situation: Situation, on_road: Bool[Array, " E"]) -> MetricValue:
    """Crossing of the line after a decision at red."""
    decision = np.arange(arc.shape[0]) // MODALITY_BED.steps_per_token * MODALITY_BED.steps_per_token
    is_red = situation.light.T[MODALITY_BED.first_step + decision] == STOP
    crosses = (arc[:-1] < MODALITY_BED.line) & (arc[1:] >= MODALITY_BED.line)
    meets = is_red & (arc > MODALITY_BED.line - 30.0) & (arc < MODALITY_BED.line)
    return flag(jnp.any(crosses & is_red[1:], axis=0), on_road & jnp.any(meets, axis=0))


def _off_route(
    states: EgoMotion, arc: Float[Array, "S E"], situation: Situation, on_road: Bool[Array, " E"]
) -> MetricValue:
    """Exit by the change of the heading in the junction."""
    entered = jax.lax.cummax(arc, axis=0) >= MODALITY_BED.junction[0]
    distance = geometry.norm(jnp.diff(states.xy, axis=0, prepend=states.xy[:1]))
    driven = jnp.cumsum(jnp.where(entered, distance, 0.0), axis=0)
    passed = driven >= MODALITY_METRICS.exit_distance
    start, end = jnp.argmax(entered, axis=0), jnp.argmax(passed, axis=0)
    turn = jnp.take_along_axis(states.yaw, end[None], axis=0) - jnp.take_along_axis(states.yaw, start[None], axis=0)
    chosen = jnp.where(turn[0] > MODALITY_METRICS.exit_turn, 0, jnp.where(turn[0] < -MODALITY_METRICS.exit_turn, 2, 1))
    return flag(chosen != situation.exit, on_road & jnp.any(passed, axis=0))


def expert_drives(states: EgoMotion) -> Drives:
    """The drives of `modality_bed.drive_expert` from the first decision on."""
    after = tree_index(states, slice(MODALITY_BED.first_step + 1, None))
    return Drives(after, jnp.zeros((MODALITY_BED.num_decisions, states.yaw.shape[1]), jnp.int32))


def mean_value(value: MetricValue) -> float:
    """Mean over valid drives; NaN without any."""
    value = dataclasses.replace(value, value=np.asarray(value.value), valid=np.asarray(value.valid))
    return float(np.mean(value.value[value.valid])) if value.valid.any() else float("nan")
