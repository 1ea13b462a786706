"""Closed-loop fine-tuning: cross entropy of the tokens that lead from visited states back to the log.

The network drives all agents of a recorded scene. CAT-K (Zhang et al. 2024) executes the token closest to the log among
its K most likely ones, so that visited states remain close to the log. Naive top-K sampling is the control: its states
leave the log, and the labels with them.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.scene_decoder.decoder import NO_TOKEN, AgentTokens, DecoderModel
from behavior_models.scene_decoder.motion_tokens import SEGMENT_STEPS, EncodedTracks, Vocabulary, nearest_token
from behavior_models.scene_decoder.poses import compose_pose, relative_pose
from behavior_models.scene_decoder.records import NUM_HISTORY_TOKENS, SceneRecord
from behavior_models.scene_decoder.scene_tokens import AgentInstant, agent_features
from behavior_models.scene_decoder.tracks import Tracks, encode_record, instant
from behavior_models.scene_decoder.training import DecoderState, DecoderTraining, DecoderTrainingConfig
from waymax_sim.pytree import Array, pytree, tree_index


@dataclasses.dataclass(frozen=True)
class ClosedLoopConfig:
    """Hyperparameters.

    Attributes:
      choice: Executed token: the closest to the log among the K most likely ones, or a sample of them.
      num_best: K; the share of labels among the K most likely tokens should be below one (`coverage`), or nothing is
        visited but the log.
      num_scenes: Scenes of a gradient step.
      max_parked: Largest number of parked agents of a gradient step.
    """

    choice: Literal["closest", "sample"] = "closest"
    num_best: int = 6
    num_scenes: int = 4
    max_parked: int = 24


@pytree
class VisitedStates:
    """The rollout of a recorded scene with labels.

    Attributes:
      inputs: Tokens of the visited states [A, T].
      target: Tokens that lead back to the log; -1 where none is recorded, and in the history.
      distance: Mean distance of the corners of the boxes from the log at the end of the executed tokens, m; NaN without
        a target.
    """

    inputs: AgentTokens
    target: Int[Array, "A T"]
    distance: Float[Array, "A T"]


def visit(
    model: DecoderModel,
    params: Any,
    vocabulary: Vocabulary,
    record: SceneRecord,
    config: ClosedLoopConfig,
    key: Key[Array, ""],
) -> VisitedStates:
    """Drives all agents of a record from the current step on; the history is that of the log.

    Agents appear and disappear as in the log.

    Args:
      model: The network.
      params: Its parameters.
      vocabulary: The motion tokens.
      record: One record.
      config: The executed tokens.
      key: Random key of samples.
    """
    network, encoded = model.network(params), encode_record(vocabulary, record)
    rows = jnp.arange(len(record.size))

    def step(carry, time):
        (pose, token), cache = carry
        now, previous = _visited(record, encoded, model.config.num_tokens, pose, token, time)
        features = agent_features(now, record.map, rows, model.config.tokens)
        inputs = AgentTokens(features, previous, now.valid, now.classes)
        hidden, cache = network.step(inputs, time, cache)
        logits = network.logits(hidden, now.classes)
        end = (time + 1) * SEGMENT_STEPS
        label, distance = nearest_token(vocabulary, now.pose, record.pose[end], now.classes)
        chosen = _choose(logits, distance, config, jax.random.fold_in(key, time))
        chosen = jnp.where(time < NUM_HISTORY_TOKENS, jnp.maximum(encoded.token[time], 0), chosen)
        is_counted = now.valid & record.valid[end] & (time >= NUM_HISTORY_TOKENS)
        error = jnp.where(is_counted, jnp.take_along_axis(distance, chosen[:, None], axis=1)[:, 0], jnp.nan)
        reached = compose_pose(now.pose, vocabulary.ends[chosen])
        return ((jnp.stack([now.pose, reached]), chosen), cache), (inputs, jnp.where(is_counted, label, -1), error)

    start = (jnp.stack([record.pose[0], record.pose[0]]), jnp.zeros(len(rows), jnp.int32))
    times = jnp.arange(len(encoded.token))
    _, visited = jax.lax.scan(step, (start, model.empty_cache(len(rows))), times)
    inputs, target, distance = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), visited)
    return VisitedStates(inputs, target, distance)


def _visited(
    record: SceneRecord,
    encoded: EncodedTracks,
    none: int,
    pose: Float[Array, "2 A 3"],
    token: Int[Array, " A"],
    time: Int[Array, ""],
) -> tuple[AgentInstant, Int[Array, " A"]]:
    """All agents at a time of a rollout, and their previous tokens.

    Args:
      record: The record.
      encoded: Tokens of the log, for the history and for agents that appear.
      none: The token of agents without a previous one.
      pose: Poses at the last token and now.
      token: Executed tokens.
      time: Number of the token.
    """
    logged = instant(record, encoded, time)
    is_logged = logged.is_first | (time <= NUM_HISTORY_TOKENS)
    own = jnp.where(is_logged[:, None], logged.pose, pose[1])
    motion = jnp.where(is_logged[:, None], logged.motion, relative_pose(pose[1], pose[0]))
    before = jnp.where(is_logged, encoded.token[jnp.maximum(time - 1, 0)], token)
    previous = jnp.where(logged.is_first, none, before)
    return dataclasses.replace(logged, pose=own, motion=motion), previous


def _choose(
    logits: Float[Array, "A V"], distance: Float[Array, "A V"], config: ClosedLoopConfig, key: Key[Array, ""]
) -> Int[Array, " A"]:
    """The executed tokens."""
    best, token = jax.lax.top_k(logits, config.num_best)
    # Tokens of other classes are among the best if there are fewer than K.
    is_own = best > NO_TOKEN / 2
    if config.choice == "closest":
        near = jnp.where(is_own, jnp.take_along_axis(distance, token, axis=1), jnp.inf)
        rank = jnp.argmin(near, axis=1)
    else:
        rank = jax.random.categorical(key, best)
    return jnp.take_along_axis(token, rank[:, None], axis=1)[:, 0].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class ClosedLoopTraining:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: The network.
      config: The executed tokens.
      optimization: Hyperparameters of the gradient steps; their minibatch is the number of tracks of visited states.
    """

    model: DecoderModel
    config: ClosedLoopConfig = ClosedLoopConfig()
    optimization: DecoderTrainingConfig = DecoderTrainingConfig(num_steps=20, learning_rate=5e-4, warmup=5)

    @property
    def base(self) -> DecoderTraining:
        """Loss and optimizer, those of the training on recorded tracks."""
        return DecoderTraining(self.model, self.optimization)

    def init(self, key: Key[Array, ""], params: Any) -> DecoderState:
        """The state before the first step.

        Args:
          key: Random key.
          params: Initial parameters.
        """
        return self.base.init(key, params)

    def train_step(
        self, state: DecoderState, data: tuple[Vocabulary, SceneRecord]
    ) -> tuple[DecoderState, dict[str, Float[Array, ""]]]:
        """Gradient steps, each on the states that the present parameters visit in random scenes.

        Args:
          state: The state.
          data: The motion tokens and stacked records, on the device.
        """
        vocabulary, records = data
        key, own = jax.random.split(state.key)

        def update(carry: tuple[Any, Any], key: Key[Array, ""]):
            visit_key, loss_key = jax.random.split(key)
            tracks, distance = self.visited_tracks(carry[0], vocabulary, records, visit_key)
            carry, loss = self.base.gradient_step(*carry, tracks, loss_key)
            return carry, {"loss": loss, "visited_distance": distance}

        keys = jax.random.split(own, self.optimization.num_updates)
        (params, optimizer), scalars = jax.lax.scan(update, (state.params, state.optimizer), keys)
        return DecoderState(params, optimizer, key, state.step + 1), jax.tree.map(jnp.mean, scalars)

    def visited_tracks(
        self, params: Any, vocabulary: Vocabulary, records: SceneRecord, key: Key[Array, ""]
    ) -> tuple[Tracks, Float[Array, ""]]:
        """Tracks of visited states of random scenes, and the mean distance of traveling agents from the log, m.

        Args:
          params: Parameters.
          vocabulary: The motion tokens.
          records: Stacked records.
          key: Random key.
        """
        scene_key, visit_key, row_key = jax.random.split(key, 3)
        index = jax.random.randint(scene_key, (self.config.num_scenes,), 0, len(records.valid))

        def run(inputs):
            record = tree_index(records, inputs[0])
            states = visit(self.model, params, vocabulary, record, self.config, inputs[1])
            return states, record.is_traveling

        states, is_traveling = jax.lax.map(run, (index, jax.random.split(visit_key, self.config.num_scenes)))
        states, is_traveling = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (states, is_traveling))
        is_counted = jnp.isfinite(states.distance) & is_traveling[:, None]
        distance = jnp.sum(jnp.where(is_counted, states.distance, 0.0)) / jnp.maximum(jnp.sum(is_counted), 1)
        rows = self._rows(states.target, is_traveling, row_key)
        scene = jnp.zeros(len(rows), jnp.int32)
        return Tracks(*tree_index((states.inputs, states.target, is_traveling), rows), scene), distance

    def _rows(
        self, target: Int[Array, "R T"], is_traveling: Bool[Array, " R"], key: Key[Array, ""]
    ) -> Int[Array, " M"]:
        """Tracks of a minibatch: random traveling agents, some parked ones, and tracks without targets to fill it."""
        draw = jax.random.uniform(key, is_traveling.shape)
        has_target = jnp.any(target >= 0, axis=1)
        is_parked = has_target & ~is_traveling
        parked_rank = jnp.argsort(jnp.argsort(jnp.where(is_parked, draw, 2.0)))
        is_parked = is_parked & (parked_rank < self.config.max_parked)
        order = jnp.where(has_target & is_traveling, draw, jnp.where(is_parked, draw + 1.0, 3.0))
        return jnp.argsort(order)[: self.optimization.minibatch]


def coverage(
    log_probs: Float[np.ndarray, "R T V"], target: Int[np.ndarray, "R T"], numbers: tuple[int, ...]
) -> dict[int, float]:
    """Share of recorded tokens among the K most likely ones.

    Args:
      log_probs: Logarithms of probabilities.
      target: Tokens; -1 where none is recorded.
      numbers: Values of K.
    """
    mask = target >= 0
    own = np.take_along_axis(log_probs, np.maximum(target, 0)[..., None], axis=-1)
    rank = (log_probs > own).sum(axis=-1)[mask]
    return {number: float((rank < number).mean()) for number in numbers}
