"""The scene decoder as a policy of all agents: tokens at 2 Hz, poses at 10 Hz, and a cache of keys and values."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from behavior_models.networks.kv_cache import KVCache
from behavior_models.scene_decoder.decoder import AgentTokens, DecoderModel, SceneDecoder
from behavior_models.scene_decoder.modalities import Modalities
from behavior_models.scene_decoder.motion_tokens import (
    SEGMENT_STEPS,
    SEGMENT_TIME,
    EncodedTracks,
    Vocabulary,
    encode,
)
from behavior_models.scene_decoder.poses import class_index, compose_pose, motion_by_velocity, poses, relative_pose
from behavior_models.scene_decoder.records import NUM_HISTORY_TOKENS
from behavior_models.scene_decoder.sampling import TokenSampling, sample_tokens
from behavior_models.scene_decoder.scene_map import SceneMap, scene_map, stop_line_lights
from behavior_models.scene_decoder.scene_tokens import AgentInstant, agent_features
from waymax_sim.datatypes.scenario import TIME_STEP
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.env.observation import scatter_row_actions
from waymax_sim.ops.bank import materialize_rows
from waymax_sim.pytree import Array, pytree, static, tree_index

# Agents that the network evaluates together; groups without a present agent are skipped.
AGENT_GROUP = 16
# Steps of history that are encoded as tokens at the start of an episode.
NUM_OBSERVED_STEPS = NUM_HISTORY_TOKENS * SEGMENT_STEPS + 1


@pytree
class DecoderMemory:
    """The recurrent state of the policy. Rows of agents are in the order `rows`.

    Attributes:
      map: Map tokens.
      rows: Rows of `Observation.controlled`, those of agents that are present at the start first.
      cache: Keys and values of the past tokens of each row.
      time: Number of tokens so far, two of history included.
      age: Steps since the last decision.
      token: Current token of each row.
      plan: Poses of this token.
      pose: Poses of all agents at the last decision.
      valid: Agents that were present then.
    """

    map: SceneMap
    rows: Int[Array, " K"]
    cache: KVCache
    time: Int[Array, ""]
    age: Int[Array, ""]
    token: Int[Array, " K"]
    plan: Float[Array, "K 5 3"]
    pose: Float[Array, "N 3"]
    valid: Bool[Array, " N"]


@pytree
class DecoderPolicy(Policy):
    """All controlled agents by the scene decoder; sets of parameters of one network share compiled programs.

    The rollout continues from the observed poses, not from those of the tokens of the history. Agents are driven on
    beyond the end of their log.

    Attributes:
      params: Parameters of the network.
      vocabulary: The motion tokens.
      sampling: Parameters of sampling.
      modalities: Modalities that the network observes; by default not the route of the sdc.
      model: The network.
      num_candidates: Upper bound of `TokenSampling.top_k`.

    Raises:
      ValueError: Time steps are not 0.1 s, or the observation has less than one second of history.
    """

    params: Any
    vocabulary: Vocabulary
    sampling: TokenSampling
    modalities: Modalities
    model: DecoderModel = static()
    num_candidates: int = static(default=64)
    dynamics = Teleport()
    num_history_steps = NUM_OBSERVED_STEPS

    @property
    def network(self) -> SceneDecoder:
        """The network with its parameters."""
        return self.model.network(self.params)

    def init(self, observation: Observation, key: Key[Array, ""]) -> DecoderMemory:
        """The map tokens, and the cache of the tokens of the history."""
        _check(observation)
        history = tree_index(observation.history, slice(-NUM_OBSERVED_STEPS, None))
        times = tree_index(history, slice(None, None, SEGMENT_STEPS))
        classes = class_index(jnp.asarray(observation.info.type))
        encoded = encode(self.vocabulary, poses(times), times.valid, classes)
        roadmap, graph, routes = materialize_rows((observation.roadmap, observation.graph, observation.routes))
        tokens = scene_map(
            roadmap,
            graph,
            routes,
            observation.agents,
            self.model.config.map,
        )
        order = jnp.argsort(observation.controlled < 0, stable=True)
        slots = jnp.maximum(observation.controlled, 0)[order]
        cache = self._prefill(observation, tokens, encoded, slots)
        return DecoderMemory(
            map=tokens,
            rows=order,
            cache=cache,
            time=jnp.asarray(NUM_HISTORY_TOKENS, jnp.int32),
            age=jnp.zeros((), jnp.int32),
            token=encoded.token[-1][slots],
            plan=jnp.zeros((len(order), SEGMENT_STEPS, 3)),
            pose=encoded.pose[-2],
            valid=times.valid[-2],
        )

    def act(self, observation: Observation, carry: DecoderMemory, key: Key[Array, ""]) -> tuple[Action, DecoderMemory]:
        """The next pose of each agent; new tokens at every fifth step."""
        memory = jax.lax.cond(carry.age == 0, lambda: self._decide(observation, carry, key), lambda: carry)
        slots = observation.controlled[memory.rows]
        pose = memory.plan[:, memory.age]
        now = poses(observation.agents)[jnp.maximum(slots, 0)]
        velocity = (pose[:, :2] - now[:, :2]) / observation.dt
        action = scatter_row_actions(slots, jnp.concatenate([pose, velocity], axis=-1), len(observation.info.id))
        return action, dataclasses.replace(memory, age=(memory.age + 1) % SEGMENT_STEPS)

    def _prefill(
        self, observation: Observation, tokens: SceneMap, encoded: EncodedTracks, slots: Int[Array, " K"]
    ) -> KVCache:
        """The cache of the tokens of the history."""
        cache = self.model.empty_cache(len(slots))
        for time in range(NUM_HISTORY_TOKENS):
            agents = tree_index(observation.history, time * SEGMENT_STEPS - NUM_OBSERVED_STEPS)
            if time == 0:
                before, is_known = poses(agents), jnp.zeros_like(agents.valid)
            else:
                before, is_known = encoded.pose[time - 1], encoded.token[time - 1] >= 0
            now = _instant(observation, tokens, encoded.pose[time], agents.valid, before, is_known, agents)
            previous = jnp.where(
                now.is_first[slots], self.model.config.num_tokens, encoded.token[max(time - 1, 0)][slots]
            )
            inputs = self._inputs(now, tokens, slots, previous, now.valid[slots])
            _, cache = self.network.step(inputs, jnp.int32(time), cache, self.modalities)
        return cache

    def _decide(self, observation: Observation, memory: DecoderMemory, key: Key[Array, ""]) -> DecoderMemory:
        """New tokens for all groups of agents up to the last one with a present agent."""
        agents = observation.agents
        pose = poses(agents)
        now = _instant(observation, memory.map, pose, agents.valid, memory.pose, memory.valid, agents)
        slots = observation.controlled[memory.rows]
        size = min(AGENT_GROUP, len(slots))
        last = jnp.max(jnp.where(slots >= 0, jnp.arange(len(slots)), -1))

        def group(number: Int[Array, ""], state: tuple[KVCache, Array, Array]):
            # The last group overlaps the one before it unless the size divides the number of rows.
            begin = jnp.minimum(number * size, len(slots) - size)
            return self._decide_group(now, memory, slots, key, begin, size, state)

        state = memory.cache, memory.token, memory.plan
        cache, token, plan = jax.lax.fori_loop(0, last // size + 1, group, state)
        cache = dataclasses.replace(cache, num_written=memory.cache.num_written + 1)
        return dataclasses.replace(
            memory, cache=cache, token=token, plan=plan, pose=pose, valid=agents.valid, time=memory.time + 1
        )

    def _decide_group(
        self,
        now: AgentInstant,
        memory: DecoderMemory,
        slots: Int[Array, " K"],
        key: Key[Array, ""],
        begin: Int[Array, ""],
        size: int,
        state: tuple[KVCache, Array, Array],
    ) -> tuple[KVCache, Array, Array]:
        """Tokens, poses and cache after the decisions of the rows from `begin` on."""
        cache, token, plan = state
        own = jax.lax.dynamic_slice_in_dim(slots, begin, size)
        rows = jnp.maximum(own, 0)
        before = jax.lax.dynamic_slice_in_dim(memory.token, begin, size)
        previous = jnp.where(now.is_first[rows] | (before < 0), self.model.config.num_tokens, before)
        inputs = self._inputs(now, memory.map, rows, previous, own >= 0)
        part = _map_rows(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, size), memory.cache)
        hidden, part = self.network.step(inputs, memory.time, part, self.modalities)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
        logits = self.network.logits(hidden, inputs.classes)
        chosen = sample_tokens(logits, self.sampling, keys, self.num_candidates)
        poses = compose_pose(now.pose[rows][:, None], jnp.asarray(self.vocabulary.poses)[chosen])
        write = jax.lax.dynamic_update_slice_in_dim
        return (
            _map_rows(lambda whole, leaf: write(whole, leaf, begin, 0), cache, part),
            write(token, chosen, begin, 0),
            write(plan, poses, begin, 0),
        )

    def _inputs(
        self,
        now: AgentInstant,
        tokens: SceneMap,
        rows: Int[Array, " K"],
        previous: Int[Array, " K"],
        valid: Bool[Array, " K"],
    ) -> AgentTokens:
        features = agent_features(now, tokens, rows, self.model.config.tokens)
        return AgentTokens(features, previous, valid, now.classes[rows])


def _instant(
    observation: Observation,
    tokens: SceneMap,
    pose: Float[Array, "N 3"],
    valid: Bool[Array, " N"],
    before: Float[Array, "N 3"],
    was_valid: Bool[Array, " N"],
    agents: Any,
) -> AgentInstant:
    """All agents at a time, with their motion since half a second before."""
    is_first = ~(valid & was_valid)
    motion = jnp.where(is_first[:, None], motion_by_velocity(agents, SEGMENT_TIME), relative_pose(pose, before))
    info = observation.info
    return AgentInstant(
        pose=pose,
        motion=motion,
        is_first=is_first,
        valid=valid,
        size=jnp.asarray(info.size)[:, :2],
        classes=class_index(jnp.asarray(info.type)),
        is_sdc=jnp.asarray(info.is_sdc),
        lights=stop_line_lights(tokens, materialize_rows(observation.signals)),
    )


def _map_rows(function: Any, *caches: KVCache) -> KVCache:
    """A cache whose arrays with rows are results of a function; the number of tokens is that of the first one."""
    first, *_ = caches
    parts = [(cache.keys, cache.values, cache.index) for cache in caches]
    keys, values, index = jax.tree.map(function, *parts)
    return KVCache(keys, values, index, first.num_written)


def _check(observation: Observation) -> None:
    if abs(observation.dt - TIME_STEP) > 1e-6:
        raise ValueError(f"motion tokens have steps of {TIME_STEP} s, the scenario {observation.dt} s: resample it")
    if observation.history.valid.shape[0] < NUM_OBSERVED_STEPS:
        raise ValueError(
            f"the decoder observes {NUM_OBSERVED_STEPS} steps of history, given are "
            f"{observation.history.valid.shape[0]}: set EnvConfig(num_history_steps={NUM_OBSERVED_STEPS})"
        )
