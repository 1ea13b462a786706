"""Checks of policies while they are traced, so that a mistake is named instead of failing inside of the scan."""

from typing import Any

import jax
import jax.numpy as jnp

from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Dynamics


def check_members(policy: Any) -> None:
    """Checks that an object has the members of `Policy`.

    Raises:
      TypeError: It lacks some, or it is a class instead of an object.
    """
    if isinstance(policy, type):
        raise TypeError(f"the policy is the class {policy.__name__}; pass an object of it: {policy.__name__}(...)")
    missing = [name for name in ("act", "init", "dynamics", "privileged") if not hasattr(policy, name)]
    if missing:
        raise TypeError(
            f"the policy {_name(policy)} has no {', '.join(missing)}: "
            "subclass `Policy`, which has the defaults, and define `act(observation, carry, key)`"
        )


def check_decision(policy: Any, decision: Any, carry: Any, dynamics: Dynamics, num_agents: int) -> None:
    """Checks the result of `Policy.act`.

    Args:
      policy: The policy.
      decision: The result of `act`.
      carry: The recurrent state that `act` got.
      dynamics: Dynamics model of the actions.
      num_agents: Number of agents N.

    Raises:
      TypeError: The result is no pair of an `Action` and a recurrent state; values have another kind of number than the
        dynamics; or the recurrent state has another structure, shape or type than before.
      ValueError: The action has other shapes than [N, A] and [N].
    """
    name = f"{_name(policy)}.act"
    if not (isinstance(decision, tuple) and len(decision) == 2 and isinstance(decision[0], Action)):
        raise TypeError(f"{name} must return a pair: an `Action` and the next recurrent state, () if there is none")
    action, next_carry = decision
    low, _ = dynamics.bounds
    wanted = (num_agents, len(low))
    shapes = jnp.shape(action.value), jnp.shape(action.valid)
    if shapes != (wanted, wanted[:1]):
        raise ValueError(
            f"{name} returned an action of shapes value {list(shapes[0])} and valid {list(shapes[1])}; "
            f"{type(dynamics).__name__} needs {list(wanted)} and {[num_agents]}: one row per agent of the scenario "
            "(`scatter_actions` distributes rows of controlled agents)"
        )
    given, kind = jnp.result_type(action.value), low.dtype
    if jnp.issubdtype(given, jnp.floating) != jnp.issubdtype(kind, jnp.floating):
        raise TypeError(f"{name} returned values of type {given}; {type(dynamics).__name__} needs {kind}")
    before, after = _types(carry), _types(next_carry)
    if before != after:
        changed = before.items() ^ after.items()
        raise TypeError(
            f"{name} must return a recurrent state of the structure, shapes and types that `init` returns; "
            f"got {dict(sorted(before.items() & changed))}, returned {dict(sorted(after.items() & changed))}"
        )


def _types(carry: Any) -> dict[str, str]:
    """Type and shape of each leaf of a pytree by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(carry)
    return {jax.tree_util.keystr(path): f"{_dtype(leaf)}{list(jnp.shape(leaf))}" for path, leaf in leaves}


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _name(policy: Any) -> str:
    return type(policy).__name__
