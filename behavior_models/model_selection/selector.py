"""A policy that chooses among given behavior models, per agent and state, by certificates fitted to logged outcomes."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from behavior_models.model_selection.batch_policy import FittedClasses, complexity_coverage, predict
from behavior_models.model_selection.linear import Ridge
from waymax_sim import geometry
from waymax_sim.datasets.encoding.npz import read_npz_arrays
from waymax_sim.datatypes.agents import rows_are_finite, where
from waymax_sim.datatypes.state import Action
from waymax_sim.dynamics import Teleport
from waymax_sim.env import Observation, Policy
from waymax_sim.env.observation import scatter_row_actions
from waymax_sim.env.policy import observed_history_steps, observes_goals
from waymax_sim.plugins import resolve_policy
from waymax_sim.pytree import Array, pytree, static, tree_index

SELECTOR_LOADER = "behavior_models.model_selection.selector:load_selector"
WEIGHTS_FILE = "weights.npz"
FORMAT_VERSION = 1
# Columns of a state, by the rung of the ladder that adds them.
RUNG_COLUMNS = (1, 3, 3, 4)
NUM_COLUMNS = sum(RUNG_COLUMNS)
# Scales of the columns.
SPEED_SCALE = 10.0  # m/s
PROXIMITY_SCALE = 30.0  # m
# Width of the corridor ahead in which the nearest agent is searched, m.
CORRIDOR_WIDTH = 4.0


def state_columns(observation: Observation) -> Float[Array, "K 11"]:
    """Columns of the state of each controlled agent: constant; goal; speed; nearest agents.

    Goal columns are zero without goals. Rows of -1 and values that are not finite are zero.
    """
    rows = jnp.maximum(observation.controlled, 0)
    now = observation.agents
    own = tree_index(now, rows)
    speed = geometry.norm(own.velocity) / SPEED_SCALE
    goal = jnp.zeros((rows.shape[0], 3))
    if observation.goals is not None:
        offset = geometry.rotate(observation.goals.xy[rows] - own.xyz[:, :2], -own.yaw) / PROXIMITY_SCALE
        distance = geometry.norm(offset)
        goal = jnp.stack([jnp.log1p(distance), jnp.abs(offset[:, 1]), offset[:, 0] / (0.1 + distance)], axis=-1)
        goal = jnp.where(observation.goals.valid[rows][:, None], goal, 0.0)
    motion = jnp.stack([speed, speed**2, speed * goal[:, 1]], axis=-1)
    columns = jnp.concatenate([jnp.ones((rows.shape[0], 1)), goal, motion, _neighbors(observation, rows)], axis=-1)
    usable = (observation.controlled >= 0)[:, None] & jnp.isfinite(columns)
    return jnp.where(usable, jnp.clip(columns, -5.0, 5.0), 0.0)


def _neighbors(observation: Observation, rows: Int[Array, " K"]) -> Float[Array, "K 4"]:
    """Proximity of the nearest agent, of the nearest one ahead, its approach, and the number of agents within 20 m."""
    now = observation.agents
    own = tree_index(now, rows)
    offset = now.xyz[None, :, :2] - own.xyz[:, None, :2]
    local = geometry.rotate(offset, -own.yaw[:, None])
    other = now.valid[None] & (jnp.arange(now.valid.shape[0])[None] != rows[:, None])
    distance = jnp.where(other, geometry.norm(offset), jnp.inf)
    ahead = other & (local[..., 0] > 0) & (jnp.abs(local[..., 1]) < CORRIDOR_WIDTH / 2)
    gap = jnp.where(ahead, local[..., 0], jnp.inf)
    leader = jnp.argmin(gap, axis=1)
    has_leader = jnp.any(ahead, axis=1)
    relative = own.velocity - now.velocity[leader]
    approach = geometry.dot(relative, geometry.unit_vector(own.yaw)) / SPEED_SCALE
    near = jnp.exp(-jnp.min(distance, axis=1) / PROXIMITY_SCALE)
    nearest_ahead = jnp.exp(-jnp.min(gap, axis=1) / PROXIMITY_SCALE)
    count = jnp.sum(distance < 20.0, axis=1).astype(jnp.float32) / 5.0
    return jnp.stack([near, nearest_ahead, jnp.where(has_leader, approach, 0.0), count], axis=-1)


def member_columns(columns: Float[Array, "*n F"], num_members: int) -> Float[Array, "*n M D"]:
    """Columns of each member: those of the state in the block of the member, zeros in the others."""
    blocks = jnp.eye(num_members).reshape(*(1,) * (columns.ndim - 1), num_members, num_members, 1)
    return (blocks * columns[..., None, None, :]).reshape(*columns.shape[:-1], num_members, -1)


def rung_masks(num_members: int) -> Bool[np.ndarray, "K D"]:
    """Nested classes: constants of the members, then goals, speeds and neighbors."""
    rungs = np.tile(np.repeat(np.arange(len(RUNG_COLUMNS)), RUNG_COLUMNS), num_members)
    return rungs[None] <= np.arange(len(RUNG_COLUMNS))[:, None]


@pytree
class SelectorState:
    """Recurrent state.

    Attributes:
      members: Recurrent states of the members.
      chosen: Member of each controlled agent.
      chosen_class: Class of the certificate.
      certificate: Lower bound of the expected outcome.
      age: Steps since the choice, modulo the interval.
    """

    members: tuple[Any, ...]
    chosen: Int[Array, " K"]
    chosen_class: Int[Array, " K"]
    certificate: Float[Array, " K"]
    age: Int[Array, ""]


@pytree
class Selector(Policy):
    """Chooses a behavior model for each agent by the largest lower bound of its outcome over all classes.

    All members observe and act in every step; the pose that the chosen one leads to is applied.

    Attributes:
      members: The behavior models; each has dynamics of its own.
      fits: Regressions of outcomes (complexity-coverage selection, arXiv 2112.12320).
      interval: Steps between choices.

    Raises:
      ValueError: A member is privileged or has no dynamics, or the regressions are those of other members.
    """

    members: tuple[Any, ...]
    fits: FittedClasses
    interval: int = static(default=20)
    dynamics = Teleport()

    def check(self) -> "Selector":
        """The selector itself, if it is valid."""
        for index, member in enumerate(self.members):
            if member.privileged or member.dynamics is None:
                raise ValueError(f"member {index} reads the future or has no dynamics of its own; choose another one")
        if self.fits.weights.shape[-1] != NUM_COLUMNS * len(self.members):
            raise ValueError(f"the regressions are not those of {len(self.members)} members; fit the selector again")
        return self

    @property
    def observes_goals(self) -> bool:
        """Whether a member observes goals."""
        return any(observes_goals(member) for member in self.members)

    @property
    def num_history_steps(self) -> int:
        """Steps of history that the members observe."""
        return observed_history_steps(self.members)

    def init(self, observation: Observation, key: Key[Array, ""]) -> SelectorState:
        """Initial states of the members."""
        states = init_members(self.members, observation, key)
        empty = jnp.zeros(observation.controlled.shape, jnp.int32)
        return SelectorState(states, empty, empty, jnp.full(empty.shape, -jnp.inf), jnp.zeros((), jnp.int32))

    def act(self, observation: Observation, carry: SelectorState, key: Key[Array, ""]) -> tuple[Action, SelectorState]:
        """The poses that the chosen members lead to."""
        return self.drive(observation, carry, key, jnp.full(observation.controlled.shape, -1, jnp.int32))

    def drive(
        self, observation: Observation, carry: SelectorState, key: Key[Array, ""], assigned: Int[Array, " K"]
    ) -> tuple[Action, SelectorState]:
        """The same with given members for some agents.

        Args:
          observation: The observation.
          carry: The recurrent state.
          key: Random key.
          assigned: Member of each controlled agent; -1 where the certificate chooses.
        """
        decisions = complexity_coverage(
            predict(self.fits, member_columns(state_columns(observation), len(self.members)))
        )
        renew = carry.age == 0
        pairs = ((decisions.action, carry.chosen), (decisions.chosen_class, carry.chosen_class))
        chosen, chosen_class = (jnp.where(renew, new, old) for new, old in pairs)
        certificate = jnp.where(renew, decisions.certificate, carry.certificate)
        action, states = act_mixture(
            self.members, jnp.where(assigned >= 0, assigned, chosen), observation, carry.members, key
        )
        state = SelectorState(states, chosen, chosen_class, certificate, (carry.age + 1) % self.interval)
        return action, state


@pytree
class AssignedSelector(Policy):
    """A selector that drives some agents by given members: the behavior policy of logs for fitting.

    Attributes:
      selector: The selector.
      assigned: Member of each of N agents; -1 where the selector chooses.
    """

    selector: Selector
    assigned: Int[Array, " N"]
    dynamics = Teleport()

    def init(self, observation: Observation, key: Key[Array, ""]) -> SelectorState:
        """The initial state of the selector."""
        return self.selector.init(observation, key)

    def act(self, observation: Observation, carry: SelectorState, key: Key[Array, ""]) -> tuple[Action, SelectorState]:
        """The poses that the given or chosen members lead to."""
        return self.selector.drive(observation, carry, key, self.assigned[jnp.maximum(observation.controlled, 0)])


def init_members(members: tuple[Any, ...], observation: Observation, key: Key[Array, ""]) -> tuple[Any, ...]:
    """Initial states of the members.

    Args:
      members: The behavior models.
      observation: The first observation.
      key: Random key.
    """
    keys = jax.random.split(key, len(members))
    return tuple(member.init(observation, own) for member, own in zip(members, keys, strict=True))


def act_mixture(
    members: tuple[Any, ...], chosen: Int[Array, " K"], observation: Observation, states: tuple, key: Key[Array, ""]
) -> tuple[Action, tuple]:
    """The poses that the chosen members lead to, and the states of all members.

    Args:
      members: The behavior models.
      chosen: Member of each controlled agent.
      observation: The observation.
      states: Recurrent states of the members.
      key: Random key.
    """
    now, following = observation.agents, []
    num_agents = observation.info.id.shape[0]
    moved, mask = now, jnp.zeros(num_agents, bool)
    for index, member in enumerate(members):
        action, state = member.act(observation, states[index], jax.random.fold_in(key, index))
        following.append(state)
        is_own = (chosen == index).astype(jnp.int32)
        own = scatter_row_actions(observation.controlled, is_own[:, None], num_agents)
        selected = (own.value[:, 0] > 0) & own.valid
        usable = selected & action.valid & rows_are_finite(action.value)
        value = jnp.where(usable[:, None], action.value, jnp.zeros((), action.value.dtype))
        moved = where(selected, member.dynamics.apply(now, value, observation.dt), moved)
        mask = mask | usable
    value = jnp.concatenate([moved.xyz[:, :2], moved.yaw[:, None], moved.velocity], axis=-1)
    return Action(value=value, valid=mask), tuple(following)


def save_selector(folder: Path, names: tuple[str, ...], selector: Selector, facts: dict[str, Any]) -> None:
    """Writes a selector; members are stored by their names.

    Args:
      folder: Folder to write to.
      names: Names or checkpoint folders of the members.
      selector: The selector.
      facts: Facts for readers, plain values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fits = selector.fits
    description = {
        "loader": SELECTOR_LOADER,
        "version": FORMAT_VERSION,
        "members": list(names),
        "interval": selector.interval,
        "num_rows": int(fits.num_rows),
        "facts": facts,
    }
    arrays = fits.ridge.inverse_factor, fits.ridge.mask, fits.weights, fits.scale
    named: dict[str, Any] = {str(index): np.asarray(array) for index, array in enumerate(arrays)}
    np.savez_compressed(folder / WEIGHTS_FILE, **named)
    (folder / "policy.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_selector(folder: Path) -> Selector:
    """Reads a selector of `save_selector`.

    Raises:
      ValueError: The folder is incomplete or of another version.
    """
    path = Path(folder)
    description = json.loads((path / "policy.json").read_text(encoding="utf-8"))
    if description.get("version") != FORMAT_VERSION:
        raise ValueError(f"{path} has version {description.get('version')!r}; this package reads {FORMAT_VERSION}")
    names = [str(index) for index in range(4)]
    arrays = read_npz_arrays(path / WEIGHTS_FILE, names, "fit the selector again")
    if len(arrays) != len(names):
        raise ValueError(f"{path / WEIGHTS_FILE} holds {len(arrays)} of {len(names)} arrays; fit the selector again")
    inverse_factor, mask, weights, scale = (arrays[name] for name in names)
    fits = FittedClasses(Ridge(inverse_factor, mask), weights, scale, np.int32(description["num_rows"]))
    return make_selector(tuple(description["members"]), fits, description["interval"])


def make_selector(names: tuple[str, ...], fits: FittedClasses, interval: int) -> Selector:
    """A selector of members by name.

    Args:
      names: Names or checkpoint folders.
      fits: Regressions of outcomes.
      interval: Steps between choices.
    """
    return Selector(tuple(resolve_policy(name) for name in names), fits, interval).check()
