"""What agents see as one row of numbers each, for networks that want nothing else."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from waymax_sim.datatypes.agents import CYCLIST, PEDESTRIAN, VEHICLE
from waymax_sim.datatypes.roadmap import CROSSWALK, LANE_TYPES, ROAD_EDGE_TYPES, ROAD_LINE_TYPES, STOP_SIGN
from waymax_sim.datatypes.route import Routes
from waymax_sim.env.observation import Observation
from waymax_sim.env.view import AgentsView, ElementsView, view
from waymax_sim.pytree import Array

# What numbers are multiples of, so that most of them are between -1 and 1: m, m/s, m.
DISTANCE, SPEED, SIZE = 20.0, 10.0, 5.0
TYPES = (VEHICLE, PEDESTRIAN, CYCLIST)
KINDS = (LANE_TYPES, ROAD_LINE_TYPES, ROAD_EDGE_TYPES, (CROSSWALK,), (STOP_SIGN,))
# Lights (see `SIGNAL_STATE_NAMES`): stop, caution, go.
LIGHTS = ((1, 4, 7), (2, 5, 8), (3, 6))
# The route is seen at so many places, so far apart (m).
NUM_PLACES, PLACE_EVERY = 10, 5.0


@dataclasses.dataclass(frozen=True)
class FlatView:
    """The nearest agents, the nearest map elements and the route as float32 numbers, in the frame of each observer.

    In order: for each agent, the observer first, [valid, x, y, z, cos yaw, sin yaw, vx, vy, length, width, vehicle,
    pedestrian, cyclist]; for each map element [8 valid, 8 (x, y), lane, road line, road edge, crosswalk, stop sign,
    light stop, light caution, light go]; where agents have goals, [valid, x, y]; for an sdc alone, 5, 10, ..., 50 m
    ahead on its route, [valid, x, y] each.
    Distances are in units of 20 m, speeds of 10 m/s, sizes of 5 m. All that is not valid is zero.

    Attributes:
      who: "sdc" for one row [D], "all" for a row per agent [N, D].
      num_agents: Agents in a view, the observer included.
      num_elements: Map elements in a view.
      limit: Numbers are clipped to [-limit, limit].
    """

    who: Literal["sdc", "all"] = "sdc"
    num_agents: int = 16
    num_elements: int = 32
    limit: float = 10.0

    def __call__(self, observation: Observation) -> Float[Array, "*O D"]:
        """The row of the sdc, or the rows of all agents."""
        seen = view(observation, self.who, num_agents=self.num_agents, num_elements=self.num_elements)
        parts = [_agents(seen.agents), _elements(seen.elements)]
        parts = [part.reshape(part.shape[0], -1) for part in parts]
        if seen.goals is not None:
            parts.append(
                jnp.concatenate([seen.goals.valid.astype(jnp.float32)[:, None], seen.goals.xy / DISTANCE], axis=-1)
            )
        if self.who == "sdc":
            parts.append(_route(seen.routes)[None])
        flat = jnp.clip(jnp.concatenate(parts, axis=-1), -self.limit, self.limit)
        # Where a simulation diverged, a network gets zeros rather than NaN.
        flat = jnp.where(jnp.isfinite(flat), flat, 0.0)
        return flat[0] if self.who == "sdc" else flat


def _agents(agents: AgentsView) -> Float[Array, "O K 13"]:
    now, size = agents.state, agents.size
    yaw, velocity, valid = now.yaw[..., -1], now.velocity[..., -1, :] / SPEED, now.valid[..., -1]
    turned = jnp.where(valid[..., None], jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], axis=-1), 0.0)
    here = valid[..., None].astype(jnp.float32)
    return jnp.concatenate(
        [here, now.xyz[..., -1, :] / DISTANCE, turned, velocity, size[..., :2] / SIZE, _is_any(agents.type, TYPES)],
        axis=-1,
    )


def _elements(elements: ElementsView) -> Float[Array, "O E 32"]:
    xy = elements.xyz[..., :2] / DISTANCE
    lights = jnp.where(elements.light_valid[..., None], _is_any(elements.light, LIGHTS), 0.0)
    places = xy.reshape(*xy.shape[:-2], -1)
    return jnp.concatenate([elements.valid.astype(jnp.float32), places, _is_any(elements.type, KINDS), lights], axis=-1)


def _is_any(codes: Int[Array, "O K"], groups: tuple) -> Float[Array, "O K G"]:
    """Which group of codes each code is in, as zeros and ones."""

    def inside(group: int | tuple[int, ...]) -> Bool[Array, "O K"]:
        members = jnp.asarray(group, jnp.int32).reshape(-1)
        return jnp.any(codes[..., None] == members[None, None], axis=-1)

    return jnp.stack([inside(group) for group in groups], axis=-1).astype(jnp.float32)


def _route(routes: Routes | None) -> Float[Array, " places"]:
    """Places ahead on the first on-route path, or on the first path where none is."""
    if routes is None or routes.valid.shape[-1] == 0 or routes.valid.shape[0] == 0:
        return jnp.zeros(3 * NUM_PLACES, jnp.float32)
    exists = jnp.any(routes.valid, axis=-1)
    path = jnp.argmax(2 * (exists & routes.on_route).astype(jnp.int32) + exists.astype(jnp.int32))
    xy, along, valid = routes.xyz[path, :, :2], routes.arc_length[path], routes.valid[path]
    nearest = jnp.argmin(jnp.where(valid, jnp.sum(xy**2, axis=-1), jnp.inf))
    wanted = along[nearest] + PLACE_EVERY * jnp.arange(1, NUM_PLACES + 1, dtype=jnp.float32)
    reached = valid[None] & (along[None] >= wanted[:, None])
    first, found = jnp.argmax(reached, axis=-1), jnp.any(reached, axis=-1)[:, None]
    ahead = jnp.where(found, xy[first] / DISTANCE, 0.0)
    return jnp.concatenate([found.astype(jnp.float32), ahead], axis=-1).reshape(-1)
