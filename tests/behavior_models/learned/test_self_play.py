"""PPO self-play reaches goals of held-out scenes within a budget of CPU time, and trivial policies do not."""

import time

import jax
import jax.numpy as jnp
import pytest

import waymax_sim as ws
from behavior_models.baselines.kinematic import ConstantSpeed
from behavior_models.networks.policy import NetworkActor
from behavior_models.reinforcement.ppo import PPO
from behavior_models.trainers.baselines import policy_rates
from behavior_models.trainers.common import NUM_DECISIONS
from behavior_models.training.held_out import HeldOut
from behavior_models.training.presets import GOAL_TASK, SELF_PLAY_VIEW, STEPS_PER_ACTION
from waymax_sim.env.bank import build_bank
from waymax_sim.pytree import pytree

MAX_CPU_SECONDS = 150.0
MIN_GOAL_RATE = 0.75


@pytree
class GoalBlindActor:
    """A network whose observations have zeros instead of the goal."""

    actor: NetworkActor

    def __call__(self, observation, key):
        features = SELF_PLAY_VIEW.spec().features
        kept = jnp.concatenate([jnp.full(feature.size, feature.name != "goal") for feature in features])
        return self.actor(jnp.where(kept, observation, 0.0), key)


def test_the_control_observes_no_goal():
    class Record:
        def __call__(self, observation, key):
            return observation

    rows = jnp.ones((2, SELF_PLAY_VIEW.spec().size))
    size = {feature.name: feature.size for feature in SELF_PLAY_VIEW.spec().features}["goal"]
    assert float((GoalBlindActor(Record())(rows, None) == 0).sum()) == 2 * size > 0


def train(learner: PPO, bank) -> tuple:
    """The first parameters, those after all updates or the budget, the number of updates, and CPU seconds."""
    state, step = jax.jit(learner.init)(bank, jax.random.key(0)), jax.jit(learner.train_step)
    first, seconds = state.params, 0.0
    jax.block_until_ready(step(state, bank))  # compiles
    while int(state.step) < learner.config.num_updates and seconds < MAX_CPU_SECONDS:
        begin = time.process_time()
        state, _ = jax.block_until_ready(step(state, bank))
        seconds += time.process_time() - begin
    return first, state.params, int(state.step), seconds


@pytest.mark.slow
def test_self_play_reaches_goals_and_controls_fail():
    paths = {"train": "synthetic:0:100", "test": "synthetic:901:60"}
    banks = {name: build_bank(ws.load(path, pad_to_bucket=False), GOAL_TASK.env) for name, path in paths.items()}
    learner, evaluation = PPO(GOAL_TASK), HeldOut(GOAL_TASK, NUM_DECISIONS)
    untrained, trained, number, seconds = train(learner, banks["train"])
    actors = {name: learner.model.actor(params) for name, params in (("untrained", untrained), ("trained", trained))}
    actors["no goal"] = GoalBlindActor(actors["trained"])
    rates = {name: evaluation.rates(actor, banks["test"], jax.random.key(1)) for name, actor in actors.items()}
    rates["constant speed"] = policy_rates(
        GOAL_TASK.env, ConstantSpeed(), banks["test"], NUM_DECISIONS * STEPS_PER_ACTION
    )
    print(f"{number} updates, {seconds:.0f} CPU s", rates)
    assert rates["trained"]["episodes"] >= 400
    assert {name for name, own in rates.items() if own["goal"] >= MIN_GOAL_RATE} == {"trained"}
