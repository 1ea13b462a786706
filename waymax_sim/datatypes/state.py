"""The simulated state of a scenario, and actions."""

from jaxtyping import Bool, Int, Key, Num

from waymax_sim.datatypes.agents import AgentState
from waymax_sim.pytree import Array, pytree, tree_index

# Controllers of agents. POLICY + i is the i-th policy of an assignment.
LOG = 0
CALLER = 1
POLICY = 2


@pytree
class State:
    """The simulated part of a scenario: a few kilobytes.

    Attributes:
      step: Index of the current step in the record.
      history: The last H simulated steps, oldest first; the last one is the current step, [H, N].
      controller: Controller of each agent: 0 the log, 1 the caller's action, 2 and up a policy.
      ended: Agents whose episode has ended. They get no reward and are handled by `EnvConfig.at_end`.
      goal_reached: Agents that have got the reward for reaching their goal.
      key: Random key of this rollout. Draws use `fold_in(key, step)`, so it never changes.
    """

    step: Int[Array, ""]
    history: AgentState
    controller: Int[Array, " N"]
    ended: Bool[Array, " N"]
    goal_reached: Bool[Array, " N"]
    key: Key[Array, ""]

    @property
    def agents(self) -> AgentState:
        """Agents now, [N]."""
        return tree_index(self.history, -1)

    @property
    def previous(self) -> AgentState:
        """Agents one step ago, [N]."""
        return tree_index(self.history, -2)


@pytree
class Action:
    """One action per agent, in the units of a dynamics model.

    Attributes:
      value: Action components, [N, A], with any leading axes.
      valid: Whether the action is given. A controlled agent without a valid action coasts: it keeps its velocity and
        heading. An action that is not finite counts as not given.
    """

    value: Num[Array, "*lead N A"]
    valid: Bool[Array, "*lead N"]
