"""Assignments: leaves and structure, and controllers of agents against tables in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from behavior_models import ConstantSpeed, ConstantVelocity, Random, Stationary
from tests.scenes import busy_raw_scene, scene
from waymax_sim.datasets.scene import to_scenario
from waymax_sim.datatypes.goals import Goals
from waymax_sim.datatypes.state import CALLER, LOG, POLICY, Action
from waymax_sim.dynamics import Bicycle, Delta, Dynamics
from waymax_sim.env import Assignment, Policy, Traveling, select_agents
from waymax_sim.pytree import Array, pytree, static

MASK = np.array([True, False, True, False, True, False])


@pytree
class Linear(Policy):
    """Two action values from the speed: the smallest policy with weights."""

    weight: Float[Array, " 2"]
    bias: Float[Array, " 2"]
    dynamics: Dynamics = static(default=Bicycle())

    def act(self, observation, carry, key):
        now = observation.agents
        return Action(now.velocity[:, :1] * self.weight[None] + self.bias[None], now.valid), carry


@dataclasses.dataclass(frozen=True)
class Plain(Policy):
    """A policy that is not a pytree."""

    acceleration: float = 1.0

    def act(self, observation, carry, key):
        valid = observation.agents.valid
        return Action(jnp.full((valid.shape[0], 2), self.acceleration), valid), carry


def linear(value: float, **changes) -> Linear:
    return Linear(np.full(2, value, np.float32), np.full(2, value + 1, np.float32), **changes)


def several(value: float = 1.0) -> Assignment:
    return Assignment([linear(value), Plain(), Random(), Stationary()], [MASK, "sdc", Traveling(2.0), "none"])


def structure(assignment: Assignment):
    return jax.tree.structure(assignment)


@pytest.fixture(scope="module")
def mixed():
    """Six agents of all types; the last is padding, the fifth absent at the current step."""
    valid = np.ones((12, 6), bool)
    valid[5, 4] = False
    made = scene(num_steps=12, num_agents=6, agent_type=np.array([1, 1, 2, 3, 1, 1]), valid=valid)
    exists = np.arange(6) < 5
    return dataclasses.replace(made, agents=dataclasses.replace(made.agents, exists=exists))


def test_a_round_trip_keeps_policies_and_agents():
    leaves, tree = jax.tree.flatten(several())
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, Assignment) and len(again) == 4
    assert again.policies[1:] == (Plain(), Random(), Stationary())
    assert again.agents[1:] == ("sdc", Traveling(2.0), "none") and again.agents[0] is MASK
    assert isinstance(again.policies[0], Linear) and again.policies[0].dynamics == Bicycle()
    np.testing.assert_array_equal(again.policies[0].weight, [1, 1])


def test_weights_and_masks_are_the_leaves():
    assignment = several()
    result = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(assignment)}
    weights = assignment.policies[0]
    expected = {".policies[0].weight": weights.weight, ".policies[0].bias": weights.bias, ".agents[0]": MASK}
    assert result.keys() == expected.keys()
    assert all(result[name] is leaf for name, leaf in expected.items())


def test_mapping_over_leaves_changes_weights_and_nothing_else():
    doubled = jax.tree.map(lambda leaf: 2 * leaf if leaf.dtype == np.float32 else leaf, several(3.0))
    np.testing.assert_array_equal(doubled.policies[0].bias, [8, 8])
    assert doubled.policies[1:] == several().policies[1:] and doubled.agents[1:] == several().agents[1:]


def test_equal_structures_have_equal_tree_definitions_and_hashes():
    assert structure(several(1.0)) == structure(several(2.0))
    assert hash(structure(several(1.0))) == hash(structure(several(2.0)))


@pytest.mark.parametrize(
    ("policy", "agents"),
    [
        (linear(1.0, dynamics=Delta()), "sdc"),
        (linear(1.0), "others"),
        (linear(1.0), Traveling()),
        (linear(1.0), MASK),
        (Plain(), "sdc"),
        (Random(), "sdc"),
    ],
)
def test_other_settings_selectors_and_policies_are_another_structure(policy, agents):
    assert structure(Assignment([linear(1.0)], ["sdc"])) != structure(Assignment([policy], [agents]))


@pytest.mark.parametrize(
    ("one", "other"), [(Plain(1.0), Plain(2.0)), (Random(), Random(Delta())), (Traveling(1.0), Traveling(2.0))]
)
def test_values_of_static_policies_and_selectors_are_structure(one, other):
    def assignment(item):
        return Assignment([ConstantSpeed()], [item]) if isinstance(item, Traveling) else Assignment([item], ["all"])

    assert structure(assignment(one)) != structure(assignment(other))
    assert structure(assignment(one)) == structure(assignment(dataclasses.replace(one)))
    assert not jax.tree.leaves(assignment(one))


def test_programs_are_shared_by_weights_and_not_by_structure():
    traced = []

    @jax.jit
    def total(assignment):
        traced.append(assignment.policies[1])
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(assignment)) + assignment.policies[1].acceleration

    def given(value, acceleration):
        return Assignment([linear(value), Plain(acceleration)], ["sdc", "others"])

    assert [float(total(given(value, 1.0))) for value in (0.0, 1.0, 2.0)] == [3.0, 7.0, 11.0]
    assert traced == [Plain(1.0)]
    assert float(total(given(0.0, 5.0))) == 7.0
    assert traced == [Plain(1.0), Plain(5.0)]


def test_assignments_are_made_of_none_one_policy_pairs_or_themselves():
    assert len(Assignment.from_policies(None)) == 0
    one = Assignment.from_policies(Stationary())
    assert (one.policies, one.agents) == ((Stationary(),), ("all",))
    assert Assignment.from_policies(Stationary(), "vehicle").agents == ("vehicle",)
    pairs = Assignment.from_policies([(Stationary(), "sdc"), (Random(), MASK)], "vehicle")
    assert pairs.policies == (Stationary(), Random()) and pairs.agents[0] == "sdc" and pairs.agents[1] is MASK
    assert Assignment.from_policies(pairs, "vehicle") is pairs


def test_each_policy_needs_its_agents():
    with pytest.raises(ValueError, match="2 policies but 1 agent sets"):
        Assignment([Stationary(), Random()], ["all"])


MASKS = {
    "sdc": [1, 0, 0, 0, 0, 0],
    "others": [0, 1, 1, 1, 1, 0],
    "all": [1, 1, 1, 1, 1, 0],
    "none": [0, 0, 0, 0, 0, 0],
    "to_predict": [0, 1, 0, 0, 0, 0],
    "vehicle": [1, 1, 0, 0, 1, 0],
    "pedestrian": [0, 0, 1, 0, 0, 0],
    "cyclist": [0, 0, 0, 1, 0, 0],
    # Everybody drives 6 m from step 5 to the end of the record.
    "traveling": [1, 1, 0, 0, 0, 0],
    Traveling(5.9, "all"): [1, 1, 1, 1, 0, 0],
    Traveling(6.1, "all"): [0, 0, 0, 0, 0, 0],
}


@pytest.mark.parametrize("caller", [None, "sdc", "vehicle"])
@pytest.mark.parametrize(
    "agents",
    [
        (),
        *((selector,) for selector in MASKS),
        ("sdc", "others"),
        ("others", "sdc"),
        ("vehicle", "pedestrian", "cyclist"),
        ("none", "all"),
        ("all", "none", "none"),
        ("sdc", "none", "pedestrian"),
        ("traveling", "cyclist"),
    ],
    ids=str,
)
def test_controllers_of_selectors_are_those_of_a_table(mixed, agents, caller):
    assignment = Assignment([Stationary()] * len(agents), agents)
    caller_mask = None if caller is None else np.array(MASKS[caller], bool)
    expected = np.full(6, LOG)
    for index, selector in enumerate(agents):
        # With a caller, `POLICY` itself is unused: it marks the evaluated agents.
        expected[np.array(MASKS[selector], bool)] = POLICY + index + (caller is not None)
    if caller is not None:
        expected[caller_mask] = CALLER
    np.testing.assert_array_equal(assignment.controllers(mixed, caller_mask), expected)


def test_controllers_of_masks_leave_out_padding(mixed):
    assignment = Assignment([Stationary(), Random()], [MASK, np.array([False, True, False, False, False, True])])
    np.testing.assert_array_equal(
        assignment.controllers(mixed), [POLICY, POLICY + 1, POLICY, LOG, POLICY, LOG], err_msg="agent 5 is padding"
    )
    caller = np.array([False, False, True, True, False, False])
    np.testing.assert_array_equal(
        assignment.controllers(mixed, caller), [POLICY + 1, POLICY + 2, CALLER, CALLER, POLICY + 1, LOG]
    )


def test_controllers_are_the_same_under_jit_with_masks_as_arguments(mixed):
    assignment = Assignment([linear(1.0), ConstantVelocity()], [MASK, "none"])
    result = jax.jit(lambda item, given: item.controllers(given))(assignment, mixed)
    np.testing.assert_array_equal(result, assignment.controllers(mixed))
    assert np.asarray(result).max() == POLICY


@pytest.mark.parametrize(
    ("agents", "shared"),
    [
        (("sdc", "vehicle"), [0]),
        (("all", "pedestrian"), [2]),
        (("vehicle", MASK), [0, 4]),
        (("to_predict", "traveling"), [1]),
    ],
)
def test_two_policies_must_not_share_an_agent(mixed, agents, shared):
    assignment = Assignment([Stationary(), Random()], agents)
    with pytest.raises(ValueError, match=f"policies 0 and 1 both control agents \\{shared}".replace("]", "\\]")):
        assignment.controllers(mixed)
    with pytest.raises(ValueError, match="policies 0 and 1 may share agents, and under jit or vmap"):
        jax.eval_shape(assignment.controllers, mixed)


@pytest.mark.parametrize("other", [~MASK, "vehicle"], ids=["mask", "selector"])
def test_masks_that_are_arguments_of_jit_cannot_be_checked(mixed, other):
    assignment = Assignment([Stationary(), Random()], [MASK, other])
    with pytest.raises(ValueError, match="may share agents"):
        jax.eval_shape(lambda item, given: item.controllers(given), assignment, mixed)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_concrete_masks_are_checked_while_the_scenario_is_traced(mixed, kind):
    fits = Assignment([Stationary(), Random()], [kind(MASK), kind(~MASK)])
    assert jax.eval_shape(fits.controllers, mixed).shape == (6,)
    shares = Assignment([Stationary(), Random()], [kind(MASK), kind(MASK)])
    with pytest.raises(ValueError, match=r"both control agents \[0, 2, 4\]"):
        jax.eval_shape(shares.controllers, mixed)


def test_selectors_that_exclude_each_other_need_no_check(mixed):
    for agents in (("sdc", "others"), ("vehicle", "cyclist"), ("pedestrian", "vehicle"), ("all", "none")):
        shape = jax.eval_shape(Assignment([Stationary(), Random()], agents).controllers, mixed)
        assert shape.shape == (6,) and shape.dtype == jnp.int32


def slow_traveling(scenario, min_distance: float, types: tuple[int, ...]) -> list[bool]:
    """Agents that are valid now and more than a distance from their goal, sequentially."""
    now, log, result = int(scenario.current_step), scenario.log, []
    for agent in range(scenario.num_agents):
        here = bool(log.valid[now, agent]) and bool(scenario.agents.exists[agent])
        if scenario.goals is not None:
            goal = scenario.goals.xy[agent] if scenario.goals.valid[agent] else None
        else:
            valid_steps = [step for step in range(now, scenario.num_steps) if log.valid[step, agent]]
            goal = log.xyz[valid_steps[-1], agent, :2] if valid_steps else None
        travels = here and goal is not None and int(scenario.agents.type[agent]) in types
        result.append(travels and np.linalg.norm(log.xyz[now, agent, :2] - goal) > min_distance)
    return result


select_jitted = jax.jit(select_agents, static_argnums=1)


@pytest.mark.parametrize(
    ("selector", "min_distance", "types"),
    [("traveling", 4.0, (1,)), (Traveling(30.0, "all"), 30.0, (1, 2, 3)), (Traveling(20.0, "cyclist"), 20.0, (3,))],
)
def test_traveling_agents_are_far_from_their_goal_now(selector, min_distance, types):
    chosen = []
    for seed in range(6):
        rng, raw = np.random.default_rng(seed), busy_raw_scene(seed)
        # Some agents stand where they are.
        parked = rng.random(12) < 0.3
        xyz = np.where(parked[None, :, None], raw.xyz[raw.current_step][None], raw.xyz)
        without = to_scenario(dataclasses.replace(raw, xyz=xyz), pad_to_bucket=False)
        goals = Goals(rng.uniform(-60, 60, (12, 2)).astype(np.float32), rng.random(12) < 0.7)
        for scenario in (without, dataclasses.replace(without, goals=goals)):
            expected = slow_traveling(scenario, min_distance, types)
            np.testing.assert_array_equal(select_jitted(scenario, selector), expected)
            chosen += expected
        # No agent that is parked travels, unless its goal is elsewhere.
        assert not np.any(select_jitted(without, selector) & parked)
    assert 5 < sum(chosen) < len(chosen) - 5


def test_unknown_selectors_are_named(mixed):
    with pytest.raises(ValueError, match="unknown selector 'trucks'"):
        select_agents(mixed, "trucks")
