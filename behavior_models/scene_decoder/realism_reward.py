"""Fine-tuning with realism as reward: REINFORCE on the meta-metric of the Sim Agents challenge, in one program.

Rewards are the leave-one-out contributions of rollouts to the meta-metric of their group, mean_j M(without j) -
M(without i), which sum to zero over the group (RLFTSim). A term KL(policy || reference) limits the change.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from behavior_models.scene_decoder.checkpoint import decoder_policy
from behavior_models.scene_decoder.decoder import AgentTokens, DecoderModel
from behavior_models.scene_decoder.motion_tokens import Vocabulary
from behavior_models.scene_decoder.policy import NUM_OBSERVED_STEPS
from behavior_models.scene_decoder.records import (
    NUM_HISTORY_TOKENS,
    STEPS_PER_RECORD,
    record_arrays,
    record_slots,
)
from behavior_models.scene_decoder.sampling import TokenSampling
from behavior_models.scene_decoder.tracks import scene_tracks
from behavior_models.scene_decoder.training import DecoderState, DecoderTraining, DecoderTrainingConfig, token_log_probs
from waymax_sim.datatypes.agents import AgentState
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, rollout
from waymax_sim.env.bank import ScenarioBank
from waymax_sim.metrics.realism import (
    CONFIGS,
    RealismConfig,
    RealismRollouts,
    compare_rollouts,
    rollout_contributions,
    score,
)
from waymax_sim.metrics.realism.features import Comparison
from waymax_sim.ops.bank import materialize_rows
from waymax_sim.pytree import Array

# Simulated steps of the metric.
SIMULATED_STEPS = STEPS_PER_RECORD - NUM_OBSERVED_STEPS
# The environment of the challenge.
REALISM_ENV = Env(
    config=EnvConfig(controlled="all", spawn="never", metrics=(), rewards=(), num_history_steps=NUM_OBSERVED_STEPS)
)


@dataclasses.dataclass(frozen=True)
class RealismRewardConfig:
    """Hyperparameters.

    Attributes:
      num_rollouts: Rollouts of a scene in a group.
      num_slots: Largest number of agents of a scene whose tokens are learned from.
      max_evaluated: Slots for scored agents.
      kl_weight: Weight of KL(policy || reference) per token, relative to standardized rewards.
      temperature: Temperature of the rollouts.
      metric: Features and weights of the metric.
    """

    num_rollouts: int = 8
    num_slots: int = 40
    max_evaluated: int = 9
    kl_weight: float = 0.1
    temperature: float = 1.0
    metric: RealismConfig = CONFIGS["2025"]


def leave_one_out(features: Comparison, config: RealismConfig) -> tuple[Float[Array, " K"], Float[Array, ""]]:
    """Contribution of each of K rollouts to the meta-metric, minus their mean, and the meta-metric of all of them.

    Args:
      features: Features of the rollouts.
      config: Features and weights of the metric.
    """
    contributions = rollout_contributions(features, config)
    return contributions - jnp.mean(contributions), score(features, config).meta_metric


def standardize(reward: Float[Array, " K"]) -> Float[Array, " K"]:
    """Rewards divided by their standard deviation; zero if they are not finite, as without any scored agent."""
    deviation = jnp.sqrt(jnp.mean(reward**2))
    usable = jnp.isfinite(deviation) & (deviation > 1e-8)
    return jnp.where(usable, reward / jnp.where(usable, deviation, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class RealismTraining:
    """The algorithm. Hashable: equal instances share programs.

    Attributes:
      model: The network.
      config: Hyperparameters.
      optimization: Hyperparameters of the gradient steps, each on one scene.
    """

    model: DecoderModel
    config: RealismRewardConfig = RealismRewardConfig()
    optimization: DecoderTrainingConfig = DecoderTrainingConfig(
        num_steps=20, num_updates=5, learning_rate=1e-4, warmup=5, weight_decay=0.0
    )

    @property
    def base(self) -> DecoderTraining:
        """The optimizer."""
        return DecoderTraining(self.model, self.optimization)

    def init(self, key: Key[Array, ""], params: Any) -> DecoderState:
        """The state before the first step.

        Args:
          key: Random key.
          params: Initial parameters, those of the reference.
        """
        return self.base.init(key, params)

    def train_step(
        self, state: DecoderState, data: tuple[Vocabulary, ScenarioBank, Any]
    ) -> tuple[DecoderState, dict[str, Float[Array, ""]]]:
        """Gradient steps, each on the rollouts of a random scene.

        Args:
          state: The state.
          data: The motion tokens, scenarios and the parameters of the reference, on the device.
        """
        vocabulary, bank, reference = data
        key, own = jax.random.split(state.key)

        def update(carry: tuple[Any, Any], key: Key[Array, ""]):
            scene_key, rollout_key = jax.random.split(key)
            scene = jax.random.randint(scene_key, (), 0, len(bank))
            scenario = materialize_rows(bank.scenario(scene))
            inputs, target, reward, meta = self.sample(carry[0], vocabulary, scenario, rollout_key)
            (loss, kl), gradient = jax.value_and_grad(self.loss, has_aux=True)(
                carry[0], reference, inputs, target, standardize(reward)
            )
            change, optimizer = self.base.optimizer.update(gradient, carry[1], carry[0])
            params = jax.tree.map(jnp.add, carry[0], change)
            return (params, optimizer), {"loss": loss, "kl": kl, "meta_metric": meta, "spread": jnp.std(reward)}

        keys = jax.random.split(own, self.optimization.num_updates)
        (params, optimizer), scalars = jax.lax.scan(update, (state.params, state.optimizer), keys)
        return DecoderState(params, optimizer, key, state.step + 1), jax.tree.map(jnp.mean, scalars)

    def sample(
        self, params: Any, vocabulary: Vocabulary, scenario: Scenario, key: Key[Array, ""]
    ) -> tuple[AgentTokens, Int[Array, "K A T"], Float[Array, " K"], Float[Array, ""]]:
        """Tokens of K rollouts of a scenario, their leave-one-out rewards and their meta-metric.

        Args:
          params: Parameters.
          vocabulary: The motion tokens.
          scenario: The scenario, of 91 steps.
          key: Random key.
        """
        sampling = TokenSampling.create(self.config.temperature, top_k=64)
        policy = decoder_policy(self.model, params, vocabulary, sampling)

        def run(key: Key[Array, ""]) -> AgentState:
            agents = rollout(REALISM_ENV, policy, scenario, key, SIMULATED_STEPS, record=("agents",)).agents
            assert agents is not None  # as `record` names them
            return agents

        agents = jax.vmap(run)(jax.random.split(key, self.config.num_rollouts))
        rollouts = RealismRollouts(agents.xyz, agents.yaw)
        features = compare_rollouts(scenario, rollouts, max_evaluated=self.config.max_evaluated)
        reward, meta = leave_one_out(features, self.config.metric)
        inputs, target = self._tokens(vocabulary, scenario, agents)
        return inputs, target, reward, meta

    def loss(
        self,
        params: Any,
        reference: Any,
        inputs: AgentTokens,
        target: Int[Array, "K A T"],
        reward: Float[Array, " K"],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The policy-gradient loss with the weighted divergence, and KL(policy || reference), nats per token.

        Args:
          params: Parameters.
          reference: Parameters of the reference.
          inputs: Tokens of the rollouts [K, A, T].
          target: Sampled tokens; -1 for none.
          reward: Reward of each rollout.
        """
        flat, tokens = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (inputs, target))
        log_probs = self.model.log_probs(params, flat)
        anchor = jax.lax.stop_gradient(self.model.log_probs(reference, flat))
        mask = (tokens >= 0).astype(jnp.float32)
        count = jnp.maximum(jnp.sum(mask), 1.0)
        weight = jnp.repeat(reward, target.shape[1])[:, None] * mask
        gain = jnp.sum(weight * token_log_probs(log_probs, tokens)) / count
        divergence = jnp.sum(jnp.exp(log_probs) * (log_probs - anchor), axis=-1)
        kl = jnp.sum(divergence * mask) / count
        return self.config.kl_weight * kl - gain, kl

    def _tokens(
        self, vocabulary: Vocabulary, scenario: Scenario, agents: AgentState
    ) -> tuple[AgentTokens, Int[Array, "K A T"]]:
        """The tokens of rollouts, which are those that were sampled: encoding decoded tokens gives them again."""
        rows = record_slots(scenario, self.config.num_slots)
        record = record_arrays(scenario, self.config.num_slots, self.model.config.map)
        present = record.valid[NUM_OBSERVED_STEPS - 1]
        history = record.valid[:NUM_OBSERVED_STEPS] & present[None]
        valid = jnp.concatenate([history, jnp.broadcast_to(present[None], (SIMULATED_STEPS, len(present)))])

        def tokens(own: AgentState) -> tuple[AgentTokens, Int[Array, "A T"]]:
            future = jnp.concatenate([own.xyz[:, rows, :2], own.yaw[:, rows, None]], axis=-1)
            pose = jnp.concatenate([record.pose[:NUM_OBSERVED_STEPS], future])
            driven = dataclasses.replace(record, pose=jnp.where(valid[..., None], pose, 0.0), valid=valid)
            inputs, target = scene_tracks(vocabulary, driven, self.model.config.tokens)
            is_sampled = jnp.arange(target.shape[1])[None] >= NUM_HISTORY_TOKENS
            return inputs, jnp.where(is_sampled, target, -1)

        return jax.lax.map(tokens, agents)
