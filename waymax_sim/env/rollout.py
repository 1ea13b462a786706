"""Many steps in one compiled scan."""

import itertools
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int, Key

from waymax_sim.datatypes.agents import AgentInfo, AgentState, Selector, select, where
from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import LOG, POLICY, Action, State
from waymax_sim.env.env import Env
from waymax_sim.env.policy import Policy
from waymax_sim.metrics import MetricValue
from waymax_sim.pytree import Array, on_device, pytree

RECORDED = ("agents", "metrics", "reward", "terminated", "actions")
Assignment = Sequence[tuple[Policy, Selector | Bool[Array, " N"]]]

# Selectors that no agent answers to at the same time.
_DISJOINT = [{"sdc", "others"}, *({a, b} for a, b in itertools.combinations(("vehicle", "pedestrian", "cyclist"), 2))]


@pytree
class Trace:
    """What was asked to be recorded of T steps; entry k is the state after step k + 1.

    Attributes:
      step: Index in the record of each entry.
      active: Whether time passed; False once the record has ended.
      agents: Agents, [T, N].
      metrics: Metric values, [T, N] or [T].
      reward: [T, N].
      terminated: [T].
      actions: One record per policy, [T, N, A].
      final: The state after the last step.
    """

    step: Int[Array, " T"]
    active: Bool[Array, " T"]
    agents: AgentState | None
    metrics: dict[str, MetricValue] | None
    reward: Float[Array, "T N"] | None
    terminated: Bool[Array, " T"] | None
    actions: tuple[Action, ...] | None
    final: State


def rollout(
    env: Env,
    policies: Policy | Assignment,
    scenario: Scenario,
    key: Key[Array, ""],
    num_steps: int,
    record: Collection[str] = ("agents", "metrics"),
) -> Trace:
    """Simulates `num_steps` steps from the scenario's current step.

    Pure; run it under `jax.jit`. For K rollouts of one scene, `jax.vmap` over K keys and leave the scenario
    unmapped: it is not copied.

    Args:
      env: Rules, metrics and default dynamics.
      policies: One policy for the agents named by `env.config.controlled`, or pairs of a policy and its agents: a
        selector or a mask [N]. Agents without a policy follow the log. A policy for "none" watches: what it would
        do can be recorded, and nothing is spent on moving anybody.
      scenario: One scene.
      key: Random key; step t draws from `fold_in(key, t)`.
      num_steps: How many steps; at most one less than the record has.
      record: What the trace keeps besides the steps: any of `RECORDED`.

    Raises:
      ValueError: Two policies share an agent, or might and that cannot be checked; a name in `record` is
        unknown; there are more steps than the record can hold.
    """
    unknown = set(record) - set(RECORDED)
    if unknown:
        raise ValueError(f"cannot record {sorted(unknown)}; choose from {', '.join(RECORDED)}")
    if not 0 < num_steps < scenario.num_steps:
        raise ValueError(f"num_steps={num_steps} does not fit a record of {scenario.num_steps} steps")
    pairs = list(policies) if isinstance(policies, Sequence) else [(policies, env.config.controlled)]
    scenario = on_device(scenario)
    state = env.initial_state(scenario, key, _controllers(scenario.agents, [who for _, who in pairs]))

    def keys(step: Int[Array, ""]) -> list[Key[Array, ""]]:
        now = jax.random.fold_in(key, step)
        return [jax.random.fold_in(now, index) for index in range(len(pairs))]

    views = _views(env, scenario, state, pairs)
    # The carry before the first step draws from a step that never comes.
    first = keys(jnp.asarray(scenario.num_steps, jnp.int32))
    carries = tuple(policy.init(view, sub) for (policy, _), view, sub in zip(pairs, views, first, strict=True))

    def body(loop, _):
        state, carries = loop
        proposed, acts = None, jnp.zeros(scenario.num_agents, bool)
        actions, new_carries = [], []
        views = _views(env, scenario, state, pairs)
        for index, (policy, who) in enumerate(pairs):
            action, carry = policy.act(views[index], carries[index], keys(state.step)[index])
            if not (isinstance(who, str) and who == "none"):  # those watch, which must not cost what moving costs
                dynamics = policy.dynamics or env.dynamics
                own = state.controller == POLICY + index
                moved = dynamics.apply(state.agents, action.value, env.config.dt)
                proposed = where(own, moved, state.agents if proposed is None else proposed)
                acts = acts | (own & action.valid)
            actions.append(action)
            new_carries.append(carry)
        active = state.step < scenario.num_steps - 1
        state = env.advance(scenario, state, proposed, acts)
        out = env.evaluate_state(scenario, state, has_advanced=active) if _needs_judgement(record) else None
        kept = {
            "step": state.step,
            "active": active,
            "agents": state.agents if "agents" in record else None,
            "metrics": out.metrics if out and "metrics" in record else None,
            "reward": out.reward if out and "reward" in record else None,
            "terminated": out.terminated if out and "terminated" in record else None,
            "actions": tuple(actions) if "actions" in record else None,
        }
        return (state, tuple(new_carries)), kept

    (final, _), kept = jax.lax.scan(body, (state, carries), length=num_steps)
    return Trace(final=final, **kept)


def _needs_judgement(record: Collection[str]) -> bool:
    return not {"metrics", "reward", "terminated"}.isdisjoint(record)


def _views(env: Env, scenario: Scenario, state: State, pairs: Assignment):
    return [env.observe(scenario, state, privileged=policy.privileged) for policy, _ in pairs]


def _controllers(agents: AgentInfo, who: Sequence[Selector | Bool[Array, " N"]]) -> Int[Array, " N"]:
    masks = [select(agents, item) if isinstance(item, str) else jnp.asarray(item) & agents.exists for item in who]
    names = [item if isinstance(item, str) else "mask" for item in who]
    # Masks that are known while the scene is traced can be checked without it.
    given = zip(masks, who, strict=True)
    checked = [mask if isinstance(item, str) or not isinstance(mask, Tracer) else item for mask, item in given]
    for (i, a), (j, b) in itertools.combinations(enumerate(checked), 2):
        if {names[i], names[j]} in _DISJOINT or "none" in (names[i], names[j]):
            continue
        if isinstance(a, Tracer) or isinstance(b, Tracer):
            raise ValueError(
                f"policies {i} and {j} may share agents, and under jit or vmap that cannot be checked: "
                "use selectors that exclude each other, such as 'sdc' and 'others'"
            )
        shared = np.flatnonzero(np.asarray(a & b))
        if len(shared):
            raise ValueError(f"policies {i} and {j} both control agents {shared.tolist()}; make their masks disjoint")
    controller = jnp.full(agents.id.shape, LOG, jnp.int32)
    for index, mask in enumerate(masks):
        controller = jnp.where(mask, POLICY + index, controller)
    return controller
