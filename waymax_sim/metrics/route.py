"""Route following of the sdc, in scenes with routes."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from waymax_sim import geometry
from waymax_sim.datatypes.route import Routes
from waymax_sim.metrics.metric import MetricValue, Snapshot, flag, masked_value
from waymax_sim.ops import polyline
from waymax_sim.pytree import Array

# Distance from the route beyond which the sdc is off route, m (Waymax).
MAX_ROUTE_DISTANCE = 5.0
# Difference of the distances from the route and from another path beyond which the sdc is off route, m (Waymax).
MAX_DETOUR = 2.0
# Length of the shortest route along which there is progress, m.
MIN_ROUTE_LENGTH = 0.1


def off_route(snapshot: Snapshot) -> MetricValue:
    """Distance of the sdc to the nearest on-route path (m) where it has left the route, 0 on it.

    Valid where the sdc is valid and a path is on the route.
    """
    routes = snapshot.scenario.routes
    if routes is None:
        return _undefined()
    xy, present = _sdc(snapshot)
    distance, _, usable = project_on_routes(routes, xy)
    on = jnp.min(jnp.where(usable & routes.on_route, distance, jnp.inf))
    off = jnp.min(jnp.where(usable & ~routes.on_route, distance, jnp.inf))
    is_off = (on > MAX_ROUTE_DISTANCE) | (on - off > MAX_DETOUR)
    return masked_value(jnp.where(is_off, on, 0.0), present & jnp.isfinite(on))


def route_progression(snapshot: Snapshot) -> MetricValue:
    """Share of the logged route that the sdc has driven since the current step: 0 at its start, 1 at the log's end.

    Both ends and the sdc are projected on one path for the whole episode: the on-route path nearest to the last
    logged position of the sdc. Not clipped; 1 where the log does not move. Valid where the sdc is valid, logged at the
    current step and at a later one, and a path is on the route.
    """
    scenario, routes = snapshot.scenario, snapshot.scenario.routes
    if routes is None:
        return _undefined()
    xy, present = _sdc(snapshot)
    is_sdc = scenario.agents.is_sdc
    sdc = jnp.argmax(is_sdc)
    logged = scenario.log.valid[:, sdc]
    last = jnp.max(jnp.where(logged, jnp.arange(logged.shape[0]), 0))
    end_xy = scenario.log.xyz[last, sdc, :2]
    distance, end, usable = project_on_routes(routes, end_xy)
    usable = usable & routes.on_route
    path = jnp.argmin(jnp.where(usable, distance, jnp.inf))
    start = project_on_routes(routes, scenario.log.xyz[scenario.current_step, sdc, :2])[1][path]
    now = project_on_routes(routes, xy)[1][path]
    length = end[path] - start
    log_moves = jnp.abs(length) > MIN_ROUTE_LENGTH
    share = jnp.where(log_moves, (now - start) / jnp.where(log_moves, length, 1.0), 1.0)
    has_future = last > scenario.current_step
    return masked_value(share, present & logged[scenario.current_step] & has_future & jnp.any(usable))


def project_on_routes(
    routes: Routes, xy: Float[Array, " 2"]
) -> tuple[Float[Array, " M"], Float[Array, " M"], Bool[Array, " M"]]:
    """Nearest point of each path: distance (m), arc length (m), and whether the path has any segment."""
    # Masked before the projection, so that the content of invalid samples does not reach gradients.
    x, y = (jnp.where(routes.valid, routes.xyz[..., axis], 0.0) for axis in (0, 1))
    start, step = (x[:, :-1], y[:, :-1]), (x[:, 1:] - x[:, :-1], y[:, 1:] - y[:, :-1])
    is_segment = routes.valid[:, :-1] & routes.valid[:, 1:]
    nearest = polyline.project(start, step, (xy[:1, None], xy[1:, None]), is_segment)
    rows = jnp.stack([nearest.index, nearest.index + 1], axis=-1)
    arc = jnp.take_along_axis(jnp.where(routes.valid, routes.arc_length, 0.0), rows, axis=-1)
    arc_length = arc[:, 0] + nearest.fraction * (arc[:, 1] - arc[:, 0])
    return geometry.safe_sqrt(nearest.squared_distance), arc_length, jnp.any(is_segment, axis=-1)


def _sdc(snapshot: Snapshot) -> tuple[Float[Array, " 2"], Bool[Array, ""]]:
    is_sdc = snapshot.scenario.agents.is_sdc
    sdc = jnp.argmax(is_sdc)
    return snapshot.agents.xyz[sdc, :2], jnp.any(is_sdc) & snapshot.agents.valid[sdc]


def _undefined() -> MetricValue:
    return flag(jnp.asarray(False), jnp.asarray(False))
