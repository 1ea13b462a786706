"""The JaxMARL interface against the functional environment, in one compiled loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import waymax_sim as ws
from tests.adapters.roads import LENGTH, roads
from waymax_sim.adapters.functional import FunctionalEnv
from waymax_sim.adapters.jaxmarl import BoxSpace, DiscreteSpace, DriveMultiAgentEnv
from waymax_sim.adapters.loop import EGO_ENV
from waymax_sim.env import PRESETS, Env
from waymax_sim.env.flat_view import FlatView

pytestmark = pytest.mark.compile_heavy

NUM_ENVS = 2
# All three agents of a road travel; the fourth row has no agent.
RULES = PRESETS["goal"]
FUNCTIONAL = FunctionalEnv(ws.Env(ws.Bicycle(normalized=True), RULES), FlatView(num_agents=3, num_polylines=3))


@pytest.fixture(scope="module")
def env():
    return DriveMultiAgentEnv.from_scenarios(roads(3), FUNCTIONAL)


@jax.jit
def start(env, keys):
    return jax.vmap(env.reset)(keys)


@jax.jit
def step(env, state, keys, actions):
    """Results of `step` and the observations of `step_env`."""
    return jax.vmap(env.step)(keys, state, actions), jax.vmap(env.step_env)(keys, state, actions)[0]


@pytest.fixture(scope="module")
def actions(env):
    """Agent 0 turns off the road, agent 1 brakes, agent 2 keeps its speed."""
    values = np.array([[1.0, -1.0], [-1.0, 0.0], [0.0, 0.0]], np.float32)
    return {name: np.tile(value, (NUM_ENVS, 1)) for name, value in zip(env.agents, values, strict=True)}


@pytest.fixture(scope="module")
def episode(env, actions):
    """The first observations, and the results of steps of two environments, [T, B, ...]."""
    keys = jax.random.split(jax.random.key(0), (2 * LENGTH + 1, NUM_ENVS))
    first, state = start(env, keys[0])
    steps = []
    for index in range(2 * LENGTH):
        steps.append(step(env, state, keys[index + 1], actions))
        state = steps[-1][0][1]
    states = [out[1] for out, _ in steps]
    steps = jax.device_get([((out[0], out[1].count, *out[2:]), ends) for out, ends in steps])
    return jax.device_get(first), states, jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


def test_every_record_has_an_entry_per_agent(env, episode):
    first, _, ((observations, _, rewards, dones, infos), _) = episode
    assert env.agents == ["agent_0", "agent_1", "agent_2"] and env.num_agents == 3
    assert list(first) == list(observations) == list(rewards) == env.agents
    assert set(dones) == {*env.agents, "__all__"}
    assert all(leaf.shape == (2 * LENGTH, NUM_ENVS, 3) for leaf in infos.values())
    shape = env.observation_space("agent_0").shape
    assert all(value.shape == (2 * LENGTH, NUM_ENVS, *shape) for value in observations.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((observations, rewards, infos)))


def test_rewards_and_ends_of_agents(episode):
    """10 m/s for 0.1 s earn 0.01 per meter; the goal is 6 m ahead, and reached within 2 m after four steps."""
    _, _, ((_, _, rewards, dones, infos), _) = episode
    np.testing.assert_allclose(rewards["agent_2"][:3], 0.01, atol=1e-4)
    np.testing.assert_allclose(rewards["agent_2"][3], 1.01, atol=1e-4)
    assert dones["agent_2"][:3].sum() == 0 and dones["agent_2"][3].all() and infos["terminated"][3, :, 2].all()
    # Agent 0 leaves the road, and has neither rewards nor an episode until the scenario ends.
    end = int(dones["agent_0"][:, 0].argmax())
    assert rewards["agent_0"][end, 0] < -0.7 and infos["offroad"][end, 0, 0] == 1
    length = int(dones["__all__"][:, 0].argmax())
    assert dones["agent_0"][end : length + 1, 0].all() and not rewards["agent_0"][end + 1 : length + 1, 0].any()
    assert not infos["active"][end + 1 : length + 1, 0, 0].any() and infos["active"][length + 1, 0].all()
    assert np.abs(rewards["agent_1"][:3]).sum() > 0 and (rewards["agent_1"] < rewards["agent_2"])[1:3].all()


def test_the_scenario_is_replaced_when_all_episodes_have_ended(episode):
    _, _, ((observations, counts, _, dones, infos), ends) = episode
    done = dones["__all__"]
    assert done.any() and (done <= np.all([dones[f"agent_{row}"] for row in range(3)], axis=0)).all()
    length = int(done[:, 0].argmax())
    assert counts[length, 0] == 1 and infos["scene"][length, 0, 0] != infos["scene"][length + 1, 0, 0]
    # `step` returns the start of the next scenario, `step_env` the end.
    assert np.abs(observations["agent_2"][length, 0] - ends["agent_2"][length, 0]).max() > 0
    np.testing.assert_allclose(observations["agent_2"][0, 0], ends["agent_2"][0, 0], atol=1e-6)


def test_the_next_scenario_is_a_function_of_the_key_of_the_step(env, episode, actions):
    """One state before the end of an episode, and 16 pairs of keys: both other scenarios are drawn."""
    _, states, ((*_, dones, _), _) = episode
    before = states[int(dones["__all__"][:, 0].argmax()) - 1]
    keys = jax.random.split(jax.random.key(1), (8, NUM_ENVS))
    scenes = [np.asarray(step(env, before, pair, actions)[0][1].scene)[0] for pair in (*keys, *keys)]
    assert len(set(scenes)) == 2 and scenes[:8] == scenes[8:] and np.asarray(before.scene)[0] not in scenes


def test_spaces(env):
    space, actions = env.observation_space("agent_1"), env.action_space("agent_1")
    assert isinstance(actions, BoxSpace) and actions.shape == (2,) and space.shape == (FUNCTIONAL.observe.spec().size,)
    sample = actions.sample(jax.random.key(0))
    assert actions.contains(sample) and not actions.contains(sample + 3)
    dynamics = ws.Discrete(ws.Bicycle(), (2, 2))
    levels = DriveMultiAgentEnv(env.bank, FunctionalEnv(Env(dynamics, RULES), FUNCTIONAL.observe))
    space = levels.action_space("agent_0")
    assert isinstance(space, DiscreteSpace) and space.n == 9 and space.shape == ()
    assert space.contains(space.sample(jax.random.key(0))) and not space.contains(jnp.asarray(9))
    action = {name: jnp.asarray(8) for name in env.agents}
    shapes = jax.eval_shape(lambda key: levels.step(key, levels.reset(key)[1], action), jax.random.key(0))
    assert shapes[2]["agent_0"].shape == ()


def test_control_of_the_sdc_alone_is_refused(env):
    with pytest.raises(ValueError, match="use FunctionalEnv"):
        DriveMultiAgentEnv(env.bank, FunctionalEnv(EGO_ENV))
