"""Following the route, where the scene has one. About the sdc only."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.route import Routes
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.pytree import Array

# Further than this from every route is off route (m), and so is being nearer to another path than to the
# route by the second margin (m). Both as in Waymax.
MAX_DISTANCE = 5.0
MAX_DETOUR = 2.0
# Routes shorter than this have no progress to make (m).
MIN_LENGTH = 0.1


def off_route(snapshot: Snapshot) -> MetricValue:
    """Distance of the sdc to the nearest on-route path (m) where it has left the route, 0 on it.

    Valid where the sdc is and a path is on the route.
    """
    routes = snapshot.scenario.routes
    if routes is None or _has_no_segment(routes):
        return _undefined()
    xy, present = _sdc(snapshot)
    distance, _, usable = project(routes, xy)
    on = jnp.min(jnp.where(usable & routes.on_route, distance, jnp.inf))
    off = jnp.min(jnp.where(usable & ~routes.on_route, distance, jnp.inf))
    left = (on > MAX_DISTANCE) | (on - off > MAX_DETOUR)
    return masked_value(jnp.where(left, on, 0.0), present & jnp.isfinite(on))


def route_progression(snapshot: Snapshot) -> MetricValue:
    """Share of the logged route that the sdc has covered since the current step: 0 at its start, 1 at the log's end.

    Both ends and the sdc are projected on one path for the whole episode: the on-route path nearest to the last
    logged place of the sdc. Not clipped; 1 where the log makes no way. Valid where the sdc is, was logged at the
    current step and a path is on the route.
    """
    scenario, routes = snapshot.scenario, snapshot.scenario.routes
    if routes is None or _has_no_segment(routes):
        return _undefined()
    xy, present = _sdc(snapshot)
    is_sdc = scenario.agents.is_sdc
    sdc = jnp.argmax(is_sdc)
    logged = scenario.log.valid[:, sdc]
    last = jnp.max(jnp.where(logged, jnp.arange(logged.shape[0]), 0))
    end_xy = scenario.log.xyz[last, sdc, :2]
    distance, end, usable = project(routes, end_xy)
    usable = usable & routes.on_route
    path = jnp.argmin(jnp.where(usable, distance, jnp.inf))
    start = project(routes, scenario.log.xyz[scenario.current_step, sdc, :2])[1][path]
    now = project(routes, xy)[1][path]
    length = end[path] - start
    moves = jnp.abs(length) > MIN_LENGTH
    share = jnp.where(moves, (now - start) / jnp.where(moves, length, 1.0), 1.0)
    return masked_value(share, present & logged[scenario.current_step] & jnp.any(usable))


def project(routes: Routes, xy: Float[Array, " 2"]) -> tuple[Float[Array, " M"], Float[Array, " M"], Bool[Array, " M"]]:
    """Nearest point of each path: distance (m), arc length (m), and whether the path has any segment."""
    start, along = routes.xyz[:, :-1, :2], routes.xyz[:, 1:, :2] - routes.xyz[:, :-1, :2]
    ok = routes.valid[:, :-1] & routes.valid[:, 1:]
    length2 = jnp.sum(along * along, axis=-1)
    offset = xy[None, None] - start
    t = jnp.clip(geometry.dot(offset, along) / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    distance = jnp.where(ok, geometry.norm(offset - t[..., None] * along), jnp.inf)
    best = jnp.argmin(distance, axis=-1)[:, None]
    arc = routes.arc_length[:, :-1] + t * (routes.arc_length[:, 1:] - routes.arc_length[:, :-1])
    usable = jnp.any(ok, axis=-1)
    nearest = jnp.take_along_axis(distance, best, axis=-1)[:, 0]
    return nearest, jnp.take_along_axis(arc, best, axis=-1)[:, 0], usable


def _sdc(snapshot: Snapshot) -> tuple[Float[Array, " 2"], Bool[Array, ""]]:
    is_sdc = snapshot.scenario.agents.is_sdc
    sdc = jnp.argmax(is_sdc)
    return snapshot.agents.xyz[sdc, :2], jnp.any(is_sdc) & snapshot.agents.valid[sdc]


def _has_no_segment(routes: Routes) -> bool:
    num_routes, num_points = routes.valid.shape
    return num_routes == 0 or num_points < 2


def _undefined() -> MetricValue:
    return flag(jnp.asarray(False), jnp.asarray(False))
