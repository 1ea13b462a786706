"""Padding: scenes of similar size get equal shapes, so compiled programs are reused and scenes stack."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from waymax_sim.datatypes.scenario import Scenario
from waymax_sim.pytree import stack


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths of the padded axes of a scenario; letters as in the shapes of the records."""

    agents: int
    points: int
    features: int
    links: int
    edges: int
    lanes: int
    signals: int
    routes: int
    route_points: int

    def union(self, other: "Sizes") -> "Sizes":
        """The smallest sizes that hold both."""
        return Sizes(*(max(pair) for pair in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def bucket(self) -> "Sizes":
        """Every size rounded up to 8, 12, 16, 24, 32, 48, ...: above 8 at most a third is padding."""
        return Sizes(*(_round_up(size) for size in dataclasses.astuple(self)))


def _round_up(size: int) -> int:
    if size == 0:
        return 0
    power = 8
    while power < size:
        if power + power // 2 >= size:
            return power + power // 2
        power *= 2
    return power


def sizes(scenario: Scenario) -> Sizes:
    """Sizes of one scenario (no batch axis)."""
    routes = scenario.routes
    return Sizes(
        agents=scenario.num_agents,
        points=scenario.roadmap.valid.shape[0],
        features=scenario.roadmap.feature_id.shape[0],
        links=scenario.roadmap.links.shape[0],
        edges=scenario.edges.valid.shape[0],
        lanes=scenario.lanes.valid.shape[0],
        signals=scenario.signals.lane_id.shape[0],
        routes=0 if routes is None else routes.valid.shape[0],
        route_points=0 if routes is None else routes.valid.shape[1],
    )


# Where padding is not zero or False: ids and indices of nothing.
_FILL = {"feature_type": -1, "feature_id": -1, "links": -1, "lane_id": -1, "previous": -1, "next": -1, "id": -1}
# Which arrays of a scenario have which padded axis, by the last names of their paths.
_AXES = {
    "agents": ("agents",),
    "log": (None, "agents"),
    "edges": ("edges",),
    "lanes": ("lanes",),
    "roadmap": ("points",),
    "roadmap.feature_id": ("features",),
    "roadmap.feature_type": ("features",),
    "roadmap.speed_limit": ("features",),
    "roadmap.links": ("links",),
    "signals": (None, "signals"),
    "signals.lane_id": ("signals",),
    "routes": ("routes", "route_points"),
}


def pad(scenario: Scenario, to: Sizes) -> Scenario:
    """Pads a scenario on the host. Padding is invalid everywhere and changes no result.

    Raises:
      ValueError: An axis is already longer than asked.
    """
    have = sizes(scenario)
    if have.union(to) != to:
        raise ValueError(f"cannot pad {scenario.scenario_id!r} of {have} to {to}: it is larger")

    def grow(path, leaf):
        names = [key.name for key in path]
        axes = _AXES.get(".".join(names), _AXES.get(names[0], ()))
        leaf = np.asarray(leaf)
        widths = [(0, 0)] * leaf.ndim
        for index, axis in enumerate(axes[: leaf.ndim]):
            if axis is not None:
                widths[index] = (0, getattr(to, axis) - leaf.shape[index])
        # np.pad refuses the empty list of widths of a scalar.
        return leaf if leaf.ndim == 0 else np.pad(leaf, widths, constant_values=_FILL.get(names[-1], 0))

    return jax.tree_util.tree_map_with_path(grow, scenario)


def stack_scenarios(scenarios: Sequence[Scenario]) -> Scenario:
    """Pads scenarios to their common size and stacks them along a leading batch axis B.

    Raises:
      ValueError: There are none, they differ in the number of steps, or only some have routes.
    """
    if not scenarios:
        raise ValueError("no scenarios to stack")
    if len({scenario.num_steps for scenario in scenarios}) > 1:
        raise ValueError("scenarios of different numbers of steps cannot be stacked")
    if len({scenario.routes is None for scenario in scenarios}) > 1:
        raise ValueError("scenarios with routes and scenarios without cannot be stacked")
    common = sizes(scenarios[0])
    for scenario in scenarios[1:]:
        common = common.union(sizes(scenario))
    return stack([pad(scenario, common) for scenario in scenarios])
