"""Field reports about the core: broken policies, clocks, numbers of steps."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from tests.evaluation.test_evaluate import SingleScene
from tests.field.inputs import field_file
from tests.scenes import raw_scene
from waymax_sim.cli import main
from waymax_sim.datasets.loader import load_all
from waymax_sim.datasets.scenarios import Scenarios
from waymax_sim.evaluation import Evaluation, EvaluationConfig
from waymax_sim.evaluation.realism.evaluate import evaluate_realism

pytestmark = pytest.mark.compile_heavy
METRICS = ("overlap", "offroad", "log_divergence", "kinematic_infeasibility", "wrong_way", "comfort_violation")


@dataclasses.dataclass(frozen=True)
class Broken(ws.Policy):
    """A network whose weights became NaN."""

    def act(self, observation, carry, key):
        num_agents = observation.agents.valid.shape[-1]
        return ws.Action(value=jnp.full((num_agents, 2), jnp.nan), valid=jnp.ones(num_agents, bool)), carry


def evaluate(tmp_path, *arguments: str) -> tuple[int, dict]:
    code = main(["evaluate", *arguments, "--out", str(tmp_path / "out")])
    summary = tmp_path / "out" / "summary.json"
    return code, json.loads(summary.read_text()) if summary.exists() else {}


@pytest.mark.parametrize("agents", ["sdc", "vehicle"])
def test_a_policy_of_nan_fails_its_scenes(tmp_path, agents):
    config = EvaluationConfig({"broken": Broken()}, {"replay": None}, ("overlap", "offroad"), agents=agents)
    (failure,) = next(iter(Evaluation(ws.load("synthetic:0:1"), config).results([0])))
    assert failure.error.field == "actions" and "not finite" in failure.error.problem


def test_traffic_of_nan_fails_its_scenes():
    from behavior_models import ConstantVelocity

    config = EvaluationConfig({"ego": ConstantVelocity()}, {"broken": Broken()}, ("overlap",), max_steps=4)
    (failure,) = next(iter(Evaluation(ws.load("synthetic:0:1"), config).results([0])))
    assert failure.error.field == "actions"


@pytest.mark.parametrize("has_future", [True, False])
def test_realism_names_the_agents_of_actions_of_nan(has_future):
    raw = raw_scene(num_steps=12)
    valid = raw.valid.copy()
    valid[raw.current_step + 1 :] = has_future
    scenes = Scenarios([SingleScene(dataclasses.replace(raw, valid=valid))])
    (error,) = evaluate_realism(scenes, policy=Broken(), num_rollouts=2, allow_unscored=True)
    assert isinstance(error, ws.DataError) and error.field == "actions" and "100, 101, 102" in error.problem


def test_no_nan_stays_in_the_state_and_no_reward_is_paid():
    scenario = ws.load("synthetic:0:1")[0]
    env = ws.Env(config=ws.EnvConfig(metrics=METRICS, rewards=(("log_divergence", 1.0),)))
    record = ("agents", "metrics", "reward", "invalid_action")
    trace = jax.jit(lambda s, k: ws.rollout(env, Broken(), s, k, 10, record=record))(scenario, jax.random.key(0))
    ego = int(np.argmax(scenario.agents.is_sdc))
    assert np.isfinite(trace.agents.xyz).all() and np.all(trace.invalid_action[:, ego])
    assert np.all(np.asarray(trace.reward)[:, ego] <= 0)


def test_steps_of_half_a_second_are_simulated_as_recorded(tmp_path):
    path = str(field_file("scenarionet_two_hertz.pkl"))
    code, summary = evaluate(tmp_path, path, "--policy", "constant_velocity", "--metrics", "log_divergence")
    assert code == 0
    (result,) = summary["results"]
    assert result["metrics"]["log_divergence"]["value"] == pytest.approx(0.0, abs=1e-3)


def test_a_record_can_be_resampled(tmp_path):
    path = field_file("scenarionet_two_hertz.pkl")
    recorded, resampled = ws.load(path)[0], ws.load(path, time_step=0.1)[0]
    assert (recorded.time_step, resampled.time_step) == (0.5, 0.1)
    np.testing.assert_allclose(resampled.log.xyz[::5][: recorded.num_steps], recorded.log.xyz, atol=1e-4)


def test_numbers_of_steps_share_a_program():
    from behavior_models import ConstantVelocity

    scenarios = load_all([field_file(f"reliability/steps_{steps}.xml") for steps in (5, 6, 7)])
    traced = []

    @dataclasses.dataclass(frozen=True)
    class Counting(ConstantVelocity):
        def act(self, observation, carry, key):
            traced.append(observation.step)
            return super().act(observation, carry, key)

    config = EvaluationConfig({"counting": Counting()}, {"replay": None}, ("log_divergence",), agents="all")
    results = [item for chunk in Evaluation(scenarios, config).results(range(3)) for item in chunk]
    assert len(results) == 3 and len(traced) == 1
    assert all(result.values["log_divergence"] is not None for result in results)


@pytest.mark.parametrize(("time_step", "code"), [("0.1", 0), ("5", 2), ("nan", 2)])
def test_the_command_line_resamples(tmp_path, time_step, code):
    path = str(field_file("scenarionet_two_hertz.pkl"))
    options = ("--policy", "constant_velocity", "--metrics", "log_divergence", "--time-step", time_step)
    found, summary = evaluate(tmp_path, path, *options)
    assert found == code
    if not code:
        assert summary["conditions"]["time_step"] == 0.1
        assert summary["results"][0]["metrics"]["log_divergence"]["value"] == pytest.approx(0.0, abs=1e-3)
