"""Views, drawing and adapters on scenes without some content."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from tests.adapters.roads import Positions, ego_position
from tests.empty_scenes import REMOVALS, empty_scenario
from waymax_sim.adapters.dm_env import DriveEnvironment
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.adapters.gymnasium import DriveEnv, DriveVectorEnv
from waymax_sim.adapters.loop import EGO_ENV
from waymax_sim.adapters.pettingzoo import DriveParallelEnv
from waymax_sim.datasets.errors import DataError
from waymax_sim.datatypes.padding import common_lengths, pad
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.env import Env, EnvConfig, agent_centric_view, rollout
from waymax_sim.env.bank import build_bank
from waymax_sim.env.flat_view import FlatView
from waymax_sim.pytree import tree_index
from waymax_sim.viz import animate, draw, to_image, viewer

pytestmark = pytest.mark.compile_heavy

ENV = Env(config=EnvConfig(metrics=("overlap",), rewards=()))
KEY = jax.random.key(0)
WITHOUT_SDC = ("ego", "agents", "anything")
WITHOUT_AGENTS = ("agents", "states of agents", "anything")
# Steps of an episode: from step 5 of 8.
SHORT, LENGTH = {"num_steps": 8}, 2


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Scenario]:
    return {name: empty_scenario(name, **SHORT) for name in REMOVALS}


def observe(scenario: Scenario):
    """The views and their encoding."""
    observation = ENV.observe(scenario, ENV.initial_state(scenario, KEY))
    views = [agent_centric_view(observation, observers, num_agents=4, num_polylines=8) for observers in ("sdc", "all")]
    return views, FlatView("all", num_agents=4, num_polylines=8)(observation)


@pytest.mark.parametrize("name", REMOVALS)
def test_views_trace(name, scenarios):
    for scenario in (scenarios[name], empty_scenario(name, pad_to_bucket=True)):
        (sdc, every), flat = jax.eval_shape(observe, scenario)
        assert sdc.valid.shape == (1,) and every.valid.shape == flat.shape[:1] == (scenario.num_agents,)


@pytest.fixture(scope="module")
def views(scenarios):
    lengths = common_lengths(list(scenarios.values()))
    compiled = jax.jit(observe)
    return {name: jax.device_get(compiled(pad(scenario, lengths))) for name, scenario in scenarios.items()}


@pytest.mark.parametrize("name", REMOVALS)
def test_values_of_views(name, views):
    (sdc, every), flat = views[name]
    for leaf in jax.tree.leaves((sdc, every, flat)):
        assert np.isfinite(leaf).all()
    assert sdc.valid.any() == (name not in WITHOUT_SDC + WITHOUT_AGENTS)
    assert every.valid.any() == flat.any() == (name not in WITHOUT_AGENTS)
    has_map = name not in (*WITHOUT_AGENTS, "map", "map and lights")
    assert every.polylines.valid.any() == has_map
    assert sdc.routes.valid.any() == (sdc.valid.any() and "routes" not in name)


@functools.partial(jax.jit, static_argnums=0)
def simulate(env: Env, scenario: Scenario):
    return rollout(env, None, scenario, KEY, LENGTH)


@pytest.mark.parametrize("name", REMOVALS)
def test_drawing(name, scenarios):
    scenario = scenarios[name]
    trace = jax.device_get(simulate(ENV, pad(scenario, common_lengths(list(scenarios.values())))))
    cut = jax.tree.map(lambda leaf: leaf[:, : scenario.num_agents], (trace.agents, trace.metrics))
    for agents in (None, tree_index(cut[0], -1)):
        image = to_image(draw(scenario, agents, size=1.0))
        assert image.shape == (100, 100, 3)
        # Something is drawn wherever there is something: the background is one color.
        assert (np.unique(image.reshape(-1, 3), axis=0).shape[0] > 1) or name == "anything"


@pytest.mark.parametrize("name", REMOVALS)
def test_animation(name, scenarios, tmp_path):
    scenario = scenarios[name]
    path = animate(scenario, tree_index(scenario.log, slice(2)), tmp_path / "scene.gif", size=1.0)
    with Image.open(path) as image:
        assert image.size == (100, 100)


@pytest.mark.parametrize("name", REMOVALS)
def test_viewer(name, scenarios):
    scenario = scenarios[name]
    page = viewer(scenario, {"log": simulate(ENV, scenario)})
    assert scenario.scenario_id in page.html


def drivable(scenarios: dict[str, Scenario]) -> list[Scenario]:
    return [scenario for name, scenario in scenarios.items() if name not in WITHOUT_SDC]


def test_gymnasium(scenarios):
    env = DriveEnv(drivable(scenarios), observe=ego_position)
    env.reset(seed=0)
    for scene in range(len(drivable(scenarios))):
        observation, _ = env.reset(options={"scene": scene})
        steps = [env.step(np.zeros(2, np.float32)) for _ in range(LENGTH)]
        assert np.isfinite([observation, *(step[0] for step in steps)]).all()
        assert np.isfinite([step[1] for step in steps]).all()
        assert [step[3] for step in steps] == [False, True]


def test_dm_env(scenarios):
    env = DriveEnvironment(drivable(scenarios), observe=ego_position)
    for _ in drivable(scenarios):
        first, *steps = env.reset(), *(env.step(np.zeros(2, np.float32)) for _ in range(LENGTH))
        assert np.isfinite([first.observation, *(step.observation for step in steps)]).all()
        assert np.isfinite([step.reward for step in steps]).all() and steps[-1].last()


def test_pettingzoo(scenarios):
    env = DriveParallelEnv(list(scenarios.values()), observe=Positions("all"))
    for scene, name in enumerate(scenarios):
        observations, _ = env.reset(seed=0, options={"scene": scene})
        assert bool(env.agents) == bool(env.possible_agents) == (name not in WITHOUT_AGENTS)
        actions = {agent: np.zeros(2, np.float32) for agent in env.agents}
        following, rewards, *_ = env.step(actions)
        for values in (observations, following, rewards):
            assert values.keys() == actions.keys() and all(np.isfinite(value).all() for value in values.values())


def test_functional(scenarios):
    """Scenes without an sdc have no active agent and no reward."""
    bank = build_bank(list(scenarios.values()), EGO_ENV)
    env = FunctionalEnv(EGO_ENV, observe=Positions("sdc"), sampling="order")
    state, _ = jax.jit(env.reset)(bank, KEY)
    step = jax.jit(env.step)
    for name in scenarios:
        for _ in range(LENGTH):
            state, out = jax.device_get(step(bank, state, np.zeros(2, np.float32)))
            assert np.isfinite(out.observation).all() and np.isfinite(out.reward)
            assert out.active == (name not in WITHOUT_SDC + WITHOUT_AGENTS), name
            assert out.active or not (out.reward or any(value.valid for value in out.metrics.values()))
        assert out.done


@pytest.mark.parametrize("name", WITHOUT_SDC)
@pytest.mark.parametrize("make", [DriveEnv, DriveVectorEnv, DriveEnvironment])
def test_adapters_of_the_sdc_refuse_scenes_without_one(make, name, scenarios):
    pair = [scenarios["nothing"], scenarios[name]]
    with pytest.raises(DataError, match=r"record 1, field sdc_index: .* has no sdc.*set_sdc"):
        make(pair, observe=ego_position)
    with pytest.raises(DataError, match="has no sdc"):
        make(pair[::-1], observe=ego_position, pad_to=common_lengths(pair))


def test_no_agent_is_evaluated_in_place_of_a_missing_sdc(scenarios):
    env = Env(config=EnvConfig(evaluated="sdc", rewards=()))
    lengths = common_lengths(list(scenarios.values()))
    for name, scenario in scenarios.items():
        trace = jax.device_get(simulate(env, pad(scenario, lengths)))
        for value in trace.metrics.values():
            assert not value.valid.any() or name not in WITHOUT_SDC + WITHOUT_AGENTS, name
    assert trace.metrics["overlap"].valid.shape == (LENGTH, 3)


def test_a_scene_of_one_step_is_observed_but_not_simulated():
    scenario = empty_scenario("nothing", num_steps=1, current_step=0)
    view = jax.eval_shape(observe, scenario)[0][0]
    assert view.valid.shape == (1,)
    with pytest.raises(ValueError, match="does not fit a record of 1 steps"):
        rollout(ENV, None, scenario, KEY, 1)
