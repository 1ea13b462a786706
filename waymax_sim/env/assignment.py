"""Assignment of policies to agents."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Int

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.datatypes.state import CALLER, LOG, POLICY
from waymax_sim.env.policy import Policy
from waymax_sim.env.selection import AgentSelector, Traveling, first_agents, select_agents
from waymax_sim.pytree import Array, static_record

AgentSet = AgentSelector | Bool[Array, "*B N"]

# Pairs of selectors that share no agent.
_DISJOINT = [{"sdc", "others"}, *({a, b} for a, b in itertools.combinations(("vehicle", "pedestrian", "cyclist"), 2))]


@static_record
class _Structure:
    """The static part of an assignment: selectors, and policies that are no pytrees."""

    selectors: tuple[AgentSelector | None, ...]
    policies: tuple[Any, ...]


@jax.tree_util.register_pytree_with_keys_class
class Assignment:
    """Policies with the agents that each of them controls; the log moves all others.

    A pytree: weights of policies and masks are leaves, selectors are structure. Assignments of equal structure share
    compiled programs, so any number of weight sets runs in one. A policy that is no pytree must be hashable, and is
    structure as a whole.

    Args:
      policies: The policies, M of them.
      agents: For each policy a selector, or a mask [N]. The policy for "none" observes and moves no agent.

    Raises:
      ValueError: There are not as many agent sets as policies.
    """

    def __init__(self, policies: Sequence[Policy], agents: Sequence[AgentSet]):
        if len(policies) != len(agents):
            raise ValueError(f"{len(policies)} policies but {len(agents)} agent sets; give one for each policy")
        self.policies, self.agents = tuple(policies), tuple(agents)

    @classmethod
    def from_policies(cls, policies: "Policies", default: AgentSelector = "all") -> "Assignment":
        """An assignment from one policy for the `default` agents, from pairs of policy and agents, or from itself.

        Args:
          policies: A policy, pairs (policy, agents), an assignment, or None for the log alone.
          default: Agents of a single policy.
        """
        if isinstance(policies, Assignment):
            return policies
        if policies is None:
            return cls((), ())
        pairs = list(policies) if isinstance(policies, Sequence) else [(policies, default)]
        return cls([policy for policy, _ in pairs], [agents for _, agents in pairs])

    def __len__(self) -> int:
        return len(self.policies)

    def __repr__(self) -> str:
        return f"Assignment(policies={self.policies!r}, agents={self.agents!r})"

    def tree_flatten_with_keys(self):
        fixed = [_is_structure(policy) for policy in self.policies]
        named = [isinstance(item, str | Traveling) for item in self.agents]
        structure = _Structure(
            tuple(item if is_name else None for item, is_name in zip(self.agents, named, strict=True)),
            tuple(policy if is_fixed else None for policy, is_fixed in zip(self.policies, fixed, strict=True)),
        )
        policies = tuple(None if is_fixed else policy for policy, is_fixed in zip(self.policies, fixed, strict=True))
        masks = tuple(None if is_name else item for item, is_name in zip(self.agents, named, strict=True))
        keys = jax.tree_util.GetAttrKey("policies"), jax.tree_util.GetAttrKey("agents")
        return ((keys[0], policies), (keys[1], masks)), structure

    @classmethod
    def tree_unflatten(cls, structure: _Structure, children: tuple[tuple, tuple]) -> "Assignment":
        policies, masks = children
        item = object.__new__(cls)
        item.policies = _merge(structure.policies, policies)
        item.agents = _merge(structure.selectors, masks)
        return item

    def controllers(
        self, scenario: Scenario, caller: Bool[Array, " N"] | None = None, max_controlled: int | None = None
    ) -> Int[Array, " N"]:
        """Controller of each agent (see `State.controller`).

        Args:
          scenario: One scenario.
          caller: Mask of the agents that the caller controls, which takes precedence; None without a caller.
          max_controlled: Maximum number of agents of the first policy, in slot order; ignored with a caller.

        Raises:
          ValueError: Two policies share an agent, or might and that cannot be checked while tracing.
        """
        masks = [self._mask(scenario, item) for item in self.agents]
        self._check_disjoint(masks)
        if max_controlled is not None and caller is None and masks:
            masks[0] = first_agents(masks[0], max_controlled)
        controller = jnp.full(scenario.agents.id.shape, LOG, jnp.int32)
        for index, mask in enumerate(masks):
            controller = jnp.where(mask, policy_controller(index, caller is not None), controller)
        return controller if caller is None else jnp.where(caller, CALLER, controller).astype(jnp.int32)

    def _mask(self, scenario: Scenario, agents: AgentSet) -> Bool[Array, " N"]:
        if isinstance(agents, str | Traveling):
            return select_agents(scenario, agents)
        return jnp.asarray(agents) & scenario.agents.exists

    def _check_disjoint(self, masks: Sequence[Bool[Array, " N"]]) -> None:
        names = [item if isinstance(item, str) else "mask" for item in self.agents]
        # A concrete mask is checked even where the scenario is traced.
        checked: list[Any] = [
            item if isinstance(mask, Tracer) and not isinstance(item, str | Traveling) else mask
            for mask, item in zip(masks, self.agents, strict=True)
        ]
        for (i, a), (j, b) in itertools.combinations(enumerate(checked), 2):
            if {names[i], names[j]} in _DISJOINT or "none" in (names[i], names[j]):
                continue
            if isinstance(a, Tracer) or isinstance(b, Tracer):
                raise ValueError(
                    f"policies {i} and {j} may share agents, and under jit or vmap that cannot be checked: "
                    "use selectors that exclude each other, such as 'sdc' and 'others'"
                )
            shared = np.flatnonzero(np.asarray(a) & np.asarray(b))
            if len(shared):
                raise ValueError(
                    f"policies {i} and {j} both control agents {shared.tolist()}; make their masks disjoint"
                )


def policy_controller(index: int, has_caller: bool) -> int:
    """Controller of the agents of policy `index`.

    `POLICY` itself marks controlled agents of the environment, so with a caller the policies follow after it.
    """
    return POLICY + index + int(has_caller)


Policies = Policy | Sequence[tuple[Policy, AgentSet]] | Assignment | None


def _is_structure(policy: Any) -> bool:
    """Whether an object is not a registered pytree and not an array."""
    leaves = jax.tree.leaves(policy)
    return len(leaves) == 1 and leaves[0] is policy and not isinstance(policy, jax.Array | np.ndarray | float | int)


def _merge(first: tuple, second: tuple) -> tuple:
    return tuple(a if a is not None else b for a, b in zip(first, second, strict=True))
